"""`python -m benchmarks.load`: time and memory in which a service loads its part of a checkpoint."""

import sys

from benchmarks.speed.loading import main

if __name__ == "__main__":
    sys.exit(main())
