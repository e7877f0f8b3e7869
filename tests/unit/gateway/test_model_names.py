"""Names of the model: `GET /v1/models`, and aliases that choose a pruner and a budget."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.model_names import ModelAlias, parse_alias
from gateway.settings import GatewaySettings
from tests.unit.gateway.chats import chat, complete, refused, streamed
from tests.unit.gateway.conftest import Gateway, StartGateway


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("org/model", None),
        ("org/model@desap", ModelAlias("desap", None)),
        ("org/model@desap:64", ModelAlias("desap", 64)),
        ("org/model@my-pruner.v2:1", ModelAlias("my-pruner.v2", 1)),
        ("org/model@fovea:auto", ModelAlias("fovea", "auto")),
    ],
)
def test_names_of_the_served_model(name: str, alias: ModelAlias | None) -> None:
    assert parse_alias(name, "org/model") == alias


@pytest.mark.parametrize(
    "name",
    [
        *("", "gpt-4o", "model", "@desap", "org/model@", "org/model@:3", "org/model@desap:", "org/model@desap:0"),
        *("org/model@desap:-1", "org/model@desap:1.5", "org/model@desap:many", "org/model@a@b", "org/model@a b"),
        *("org/model@desap:64 ", "org/model@desap:٣", "org/model@desap:9999999999", "org/model@" + "a" * 81),
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"org/model|NAME@PRUNER"):
        parse_alias(name, "org/model")


def test_a_served_name_may_hold_an_at_sign() -> None:
    assert parse_alias("me@home", "me@home") is None
    assert parse_alias("me@home@desap:8", "me@home") == ModelAlias("desap", 8)


async def test_the_list_has_openais_form(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(alias="tiny-llava@desap:64, tiny-llava@none")
    listed = (await gateway.http.get("/v1/models", headers={"authorization": "Bearer x"})).json()
    assert listed["object"] == "list"
    created = {card.pop("created") for card in listed["data"]}
    assert len(created) == 1
    assert created.pop() > 1_700_000_000
    common = {"object": "model", "owned_by": "fovea", "root": "tiny-llava", "max_model_len": 4096}
    pruning = {"pruner": "desap", "keep_ratio": 0.5, "keep_tokens": None}
    assert listed["data"] == [
        {"id": "tiny-llava", "parent": None, **common, **pruning},
        {
            "id": "tiny-llava@desap:64",
            "parent": "tiny-llava",
            **common,
            **pruning,
            "keep_ratio": None,
            "keep_tokens": 64,
        },
        {"id": "tiny-llava@none", "parent": "tiny-llava", **common, **pruning, "pruner": "none", "keep_ratio": 1.0},
    ]


async def test_a_name_tells_the_pruning_of_requests_that_name_none(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(pruner="cls", keep_ratio=0.25, served_model_name="m")
    for name, pruning in (
        ("m", ("cls", 0.25, None)),
        ("m@fovea", ("fovea", 0.25, None)),
        ("m@fovea:auto", ("fovea", None, "auto")),
    ):
        card = (await gateway.http.get(f"/v1/models/{name}")).json()
        assert (card["pruner"], card["keep_ratio"], card["keep_tokens"]) == pruning


async def test_a_name_is_described_without_the_encoder_service(gateway: Gateway) -> None:
    await gateway.servers["encoder"].grpc.stop(0)
    (card,) = (await gateway.http.get("/v1/models")).json()["data"]
    assert (card["id"], card["pruner"], card["keep_ratio"]) == ("tiny-llava", None, None)


async def test_one_name_is_described_with_slashes_and_unlisted_ones_too(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(served_model_name="org/llava")
    for path, name in (
        ("org/llava", "org/llava"),
        ("org%2Fllava", "org/llava"),
        ("org/llava@cls:3", "org/llava@cls:3"),
    ):
        card = (await gateway.http.get(f"/v1/models/{path}")).json()
        assert (card["id"], card["root"]) == (name, "org/llava")
    for path in ("llava", "org/llava@", "org/llava/"):
        response = await gateway.http.get(f"/v1/models/{path}")
        assert (response.status_code, response.json()["error"]["param"]) == (404, "model")


async def test_a_list_needs_the_llm_service_once(gateway: Gateway) -> None:
    await gateway.servers["llm"].grpc.stop(0)
    response = await gateway.http.get("/v1/models")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
    assert response.headers["retry-after"]


@pytest.mark.parametrize("path", ["/health", "/healthz"])
async def test_health_has_the_path_of_other_servers_as_well(gateway: Gateway, path: str) -> None:
    response = await gateway.http.get(path)
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert (await gateway.http.head(path)).status_code == 200


@pytest.mark.parametrize("listed", [True, False])
async def test_an_alias_chooses_pruner_and_budget(start_gateway: StartGateway, listed: bool) -> None:
    gateway = await start_gateway(alias="tiny-llava@fovea:2" if listed else "")
    completion = await complete(gateway, chat(model="tiny-llava@fovea:2"))
    assert completion["model"] == "tiny-llava@fovea:2"
    assert '"model":"tiny-llava@fovea:2"' in (await streamed(gateway, chat(model="tiny-llava@fovea:2"))).text
    encode = gateway.encoder.calls[0]
    assert (encode.pruner, encode.keep_tokens) == ("fovea", 2)
    assert len(gateway.encoder.calls) == 1


async def test_an_alias_is_the_same_as_the_options_that_it_stands_for(gateway: Gateway) -> None:
    await complete(gateway, chat(model="tiny-llava@fovea:2"))
    await complete(gateway, chat(fovea={"pruner": "fovea", "keep_tokens": 2}))
    await complete(gateway, chat(model="tiny-llava@fovea:auto"))
    await complete(gateway, chat(model="tiny-llava@none"))
    budgets = [(call.pruner, call.WhichOneof("budget")) for call in gateway.encoder.calls]
    assert budgets == [("fovea", "keep_tokens"), ("fovea", "keep_auto"), ("none", "keep_ratio")]


@pytest.mark.parametrize(
    ("model", "options", "param"),
    [
        ("tiny-llava@desap:64", {"pruner": "desap"}, "fovea.pruner"),
        ("tiny-llava@desap", {"pruner": "cls"}, "fovea.pruner"),
        ("tiny-llava@desap:64", {"keep_tokens": 3}, "fovea.keep_tokens"),
        ("tiny-llava@desap:64", {"keep_ratio": 0.5}, "fovea.keep_ratio"),
    ],
)
async def test_what_an_alias_names_is_not_named_again(
    gateway: Gateway, model: str, options: dict[str, Any], param: str
) -> None:
    error = await refused(gateway, 422, chat(model=model, fovea=options))
    assert error["param"] == param


async def test_what_an_alias_leaves_open_may_be_named(gateway: Gateway) -> None:
    await complete(gateway, chat(model="tiny-llava@desap", fovea={"keep_tokens": 3, "pruner_params": {"beta": 0.5}}))
    await complete(gateway, chat(model="tiny-llava@desap:2", fovea={"wire_dtype": "int8", "cache": "bypass"}))
    assert [call.keep_tokens for call in gateway.encoder.calls] == [3, 2]


@pytest.mark.parametrize(
    ("model", "status", "words"),
    [
        ("gpt-4o", 404, "'tiny-llava' and, to choose a pruner, tiny-llava@PRUNER:KEEP_TOKENS"),
        ("tiny-llava@desap:0", 404, "NAME@PRUNER:KEEP_TOKENS"),
        ("tiny-llava@dsap:4", 404, "accepted: none, desap, fovea"),  # from the encoder service
        ("tiny-llava@desap:auto", 422, "cannot choose its budget"),
        ("tiny-llava@fastv:4", 404, "llm_pruner"),
        ("tiny-llava@none:5", 422, "pruner 'none' keeps all visual tokens and takes no budget"),
    ],
)
async def test_a_wrong_name_is_the_models(gateway: Gateway, model: str, status: int, words: str) -> None:
    error = await refused(gateway, status, chat(model=model))
    assert (error["param"], words in error["message"]) == ("model", True), error


@pytest.mark.parametrize("budget", ["5", "auto"])
async def test_a_name_that_is_always_refused_is_not_described(gateway: Gateway, budget: str) -> None:
    response = await gateway.http.get(f"/v1/models/tiny-llava@none:{budget}")
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (422, "model")
    assert "takes no budget" in error["message"]


@pytest.mark.parametrize("budget", [{"keep_tokens": 3}, {"keep_ratio": 0.5}])
async def test_a_chat_gives_no_budget_to_a_pruner_that_takes_none(gateway: Gateway, budget: dict[str, Any]) -> None:
    for body in (chat(fovea={"pruner": "none", **budget}), chat(model="tiny-llava@none", fovea=budget)):
        error = await refused(gateway, 422, body)
        assert error["param"] == f"fovea.{next(iter(budget))}"


async def test_without_a_name_the_served_model_answers(gateway: Gateway) -> None:
    body = chat()
    del body["model"]
    assert (await complete(gateway, body))["model"] == "tiny-llava"


@pytest.mark.parametrize(
    "flags", [["--alias", "tiny@desap:64", "--alias", "tiny@none"], ["--alias", "tiny@desap:64,tiny@none"]]
)
def test_the_setting_may_be_repeated(flags: list[str]) -> None:
    settings = GatewaySettings.from_command_line(["--model", "/models/tiny", *flags])
    assert settings.alias == ["tiny@desap:64", "tiny@none"]


def test_the_setting_is_a_variable_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_ALIAS", "tiny@desap:64,tiny@none")
    assert GatewaySettings.from_command_line(["--model", "/models/tiny"]).alias == ["tiny@desap:64", "tiny@none"]


@pytest.mark.parametrize(
    "alias", ["tiny", "tiny@", "tiny@desap:0", "other@desap:3", "desap:3", "tiny@none:5", "tiny@none:auto"]
)
def test_an_alias_of_another_form_ends_the_start(alias: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        GatewaySettings.from_command_line(["--model", "/models/tiny", "--alias", alias])
    assert left.value.code == 2
    assert "--alias (GATEWAY_ALIAS)" in capsys.readouterr().err


def test_an_alias_has_the_served_name() -> None:
    named = ["--model", "/models/tiny", "--served-model-name", "llava"]
    assert GatewaySettings.from_command_line([*named, "--alias", "llava@desap"]).alias == ["llava@desap"]
    with pytest.raises(SystemExit):
        GatewaySettings.from_command_line([*named, "--alias", "tiny@desap"])
