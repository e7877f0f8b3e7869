"""`python -m benchmarks.split_exactness`: the three running services against the unsplit model, nothing pruned.

Real processes serve a tiny random checkpoint of each family in float32. The questions are about images of many shapes,
several images and videos. The following are compared with transformers' own classes (`unsplit.py`):

* pixel values of each image and video;
* inputs of the language model: embeddings of text and visual tokens, and positions;
* log-probabilities of the first token, over gRPC;
* 32 greedy tokens, over gRPC, and the answer's text over REST.

Prints a table; exit status 1 if a difference is above its bound.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import torch

from benchmarks.checkpoints.tiny.clip import write as write_clip
from benchmarks.checkpoints.tiny.video_llava import write_text_tower as write_language_bind
from benchmarks.exactness.cases import ExactnessCase, exactness_cases
from benchmarks.exactness.split_services import MAX_TOKENS, TIMEOUT_S, SplitServices
from benchmarks.exactness.unsplit import Unsplit, UnsplitRun
from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import table
from fovea.processes.stack import Stack, free_port

__all__ = ["BOUND", "FAMILIES", "Differences", "main", "measure"]

BOUND: Final = 1e-4

# Families, and the functions that write the tiny checkpoints of their text towers.
FAMILIES: Final[dict[str, Callable[[Path], Path] | None]] = {
    "llava": write_clip,
    "llava_next": write_clip,
    "video_llava": write_language_bind,
    "qwen2_5_vl": None,
    "qwen3_vl": None,
}

_HEADER: Final = (
    "family",
    "case",
    "pixel values",
    "embeddings",
    "positions",
    "log-probabilities",
    "greedy tokens",
    "text",
    "",
)


@dataclass
class Differences:
    """Largest absolute differences of one case, and whether greedy tokens and text are the same."""

    case: str
    pixel_values: float
    embeddings: float
    positions: float
    logprobs: float
    tokens_equal: bool
    text_equal: bool
    tokens: int = field(default=0)

    @property
    def passed(self) -> bool:
        """Whether all differences are within BOUND and both answers are the same."""
        largest = max(self.pixel_values, self.embeddings, self.positions, self.logprobs)
        return largest <= BOUND and self.tokens_equal and self.text_equal


def _largest(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    if len(ours) != len(theirs) or any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return float("inf")
    return max((float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def _flat(arrays: Sequence[Any]) -> list[Any]:
    """The arrays without their axes. Only one side has axes for tiles, frames and patches; the order is the same."""
    return [array.ravel() for array in arrays]


def compare(case: ExactnessCase, services: SplitServices, unsplit: Unsplit) -> Differences:
    """Differences between the services and the unsplit model in one case."""
    ids = services.ids(case)
    reference: UnsplitRun = unsplit.run(ids, case.images, case.clips, MAX_TOKENS)
    visual_tokens = services.encode(case)
    inputs = services.embed(ids, visual_tokens)
    done = services.generate(ids, visual_tokens)
    token_ids = list(done.token_ids)
    return Differences(
        case=case.name,
        pixel_values=_largest(_flat(services.pixel_values(case)), _flat(reference.pixel_values)),
        embeddings=_largest([inputs.inputs_embeds.numpy()], [reference.inputs_embeds]),
        positions=_largest([inputs.position_ids.numpy()], [reference.position_ids]),
        logprobs=_largest([np.array(done.first_token_logprobs)], [reference.logprobs]),
        tokens_equal=token_ids == reference.token_ids,
        text_equal=services.answer(case) in (None, services.decode(reference.token_ids)),
        tokens=len(token_ids),
    )


def measure(family: str, scratch: Path, num_cases: int | None = None) -> list[Differences]:
    """Differences of one family, in its first `num_cases` cases or in all."""
    write_text_tower = FAMILIES[family]
    folder = importlib.import_module(f"benchmarks.checkpoints.tiny.{family}").write(scratch / family)
    text_tower = None if write_text_tower is None else write_text_tower(scratch / f"{family}-text")
    stack = Stack(
        str(folder),
        None if text_tower is None else str(text_tower),
        listen=f"127.0.0.1:{free_port()}",
        flags={"encoder_service": ["--dtype", "float32"], "llm_service": ["--dtype", "float32"]},
        environment={"TOKENIZERS_PARALLELISM": "false"},
        log_to=scratch / f"{family}.log",
    )
    with stack, httpx.Client(base_url=stack.url, timeout=TIMEOUT_S, trust_env=False) as http:
        stack.wait_ready(TIMEOUT_S)
        services, unsplit = SplitServices(folder, stack, http, text_tower), Unsplit(folder)
        differences = []
        if unsplit.video_token_id is not None and not unsplit.takes_videos:
            print(f"{family}: no videos; the video processor of transformers needs torchvision", file=sys.stderr)
        for case in islice(exactness_cases(unsplit.takes_videos), num_cases):
            differences.append(compare(case, services, unsplit))
            # A run takes minutes, so each row is printed at once.
            print(" | ".join(_row(family, differences[-1])), file=sys.stderr, flush=True)
    return differences


def _row(family: str, case: Differences) -> list[str]:
    numbers = (case.pixel_values, case.embeddings, case.positions, case.logprobs)
    tokens, text = ("same" if equal else "DIFFERENT" for equal in (case.tokens_equal, case.text_equal))
    cells = [f"{number:.1e}" if number else "0" for number in numbers]
    return [family, case.case, *cells, f"{tokens}, {case.tokens}", text, "pass" if case.passed else "FAIL"]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it into --out. Exit status 1 if a case fails."""
    parser = command_parser("benchmarks.split_exactness", __doc__)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--cases", type=positive, metavar="N", help="the first N cases of each family (default: all)")
    add_output(parser, families=["llava"], cases=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        found = {family: measure(family, Path(scratch), args.cases) for family in args.families}
    cases = {family: [vars(case) | {"passed": case.passed} for case in rows] for family, rows in found.items()}
    result = {"provenance": provenance("benchmarks.split_exactness"), "bound": BOUND, "families": cases}
    rows = [_row(family, case) for family, family_cases in found.items() for case in family_cases]
    text = (
        f"# The split services against the unsplit model\n\n{origin(result, packages=['torch', 'transformers'])}"
        f" Largest differences; bound {BOUND:g}.\n\n{table(_HEADER, rows, num_labels=len(_HEADER))}"
    )
    publish(args.out, "split_exactness", result, text)
    failed = sum(not case.passed for family_cases in found.values() for case in family_cases)
    print(f"{failed} of {len(rows)} cases failed" if failed else "all cases pass")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
