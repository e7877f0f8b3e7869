"""Ids that are kept of recent questions: of short ones, for each tenant, and not of a prompt that tells the time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.tokenization.recent_ids import RecentIds
from tests.unit.gateway.conftest import StartGateway, data_url, png


class Counting:
    """Tokenizer that counts how often it is asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, text: object) -> list[int]:
        self.count += 1
        return [self.count]


def test_a_question_is_tokenized_once_for_each_tenant() -> None:
    recent = RecentIds(Counting())
    ids = [recent.get(tenant, 4, "Why?") for tenant in ("a", "a", "b", "", "b")]
    assert ids == [(1,), (1,), (2,), (3,), (2,)]


def test_a_long_history_is_not_kept() -> None:
    recent = RecentIds(tokenize := Counting())
    for _ in range(2):
        recent.get("", 5000, "Why? " * 1000)
    assert tokenize.count == 2


def test_the_number_of_questions_that_are_kept_is_bounded() -> None:
    recent = RecentIds(Counting())
    for number in range(10_000):
        recent.get("", 1, number)
    assert recent.get("", 1, 0) == (10_001,)


def test_an_error_is_raised_each_time() -> None:
    def refuse(text: str) -> list[int]:
        raise ValueError("no")

    recent = RecentIds(refuse)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            recent.get("", 4, "Why?")


async def test_a_prompt_that_tells_the_time_is_written_for_each_request(
    start_gateway: StartGateway, llava: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "llava"
    shutil.copytree(llava, checkpoint)
    template = checkpoint / "chat_template.jinja"
    template.write_text(template.read_text() + "{{ strftime_now('%f') }}")  # microseconds
    gateway = await start_gateway(model=str(checkpoint))
    replies = [await gateway.answer() for _ in range(2)]
    assert [reply["cache"]["answer"] for reply in replies] == ["miss", "miss"]
    first, second = [list(call.input_ids) for call in gateway.llm.calls]
    assert first != second


async def test_the_same_text_has_another_prompt_with_more_images(start_gateway: StartGateway) -> None:
    gateway = await start_gateway()
    for count in (1, 2):
        await gateway.answer(image=None, images=[data_url(png(shade)) for shade in range(count)])
    image_id = gateway.app.state.gateway.planner.prompt_tokenizer.image_token_id
    assert [list(call.input_ids).count(image_id) for call in gateway.llm.calls] == [1, 2]
