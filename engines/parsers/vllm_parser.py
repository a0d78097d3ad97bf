"""Run by an environment or image that holds vLLM: parses `vllm serve` arguments with vLLM's own parser.

complaints.py says what comes in and goes out; the lists are without "vllm serve". No device is touched.
"""

import os

from complaints import Parse, answer


def _claim_a_device() -> None:
    """GPU builds make no parser where no GPU is visible, though what they parse does not depend on it."""
    import vllm.platforms

    if not vllm.platforms.current_platform.device_type:
        from vllm.platforms.cpu import CpuPlatform

        vllm.platforms.current_platform = CpuPlatform()


def _parser() -> tuple[str, Parse]:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    _claim_a_device()
    from vllm.entrypoints.cli.serve import cmd_init
    from vllm.version import __version__

    try:
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ImportError:  # before 0.12
        from vllm.utils import FlexibleArgumentParser
    root = FlexibleArgumentParser(prog="vllm")
    (serve,) = [command for command in cmd_init() if command.name == "serve"]
    serve.subparser_init(root.add_subparsers(dest="subparser"))
    return __version__, lambda arguments: serve.validate(root.parse_args(["serve", *arguments]))


if __name__ == "__main__":
    answer(_parser)
