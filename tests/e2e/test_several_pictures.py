"""Several images in one question: the answers of three processes are those of the unsplit model with its processor."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from benchmarks.checkpoints.tiny import clip, llava
from fovea.processes.stack import Stack, free_port
from tests.e2e.conftest import STARTUP_S, data_url
from tests.lab_stack import ENVIRONMENT

MAX_TOKENS = 32
PATCHES = 16
SHAPES = [(56, 56), (90, 40), (33, 120)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llava.write(tmp_path_factory.mktemp("tiny") / "llava")


@pytest.fixture(scope="module")
def client(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("tiny")
    with Stack(
        str(checkpoint),
        str(clip.write(folder / "clip")),
        listen=f"127.0.0.1:{free_port()}",
        flags={"gateway": ["--wire-dtype", "float32"]},
        environment=ENVIRONMENT,
        log_to=folder / "log",
    ) as stack:
        stack.wait_ready(STARTUP_S)
        with httpx.Client(base_url=stack.url, timeout=60, trust_env=False) as http:
            yield http


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(5)
    return [Image.fromarray(noise.integers(0, 256, (*shape, 3), np.uint8)) for shape in SHAPES]


def url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return data_url(file.getvalue())


def unsplit(checkpoint: Path, messages: list[dict[str, Any]], pictures: list[Image.Image]) -> str:
    processor: Any = AutoProcessor.from_pretrained(checkpoint)
    model: Any = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=prompt, images=pictures, return_tensors="pt")
    with torch.inference_mode():
        made = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
    text: str = processor.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text.strip()


def answer(client: httpx.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/answer", json={"pruner": "none", "max_tokens": MAX_TOKENS, **body})
    assert response.status_code == 200, response.text
    return dict(response.json())


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


IMAGE = {"type": "image"}


@pytest.mark.parametrize(
    ("question", "content"),
    [
        ("what is in these?", [IMAGE, IMAGE, IMAGE, text("what is in these?")]),
        ("is <image><image> or <image> red?", [text("is <image><image> or <image> red?")]),
        ("the first, then <image>?", [IMAGE, IMAGE, text("the first, then <image>?")]),
    ],
)
def test_a_question(
    client: httpx.Client,
    checkpoint: Path,
    pictures: list[Image.Image],
    question: str,
    content: list[dict[str, Any]],
) -> None:
    got = answer(client, question=question, images=[url(picture) for picture in pictures])
    assert got["answer"].strip() == unsplit(checkpoint, [{"role": "user", "content": content}], pictures)
    assert got["usage"]["visual_tokens_kept"] == got["usage"]["visual_tokens_total"] == PATCHES * len(pictures)


def test_a_history(client: httpx.Client, checkpoint: Path, pictures: list[Image.Image]) -> None:
    def history(*images: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {"role": "user", "content": [images[0], text("what is this?")]},
            {"role": "assistant", "content": [text("a cat.")]},
            {"role": "user", "content": [images[1], images[2], text("and these?")]},
        ]

    urls = [{"type": "image_url", "image_url": {"url": url(picture)}} for picture in pictures]
    got = answer(client, messages=history(*urls))
    assert got["answer"].strip() == unsplit(checkpoint, history(IMAGE, IMAGE, IMAGE), pictures)
    pruned = answer(client, messages=history(*urls), pruner="desap", keep_tokens=4)
    assert pruned["usage"]["visual_tokens_kept"] == 4 * len(pictures)
    assert got["usage"]["prompt_tokens"] - pruned["usage"]["prompt_tokens"] == (PATCHES - 4) * len(pictures)


def test_pictures_in_another_order_are_another_question(client: httpx.Client, pictures: list[Image.Image]) -> None:
    urls = [url(picture) for picture in pictures]
    first = answer(client, question="which?", images=urls)
    second = answer(client, question="which?", images=urls[::-1])
    assert second["cache"] == {"answer": "miss", "visual_tokens": "miss", "features": "hit"}
    assert first["answer"] != second["answer"]


def test_explain_shows_each_picture(client: httpx.Client, pictures: list[Image.Image]) -> None:
    urls = [url(picture) for picture in pictures]
    got = answer(client, question="which is red?", images=urls, pruner="desap", keep_tokens=3, explain=True)
    visuals = got["explain"]["visuals"]
    assert [visual["grid"] for visual in visuals] == [[1, 4, 4]] * len(pictures)
    assert all(len(visual["kept"]) == 3 for visual in visuals)
    one = answer(client, question="which is red?", image=urls[1], pruner="desap", keep_tokens=3, explain=True)
    assert visuals[1]["kept"] == one["explain"]["kept"]
    np.testing.assert_allclose(visuals[1]["task_map"][0], one["explain"]["task_map"], atol=1e-5)


def test_a_family_without_videos_says_so(client: httpx.Client) -> None:
    clip_url = "data:video/mp4;base64,AAAAGGZ0eXBpc29tAAAAAA=="
    response = client.post("/v1/answer", json={"question": "what happens?", "video": clip_url})
    assert response.status_code == 422
    assert "family llava takes no videos" in response.json()["error"]["message"]
