"""`python -m benchmarks.speed.device_choices`: whether CPU and device choose the same tokens in float32.

Every pruner prunes the same random features on both, at 576 and 2,880 tokens. The shipped model then runs on both with
every pruner, those inside the tower included. The exit status is 1 if random features are pruned differently. In the
model, the rounding of the towers may decide between two tokens, which is reported only. Writes `device_choices.json`
and `.md` into --out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from transformers.utils import logging

from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import table
from benchmarks.speed.encoder_requests import encoded_media, shipped
from benchmarks.speed.pruner_inputs import grid_of, prunable, random_input
from encoder_service.pruners import PRUNERS
from fovea.modeling.compute import resolve_device

__all__ = ["main"]

_CPU: Final = torch.device("cpu")


@torch.inference_mode()
def _random_features(pruner: str, tokens: int, device: torch.device) -> dict[str, Any]:
    """Comparison of both devices on random features."""
    pruned = []
    for where in (_CPU, device):
        inputs = random_input(pruner, grid_of(tokens), max(1, tokens // 9), device=where, dtype=torch.float32)
        pruned.append(PRUNERS[pruner].bind({}).prune(inputs))
    one, other = pruned
    return {
        "pruner": pruner,
        "input": f"{tokens:,} random tokens",
        "same_tokens": torch.equal(one.origins, other.origins.cpu()),
        "same_clusters": torch.equal(one.cluster_of_patch, other.cluster_of_patch.cpu()),
        "difference": _difference(one.features.numpy(), other.features.cpu().numpy()),
    }


def _shipped_model(batch: int, device: torch.device) -> list[dict[str, Any]]:
    """Comparison of both devices through the engine, on one batch for each pruner."""
    subjects = [shipped(where.type, dtype="float32") for where in (_CPU, device)]
    rows = []
    for pruner in subjects[0].pruners:
        outcomes = []
        for subject in subjects:
            engine = subject.engine()
            outcomes.append(engine.run([engine.prepare(request) for request in subject.requests(batch, pruner)]))
        one, other = map(encoded_media, outcomes)
        pairs = list(zip(one, other, strict=True))
        rows.append(
            {
                "pruner": pruner,
                "input": f"shipped model, {batch} images",
                "same_tokens": all(np.array_equal(a.positions, b.positions) for a, b in pairs),
                "same_clusters": all(np.array_equal(a.cluster_of_patch, b.cluster_of_patch) for a, b in pairs),
                "difference": max(_difference(a.features, b.features) for a, b in pairs),
            }
        )
    return rows


def _difference(one: Any, other: Any) -> float:
    """Largest absolute difference; infinity for arrays of different shapes."""
    return float(np.abs(one - other).max(initial=0)) if one.shape == other.shape else float("inf")


def _markdown(result: dict[str, Any]) -> str:
    def cell(same: bool) -> str:
        return "equal" if same else "unequal"

    rows = [
        [row["input"], row["pruner"], cell(row["same_tokens"]), cell(row["same_clusters"]), f"{row['difference']:.1e}"]
        for row in result["rows"]
    ]
    header = ["input", "pruner", "tokens", "clusters", "largest difference of a feature"]
    against = result["device"]
    note = " The CPU is compared with itself, as there is no other device." if against == "cpu" else ""
    return (
        f"# The same tokens on both devices\n\n{origin(result, packages=['torch', 'transformers'])} CPU against"
        f" {against}, float32.{note}\n\n{table(header, rows, num_labels=2)}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compares; exit status 0 if every pruner chooses the same tokens and clusters of random features."""
    parser = command_parser("benchmarks.speed.device_choices", __doc__)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--tokens", nargs="+", type=positive, default=[576, 2880])
    parser.add_argument("--batch", type=positive, default=8, help="images of a batch of the shipped model")
    add_output(parser, tokens=[64], batch=1)
    args = parser.parse_args(argv)
    device = resolve_device(args.device)
    logging.disable_progress_bar()
    # Convolutions, and with some settings products, would be rounded to ten bits.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    random = [_random_features(pruner, tokens, device) for tokens in args.tokens for pruner in prunable()]
    result = {
        "provenance": provenance("benchmarks.speed.device_choices"),
        "device": device.type,
        "rows": [*random, *_shipped_model(args.batch, device)],
    }
    publish(args.out, "device_choices", result, _markdown(result))
    return 0 if all(row["same_tokens"] and row["same_clusters"] for row in random) else 1


if __name__ == "__main__":
    sys.exit(main())
