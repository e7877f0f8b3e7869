"""`python -m benchmarks.golden`: every pruner against golden cases."""

import sys

from benchmarks.exactness.golden.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
