"""What `fovea up` tells about the pruning of questions that name none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fovea.cli.default_pruning import default_pruning
from tests.plain_gateway import PlainGateway


def models(**card: Any) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": "m", "keep_tokens": None, **card}]}


@pytest.fixture
def http(gateway: PlainGateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=5, trust_env=False) as client:
        yield client


@pytest.mark.parametrize(
    ("variables", "remedy"),
    [
        ({}, "ENCODER_PRUNER=none"),
        ({"ENCODER_PRUNER": "desap", "GATEWAY_PRUNER": ""}, "ENCODER_PRUNER=none"),
        ({"ENCODER_PRUNER": "none", "GATEWAY_PRUNER": "desap"}, "GATEWAY_PRUNER=none"),
    ],
)
def test_pruner_and_share_are_named_with_the_variable_that_decides(
    gateway: PlainGateway, http: httpx.Client, variables: dict[str, str], remedy: str
) -> None:
    gateway.answers(models(pruner="desap", keep_ratio=0.111))
    line = default_pruning(http, variables)
    assert line is not None
    assert line.endswith(f"keeps 11.1 % of an image's tokens, by desap; {remedy} keeps all")
    assert gateway.path == "/v1/models"


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"GATEWAY_KEEP_RATIO": "0.5"}, "GATEWAY_KEEP_RATIO=0.5 has no effect on the pruner none; ENCODER_PRUNER=NAME"),
        (
            {"ENCODER_KEEP_RATIO": "0.25", "GATEWAY_PRUNER": "none"},
            "ENCODER_KEEP_RATIO=0.25 has no effect on the pruner none; GATEWAY_PRUNER=NAME",
        ),
    ],
)
def test_a_budget_beside_the_pruner_none_is_named(
    gateway: PlainGateway, http: httpx.Client, variables: dict[str, str], says: str
) -> None:
    gateway.answers(models(pruner="none", keep_ratio=1.0))
    line = default_pruning(http, variables)
    assert line is not None
    assert says in line
    assert default_pruning(http, {name: "1" for name in variables if "RATIO" in name}) is None


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
def test_without_pruning_or_an_answer_there_is_no_line(
    gateway: PlainGateway, http: httpx.Client, reply: Any, status: int
) -> None:
    gateway.answers(reply, status)
    assert default_pruning(http, {}) is None


def test_a_gateway_that_is_gone_is_no_error(gateway: PlainGateway, http: httpx.Client) -> None:
    gateway.__exit__()
    assert default_pruning(http, {}) is None
