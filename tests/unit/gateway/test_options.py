"""Options of the encoder and of the sampling, from the request to the services, also to services that are older."""

from __future__ import annotations

from typing import Any

import pytest

from fovea.v1 import encoder_pb2
from gateway.core.generate_spec import Sampling
from tests.unit.gateway.conftest import Gateway, StartGateway

PENALTIES = {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": -0.5}
FILTERS = {"top_k": 7, "min_p": 0.125}


@pytest.mark.parametrize(
    ("fit", "expected"),
    [("crop", encoder_pb2.IMAGE_FIT_CROP), ("pad", encoder_pb2.IMAGE_FIT_PAD), (None, 0)],
)
async def test_the_image_fit_reaches_the_encoder(gateway: Gateway, fit: str | None, expected: int) -> None:
    await gateway.answer(image_fit=fit)
    assert gateway.encoder.calls[0].image_fit == expected


async def test_usage_and_explanation_tell_what_was_seen(gateway: Gateway) -> None:
    answer = await gateway.answer(explain=True)
    assert answer["usage"]["viewed"] == [[0.0, 0.0, 1.0, 1.0]]
    assert answer["explain"]["viewed"] == [-0.25, 0.0, 1.25, 1.0]


async def test_a_cached_answer_tells_what_was_seen(gateway: Gateway) -> None:
    first, again = await gateway.answer(), await gateway.answer()
    assert again["cache"]["answer"] == "hit"
    assert again["usage"]["viewed"] == first["usage"]["viewed"]


async def test_an_option_that_an_older_encoder_would_ignore_is_refused(start_gateway: StartGateway) -> None:
    gateway = await start_gateway()
    gateway.encoder.info.newest_request_field = 0
    await gateway.answer()
    error = await gateway.refused(422, image_fit="pad")
    assert (error["param"], error["code"]) == ("image_fit", "invalid_request")
    assert "older than this option" in error["message"]


async def test_sampling_parameters_reach_the_llm_service(gateway: Gateway) -> None:
    await gateway.answer(temperature=0.5, seed=1, **PENALTIES, **FILTERS)
    sampling = gateway.llm.calls[0].sampling
    assert {name: getattr(sampling, name) for name in (*PENALTIES, *FILTERS)} == {**PENALTIES, **FILTERS}


async def test_what_a_request_leaves_out_has_the_defaults_of_the_llm_service(start_gateway: StartGateway) -> None:
    gateway = await start_gateway()
    defaults = gateway.llm.info.default_sampling
    defaults.temperature, defaults.top_p, defaults.top_k = 0.5, 0.75, 9
    answer = await gateway.answer()
    sampling = gateway.llm.calls[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty) == (0.5, 0.75, 9, 1.05)
    assert answer["cache"]["answer"] == "skip"  # sampled without a seed
    await gateway.answer(temperature=0, top_p=0.5)
    greedy = gateway.llm.calls[1].sampling
    assert (greedy.temperature, greedy.HasField("temperature"), greedy.HasField("top_p")) == (0, True, False)


def test_ignored_end_tokens_reach_a_service_that_has_them_and_are_refused_for_another() -> None:
    asked = Sampling(max_tokens=5, ignore_eos=True)
    newer, older = ("temperature", "top_p", "ignore_eos"), ("temperature", "top_p")
    assert asked.resolved({}, newer).to_proto().ignore_eos
    assert (asked.lacking(newer), asked.lacking(older)) == ([], ["ignore_eos"])
    plain = Sampling(max_tokens=5, ignore_eos=False)
    for accepted in (newer, older):
        assert plain.lacking(accepted) == []
        assert not plain.resolved({}, accepted).to_proto().HasField("ignore_eos")


@pytest.mark.parametrize("name", [*PENALTIES, *FILTERS])
async def test_a_parameter_that_the_engine_lacks_is_refused(start_gateway: StartGateway, name: str) -> None:
    gateway = await start_gateway()
    del gateway.llm.info.sampling_parameters[:]
    gateway.llm.info.ClearField("default_sampling")
    await gateway.answer()
    error = await gateway.refused(422, **{name: {**PENALTIES, **FILTERS}[name]})
    assert error["param"] == name
    assert "does not have it" in error["message"]
    assert not gateway.llm.calls[0].sampling.HasField(name)


@pytest.mark.parametrize(
    "fields", [{"top_k": 0, "min_p": 0}, {"repetition_penalty": 1, "presence_penalty": 0}], ids=str
)
async def test_a_value_without_effect_is_accepted_everywhere(
    start_gateway: StartGateway, fields: dict[str, float]
) -> None:
    gateway = await start_gateway()
    del gateway.llm.info.sampling_parameters[:]
    gateway.llm.info.ClearField("default_sampling")
    await gateway.answer()
    assert (await gateway.answer(**fields))["cache"]["answer"] == "hit"


async def test_the_default_image_fit_shares_its_entries(start_gateway: StartGateway) -> None:
    gateway = await start_gateway()
    gateway.encoder.info.default_image_fit = encoder_pb2.IMAGE_FIT_CROP
    await gateway.answer()
    assert gateway.encoder.calls[0].image_fit == encoder_pb2.IMAGE_FIT_CROP
    assert (await gateway.answer(image_fit="crop"))["cache"]["answer"] == "hit"
    assert (await gateway.answer(image_fit="pad"))["cache"]["answer"] == "miss"


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": -1.0},
        {"repetition_penalty": float("nan")},
        {"presence_penalty": float("inf")},
        {"min_p": 7.0},
        {"top_k": 2**32 - 1},
    ],
    ids=str,
)
async def test_nonsense_among_the_defaults_of_the_llm_service_is_a_502(
    start_gateway: StartGateway, change: dict[str, Any]
) -> None:
    gateway = await start_gateway()
    for name, value in change.items():
        setattr(gateway.llm.info.default_sampling, name, value)
    error = await gateway.refused(502, temperature=1, seed=3)
    assert error["message"] == f"the LLM service reports a default of {next(iter(change))} that is not accepted"


async def test_a_default_seed_or_stop_of_the_llm_service_is_not_taken(start_gateway: StartGateway) -> None:
    gateway = await start_gateway()
    gateway.llm.info.default_sampling.seed = 3
    gateway.llm.info.default_sampling.stop.append("red")
    assert (await gateway.answer(temperature=1))["cache"]["answer"] == "skip"
    sampling = gateway.llm.calls[0].sampling
    assert sampling.seed != 3
    assert not sampling.stop


@pytest.mark.parametrize("ratio", [0.0, -1.0, 5.0, float("nan")])
async def test_a_default_budget_that_is_none_is_a_502(start_gateway: StartGateway, ratio: float) -> None:
    gateway = await start_gateway()
    gateway.encoder.info.default_keep_ratio = ratio
    assert "keep_ratio" in (await gateway.refused(502))["message"]


async def test_a_default_wire_format_of_a_later_version_is_left_to_the_encoder(start_gateway: StartGateway) -> None:
    gateway = await start_gateway()
    gateway.encoder.info.default_wire_dtype = 99  # type: ignore[assignment]
    await gateway.answer()
    assert gateway.encoder.calls[0].wire_dtype == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"image_fit": "stretch"},
        {"top_k": -1},
        {"min_p": 1.5},
        {"repetition_penalty": 0},
        {"presence_penalty": 2.5},
        {"frequency_penalty": -2.5},
    ],
    ids=str,
)
async def test_values_out_of_range_are_refused(gateway: Gateway, fields: dict[str, Any]) -> None:
    assert (await gateway.refused(422, **fields))["param"] == next(iter(fields))
