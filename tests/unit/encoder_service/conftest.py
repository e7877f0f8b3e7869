"""Tiny random checkpoints, written by the real transformers classes, and engines and services on them."""

from __future__ import annotations

import io
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
from PIL import Image

from benchmarks.checkpoints.tiny import clip, llava, llava_next, qwen2_5_vl, qwen3_vl, video_llava
from benchmarks.checkpoints.tiny.llava_layouts import LlavaLayouts, write_layouts
from encoder_service.engine.batching import Batcher
from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.executor import EncoderExecutor
from encoder_service.engine.feature_cache import FeatureCache
from encoder_service.media.decoding import MediaPool, media_pool
from encoder_service.models import load
from encoder_service.models.base import EncoderModel, LoadOptions
from encoder_service.server.default_pruning import default_pruning
from encoder_service.server.served_model import ServedModel
from encoder_service.server.servicer import EncoderServicer
from encoder_service.settings import EncoderSettings
from fovea.processes import fork_server
from fovea.rpc.channel import connect
from fovea.rpc.server import GrpcServer, ServerConfig
from fovea.v1 import encoder_pb2_grpc
from fovea.wire.basis import WireBasis


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> LlavaLayouts:
    return write_layouts(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def model(checkpoints: LlavaLayouts) -> EncoderModel:
    return load(str(checkpoints.hub), LoadOptions(text_tower=str(checkpoints.clip), device="cpu"))


@pytest.fixture(scope="session")
def family_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint of each family by name, and its text tower as `<name>_text`."""
    root = tmp_path_factory.mktemp("families")
    families = {
        "llava": llava,
        "llava_next": llava_next,
        "video_llava": video_llava,
        "qwen2_5_vl": qwen2_5_vl,
        "qwen3_vl": qwen3_vl,
    }
    texts = {"llava": clip.write, "llava_next": clip.write, "video_llava": video_llava.write_text_tower}
    checkpoints = {name: family.write(root / name) for name, family in families.items()}
    return checkpoints | {f"{name}_text": write(root / f"{name}-text") for name, write in texts.items()}


@pytest.fixture(scope="session")
def encoders(family_checkpoints: dict[str, Path]) -> dict[str, EncoderModel]:
    names = [name for name in family_checkpoints if not name.endswith("_text")]
    texts = {name: str(family_checkpoints.get(f"{name}_text", "")) for name in names}
    return {
        name: load(str(family_checkpoints[name]), LoadOptions(text_tower=texts[name], device="cpu")) for name in names
    }


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


@pytest.fixture
def own_logging() -> Iterator[None]:
    """`main` takes the root logger over; gives it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@dataclass
class Service:
    """A running service, a client of it, and what it runs on."""

    stub: encoder_pb2_grpc.EncoderServiceStub
    channel: grpc.aio.Channel
    batcher: Batcher
    engine: EncoderEngine
    pool: MediaPool
    server: GrpcServer
    settings: EncoderSettings = field(repr=False)


@pytest.fixture
def start(checkpoints: LlavaLayouts) -> Callable[..., AbstractAsyncContextManager[Service]]:
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
            services=[EncoderServicer.SERVICE],
        )
        servicer = EncoderServicer(settings, server)
        await server.start()
        fork_server.preload("encoder_service.media.decoding")
        pool = media_pool(engine.decoder, size=settings.decode_workers or 1, max_bytes=settings.max_decode_bytes)
        batcher = Batcher(
            EncoderExecutor(engine, pool, settings.image_decode_timeout_s),
            max_batch_size=settings.max_batch_size,
            max_batch_delay_s=settings.max_batch_delay_ms / 1000,
            max_queue_size=settings.max_queue_size,
        )
        channel = connect(f"127.0.0.1:{server.port}", max_message_bytes=settings.max_message_bytes)
        try:
            async with pool, batcher:
                servicer.attach(ServedModel(engine.model, pool, batcher, basis, default_pruning(settings)))
                await server.ready()
                stub = encoder_pb2_grpc.EncoderServiceStub(channel)
                yield Service(stub, channel, batcher, engine, pool, server, settings)
                await server.drain(5)
        finally:
            await channel.close()
            await server.drain(0)

    return run
