"""`python -m benchmarks.replicas`: throughput of one and of two replicas."""

import sys

from benchmarks.scaling.replicas import main

if __name__ == "__main__":
    sys.exit(main())
