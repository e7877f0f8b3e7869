"""The running services of a checkpoint, asked over gRPC and REST, for the comparison with the unsplit model."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import numpy as np
import torch
from tokenizers import Tokenizer

from benchmarks.exactness.cases import UNKNOWN_SECONDS, ExactnessCase
from encoder_service import models as encoder_models
from encoder_service.models.base import LoadOptions
from encoder_service.models.media_features import VideoFrames
from fovea.processes.stack import Stack
from fovea.v1 import encoder_pb2, encoder_pb2_grpc, llm_pb2, llm_pb2_grpc, tensor_pb2
from gateway.tokenization.tokenizers import PromptTokenizer
from llm_service.frame_prompt import FramePrompt
from llm_service.models import load_model
from llm_service.prompts import PromptLimits, read_prompt

__all__ = ["MAX_TOKENS", "TIMEOUT_S", "SplitServices"]

MAX_TOKENS: Final = 32
TIMEOUT_S: Final = 120.0
_MESSAGE_BYTES: Final = 256 * 2**20


class SplitServices:
    """The running services, and their models loaded in this process for what no reply contains.

    Args:
        folder: Checkpoint directory.
        stack: The running services.
        http: Client of their gateway.
        text_tower: Checkpoint directory of the text tower, where the family has one.
    """

    def __init__(self, folder: Path, stack: Stack, http: httpx.Client, text_tower: Path | None) -> None:
        self._stack = stack
        self._http = http
        self._tokenizer = PromptTokenizer(folder)
        options = LoadOptions(text_tower=str(text_tower or ""), device="cpu", dtype="float32")
        self._encoder = encoder_models.load(str(folder), options)
        cpu = torch.device("cpu")
        self._llm = load_model(folder, device=cpu, dtype="float32", attn_implementation="sdpa")
        self._text = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def ids(self, case: ExactnessCase) -> list[int]:
        """Token ids of the prompt, as the gateway writes them."""
        return self._tokenizer.encode(case.question, num_images=len(case.images), num_videos=len(case.clips))

    def pixel_values(self, case: ExactnessCase) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """Pixel values of each image, then of each video, as the encoder prepares them."""
        prepared = [self._encoder.media.image(image) for image in case.images]
        prepared += [self._encoder.media.video(VideoFrames(c.frames, c.seconds_per_frame)) for c in case.clips]
        return [self._encoder.pixel_values([visual]).numpy() for visual in prepared]

    def encode(self, case: ExactnessCase) -> list[tensor_pb2.VisualTokens]:
        """Visual tokens of the encoder service over gRPC, nothing pruned, in the order of the prompt."""
        request = encoder_pb2.EncodeRequest(
            images=case.image_files,
            pruner="none",
            keep_ratio=1.0,
            wire_dtype=tensor_pb2.DTYPE_FLOAT32,
        )
        for clip, files in zip(case.clips, case.clip_files, strict=True):
            frames = encoder_pb2.Frames(images=files, seconds_per_frame=clip.seconds_per_frame)
            request.videos.append(encoder_pb2.Video(frames=frames))
        with _channel(self._stack.encoder_address) as channel:
            reply = encoder_pb2_grpc.EncoderServiceStub(channel).Encode(request, timeout=TIMEOUT_S)
        return _in_prompt_order(case, list(reply.visual_tokens))

    def generate(self, ids: Sequence[int], visual_tokens: Sequence[Any]) -> Any:
        """The last message of the LLM service over gRPC."""
        request = llm_pb2.GenerateRequest(
            input_ids=ids,
            visual_tokens=visual_tokens,
            sampling=llm_pb2.SamplingParams(max_tokens=MAX_TOKENS),
            first_token_logprobs=True,
        )
        with _channel(self._stack.llm_address) as channel:
            *_, last = llm_pb2_grpc.LLMServiceStub(channel).Generate(request, timeout=TIMEOUT_S)
        return last.done

    @torch.inference_mode()
    def embed(self, ids: Sequence[int], visual_tokens: Sequence[Any]) -> Any:
        """Embeddings and positions that the LLM service passes to its language model."""
        model = self._llm
        limits = PromptLimits(
            vocab_size=model.vocab_size,
            image_token_id=model.image_token_id,
            video_token_id=model.video_token_id,
            has_newline=model.has_newline,
            num_planes=model.num_planes,
            frame_prompt=self._frame_prompt(),
            visual_hidden_size=model.visual_hidden_size,
            max_visual_tokens=model.max_model_len,
            max_model_len=model.max_model_len,
            fingerprint=visual_tokens[0].fingerprint,
        )
        return model.embed(read_prompt(ids, visual_tokens, limits))

    def _frame_prompt(self) -> FramePrompt | None:
        if self._llm.frame_token_ids is None:
            return None
        start, video, end = self._llm.frame_token_ids
        return FramePrompt(self._text, video, start, end)

    def answer(self, case: ExactnessCase) -> str | None:
        """The answer over REST; None where REST cannot ask the same question."""
        if any(clip.seconds_per_frame != UNKNOWN_SECONDS for clip in case.clips):
            return None
        body: dict[str, Any] = {
            "question": case.question,
            "pruner": "none",
            "keep_ratio": 1.0,
            "max_tokens": MAX_TOKENS,
            "wire_dtype": "float32",
        }
        if case.images:
            body["images"] = [_data_url(file) for file in case.image_files]
        if case.clips:
            body["video"] = [_data_url(file) for file in case.clip_files[0]]
        reply = self._http.post("/v1/answer", json=body)
        reply.raise_for_status()
        return str(reply.json()["answer"])

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of generated ids, with the blanks that the family's answers have."""
        text = str(self._text.decode(list(token_ids), skip_special_tokens=True))
        return text.lstrip() if self._llm.trims_answer else text


def _data_url(file: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(file).decode()


@contextmanager
def _channel(address: str) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.max_send_message_length", _MESSAGE_BYTES)]
    with grpc.insecure_channel(address, options=options) as channel:
        yield channel


def _in_prompt_order(case: ExactnessCase, visual_tokens: list[Any]) -> list[Any]:
    """The encoder sends images before videos; the marks of the question may order them otherwise."""
    images, videos = iter(visual_tokens[: len(case.images)]), iter(visual_tokens[len(case.images) :])
    marks = [piece.split(">")[0] for piece in case.question.split("<")[1:]]
    marked = [next(videos if mark == "video" else images) for mark in marks]
    return [*images, *videos, *marked]
