"""`python -m fovea.cli`."""

import sys

from fovea.cli.program import main

sys.exit(main())
