"""Small real checkpoints, written once a session, and a real server."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, MistralConfig

from fovea.rpc.channel import connect
from fovea.rpc.server import GrpcServer, ServerConfig
from fovea.v1 import llm_pb2, llm_pb2_grpc, tensor_pb2
from fovea.wire import tensors
from llm_service.servicer import LLMServicer, ServedModel
from llm_service.settings import LLMSettings
from llm_service.startup import load

SPECIALS = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
BOS, EOS, IMAGE = 1, 2, 4
GRID = (1, 4, 4)

# Answer of `recite_checkpoint`. No byte occurs twice, so each token has one successor.
RECITED = "Hi 🙂,é_漢STOP!"


def make_tokenizer() -> Tokenizer:
    """Byte-level BPE with a few merges, so that some characters take several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        show_progress=False,
        special_tokens=[AddedToken(s, special=True) for s in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["what is the content of this image? a cat on a mat"] * 20, trainer)
    return tokenizer


def make_llava(vocab_size: int, num_layers: int = 3, text_config: type[Any] = LlamaConfig) -> Any:
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14
    )
    text = text_config(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocab_size,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE))
    # A logit of 0 is never the largest: answers run to max_tokens.
    model.lm_head.weight.data[EOS] = 0
    return model.eval()


def save(model: LlavaForConditionalGeneration, directory: Path, tokenizer: Tokenizer) -> Path:
    """Writes the hub's key layout."""
    model.save_pretrained(directory)
    weights = directory / "model.safetensors"
    renamed = {
        name.replace("vision_tower.", "vision_tower.vision_model.", 1): t for name, t in load_file(weights).items()
    }
    save_file(renamed, weights, metadata={"format": "pt"})
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


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
    model = make_llava(tokenizer.get_vocab_size(), num_layers=12)
    # Peaked attention, so that choices are clear.
    for layer in model.model.language_model.layers:
        layer.self_attn.q_proj.weight.data *= 2
        layer.self_attn.k_proj.weight.data *= 2
    return save(model, tmp_path_factory.mktemp("deep"), tokenizer)


@pytest.fixture(scope="session")
def mistral_checkpoint(tokenizer: Tokenizer, tmp_path_factory: Any) -> Path:
    """A family of language models that is served but cannot be pruned."""
    return save(
        make_llava(tokenizer.get_vocab_size(), text_config=MistralConfig), tmp_path_factory.mktemp("m"), tokenizer
    )


@pytest.fixture(scope="session")
def recite_checkpoint(tokenizer: Tokenizer, tmp_path_factory: Any) -> Path:
    """A model that answers RECITED to every prompt that ends with BOS.

    Its layers add nothing to the residual stream, so logits depend on the last token only; the head maps it to its
    successor.
    """
    model = make_llava(tokenizer.get_vocab_size())
    llama = model.model.language_model
    for layer in llama.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    chain = [BOS, *tokenizer.encode(RECITED).ids, EOS]
    assert len(set(chain)) == len(chain)
    model.lm_head.weight.data.zero_()
    for token, successor in itertools.pairwise(chain):
        model.lm_head.weight.data[successor] = llama.embed_tokens.weight.data[token]
    return save(model, tmp_path_factory.mktemp("recite"), tokenizer)


@pytest.fixture(scope="session")
def recited() -> str:
    return RECITED


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """A copy of a checkpoint that a test may modify."""
    return lambda source: Path(shutil.copytree(source, tmp_path / "copy"))


@pytest.fixture
def loaded(checkpoint: Path) -> Callable[..., ServedModel]:
    """Loads a checkpoint. The engine is not started, so that tests can call its steps."""

    def make(model: Path = checkpoint, **settings: Any) -> ServedModel:
        return load(LLMSettings(model=str(model), device="cpu", num_threads=1, **settings))

    return make


@dataclasses.dataclass
class Answer:
    text: str
    deltas: list[str]
    done: llm_pb2.Done


class Client:
    """Stub of a server on loopback."""

    def __init__(self, stub: Any, model: ServedModel) -> None:
        self.stub = stub
        self.model = model

    async def ask(self, request: llm_pb2.GenerateRequest, timeout: float | None = 60) -> Answer:
        deltas, done = [], None
        async for message in self.stub.Generate(request, timeout=timeout):
            assert done is None, "done is the last message"
            if message.HasField("delta"):
                deltas.append(message.delta.text)
            else:
                done = message.done
        assert done is not None
        return Answer("".join(deltas), deltas, done)


@pytest.fixture
def serving() -> Callable[..., Any]:
    """An in-process gRPC server around a loaded model, its engine started."""

    @contextlib.asynccontextmanager
    async def run(model: ServedModel, **options: Any) -> AsyncIterator[Client]:
        server = GrpcServer(
            ServerConfig("127.0.0.1:0", max_message_bytes=2**26, max_concurrent_rpcs=64, **options),
            services=["fovea.v1.LLMService"],
        )
        servicer = LLMServicer(max_timeout_s=60, in_flight=server.in_flight)
        llm_pb2_grpc.add_LLMServiceServicer_to_server(servicer, server.grpc)
        servicer.serve(model)
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
