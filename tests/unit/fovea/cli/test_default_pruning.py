"""What `fovea up` tells about the pruning of questions that name none."""

from __future__ import annotations

from typing import Any

import pytest

from fovea.cli.default_pruning import default_pruning
from tests.plain_gateway import PlainGateway


def models(**card: Any) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": "m", "keep_tokens": None, **card}]}


def test_pruner_and_share_are_named(gateway: PlainGateway) -> None:
    gateway.answers(models(pruner="desap", keep_ratio=0.111))
    line = default_pruning(gateway.url)
    assert line is not None
    assert "keeps 11.1 % of an image's tokens, by desap; ENCODER_PRUNER=none" in line
    assert gateway.path == "/v1/models"


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (models(pruner="none", keep_ratio=1.0), 200),
        (models(pruner="desap", keep_ratio=1), 200),
        (models(pruner=None, keep_ratio=None), 200),
        ({"error": {"message": "no accepted API key"}}, 401),
        ([], 200),
    ],
    ids=["nothing is pruned", "all are kept", "unknown", "API keys", "another server"],
)
def test_without_pruning_or_an_answer_there_is_no_line(gateway: PlainGateway, reply: Any, status: int) -> None:
    gateway.answers(reply, status)
    assert default_pruning(gateway.url) is None


def test_a_gateway_that_is_gone_is_no_error(gateway: PlainGateway) -> None:
    url = gateway.url
    gateway.__exit__()
    assert default_pruning(url) is None
