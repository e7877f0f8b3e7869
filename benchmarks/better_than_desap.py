"""`python -m benchmarks.better_than_desap`: is a pruner better than DeSAP."""

import sys

from benchmarks.accuracy.better_than_desap import main

if __name__ == "__main__":
    sys.exit(main())
