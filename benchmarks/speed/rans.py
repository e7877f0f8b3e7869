"""`python -m benchmarks.speed.rans`: the rANS coder in C over that in numpy, for messages of the wire format `basis`.

Streams alone and whole messages, written and read, of pruned tokens of one image; the bytes of both must be equal. The
basis is learned from random tokens whose channels go together. Writes `rans.json` and `rans.md` into --out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness.arguments import add_seed, command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import Spread, table
from benchmarks.speed.timing import add_timing, interleaved, milliseconds, ratio, spreads
from encoder_service.basis_learning import learn_basis
from fovea.wire import basis_codec, basis_file, rans
from fovea.wire.basis import WireBasis

__all__ = ["main", "markdown"]

Float32Array = npt.NDArray[np.float32]

_GOAL_S: Final = 0.002
_CHANGE_OF_BASIS: Final = "change of basis"
_TASKS: Final = {
    "write stream": "stream, written",
    "read stream": "stream, read",
    "write message": "message, written",
    "read message": "message, read",
}
_WITH_GOAL: Final = ("write stream", "read stream")


def _images(channels: int, num_tokens: int, rng: np.random.Generator) -> Iterator[Float32Array]:
    """Tokens whose channels go together, with a spread that falls from direction to direction."""
    spread = 2.0 ** np.linspace(3, -4, channels)
    mixing = spread[:, None] * np.linalg.qr(rng.standard_normal((channels, channels)))[0]
    while True:
        yield np.asarray(rng.standard_normal((num_tokens, channels)) @ mixing, np.float32)


def _with_coder(name: str, run: Callable[[], object]) -> Callable[[], object]:
    def run_with_coder() -> object:
        with rans.using_coder(name):
            return run()

    return run_with_coder


def _tasks(tokens: Float32Array, basis: WireBasis) -> dict[str, Callable[[], object]]:
    index, symbols = basis_codec.symbols(tokens, basis, basis.step)
    stream = rans.encode(symbols, index, basis.tables)
    message = basis_codec.encode(tokens, basis, basis.step)
    return {
        "write stream": lambda: rans.encode(symbols, index, basis.tables),
        "read stream": lambda: rans.decode(stream, index, basis.tables).tobytes(),
        "write message": lambda: basis_codec.encode(tokens, basis, basis.step),
        "read message": lambda: basis_codec.decode(message, len(tokens), tokens.shape[1], basis).tobytes(),
    }


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    images = _images(args.channels, args.tokens, np.random.default_rng(args.seed))
    calibration = [next(images) for _ in range(2 * args.channels // args.tokens)]
    # Of different lengths, so that a pruned image is not taken for a whole one.
    basis = basis_file.from_bytes(learn_basis([*calibration, calibration[0][:1]]))
    tokens = next(images)
    tasks = _tasks(tokens, basis)
    sides = {
        f"{task}, {coder}": _with_coder(coder, run) for task, run in tasks.items() for coder in rans.available_coders()
    }
    for task in tasks:
        outputs = {sides[f"{task}, {coder}"]() for coder in rans.available_coders()}
        assert len(outputs) == 1, f"{task}: the coders differ"
    sides[_CHANGE_OF_BASIS] = lambda: (tokens - basis.mean) @ basis.analysis
    times = interleaved(sides, torch.device("cpu"), args)
    index, symbols = basis_codec.symbols(tokens, basis, basis.step)
    return {
        "coded_symbols": len(symbols),
        "stream_bytes": len(rans.encode(symbols, index, basis.tables)),
        "seconds": spreads(times, 9),
        "ratios": {task: ratio(times, f"{task}, native", f"{task}, numpy").summary(6) for task in tasks},
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The report in Markdown."""
    seconds = result["seconds"]
    rows = []
    for task, title in _TASKS.items():
        native, numpy = (seconds[f"{task}, {coder}"] for coder in ("native", "numpy"))
        goal = f"<= {1e3 * _GOAL_S:g} ms, {'met' if native['median'] <= _GOAL_S else 'missed'}"
        ratio_text = Spread(**result["ratios"][task]).text(3)
        rows.append(
            [title, milliseconds(native, 2), milliseconds(numpy, 2), ratio_text, goal if task in _WITH_GOAL else ""]
        )
    settings = (
        f"{result['tokens']} tokens of {result['channels']} channels in the wire format `basis`:"
        f" {result['coded_symbols']:,} symbols, {result['stream_bytes']:,} bytes; clock: {result['clock']}"
    )
    product = milliseconds(seconds[_CHANGE_OF_BASIS], 2)
    return (
        f"# rANS in C and in numpy\n\n{origin(dict(result), packages=['numpy'])} {settings}.\n\n"
        f"Medians of {result['num_rounds']} rounds in which all take turns, with the lowest and the highest. The ratio"
        " is C over numpy. Both have the same bytes.\n\n"
        f"{table(['', 'C, ms', 'numpy, ms', 'ratio', 'goal'], rows, num_labels=1)}\n"
        f"A message is more than its stream: a change of basis (one matrix product, {product} ms here) and the rounding"
        " to codes.\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it into --out."""
    parser = command_parser("benchmarks.speed.rans", __doc__)
    parser.add_argument("--tokens", type=positive, default=64)
    parser.add_argument("--channels", type=positive, default=1024)
    add_seed(parser, 1, "tokens and basis")
    add_timing(parser, rounds=30)
    add_output(parser, tokens=8, channels=16, rounds=2)
    args = parser.parse_args(argv)
    if "native" not in rans.available_coders():
        parser.error("the library in C is not there: it needs a C compiler and `make install`")
    result = {
        "provenance": provenance("benchmarks.speed.rans"),
        "seed": args.seed,
        "tokens": args.tokens,
        "channels": args.channels,
        "num_rounds": args.rounds,
        "clock": args.clock,
        **_measure(args),
    }
    publish(args.out, "rans", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
