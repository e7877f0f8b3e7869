"""Model of lmms-eval that sends each question to a running Fovea, with pruner and budget from the model arguments."""

from __future__ import annotations

import base64
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from lmms_eval.api.model import lmms
from lmms_eval.api.registry import register_model


@register_model("fovea")
class Fovea(lmms):
    """Client of a running Fovea: `--model_args url=http://127.0.0.1:8000,pruner=desap,keep_tokens=64,concurrency=16`.

    Further arguments are fields of `/v1/answer`. `pruner_params` is a JSON object without commas, or a file with one.
    A gateway with keys needs one in the environment variable FOVEA_API_KEY.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", concurrency: int = 16, batch_size: int = 1, **fields: Any
    ) -> None:
        super().__init__()
        params = fields.pop("pruner_params", None)
        if params is not None:
            text = Path(params).read_text(encoding="utf-8") if Path(params).is_file() else params
            fields["pruner_params"] = json.loads(text)
        self._fields = {"cache": "bypass", "timeout_s": 300, **{k: v for k, v in fields.items() if k != "device"}}
        key = os.environ.get("FOVEA_API_KEY")  # lmms-eval writes the model arguments into its results
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=330)
        self._concurrency = int(concurrency)

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Greedy answers, in the order of the requests."""
        with ThreadPoolExecutor(self._concurrency) as pool:
            return list(pool.map(self._answer, requests))

    def _answer(self, request: Any) -> str:
        question, options, doc_to_visual, doc_id, task, split = request.args
        body = {**self._fields, "question": question, "max_tokens": options.get("max_new_tokens", 128)}
        media = doc_to_visual(self.task_dict[task][split][doc_id])
        if images := [_image_url(item) for item in media if not isinstance(item, str)]:
            body["images"] = images
        if videos := [_video_url(item) for item in media if isinstance(item, str)]:
            (body["video"],) = videos
        response = self._client.post("/v1/answer", json=body)
        if response.is_error:
            raise RuntimeError(f"{response.status_code}: {response.text}")
        answer: str = response.json()["answer"]
        for stop in options.get("until", []):
            answer = answer.split(stop)[0] if stop else answer
        return answer

    def loglikelihood(self, requests: list[Any]) -> Any:
        raise NotImplementedError("Fovea only generates text; choose a task with output_type generate_until")

    def generate_until_multi_round(self, requests: list[Any]) -> Any:
        raise NotImplementedError("Fovea accepts single-round tasks only")


def _image_url(image: Any) -> str:
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _video_url(path: str) -> str:
    return "data:video/mp4;base64," + base64.b64encode(Path(path).read_bytes()).decode()
