"""Make an engine environment a name for a Python that already holds the engine (hosts without network).

usage: python scripts/adopt_environment.py ENV [--python PYTHON] [--path DIR:DIR]
ENV is a file engines/ENV.requirements.txt; DIRs are put before PYTHONPATH.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.host import engine_env  # noqa: E402


def main() -> None:
    """Adopt and say where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("env")
    parser.add_argument("--python", default="python3")
    parser.add_argument("--path", default="")
    given = parser.parse_args()
    print(engine_env.adopt(given.env, ROOT, given.python, given.path))


if __name__ == "__main__":
    main()
