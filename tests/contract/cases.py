"""Requests that are recorded at a commit, and asked of services of different commits."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from lab.questions import evaluation_questions

__all__ = ["CASES", "Case"]

_IMAGE_SIZE: Final = 72
_COLORS: Final = 12


@dataclass(frozen=True)
class Case:
    """Request of the REST API.

    Attributes:
        body: JSON body.
        path: Path of the endpoint.
    """

    body: dict[str, Any]
    path: str = "/v1/answer"


def _data_url(image: Image.Image) -> str:
    """A PNG file of a few kilobytes."""
    small = image.resize((_IMAGE_SIZE, _IMAGE_SIZE)).quantize(_COLORS, dither=Image.Dither.NONE)
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


_SCENES: Final = {id(question.scene): question for question in evaluation_questions("easy", 77, 9)}
_IMAGES: Final = [_data_url(question.image) for question in list(_SCENES.values())[:2]]
_MESSAGES: Final = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": _IMAGES[0]}},
            {"type": "text", "text": "Is there a circle?"},
        ],
    },
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "What color is it?"},
]


def _case(question: str = "What do you see?", path: str = "/v1/answer", **fields: Any) -> Case:
    return Case({"question": question, "image": _IMAGES[0], **fields}, path)


CASES: Final[dict[str, Case]] = {
    "defaults": _case(),
    "keep_tokens": _case("How many objects are there?", keep_tokens=5),
    "keep_ratio": _case(keep_ratio=0.08, pruner="cls"),
    "auto": _case("Is there a red star?", keep_tokens="auto", pruner="fovea"),
    "pruner_params": _case(pruner="desap", pruner_params={"task_share": 1}),
    "int8": _case(wire_dtype="int8"),
    "int4": _case(wire_dtype="int4"),
    "entropy": _case(wire_dtype="entropy"),
    "basis": _case(wire_dtype="basis"),
    "max_wire_bytes": _case(max_wire_bytes=700),
    "explain": _case(explain=True, keep_tokens=12),
    "llm_pruner": _case(llm_pruner={"name": "fastv", "keep_ratio": 0.5}),
    "two_images": Case({"question": "Is there a star in <image> or in <image>?", "images": _IMAGES}),
    "messages": Case({"messages": _MESSAGES}),
    "sampled": _case(temperature=1.5, top_p=0.9, seed=7, max_tokens=24),
    "stop": _case(stop=[","], max_tokens=40),
    "activation_maps": _case(path="/v1/explain", maps=True, format="json"),
}
