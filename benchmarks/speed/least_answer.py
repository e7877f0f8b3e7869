"""The least that a FastAPI application does for a cached answer of this gateway.

`python -m uvicorn benchmarks.speed.least_answer:app` reads the form as the echo does. Then comes, by the gateway's own
code, what no cached answer goes without: check and digest of the image, prompt, cache keys, look-up, response, metrics
and the line of the audit log. It has none of the gateway's keys, limits, deadlines and checks of requests.

LEAST_ANSWER has the gateway's arguments, separated by spaces.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Final

from fastapi import FastAPI, Form, Request, Response, UploadFile

from fovea import telemetry
from fovea.budget import Budget
from gateway.access.clients import client_at
from gateway.cache.memory import MemoryCache
from gateway.clients.encoder import EncoderClient
from gateway.clients.llm import LLMClient
from gateway.core.answer import Answer, Completion, Costs
from gateway.core.answer_store import AnswerStore
from gateway.core.deadlines import now
from gateway.core.encode_spec import EncodeSpec
from gateway.core.generate_spec import Sampling
from gateway.core.planner import Planner
from gateway.core.question import Question
from gateway.core.question_text import QuestionText
from gateway.http.audit import audit_record, write_audit_line
from gateway.http.key_metrics import KeyMetrics
from gateway.http.responses import answer_response
from gateway.media.files import IMAGE, media_file
from gateway.settings import GatewaySettings
from gateway.tokenization.tokenizers import PromptTokenizer, TextTowerTokenizer

__all__ = ["app"]

_SETTINGS: Final = GatewaySettings.from_command_line(os.environ["LEAST_ANSWER"].split())
_PLANNER: Final = Planner(
    _SETTINGS, PromptTokenizer(Path(_SETTINGS.model)), TextTowerTokenizer(Path(_SETTINGS.text_tower))
)
_ANSWERS: Final = AnswerStore(MemoryCache(answer_bytes=2**20, visual_token_bytes=0, ttl_s=3600))
_KEYS: Final = KeyMetrics()
_COMPLETION: Final = Completion(
    text="yes",
    finish_reason="stop",
    prompt_tokens=46,
    completion_tokens=2,
    visual_tokens_total=144,
    visual_tokens_kept=16,
    visual_tokens_by_layer=(),
    wire_dtype="float16",
    viewed=((0.0, 0.0, 1.0, 1.0),),
)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    telemetry.configure_logging("gateway")
    encoder = EncoderClient(_SETTINGS.encoder, max_message_bytes=_SETTINGS.max_message_bytes)
    llm = LLMClient(_SETTINGS.llm, max_message_bytes=_SETTINGS.max_message_bytes)
    app.state.infos = await encoder.info(), await llm.info()
    yield
    await encoder.close()
    await llm.close()


app = FastAPI(lifespan=_lifespan)


@app.post("/v1/answer", response_model=None)
async def answer(
    request: Request,
    image: UploadFile,
    question: Annotated[str, Form()],
    pruner: Annotated[str, Form()],
    keep_ratio: Annotated[float, Form()],
    max_tokens: Annotated[int, Form()],
) -> Response:
    """The cached answer, of which only the text is made up."""
    arrived, started = now(), time.perf_counter()
    file = media_file(await image.read(), IMAGE, field_path="image", max_bytes=_SETTINGS.max_image_bytes)
    asked = Question(
        text=QuestionText(question),
        encode=EncodeSpec(images=(file,), pruner=pruner, budget=Budget.of(None, keep_ratio)),
        sampling=Sampling(max_tokens=max_tokens),
        arrived=arrived,
        deadline=arrived + _SETTINGS.default_timeout_s,
    )
    plan = _PLANNER.plan_answer(asked, *request.app.state.infos)
    completion = await _ANSWERS.get(plan)
    if completion is None:
        assert plan.key is not None
        await _ANSWERS.put(plan.key, completion := _COMPLETION)
    elapsed_ms = (now() - arrived) * 1000
    cached = Answer(
        completion=completion,
        costs=Costs(),
        encoded=None,
        tokenize_ms=plan.tokenize_ms,
        time_to_first_token_ms=elapsed_ms,
        total_ms=elapsed_ms,
    )
    body = answer_response(cached, model=_SETTINGS.model_name).model_dump_json(exclude_none=True)
    _record(request, asked, cached, time.perf_counter() - started)
    return Response(body, media_type="application/json")


def _record(request: Request, asked: Question, cached: Answer, seconds: float) -> None:
    """Metrics and audit line. The line of the access log is uvicorn's."""
    telemetry.REQUESTS.labels("POST /v1/answer", "ok").inc()
    telemetry.REQUEST_LATENCY_SECONDS.labels("POST /v1/answer").observe(seconds)
    assert request.client is not None
    client, record = client_at(request.client.host, _SETTINGS.client_limits), audit_record(request.scope)
    record.add_question(asked)
    record.add_answer(cached)
    _KEYS.count(client, "ok", record)
    write_audit_line(
        request.scope, client, method="POST", route="/v1/answer", status=200, outcome="ok", seconds=seconds
    )
