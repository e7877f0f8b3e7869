"""Messages of earlier commits: services answer the requests, and the gateway reads the replies, as they did then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest

from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.processes.stack import Stack
from fovea.wire import basis_file
from fovea.wire.basis import WireBasis
from tests.contract.calls import Call, CallServer, Player
from tests.contract.comparison import assert_alike, assert_same_features, without
from tests.contract.recordings import COMMITS, Contract, Recordings, stable
from tests.e2e.conftest import STARTUP_S, Client
from tests.lab_stack import lab_stack

CASES = [(commit, case) for commit in COMMITS for case in Recordings.of(commit).cases]
HIDDEN_SIZE = 128
# Texts for people, and what a deployment chooses.
OF_ONE_VERSION = ("settings_fingerprint", "pruners", "llm_pruner_infos", "llm_pruners")
LIMITS = ("max_text_ids", "max_images", "max_videos", "max_frames", "max_model_len", "max_tokens")


@pytest.fixture(scope="module")
def basis() -> WireBasis | None:
    return basis_file.find("", str(shipped_checkpoint("llava")), None, HIDDEN_SIZE)


def repeat(stack: Stack, call: Call) -> list[bytes]:
    """Replies of the services of this tree to a recorded request."""
    address = stack.encoder_address if "Encoder" in call.method else stack.llm_address
    with grpc.insecure_channel(address) as channel:
        return list(channel.unary_stream(call.method)(call.request, timeout=60))


@pytest.mark.parametrize(("commit", "case"), CASES)
def test_the_encoder_service_answers_as_before(stack: Stack, commit: str, case: str, basis: WireBasis | None) -> None:
    recordings = Recordings.of(commit)
    for call in recordings.read(case).of("Encode"):
        (got,), (want,) = repeat(stack, call), call.replies
        assert_same_encoding(recordings.contract, got, want, basis)


def assert_same_encoding(contract: Contract, got: bytes, want: bytes, basis: WireBasis | None) -> None:
    messages: list[Any] = [contract.read("EncodeResponse", data) for data in (got, want)]
    for one, other in zip(*(message.visual_tokens for message in messages), strict=True):
        assert_same_features(one.features.SerializeToString(), other.features.SerializeToString(), basis)
    for message in messages:
        for tokens in message.visual_tokens:
            tokens.features.data, tokens.features.crc32 = b"", 0
        message.ClearField("features_cached")  # depends on the requests before
    assert_alike(
        *(without(contract.fields("EncodeResponse", message.SerializeToString()), "timing") for message in messages)
    )


@dataclass(frozen=True)
class Generated:
    """Text of a stream of GenerateResponse messages, and the fields of its last message."""

    text: str
    done: dict[str, Any]


def generated(contract: Contract, replies: list[bytes]) -> Generated:
    *events, last = [contract.fields("GenerateResponse", reply) for reply in replies]
    return Generated(
        "".join(event["delta"]["text"] for event in events if "delta" in event), without(last["done"], "timing")
    )


@pytest.mark.parametrize(("commit", "case"), CASES)
def test_the_llm_service_answers_as_before(stack: Stack, commit: str, case: str) -> None:
    recordings = Recordings.of(commit)
    for call in recordings.read(case).of("Generate"):
        got = generated(recordings.contract, repeat(stack, call))
        want = generated(recordings.contract, list(call.replies))
        assert got.text == want.text
        assert_alike(got.done, want.done)


@pytest.mark.parametrize("commit", COMMITS)
def test_both_services_describe_the_checkpoint_and_its_pruners_as_before(stack: Stack, commit: str) -> None:
    recordings = Recordings.of(commit)
    for call, name in zip(recordings.read_infos(), ("GetEncoderInfoResponse", "GetLLMInfoResponse"), strict=True):
        (got,), (want,) = (
            [recordings.contract.fields(name, reply) for reply in replies]
            for replies in (repeat(stack, call), call.replies)
        )
        assert_alike(without(got, *OF_ONE_VERSION, *LIMITS), without(want, *OF_ONE_VERSION, *LIMITS))
        assert all(got[limit] >= want[limit] for limit in LIMITS if limit in want)
        field = "pruners" if "pruners" in want else "llm_pruner_infos"
        assert_alike(pruners(got[field]), pruners(want[field]))
        assert set(want.get("llm_pruners", [])) <= set(got.get("llm_pruners", []))


def pruners(infos: list[dict[str, Any]]) -> dict[str, Any]:
    """Description that a client relies on: names, and types and defaults of parameters."""
    return {
        info["name"]: {
            **without(info, "summary", "reference", "parameters"),
            "parameters": {one["name"]: without(one, "description") for one in info.get("parameters", [])},
        }
        for info in infos
    }


@dataclass(frozen=True)
class Replayed:
    """A gateway of this tree, and the services that answer it as recorded."""

    http: httpx.Client
    player: Player


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replayed]:
    player = Player()
    player.play(Recordings.of(COMMITS[0]).read_infos())
    server = CallServer(player)
    gateway = lab_stack(tmp_path_factory.mktemp("replayed") / "log")
    gateway.encoder_address = gateway.llm_address = server.address
    with contextlib.ExitStack() as resources:
        resources.callback(gateway.stop)
        gateway.start("gateway")
        resources.enter_context(server)
        gateway.wait_ready(STARTUP_S)
        yield Replayed(resources.enter_context(Client(gateway.url).http), player)


@pytest.mark.parametrize(("commit", "case"), CASES)
def test_the_gateway_reads_the_replies_as_before(replayed: Replayed, commit: str, case: str) -> None:
    recordings = Recordings.of(commit)
    recording = recordings.read(case)
    replayed.player.play([*recordings.read_infos(), *recording.calls])
    body = {**recording.body, "cache": "bypass"}
    response = replayed.http.post(recording.path, json=body)
    assert response.status_code == 200, response.text
    assert_alike(stable(response.json()), recording.response)
