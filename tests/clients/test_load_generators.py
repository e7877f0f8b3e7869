"""Load generators: short runs with images, in which no request fails."""

from __future__ import annotations

import json
from pathlib import Path

from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.processes.stack import Stack
from tests.clients.environments import run

REQUESTS = 6


def test_guidellm_counts_the_visual_tokens(stack: Stack, tmp_path: Path) -> None:
    run(
        "guidellm",
        *("guidellm", "run", "--backend", f"kind=openai_http,target={stack.url},model=fovea-lab@desap:16"),
        *("--profile", "kind=concurrent,streams=2", "--constraint", f"kind=max_requests,count={REQUESTS}"),
        *("--tokenizer", f"kind=huggingface_auto,model={shipped_checkpoint('llava')}"),
        *("--data", "kind=synthetic_text,prompt_tokens=12,output_tokens=4"),
        *("--data", "kind=synthetic_image,width=160,height=120,content=noise"),
        *("--output", "kind=json,path=out.json", "--disable-console-interactive"),
        cwd=tmp_path,
    )
    (benchmark,) = json.loads((tmp_path / "out.json").read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert totals == {"successful": REQUESTS, "errored": 0, "incomplete": 0, "total": REQUESTS}
    assert benchmark["metrics"]["image"]["tokens"]["input"]["successful"]["mean"] == 16


def test_aiperf_has_no_failed_request(stack: Stack, tmp_path: Path) -> None:
    run(
        "aiperf",
        *("aiperf", "profile", "--model", "fovea-lab@desap:16", "--url", stack.url, "--endpoint-type", "chat"),
        *("--streaming", "--tokenizer", str(shipped_checkpoint("llava")), "--ui", "none"),
        *("--synthetic-input-tokens-mean", "12", "--output-tokens-mean", "4"),
        *("--image-width-mean", "160", "--image-height-mean", "120", "--image-format", "jpeg"),
        *("--request-count", str(REQUESTS), "--concurrency", "2", "--output-artifact-dir", "out"),
        cwd=tmp_path,
        HF_HUB_OFFLINE="",  # offline, aiperf takes no folder as a tokenizer
    )
    result = json.loads((tmp_path / "out" / "profile_export_aiperf.json").read_text())
    assert result["request_count"]["avg"] == REQUESTS
    assert result["error_summary"] == []
    assert not result["was_cancelled"]
    assert result["num_images"]["sum"] == REQUESTS
