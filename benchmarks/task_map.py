"""`python -m benchmarks.task_map`: does a map point at what is asked."""

import sys

from benchmarks.accuracy.task_map import main

if __name__ == "__main__":
    sys.exit(main())
