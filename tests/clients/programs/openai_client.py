"""Calls of the official Python client: prints what came back as one JSON object.

openai_client.py URL MODEL IMAGE OTHER_IMAGE
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

url, model, *files = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
first, second = (
    {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(Path(file).read_bytes()).decode()}"},
    }
    for file in files
)
question = {"type": "text", "text": "What do you see?"}
turn = {"role": "user", "content": [first, question]}


def create(messages: list[dict[str, Any]], **options: Any) -> Any:
    return client.chat.completions.create(**{"model": model, "messages": messages, "temperature": 0, **options})


def whole(messages: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    completion = create(messages, **options)
    (choice,) = completion.choices
    return {
        "text": choice.message.content,
        "role": choice.message.role,
        "finish_reason": choice.finish_reason,
        "usage": completion.usage.model_dump(),
        "model": completion.model,
        "object": completion.object,
    }


def streamed(**options: Any) -> dict[str, Any]:
    # An answer from a cache comes in one piece.
    chunks = list(create([turn], stream=True, extra_body={"fovea": {"cache": "bypass"}}, **options))
    return {
        "text": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        "finish_reasons": [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices],
        "usages": [chunk.usage.model_dump() for chunk in chunks if chunk.usage],
        "objects": sorted({chunk.object for chunk in chunks}),
    }


def error(call: Callable[[], object]) -> dict[str, Any]:
    try:
        call()
    except openai.APIStatusError as raised:
        return {"class": type(raised).__name__, "status": raised.status_code, "param": raised.param}
    return {}


fovea = {"pruner": "desap", "keep_tokens": 9}
history = [turn, {"role": "assistant", "content": "5"}, {"role": "user", "content": "What color is the moon?"}]
not_an_image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
json.dump(
    {
        "models": [{"id": listed.id, "object": listed.object} for listed in client.models.list()],
        "retrieved": client.models.retrieve(model).id,
        "whole": whole([turn]),
        "streamed": streamed(),
        "streamed_with_usage": streamed(stream_options={"include_usage": True}),
        "several_images": whole([{"role": "user", "content": [first, second, question]}]),
        "history": whole(history),
        "alias": whole([turn], model=f"{model}@desap:9"),
        "extra_body": whole([turn], extra_body={"fovea": fovea}),
        "short": whole([turn], max_completion_tokens=2),
        "errors": {
            "unknown model": error(lambda: create([turn], model="another")),
            "unknown pruner": error(lambda: create([turn], extra_body={"fovea": {"pruner": "another"}})),
            "temperature out of range": error(lambda: create([turn], temperature=9)),
            "no messages": error(lambda: create([])),
            "not an image": error(lambda: create([{"role": "user", "content": [not_an_image, question]}])),
            "unknown model in a stream": error(lambda: create([turn], model="another", stream=True)),
        },
    },
    sys.stdout,
)
