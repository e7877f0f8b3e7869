"""`python -m benchmarks.dispatches`: torch operations of the encoder by pruner and number of images."""

import sys

from benchmarks.speed.dispatches import main

if __name__ == "__main__":
    sys.exit(main())
