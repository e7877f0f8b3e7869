"""`python -m benchmarks.split_exactness`: the three services against the unsplit model."""

import sys

from benchmarks.exactness.split import main

if __name__ == "__main__":
    sys.exit(main())
