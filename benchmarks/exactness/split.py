"""`python -m benchmarks.split_exactness`: the three running services against the unsplit model, nothing pruned.

For every family a tiny random checkpoint is served by real processes in float32 and asked about images of many shapes,
several images and videos. Compared with transformers' own classes (`unsplit.py`):

* pixel values of each picture and video;
* what the language model reads: embeddings of words and visual tokens, and positions;
* log-probabilities of the first token, over gRPC;
* 32 greedy tokens, over gRPC, and the answer's text over REST.

Prints a table; exit 1 if a difference is above its bound.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from benchmarks.checkpoints.tiny.clip import write as write_clip
from benchmarks.checkpoints.tiny.video_llava import write_text_tower as write_language_bind
from benchmarks.exactness.unsplit import Clip, Unsplit, UnsplitRun
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from encoder_service import models as encoder_models
from encoder_service.models.base import LoadOptions
from encoder_service.visual import VideoFrames
from fovea.processes.stack import Stack, free_port
from fovea.v1 import encoder_pb2, encoder_pb2_grpc, llm_pb2, llm_pb2_grpc, tensor_pb2
from gateway.tokenizers import PromptTokenizer
from llm_service.models import load_model
from llm_service.prompts import PromptLimits, read_prompt

__all__ = ["BOUND", "FAMILIES", "ExactnessCase", "main"]

BOUND: Final = 1e-4
MAX_TOKENS: Final = 32
_TIMEOUT_S: Final = 120.0
_MESSAGE_BYTES: Final = 256 * 2**20

# Families, and what writes the tiny checkpoints of their text towers.
FAMILIES: Final[dict[str, Callable[[Path], Path] | None]] = {
    "llava": write_clip,
    "llava_next": write_clip,
    "video_llava": write_language_bind,
    "qwen2_5_vl": None,
}

# A list of frames over REST says nothing of their distance in time; the services then take this, as transformers does.
_UNKNOWN_SECONDS: Final = 1 / 24

# Width and height: square, landscape, portrait, panoramas, strips at the largest proportion, tiny, huge, odd.
SHAPES: Final = (
    (56, 56),
    (336, 336),
    (640, 480),
    (480, 640),
    (1000, 100),
    (90, 900),
    (500, 5),
    (1, 1),
    (3, 2),
    (2400, 1800),
    (57, 55),
    (113, 40),
    (672, 1008),
)


@dataclass(frozen=True)
class ExactnessCase:
    """A question with pictures and videos, in the order of their marks."""

    name: str
    question: str
    pictures: tuple[Image.Image, ...] = ()
    clips: tuple[Clip, ...] = ()


@dataclass
class Differences:
    """Largest differences of one case; greedy tokens and text agree or do not."""

    case: str
    pixel_values: float
    embeddings: float
    positions: float
    logprobs: float
    tokens_equal: bool
    text_equal: bool
    tokens: int = field(default=0)

    @property
    def passed(self) -> bool:
        """Within the bounds."""
        largest = max(self.pixel_values, self.embeddings, self.positions, self.logprobs)
        return largest <= BOUND and self.tokens_equal and self.text_equal


def _picture(size: tuple[int, int], seed: int) -> Image.Image:
    """Coarse coloured noise: something at every scale."""
    noise = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def _cases(takes_videos: bool) -> Iterator[ExactnessCase]:
    for i, size in enumerate(SHAPES):
        yield ExactnessCase(f"{size[0]} x {size[1]}", "what colour is the cat on the mat?", (_picture(size, i),))
    two = (_picture((300, 200), 100), _picture((64, 400), 101))
    yield ExactnessCase("two pictures, adjacent", "<image><image>what differs?", two)
    yield ExactnessCase("two pictures, apart", "this is a cat: <image> and this? <image> say it", two)
    yield ExactnessCase("three pictures, no marks", "how many objects?", (*two, _picture((80, 80), 102)))
    if takes_videos:
        clips = [
            Clip(tuple(_picture(size, seed + i) for i in range(count)), seconds)
            for size, seed, count, seconds in (((320, 240), 200, 8, 0.5), ((90, 200), 300, 4, _UNKNOWN_SECONDS))
        ]
        yield ExactnessCase("video of 8 frames", "what happens in the video?", clips=(clips[0],))
        yield ExactnessCase("video of 4 frames", "what happens in the video?", clips=(clips[1],))
        yield ExactnessCase("a picture and a video", "<image> is it in <video>?", two[:1], (clips[1],))


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


class SplitServices:
    """The running services of a checkpoint, and their own loaders for what they do not tell over the wire."""

    def __init__(self, folder: Path, stack: Stack, text_tower: Path | None) -> None:
        self._stack = stack
        self._tokenizer = PromptTokenizer(folder)
        options = LoadOptions(text_tower=str(text_tower or ""), device="cpu", dtype="float32")
        self._encoder = encoder_models.load(str(folder), options)
        cpu = torch.device("cpu")
        self._llm = load_model(folder, device=cpu, dtype="float32", attn_implementation="sdpa")
        self._text = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def ids(self, case: ExactnessCase) -> list[int]:
        """As the gateway writes them."""
        return self._tokenizer.encode(case.question, num_images=len(case.pictures), num_videos=len(case.clips))

    def pixel_values(self, case: ExactnessCase) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """Of each picture, then of each video, as the encoder prepares them."""
        made = [self._encoder.media.image(picture) for picture in case.pictures]
        made += [self._encoder.media.video(VideoFrames(c.frames, c.seconds_per_frame)) for c in case.clips]
        return [one.pixel_values.numpy() for one in made]

    def encode(self, case: ExactnessCase) -> list[tensor_pb2.VisualTokens]:
        """Over gRPC, nothing pruned."""
        request = encoder_pb2.EncodeRequest(
            images=[_png(picture) for picture in case.pictures],
            pruner="none",
            keep_ratio=1.0,
            wire_dtype=tensor_pb2.DTYPE_FLOAT32,
        )
        for clip in case.clips:
            frames = encoder_pb2.Frames(
                images=[_png(frame) for frame in clip.frames], seconds_per_frame=clip.seconds_per_frame
            )
            request.videos.append(encoder_pb2.Video(frames=frames))
        with _channel(self._stack.encoder_address) as channel:
            reply = encoder_pb2_grpc.EncoderServiceStub(channel).Encode(request, timeout=_TIMEOUT_S)
        return list(reply.visual_tokens)

    def generate(self, ids: Sequence[int], visual_tokens: Sequence[Any]) -> Any:
        """Over gRPC: the last message."""
        request = llm_pb2.GenerateRequest(
            input_ids=ids,
            visual_tokens=visual_tokens,
            sampling=llm_pb2.SamplingParams(max_tokens=MAX_TOKENS),
            first_token_logprobs=True,
        )
        with _channel(self._stack.llm_address) as channel:
            *_, last = llm_pb2_grpc.LLMServiceStub(channel).Generate(request, timeout=_TIMEOUT_S)
        return last.done

    @torch.inference_mode()
    def embed(self, ids: Sequence[int], visual_tokens: Sequence[Any]) -> Any:
        """What the LLM service hands to its language model."""
        model = self._llm
        limits = PromptLimits(
            vocab_size=model.vocab_size,
            image_token_id=model.image_token_id,
            video_token_id=model.video_token_id,
            has_newline=model.has_newline,
            visual_hidden_size=model.visual_hidden_size,
            max_visual_tokens=model.max_model_len,
            max_model_len=model.max_model_len,
            fingerprint=visual_tokens[0].fingerprint,
        )
        return model.embed(read_prompt(ids, visual_tokens, limits))

    def answer(self, case: ExactnessCase) -> str | None:
        """Over REST; None where REST cannot ask the same."""
        if any(clip.seconds_per_frame != _UNKNOWN_SECONDS for clip in case.clips):
            return None
        body: dict[str, Any] = {
            "question": case.question,
            "pruner": "none",
            "keep_ratio": 1.0,
            "max_tokens": MAX_TOKENS,
            "wire_dtype": "float32",
        }
        urls = [_data_url(picture) for picture in case.pictures]
        if urls:
            body["images"] = urls
        if case.clips:
            body["video"] = [_data_url(frame) for frame in case.clips[0].frames]
        reply = httpx.post(f"{self._stack.url}/v1/answer", json=body, timeout=_TIMEOUT_S, trust_env=False)
        reply.raise_for_status()
        return str(reply.json()["answer"])

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of generated ids, as the family answers it."""
        text = str(self._text.decode(list(token_ids), skip_special_tokens=True))
        return text.lstrip() if self._llm.trims_answer else text


