"""Run by an environment or image that holds vLLM: parses `vllm serve` arguments with vLLM's own parser.

stdin: JSON list of argument lists, without "vllm serve". stdout, last line: JSON {"version", "errors"}, one
error per list, "" where it parsed. No device is touched.
"""

import contextlib
import io
import json
import os
import sys
from typing import Any


def _claim_a_device() -> None:
    """GPU builds make no parser where no GPU is visible, though what they parse does not depend on it."""
    import vllm.platforms

    if not vllm.platforms.current_platform.device_type:
        from vllm.platforms.cpu import CpuPlatform

        vllm.platforms.current_platform = CpuPlatform()


def _parser() -> Any:
    from vllm.entrypoints.cli.serve import cmd_init

    try:
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ImportError:  # before 0.12
        from vllm.utils import FlexibleArgumentParser
    root = FlexibleArgumentParser(prog="vllm")
    (serve,) = [command for command in cmd_init() if command.name == "serve"]
    serve.subparser_init(root.add_subparsers(dest="subparser"))
    return root, serve


def main() -> None:
    """Parse every list; argparse's last line of complaint is the error."""
    commands = json.load(sys.stdin)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    _claim_a_device()
    root, serve = _parser()
    errors = []
    for arguments in commands:
        complaint = io.StringIO()
        try:
            with contextlib.redirect_stderr(complaint):
                serve.validate(root.parse_args(["serve", *arguments]))
            errors.append("")
        except SystemExit:
            errors.append((complaint.getvalue().strip().splitlines() or ["refused"])[-1])
        except (ValueError, TypeError) as error:
            errors.append(f"{type(error).__name__}: {error}")
    from vllm.version import __version__

    print(json.dumps({"version": __version__, "errors": errors}))


if __name__ == "__main__":
    main()
