"""python -m harness <verb>: the same verbs as the justfile."""

from harness.cli import main

main()
