"""The least that a FastAPI application does with the form of a question: it reads fields and file, and sends JSON.

`python -m uvicorn benchmarks.speed.echo:app`, uvicorn's default configuration, is what `benchmarks.speed.gateway`
compares the gateway with. ECHO_BYTES is the size of the JSON object that is sent.
"""

from __future__ import annotations

import os
from typing import Annotated

from fastapi import FastAPI, Form, UploadFile

__all__ = ["app"]

_PADDING = "x" * (int(os.environ["ECHO_BYTES"]) - len('{"image_bytes":24567,"padding":""}'))

app = FastAPI()


@app.post("/v1/answer")
async def echo(
    image: UploadFile,
    question: Annotated[str, Form()],
    pruner: Annotated[str, Form()],
    keep_ratio: Annotated[float, Form()],
    max_tokens: Annotated[int, Form()],
) -> dict[str, int | str]:
    """The size of the file, and as much padding as makes the object as long as an answer."""
    return {"image_bytes": len(await image.read()), "padding": _PADDING}
