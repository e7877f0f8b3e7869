"""`python -m benchmarks.engine`: engines of the LLM service, with pruned and unpruned requests."""

import sys

from benchmarks.speed.engine import main

if __name__ == "__main__":
    sys.exit(main())
