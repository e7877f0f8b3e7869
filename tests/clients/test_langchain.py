"""LangChain's ChatOpenAI."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from fovea.processes.stack import Stack
from tests.clients.environments import PROGRAMS, run
from tests.clients.own_answers import ask


def test_invoke_and_stream_give_the_answer_of_fovea(
    stack: Stack, http: httpx.Client, images: list[Path], tmp_path: Path
) -> None:
    program = str(PROGRAMS / "langchain_client.py")
    transcript = json.loads(run("langchain", "python", program, stack.url, "fovea-lab", str(images[0]), cwd=tmp_path))
    own = ask(http, images[:1], pruner="desap", keep_tokens=9)
    for way in ("invoked", "streamed"):
        assert transcript[way]["text"] == own["answer"]
        assert transcript[way]["usage"]["input_tokens"] == own["usage"]["prompt_tokens"]
        assert transcript[way]["usage"]["output_tokens"] == own["usage"]["completion_tokens"]
