"""Small real checkpoints, written once a session, and a real server."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlavaForConditionalGeneration, MistralConfig

from benchmarks.checkpoints.tiny.llava_language import (
    RECITED,
    make_llava,
    make_peaked_llava,
    make_reciting_llava,
    make_tokenizer,
    save,
)
from fovea.rpc.channel import connect
from fovea.rpc.server import GrpcServer, ServerConfig
from fovea.v1 import llm_pb2, llm_pb2_grpc, tensor_pb2
from fovea.wire import tensors
from llm_service import startup
from llm_service.engine.launching import Launching
from llm_service.server.served_model import ServedModel
from llm_service.server.servicer import LLMServicer
from llm_service.settings import LLMSettings

GRID = (1, 4, 4)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture(scope="session")
def llava(tokenizer: Tokenizer) -> LlavaForConditionalGeneration:
    """The unsplit model, in float32."""
    return make_llava(tokenizer.get_vocab_size())


@pytest.fixture(scope="session")
def checkpoint(llava: LlavaForConditionalGeneration, tokenizer: Tokenizer, tmp_path_factory: Any) -> Path:
    return save(llava, tmp_path_factory.mktemp("llava"), tokenizer)


@pytest.fixture(scope="session")
def deep_checkpoint(tokenizer: Tokenizer, tmp_path_factory: Any) -> Path:
    """Twelve layers: every method has room for all of its steps."""
    return save(make_peaked_llava(tokenizer.get_vocab_size()), tmp_path_factory.mktemp("deep"), tokenizer)


@pytest.fixture(scope="session")
def mistral_checkpoint(tokenizer: Tokenizer, tmp_path_factory: Any) -> Path:
    """A family of language models that is served but cannot be pruned."""
    return save(
        make_llava(tokenizer.get_vocab_size(), text_config=MistralConfig), tmp_path_factory.mktemp("m"), tokenizer
    )


@pytest.fixture(scope="session")
def recite_checkpoint(tokenizer: Tokenizer, tmp_path_factory: Any) -> Path:
    return save(make_reciting_llava(tokenizer), tmp_path_factory.mktemp("recite"), tokenizer)


@pytest.fixture(scope="session")
def recited() -> str:
    return RECITED


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """A copy of a checkpoint that a test may modify."""
    return lambda source: Path(shutil.copytree(source, tmp_path / "copy"))


@pytest.fixture
def loaded(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ServedModel]:
    """Loads a checkpoint. The engine is not started, so that tests can call its steps.

    `launching` replaces the way to launch on a CPU.
    """

    def make(model: Path = checkpoint, *, launching: Launching | None = None, **settings: Any) -> ServedModel:
        with monkeypatch.context() as patch:
            if launching is not None:
                patch.setattr(startup, "launching_on", lambda device, graphs: launching)
            return startup.load(LLMSettings(model=str(model), device="cpu", num_threads=1, **settings))

    return make


@dataclasses.dataclass
class Answer:
    text: str
    deltas: list[str]
    done: llm_pb2.Done
    logprobs: list[llm_pb2.TokenLogprob]


class Client:
    """Stub of a server on loopback."""

    def __init__(self, stub: Any, model: ServedModel) -> None:
        self.stub = stub
        self.model = model

    async def ask(self, request: llm_pb2.GenerateRequest, timeout: float | None = 60) -> Answer:
        deltas, logprobs, done = [], [], None
        async for message in self.stub.Generate(request, timeout=timeout):
            assert done is None, "done is the last message"
            if message.HasField("delta"):
                deltas.append(message.delta.text)
                logprobs.extend(message.delta.logprobs)
            else:
                done = message.done
        assert done is not None
        return Answer("".join(deltas), deltas, done, logprobs)


@pytest.fixture
def serving() -> Callable[..., Any]:
    """An in-process gRPC server around a loaded model, its engine started."""

    @contextlib.asynccontextmanager
    async def run(model: ServedModel, **options: Any) -> AsyncIterator[Client]:
        server = GrpcServer(
            ServerConfig("127.0.0.1:0", max_message_bytes=2**26, max_concurrent_rpcs=64, **options),
            services=[LLMServicer.SERVICE],
        )
        servicer = LLMServicer(LLMSettings(model="", max_timeout_s=60), server)
        servicer.attach(model)
        await server.start()
        model.engine.start()
        try:
            async with connect(f"127.0.0.1:{server.port}", max_message_bytes=2**26) as channel:
                yield Client(llm_pb2_grpc.LLMServiceStub(channel), model)
        finally:
            await server.drain(0)
            model.engine.stop()

    return run


@pytest.fixture
def visual_tokens() -> Callable[..., tensor_pb2.VisualTokens]:
    """A message of visual tokens with random features, or with given ones."""

    def make(fingerprint: str, features: Any = None, *, count: int = 5, seed: int = 0) -> tensor_pb2.VisualTokens:
        if features is None:
            features = np.random.default_rng(seed).standard_normal((count, 32), dtype=np.float32)
        return tensor_pb2.VisualTokens(
            features=tensors.to_message(features, tensor_pb2.DTYPE_FLOAT32),
            positions=range(len(features)),
            grid=tensor_pb2.Grid(frames=GRID[0], rows=GRID[1], columns=GRID[2]),
            fingerprint=fingerprint,
        )

    return make
