#!/bin/sh
# The harness's own environment, .venv/: made on first use, made again when its requirements change.
# usage: scripts/setup.sh [dev] [docs] [frames] [history] [tune] [nvidia] [amd]
#   dev     what the tests and linters need       frames   runs as DataFrames (pandas)
#   docs    what builds the documentation         history  change points of the log
#   tune    the search of `just tune` (Optuna)
#   nvidia, amd   what reads their accelerators: by itself where one is seen, by name on a machine without
set -eu
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] && .venv/bin/python scripts/serve_recipes.py
wanted=requirements.txt
case " $* " in *" dev "*) set -- "$@" history ;; esac
for word in "$@"; do
  [ -f "requirements-$word.txt" ] || { echo "setup knows dev, docs, frames, history, tune, nvidia and amd, not $word." >&2; exit 2; }
  wanted="$wanted requirements-$word.txt"
done
[ -e /dev/nvidiactl ] && wanted="$wanted requirements-nvidia.txt"
[ -e /dev/kfd ] && wanted="$wanted requirements-amd.txt"
files=""
for file in $wanted; do
  [ "$(cat ".venv/stamp-$file" 2>/dev/null)" = "$(cksum < "$file")" ] || files="$files $file"
done
[ -n "$files" ] || exit 0
command -v python3 >/dev/null || { echo "python3 (3.11 or newer) is missing; install it and rerun." >&2; exit 1; }
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "python3 is $(python3 -V); the harness needs 3.11 or newer on PATH." >&2; exit 1; }
[ -x .venv/bin/python ] || python3 -m venv .venv ||
  { echo "python3 -m venv failed; on Debian and Ubuntu install python3-venv." >&2; exit 1; }
echo "setting up .venv from$files ..." >&2
whole="" alone=""
for file in $files; do
  if grep -q "pip: no-deps" "$file"; then alone="$alone -r $file"; else whole="$whole -r $file"; fi
done
for words in "$whole" "${alone:+--no-deps $alone}"; do
  # shellcheck disable=SC2086
  [ -z "$words" ] || .venv/bin/python -m pip install -q --no-compile --disable-pip-version-check $words >&2 ||
    { echo "pip could not install$files; see the lines above. Without a package index here, make .venv" \
      "where there is one: sh scripts/setup.sh nvidia amd." >&2; exit 1; }
done
# pip compiles on one core, and what nobody imports.
.venv/bin/python -m compileall -qq -j0 -x '/tests?/' .venv/lib || true
.venv/bin/python -m harness.host.wheels .venv/wheels.json || exit 1
for file in $files; do cksum < "$file" > ".venv/stamp-$file"; done
.venv/bin/python scripts/serve_recipes.py
