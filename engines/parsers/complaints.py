"""What every parser script does with its argument lists. Run by any engine's Python: standard library only.

stdin: JSON list of argument lists. stdout, last line: JSON {"version", "errors"}, one error per list, ""
where it parsed.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from typing import Any

Parse = Callable[[list[str]], Any]


def answer(make: Callable[[], tuple[str, Parse]]) -> None:
    """Parse every list; argparse's last line of complaint is the error.

    `make` returns the engine's version and its parser; what it prints goes to stderr.
    """
    commands = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        version, parse = make()
        errors = [complaint(parse, arguments) for arguments in commands]
    print(json.dumps({"version": version, "errors": errors}))


def complaint(parse: Parse, arguments: list[str]) -> str:
    """Why `parse` refuses the arguments; "" when it takes them."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            parse(arguments)
    except SystemExit:
        return (told.getvalue().strip().splitlines() or ["refused"])[-1]
    except (ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
