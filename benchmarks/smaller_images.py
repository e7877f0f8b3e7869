"""`python -m benchmarks.smaller_images`: pruned tokens beside a smaller image."""

import sys

from benchmarks.accuracy.smaller_images import main

if __name__ == "__main__":
    sys.exit(main())
