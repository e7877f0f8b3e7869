"""`python -m benchmarks.wire`."""

import sys

from benchmarks.wire.tradeoff import main

if __name__ == "__main__":
    sys.exit(main())