def _data_url(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(_png(picture)).decode()


@contextmanager
def _channel(address: str) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.max_send_message_length", _MESSAGE_BYTES)]
    with grpc.insecure_channel(address, options=options) as channel:
        yield channel


def _in_reading_order(case: ExactnessCase, visual_tokens: list[Any]) -> list[Any]:
    """Encoded images come first, then videos; the prompt may have them otherwise."""
    images, videos = iter(visual_tokens[: len(case.pictures)]), iter(visual_tokens[len(case.pictures) :])
    marks = [part.split(">")[0] for part in case.question.split("<")[1:]]
    ordered = [next(videos if mark == "video" else images) for mark in marks]
    return [*images, *videos, *ordered]


def _largest(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    if len(ours) != len(theirs) or any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return float("inf")
    return max((float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def _flat(arrays: Sequence[Any]) -> list[Any]:
    """Parts, frames and patches are axes of the one side or of the other; the numbers lie alike."""
    return [array.ravel() for array in arrays]


def compare(case: ExactnessCase, split: SplitServices, unsplit: Unsplit) -> Differences:
    """Both answer; how far are they apart?"""
    ids = split.ids(case)
    theirs: UnsplitRun = unsplit.run(ids, case.pictures, case.clips, MAX_TOKENS)
    visual_tokens = _in_reading_order(case, split.encode(case))
    read = split.embed(ids, visual_tokens)
    done = split.generate(ids, visual_tokens)
    token_ids = list(done.token_ids)
    return Differences(
        case=case.name,
        # Parts, frames and patches are axes of the one or of the other; the numbers lie alike.
        pixel_values=_largest(
            *([one.ravel() for one in some] for some in (split.pixel_values(case), theirs.pixel_values))
        ),
        embeddings=_largest([read.inputs_embeds.numpy()], [theirs.inputs_embeds]),
        positions=_largest([read.position_ids.numpy()], [theirs.position_ids]),
        logprobs=_largest([np.array(done.first_token_logprobs)], [theirs.logprobs]),
        tokens_equal=token_ids == theirs.token_ids,
        text_equal=split.answer(case) in (None, split.decode(theirs.token_ids)),
        tokens=len(token_ids),
    )


def measure(family: str, scratch: Path, num_cases: int | None = None) -> list[Differences]:
    """The first cases of one family, or all."""
    write_text_tower = FAMILIES[family]
    folder = importlib.import_module(f"benchmarks.checkpoints.tiny.{family}").write(scratch / family)
    text_tower = None if write_text_tower is None else write_text_tower(scratch / f"{family}-text")
    stack = Stack(
        str(folder),
        None if text_tower is None else str(text_tower),
        listen=f"127.0.0.1:{free_port()}",
        flags={"encoder_service": ["--dtype", "float32"], "llm_service": ["--dtype", "float32"]},
        environment={"TOKENIZERS_PARALLELISM": "false"},
        log_to=scratch / f"{family}.log",
    )
    with stack:
        stack.wait_ready(_TIMEOUT_S)
        split, unsplit = SplitServices(folder, stack, text_tower), Unsplit(folder)
        differences = []
        if unsplit.video_token_id is not None and not unsplit.takes_videos:
            print(f"{family}: no videos; transformers' processor of them needs torchvision", file=sys.stderr)
        for case in islice(_cases(unsplit.takes_videos), num_cases):
            differences.append(compare(case, split, unsplit))
            print(_row(family, differences[-1]), file=sys.stderr, flush=True)  # it takes minutes
    return differences


def _row(family: str, d: Differences) -> str:
    numbers = (d.pixel_values, d.embeddings, d.positions, d.logprobs)
    cells = [f"{number:.1e}" if number else "0" for number in numbers]
    agree = ["same" if same else "DIFFERENT" for same in (d.tokens_equal, d.text_equal)]
    verdict = "pass" if d.passed else "FAIL"
    return f"| {family} | {d.case} | {' | '.join(cells)} | {agree[0]}, {d.tokens} | {agree[1]} | {verdict} |"


_HEADER: Final = (
    "| family | case | pixel values | embeddings | positions | log-probabilities | greedy tokens | text | |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it where --out says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.split_exactness", description=__doc__)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--cases", type=int, metavar="N", help="the first so many of each family (default: all)")
    add_output(parser, families=["llava"], cases=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        found = {family: measure(family, Path(scratch), args.cases) for family in args.families}
    rows = {family: [vars(d) | {"passed": d.passed} for d in ds] for family, ds in found.items()}
    result = {"provenance": provenance("benchmarks.split_exactness"), "bound": BOUND, "families": rows}
    table = "\n".join([_HEADER, *(_row(family, d) for family, ds in found.items() for d in ds)])
    text = f"# The split services against the unsplit model\n\nLargest differences; bound {BOUND:g}.\n\n{table}\n"
    publish(args.out, "split_exactness", result, text)
    failed = sum(not d.passed for ds in found.values() for d in ds)
    print(f"{failed} of {sum(map(len, found.values()))} cases failed" if failed else "all cases pass")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
