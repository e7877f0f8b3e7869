"""`python -m benchmarks.flops`: multiply-adds of a prefill by method and budget."""

import sys

from benchmarks.speed.flops import main

if __name__ == "__main__":
    sys.exit(main())
