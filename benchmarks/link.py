"""`python -m benchmarks.link`: what a narrow link costs."""

import sys

from benchmarks.wire.link import main

if __name__ == "__main__":
    sys.exit(main())
