"""The made-up engine's own parser; harness/label/dialect_check.py says what comes in and goes out."""

import argparse
import io
import json
import sys
from contextlib import redirect_stderr


def complaint(words: list[str]) -> str:
    """Its last word on arguments that it refuses."""
    parser = argparse.ArgumentParser(prog="full")
    parser.add_argument("--slots", type=int)
    parser.add_argument("--eager", action="store_true")
    with redirect_stderr(io.StringIO()) as told:
        try:
            parser.parse_args(words)
        except SystemExit:
            return told.getvalue().strip().splitlines()[-1]
    return ""


print(json.dumps({"version": "1.0", "errors": [complaint(words) for words in json.load(sys.stdin)]}))
