"""Answers of `/v1/answer`, with which those of the clients are compared."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

QUESTION = "What do you see?"


def ask(http: httpx.Client, images: Sequence[Path], question: str = QUESTION, **fields: Any) -> dict[str, Any]:
    """The answer object, not from a cache."""
    body: dict[str, Any] = {"images": [data_url(path) for path in images], "question": question, "cache": "bypass"}
    return post(http, {**body, **fields})


def post(http: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    """The answer object of a whole body."""
    response = http.post("/v1/answer", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def data_url(path: Path) -> str:
    """Data URL of a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
