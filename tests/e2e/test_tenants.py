"""Two tenants with the same question about the same image: neither is served from the caches of the other."""

from __future__ import annotations

from contextlib import aclosing

from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.processes.stack import Stack
from gateway.app import create_app
from gateway.core.answer import Answer
from gateway.core.answer_service import AnswerService
from gateway.core.deadlines import now
from gateway.core.encode_spec import EncodeSpec
from gateway.core.generate_spec import Sampling
from gateway.core.question import Question
from gateway.core.question_text import QuestionText
from gateway.media.files import MediaFile
from gateway.settings import GatewaySettings


async def ask(answers: AnswerService, picture: bytes, tenant: str, *, max_tokens: int = 8) -> Answer:
    question = Question(
        text=QuestionText("Is there a red star?"),
        encode=EncodeSpec(images=(MediaFile.of(picture),)),
        sampling=Sampling(max_tokens=max_tokens),
        arrived=now(),
        deadline=now() + 60,
        cache_salt=tenant,
    )
    async with aclosing(answers.answer(question)) as events:
        return [event async for event in events][-1]


async def test_the_second_tenant_misses_every_cache(stack: Stack, picture: bytes) -> None:
    settings = GatewaySettings(
        model=str(shipped_checkpoint("llava")),
        text_tower=str(shipped_checkpoint("clip")),
        encoder=stack.encoder_address,
        llm=stack.llm_address,
        visual_token_cache_bytes=0,  # so that the cache of the encoder service is seen
    )
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        answers = app.state.gateway.answers
        got = [await ask(answers, picture, tenant) for tenant in ("a", "b", "a")]
        got += [await ask(answers, picture, tenant, max_tokens=9) for tenant in ("a", "b", "c", "")]
    costs = [(one.costs.answer, one.costs.visual_tokens, one.costs.features) for one in got]
    missed, cached_features = ("miss", "miss", "miss"), ("miss", "miss", "hit")
    assert costs[:3] == [missed, missed, ("hit", "skip", "skip")]
    assert costs[3:] == [cached_features, cached_features, missed, missed]
    assert len({one.completion.text for one in got}) == 1
