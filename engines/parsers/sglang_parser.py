"""Run by an environment or image that holds SGLang: parses launch_server arguments with SGLang's own parser.

complaints.py says what comes in and goes out; the lists are without "python -m sglang.launch_server". No
device is touched.
"""

import argparse

from complaints import Parse, answer


def _let_models_be_registered_twice() -> None:
    """Another version's package may bring models that this environment's transformers has already."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    mapping = type(CONFIG_MAPPING)
    register = mapping.register
    mapping.register = lambda self, key, value, exist_ok=False: register(self, key, value, exist_ok=True)


def _parser() -> tuple[str, Parse]:
    _let_models_be_registered_twice()
    from sglang.srt.server_args import ServerArgs
    from sglang.version import __version__

    parser = argparse.ArgumentParser(prog="sglang")
    ServerArgs.add_cli_args(parser)
    return __version__, parser.parse_args


if __name__ == "__main__":
    answer(_parser)
