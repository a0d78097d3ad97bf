"""python -m harness <verb>: the same verbs as the justfile."""

import sys

try:
    from harness.cli import INTERRUPTED, main
except KeyboardInterrupt:  # half a second of imports
    sys.exit(130)

try:
    main()
except KeyboardInterrupt:
    sys.exit(INTERRUPTED)
