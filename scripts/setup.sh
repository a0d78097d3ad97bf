#!/bin/sh
# The harness's own environment, .venv/: made on first use, made again when its requirements change.
# usage: scripts/setup.sh [dev]      dev adds what the tests and linters need
set -eu
cd "$(dirname "$0")/.."
files=requirements.txt
[ "${1:-}" = dev ] && files="requirements.txt requirements-dev.txt"
[ -x .venv/bin/python ] && .venv/bin/python scripts/serve_recipes.py
stamp=".venv/stamp-${1:-run}"
want=$(cat $files | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then exit 0; fi
command -v python3 >/dev/null || { echo "python3 (3.11 or newer) is missing; install it and rerun." >&2; exit 1; }
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "python3 is $(python3 -V); the harness needs 3.11 or newer on PATH." >&2; exit 1; }
[ -x .venv/bin/python ] || python3 -m venv .venv ||
  { echo "python3 -m venv failed; on Debian and Ubuntu install python3-venv." >&2; exit 1; }
echo "setting up .venv from $files ..." >&2
# shellcheck disable=SC2086
.venv/bin/python -m pip install -q --disable-pip-version-check $(printf -- '-r %s ' $files) >&2 ||
  { echo "pip could not install $files; see the lines above." >&2; exit 1; }
printf '%s' "$want" > "$stamp"
.venv/bin/python scripts/serve_recipes.py
