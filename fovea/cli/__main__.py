"""`python -m fovea.cli`."""

import sys

from fovea.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
