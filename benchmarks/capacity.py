"""`python -m benchmarks.capacity`: replicas of each stage for a rate of requests, by simulation."""

import sys

from benchmarks.scaling.capacity.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
