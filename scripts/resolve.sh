#!/bin/sh
# Whether pip, of .venv, finds every pinned package for each Python that the harness runs on. Installs nothing.
# usage: scripts/resolve.sh [FILE ...]     by default the harness's own requirements; an engine's is a full
#   freeze, so its packages are looked up one by one; left out are torch's "+cpu" builds, which are not on
#   PyPI, and what is built from source (--no-binary)
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- requirements.txt requirements-*.txt
target=$(mktemp -d)
trap 'rm -rf "$target"' EXIT
status=0
found() { # words of pip; of none, nothing is looked up
  # shellcheck disable=SC2086
  [ -z "$1" ] || .venv/bin/python -m pip install -q --disable-pip-version-check --dry-run --only-binary=:all: \
    --python-version "$version" --target "$target/none" $1
}
for version in 3.11 3.12 3.13; do
  words="" alone=""
  for file in "$@"; do
    case $file in engines/*) words="--no-deps" ;; esac
    built=$(sed -n 's/^--no-binary //p' "$file" | tr ',' '|')
    grep -vE "[+]cpu$|^--no-binary|^(${built:-none})==" "$file" | sed "s|^-r |-r $PWD/|" > "$target/${file##*/}"
    if grep -q "pip: no-deps" "$file"; then alone="$alone -r $target/${file##*/}"
    else words="$words -r $target/${file##*/}"; fi
  done
  if found "$words" && found "${alone:+--no-deps$alone}"; then
    echo "Python $version: $* resolve"
  else
    echo "Python $version: $* do not resolve; pin versions that have a wheel for it." >&2
    status=1
  fi
done
exit $status
