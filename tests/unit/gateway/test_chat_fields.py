"""`POST /v1/chat/completions`: fields that are accepted, ignored and refused, and the names in errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fovea.errors import InvalidRequest
from fovea.v1 import encoder_pb2, tensor_pb2
from gateway.http.schemas.chat import FoveaOptions
from gateway.http.schemas.chat_unsupported import UNSUPPORTED, check_supported
from tests.unit.gateway.chats import chat, complete, refused, text_part, user
from tests.unit.gateway.conftest import Gateway, StartGateway

SAMPLING = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 20,
    "min_p": 0.125,
    "repetition_penalty": 1.5,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "seed": 7,
}


async def test_sampling_parameters_reach_the_language_model(gateway: Gateway) -> None:
    await complete(gateway, chat(**SAMPLING, max_tokens=9, stop=["END", "STOP"]))
    sampling = gateway.llm.calls[0].sampling
    assert {name: getattr(sampling, name) for name in SAMPLING} == SAMPLING
    assert (sampling.max_tokens, list(sampling.stop)) == (9, ["END", "STOP"])


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"stop": "END"}, {"stop": ["END"]}),
        ({"stop": []}, {"stop": []}),
        ({"temperature": 1, "top_k": -1, "seed": -1}, {"top_k": 0, "seed": 2**64 - 1}),
        ({"temperature": 1, "seed": -(2**63)}, {"seed": 2**63}),
        ({"temperature": 0}, {"temperature": 0}),
        ({}, {"temperature": 0, "repetition_penalty": 1.0499999523162842}),  # the server's defaults, not OpenAI's
    ],
)
async def test_values_of_other_servers_are_understood(
    gateway: Gateway, fields: dict[str, Any], sent: dict[str, Any]
) -> None:
    await complete(gateway, chat(**fields))
    sampling = gateway.llm.calls[0].sampling
    for name, value in sent.items():
        got = getattr(sampling, name)
        assert (list(got) if name == "stop" else got) == pytest.approx(value)


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        ({}, 2048),
        ({"max_tokens": None}, 2048),
        ({"max_tokens": 9}, 9),
        ({"max_completion_tokens": 8}, 8),
        ({"max_completion_tokens": 8, "max_tokens": 9}, 8),
        ({"max_tokens": 16384}, 2048),
        ({"max_completion_tokens": 10**9}, 2048),
    ],
)
async def test_the_number_of_tokens_is_what_the_server_can_give(
    gateway: Gateway, fields: dict[str, Any], max_tokens: int
) -> None:
    await complete(gateway, chat(**fields))
    assert gateway.llm.calls[0].sampling.max_tokens == max_tokens


@pytest.mark.parametrize(("of_gateway", "of_llm", "expected"), [(64, 2048, 64), (2048, 32, 32), (100, 0, 100)])
async def test_the_lower_limit_of_gateway_and_llm_service_holds(
    start_gateway: StartGateway, of_gateway: int, of_llm: int, expected: int
) -> None:
    gateway = await start_gateway(max_tokens=of_gateway)
    gateway.llm.info.max_tokens = of_llm
    await complete(gateway, chat(max_tokens=16384))
    assert gateway.llm.calls[0].sampling.max_tokens == expected


NEUTRAL: dict[str, Any] = {
    "n": 1,
    "response_format": {"type": "text"},
    "tools": [],
    "tool_choice": "none",
    "functions": [],
    "function_call": "none",
    "logit_bias": {},
    "logprobs": False,
    "top_logprobs": 0,
    "modalities": ["text"],
    "best_of": 1,
    "echo": False,
    "skip_special_tokens": True,
    "add_generation_prompt": True,
    "mm_processor_kwargs": {},
    "documents": [],
    "return_token_ids": False,
    "return_tokens_as_token_ids": False,
    "cache_salt": "",
}
IGNORED: dict[str, Any] = {
    "user": "ada",
    "store": False,
    "metadata": {"a": "b"},
    "parallel_tool_calls": True,
    "service_tier": "auto",
    "reasoning_effort": "low",
    "prediction": {"type": "content", "content": "red"},
    "chat_template_kwargs": {"enable_thinking": False},
    "media_io_kwargs": {"video": {"num_frames": 32}},
    "something_new": [1, 2, 3],
}


@pytest.mark.parametrize(("name", "value"), [*NEUTRAL.items(), *IGNORED.items()])
async def test_fields_that_change_nothing_change_nothing(gateway: Gateway, name: str, value: Any) -> None:
    first = await complete(gateway, chat())
    same = await complete(gateway, chat(**{name: value}))
    assert same["choices"] == first["choices"]
    assert len(gateway.llm.calls) == 1


@pytest.mark.parametrize("name", [*NEUTRAL, "stop", "seed", "model", "max_tokens", "stream", "stream_options", "fovea"])
async def test_null_is_the_same_as_a_field_that_is_left_out(gateway: Gateway, name: str) -> None:
    first = await complete(gateway, chat())
    assert (await complete(gateway, chat(**{name: None})))["choices"] == first["choices"]
    assert len(gateway.llm.calls) == 1


CHANGING = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "auto",
    "functions": [{"name": "f"}],
    "function_call": "auto",
    "n": 2,
    "best_of": 4,
    "response_format": {"type": "json_object"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "logit_bias": {"50256": -100},
    "prompt_logprobs": 1,
    "prefix": "Sure",
    "continue_final_message": True,
    "add_generation_prompt": False,
    "echo": True,
    "chat_template": "{{ messages }}",
    "min_tokens": 4,
    "stop_token_ids": [2],
    "use_beam_search": True,
    "guided_json": {"type": "object"},
    "structured_outputs": {"choice": ["a", "b"]},
    "skip_special_tokens": False,
    "web_search_options": {},
    "mm_processor_kwargs": {"max_pixels": 50176},
    "documents": [{"title": "Colours", "text": "Red is a colour."}],
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "cache_salt": "kL3pQ9",
}


@pytest.mark.parametrize(("name", "value"), CHANGING.items())
async def test_fields_that_would_change_the_answer_are_refused(gateway: Gateway, name: str, value: Any) -> None:
    error = await refused(gateway, 422, chat(**{name: value}))
    assert (error["param"], error["type"], error["code"]) == (name, "invalid_request_error", "invalid_request")
    assert f"{name} is not accepted: " in error["message"]
    assert "accepted: " in error["message"]
    assert not gateway.encoder.calls


def test_one_and_true_are_not_the_same() -> None:
    for fields in ({"n": True}, {"echo": 0}, {"best_of": 1.5}):
        with pytest.raises(InvalidRequest):
            check_supported(fields)
    check_supported({"n": 1.0, "unknown": object()})


OPTIONS = {
    "pruner": "desap",
    "pruner_params": {"beta": 0.25},
    "keep_tokens": 2,
    "llm_pruner": {"name": "fastv", "keep_tokens": 1},
    "wire_dtype": "int8",
    "max_wire_bytes": 5000,
    "image_fit": "pad",
    "cache": "bypass",
    "explain": True,
    "timeout_s": 30,
}


async def test_options_of_fovea_reach_both_services(gateway: Gateway) -> None:
    await complete(gateway, chat(fovea=OPTIONS))
    encode, generate = gateway.encoder.calls[0], gateway.llm.calls[0]
    assert (encode.pruner, encode.keep_tokens, encode.max_wire_bytes) == ("desap", 2, 5000)
    assert dict(encode.pruner_params) == {"beta": 0.25}
    assert encode.wire_dtype == tensor_pb2.DTYPE_INT8
    assert (encode.explain, encode.image_fit) == (True, encoder_pb2.IMAGE_FIT_PAD)
    assert (generate.llm_pruner.name, generate.llm_pruner.keep_tokens) == ("fastv", 1)
    assert {*OPTIONS, "keep_ratio", "num_frames", "seconds_per_frame", "video_budget"} == set(FoveaOptions.model_fields)


@pytest.mark.parametrize("null", [None, "all"])
async def test_options_of_fovea_may_be_null(gateway: Gateway, null: str | None) -> None:
    options = dict.fromkeys(FoveaOptions.model_fields) if null else {}
    await complete(gateway, chat(fovea=options))
    assert gateway.encoder.calls[0].keep_ratio == 0.5


PAGE = (Path(__file__).parents[3] / "docs" / "openai.md").read_text()


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_the_page_names_each_field_that_is_refused(name: str) -> None:
    refused_fields = PAGE.partition("\n## What is not\n")[2].partition("\n## ")[0]
    assert f"`{name}`" in refused_fields


@pytest.mark.parametrize("message", re.findall(r"422 `(\w+ is not accepted: [^`]+)`", PAGE))
async def test_the_page_has_the_message_of_a_refused_field(message: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check_supported({message.split()[0]: object()})
    assert refusal.value.message.startswith(f"{message}; accepted: ")


async def test_the_page_has_the_message_of_a_local_file(gateway: Gateway) -> None:
    part = {"type": "image_url", "image_url": {"url": "file:///data/cat.png"}}
    error = await refused(gateway, 422, chat(user(text_part(), part)))
    (row,) = [line for line in PAGE.splitlines() if "--allowed-local-media-path" in line]
    (quoted,) = re.findall(r"422 `… ([^`]+)`", row)
    assert error["message"] == f"messages.0.content.1.image_url {quoted}"
