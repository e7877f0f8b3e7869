"""`python -m benchmarks.coverage`: why DeSAP loses counts and descriptions of crowded images."""

import sys

from benchmarks.accuracy.coverage import main

if __name__ == "__main__":
    sys.exit(main())
