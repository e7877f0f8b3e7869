"""`python -m benchmarks.ablation`: the ablations of DeSAP's paper."""

import sys

from benchmarks.accuracy.ablation import main

if __name__ == "__main__":
    sys.exit(main())
