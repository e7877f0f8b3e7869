"""Tiny random checkpoints, written by the real transformers classes, and engines and services on them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from encoder_service.batching import Batcher
from encoder_service.engine import EncoderEngine
from encoder_service.executor import EncoderExecutor
from encoder_service.feature_cache import FeatureCache
from encoder_service.media_decoding import media_pool
from encoder_service.models import load
from encoder_service.models.base import EncoderModel, LoadOptions
from encoder_service.servicer import EncoderServicer
from encoder_service.settings import EncoderSettings
from fovea.processes import worker_process
from fovea.rpc.channel import connect
from fovea.rpc.server import GrpcServer, ServerConfig
from fovea.v1 import encoder_pb2_grpc
from fovea.wire.basis import WireBasis

IMAGE_SIZE, PATCH_SIZE = 48, 8
BOS, EOS = 98, 99

# As OpenAI's CLIP checkpoints have it: transformers then finds EOS as the largest id.
_LEGACY_EOS = 2


@dataclass(frozen=True)
class Checkpoints:
    """Directories: LLaVA in the hub's layout, the same as transformers saves it, sharded, and CLIP."""

    hub: Path
    saved: Path
    sharded: Path
    clip: Path


def _to_hub_layout(source: Path, target: Path) -> None:
    """Renames as on the hub: vision_tower.vision_model.*, language_model.model.*, language_model.lm_head.weight."""
    shutil.copytree(source, target)
    tensors = load_file(source / "model.safetensors")
    renamed = {}
    for key, tensor in tensors.items():
        name = key.removeprefix("model.")
        if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
            name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
        elif name.startswith("language_model.") and not name.startswith("language_model.model."):
            name = name.replace("language_model.", "language_model.model.", 1)
        elif name == "lm_head.weight":
            name = "language_model.lm_head.weight"
        renamed[name] = tensor.to(torch.float16)
    save_file(renamed, target / "model.safetensors", metadata={"format": "pt"})


def _shard(source: Path, target: Path) -> None:
    """Two shards and an index; the one without vision tensors is garbage, so that reading it would show."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    vision = {key: tensor for key, tensor in tensors.items() if "vision_tower" in key}
    save_file(vision, target / "model-00001-of-00002.safetensors")
    (target / "model-00002-of-00002.safetensors").write_bytes(b"not a safetensors file")
    weight_map = {key: f"model-0000{1 if key in vision else 2}-of-00002.safetensors" for key in tensors}
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("checkpoints")
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "projection_dim": 16,
        # Larger than usual, so that attention is peaked and scores are far apart.
        "initializer_factor": 3.0,
    }
    llava = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**vision),
            text_config=LlamaConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=1,
                num_attention_heads=4,
                num_key_value_heads=4,
                vocab_size=64,
            ),
            image_token_index=63,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
        )
    )
    llava.save_pretrained(root / "saved")
    CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    ).save_pretrained(root / "saved")
    _to_hub_layout(root / "saved", root / "hub")
    _shard(root / "hub", root / "sharded")
    text = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "max_position_embeddings": 16,
        "projection_dim": 16,
        "bos_token_id": 0,
        "eos_token_id": _LEGACY_EOS,
        "initializer_factor": 3.0,
    }
    CLIPModel(
        CLIPConfig(text_config=CLIPTextConfig(**text), vision_config=CLIPVisionConfig(**vision), projection_dim=16)
    ).save_pretrained(root / "clip")
    return Checkpoints(root / "hub", root / "saved", root / "sharded", root / "clip")


@pytest.fixture(scope="session")
def model(checkpoints: Checkpoints) -> EncoderModel:
    return load(str(checkpoints.hub), LoadOptions(text_tower=str(checkpoints.clip), device="cpu"))


def image(seed: int, *, size: tuple[int, int] = (60, 52), form: str = "PNG") -> bytes:
    """A file of coloured noise with large patches, different for each seed."""
    noise = np.random.default_rng(seed).integers(0, 255, (7, 7, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def make_image() -> Callable[..., bytes]:
    return image


@pytest.fixture
def make_engine(model: EncoderModel) -> Callable[..., EncoderEngine]:
    def make(
        cls: type[EncoderEngine] = EncoderEngine, *, cache_bytes: int = 2**20, towers: EncoderModel = model
    ) -> EncoderEngine:
        return cls(
            towers, FeatureCache(cache_bytes), max_batch_size=4, max_image_bytes=2**20, max_image_pixels=1_000_000
        )

    return make


@dataclass
class Service:
    """A running service, a client of it, and what it runs on."""

    stub: encoder_pb2_grpc.EncoderServiceStub
    channel: grpc.aio.Channel
    batcher: Batcher
    engine: EncoderEngine
    server: GrpcServer
    settings: EncoderSettings = field(repr=False)


@pytest.fixture
def start(checkpoints: Checkpoints) -> Callable[..., AbstractAsyncContextManager[Service]]:
    """Starts the service of an engine on a free port of the loopback interface, with settings as given."""

    @asynccontextmanager
    async def run(engine: EncoderEngine, basis: WireBasis | None = None, **changes: object) -> AsyncIterator[Service]:
        settings = EncoderSettings(model=str(checkpoints.hub), text_tower=str(checkpoints.clip), **changes)
        server = GrpcServer(
            ServerConfig(
                "127.0.0.1:0",
                max_message_bytes=settings.max_message_bytes,
                max_concurrent_rpcs=settings.max_concurrent_rpcs,
            ),
            services=["fovea.v1.EncoderService"],
        )
        servicer = EncoderServicer(settings)
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(servicer, server.grpc)
        await server.start()
        worker_process.preload("encoder_service.media_decoding")
        pool = media_pool(engine.decoder, size=settings.decode_workers or 1)
        batcher = Batcher(
            EncoderExecutor(engine, pool, settings.image_decode_timeout_s),
            max_batch_size=settings.max_batch_size,
            max_batch_delay_s=settings.max_batch_delay_ms / 1000,
            max_queue_size=settings.max_queue_size,
        )
        channel = connect(f"127.0.0.1:{server.port}", max_message_bytes=settings.max_message_bytes)
        try:
            async with pool, batcher:
                servicer.attach(engine.model, batcher, basis)
                await server.ready()
                stub = encoder_pb2_grpc.EncoderServiceStub(channel)
                yield Service(stub, channel, batcher, engine, server, settings)
                await server.drain(5)
        finally:
            await channel.close()
            await server.drain(0)

    return run
