"""`fovea bench` on the real services."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from fovea.processes.stack import Stack


def test_pruned_and_unpruned_are_compared(stack: Stack, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    words = ["--model", "fovea-lab@none", "--model", "fovea-lab@desap:16", "--rounds", "2"]
    words += ["--image-size", "160x120", "--max-tokens", "8", "--prompt", "What do you see?"]
    words += ["--requests", "4", "--concurrency", "2", "--images-per-request", "2", "--json", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "fovea.cli", "bench", f"{stack.url}/v1", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    unpruned, pruned = result["results"]
    for row, image_tokens in ((unpruned, 2 * 144), (pruned, 2 * 16)):
        assert (row["requests"], row["failed"], row["answers_without_usage"]) == (8, 0, 0)
        assert row["mean_image_tokens"] == image_tokens
        assert row["mean_image_tokens_before"] == 2 * 144
        assert row["mean_output_tokens"] > 1
        assert row["tpot_ms"]["p50"] > 0
    (ratio,) = result["ratios"]
    assert ratio["ttft_p50"]["median"] > 0
    assert "| fovea-lab@desap:16 |" in done.stdout
