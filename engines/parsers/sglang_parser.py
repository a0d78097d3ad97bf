"""Run by an environment or image that holds SGLang: parses launch_server arguments with SGLang's own parser.

stdin: JSON list of argument lists, without "python -m sglang.launch_server". stdout, last line: JSON
{"version", "errors"}, one error per list, "" where it parsed. No device is touched.
"""

import argparse
import contextlib
import io
import json
import sys
from typing import Any


def _let_models_be_registered_twice() -> None:
    """Another version's package may bring models that this environment's transformers has already."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    mapping = type(CONFIG_MAPPING)
    register = mapping.register
    mapping.register = lambda self, key, value, exist_ok=False: register(self, key, value, exist_ok=True)


def _parser() -> Any:
    _let_models_be_registered_twice()
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(prog="sglang")
    ServerArgs.add_cli_args(parser)
    return parser


def main() -> None:
    """Parse every list; argparse's last line of complaint is the error."""
    commands = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        parser = _parser()
    errors = []
    for arguments in commands:
        complaint = io.StringIO()
        try:
            with contextlib.redirect_stderr(complaint):
                parser.parse_args(arguments)
            errors.append("")
        except SystemExit:
            errors.append((complaint.getvalue().strip().splitlines() or ["refused"])[-1])
        except (ValueError, TypeError) as error:
            errors.append(f"{type(error).__name__}: {error}")
    from sglang.version import __version__

    print(json.dumps({"version": __version__, "errors": errors}))


if __name__ == "__main__":
    main()
