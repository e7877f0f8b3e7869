"""`python -m benchmarks.golden DIR`: every case of a golden directory through our code.

Prints one line for each case: its name, the largest difference of its worst array, the tolerance of that array, and
whether it passes. A case whose method or parameters are unknown fails.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks.exactness.golden import encoder_side, llm_side
from benchmarks.exactness.golden.case import Context, GoldenCase, compare, load_cases
from benchmarks.harness.arguments import command_parser
from fovea.modeling.compute import resolve_device

__all__ = ["main"]

METHODS = {**encoder_side.METHODS, **llm_side.METHODS}


def _judge(case: GoldenCase, context: Context, precision: str) -> tuple[str, str, str, str]:
    """Difference, tolerance, verdict and remark of a case."""
    if precision == "float32" and not case.float32_decisive:
        return "-", "-", "undecided", "rounding may decide a choice in float32"
    if case.method not in METHODS:
        return "-", "-", "FAIL", f"no method {case.method!r}; known: {', '.join(sorted(METHODS))}"
    try:
        worst = compare(case, METHODS[case.method](case, context), precision)
    except Exception as error:  # an error fails the case, and the others still run
        return "-", "-", "FAIL", f"{type(error).__name__}: {error}"
    return (
        f"{worst.difference:.2e}",
        f"{worst.tolerance:.2e}",
        "pass" if worst.passed else "FAIL",
        "" if worst.passed else worst.array,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the cases. Exit status 0 if every case passes, else 1."""
    parser = command_parser("benchmarks.golden", __doc__)
    parser.add_argument("directory", type=Path, help="directory with a manifest.json")
    parser.add_argument("--float32", action="store_true", help="compute in float32, with its wider tolerances")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device to compute on")
    parser.add_argument("--method", nargs="+", metavar="NAME", help="run only the cases of these methods")
    args = parser.parse_args(argv)
    try:
        cases = load_cases(args.directory)
    except (OSError, ValueError) as error:
        parser.error(f"{args.directory}: {error}")
    if args.method:
        cases = [case for case in cases if case.method in args.method]
    precision = "float32" if args.float32 else "float64"
    context = Context(args.directory, getattr(torch, precision), resolve_device(args.device))
    torch.backends.cudnn.allow_tf32 = False  # the patch embedding, a convolution, would be rounded to ten bits
    logging.disable_progress_bar()
    start, failed, undecided = time.perf_counter(), 0, 0
    width = max((len(case.id) for case in cases), default=4)
    print(f"{'case':<{width}}  {'difference':>10}  {'tolerance':>10}  pass")
    for case in cases:
        with torch.inference_mode():
            difference, tolerance, verdict, remark = _judge(case, context, precision)
        failed += verdict == "FAIL"
        undecided += verdict == "undecided"
        print(f"{case.id:<{width}}  {difference:>10}  {tolerance:>10}  {verdict}  {remark}".rstrip(), flush=True)
    print(
        f"{len(cases) - failed - undecided} of {len(cases)} cases pass in {precision}, {failed} fail,"
        f" {undecided} undecided, {time.perf_counter() - start:.0f} s on {context.device}"
    )
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
