"""`python -m benchmarks.speed.answer`: an answer of the three services beside transformers' `generate`, unsplit.

One side is a REST request to the running services, with DeSAP at a ninth of the visual tokens. The other is the whole
model in this process, unpruned: image processing and `generate` with a growing cache. Both decode the same image files,
compute in the same dtype with the same number of threads, and take turns. Each question has an image of its own, so
that no cache has it. The model is random, in the shapes of LLaVA-1.5: on a GPU of LLaVA-1.5-7B. Writes
`answer_DEVICE.json` and `.md` into --out.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from benchmarks.checkpoints.random_llava import Checkpoint
from benchmarks.checkpoints.tiny.llava import processor
from benchmarks.harness.arguments import command_parser, count, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.pruning import PRUNING
from benchmarks.harness.tables import Spread, table
from benchmarks.scaling.clients import jpeg_files
from benchmarks.speed.full_size_towers import device_of, dtype_of
from benchmarks.speed.services import TIMEOUT_S, add_services, model_facts, provided, running, size_of, size_text
from benchmarks.speed.timing import goal, interleaved, ratio, spreads
from fovea.processes.cores import available_cores

__all__ = ["main", "markdown"]

FOVEA: Final = "fovea"
UNSPLIT: Final = "unsplit"
_SIDES: Final = {FOVEA: "Fovea's services", UNSPLIT: "unsplit model, `generate`"}
_QUESTION: Final = "what is in this picture, and what colour is the cat on the mat? where is the letter?"
# Time of the services over that of the unsplit model, by device; on a GPU the goal is of LLaVA-1.5-7B.
_GOALS: Final = {"cpu": 0.5, "cuda": 0.45}
_SIZES_WITH_GOAL: Final = {"cpu": ("7b-4-layers", "7b-8-layers", "7b"), "cuda": ("7b",)}
_MAX_BATCH_SIZE: Final = 8  # the LLM service's default


class Unsplit:
    """transformers' LLaVA with its own processor.

    Args:
        folder: Checkpoint.
        device: Device of the model.
        dtype: Dtype of the model.
        max_tokens: Tokens of an answer.
    """

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype, max_tokens: int) -> None:
        model: Any = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
        self.model: Any = model.to(device).eval()
        vision = model.config.vision_config
        self.num_visual = (vision.image_size // vision.patch_size) ** 2
        self._processor: Any = processor(PreTrainedTokenizerFast.from_pretrained(folder), image_size=vision.image_size)
        self._max_tokens = max_tokens
        self.prompt_tokens = 0

    @torch.inference_mode()
    def answer(self, file: bytes, question: str) -> str:
        """Text of an answer.

        Raises:
            RuntimeError: The answer ended early.
        """
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = self._processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        image = Image.open(io.BytesIO(file)).convert("RGB")
        inputs = self._processor(images=image, text=prompt, return_tensors="pt")
        inputs = inputs.to(self.model.device, self.model.dtype)
        generated = self.model.generate(**inputs, max_new_tokens=self._max_tokens, do_sample=False, pad_token_id=0)
        self.prompt_tokens = inputs["input_ids"].shape[1]
        token_ids = generated[0, self.prompt_tokens :].tolist()
        if len(token_ids) != self._max_tokens:
            raise RuntimeError(f"an answer of the unsplit model ended early, with {len(token_ids)} tokens")
        text: str = self._processor.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text


class Services:
    """The services, over REST.

    Args:
        http: Client of the gateway.
        max_tokens: Tokens of an answer.
    """

    def __init__(self, http: httpx.Client, max_tokens: int) -> None:
        self._http = http
        self._max_tokens = max_tokens
        self.usage: dict[str, Any] = {}

    def answer(self, file: bytes, question: str) -> str:
        """Text of an answer.

        Raises:
            RuntimeError: The request failed, the answer ended early, or something of it came from a cache.
        """
        form = {"question": question, "max_tokens": str(self._max_tokens), "timeout_s": str(TIMEOUT_S), **PRUNING}
        response = self._http.post("/v1/answer", data=form, files={"image": ("image.jpg", file)})
        if response.status_code != httpx.codes.OK:
            raise RuntimeError(f"the gateway replied {response.status_code}: {response.text}")
        reply = response.json()
        if reply["usage"]["completion_tokens"] != self._max_tokens or "hit" in reply["cache"].values():
            raise RuntimeError(f"an answer ended early, or came from a cache: {response.text}")
        self.usage = reply["usage"]
        text: str = reply["answer"]
        return text


@contextlib.contextmanager
def _threads(num_threads: int) -> Iterator[None]:
    """Sets torch's threads in this process for the time of the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _on_next(answer: Callable[[bytes, str], str], files: Iterator[bytes]) -> str:
    return answer(next(files), _QUESTION)


def _measure(
    args: argparse.Namespace, checkpoint: Checkpoint, device: torch.device, num_threads: int
) -> dict[str, Any]:
    unsplit = Unsplit(checkpoint.model, device, dtype_of(args, device), args.tokens)
    files = jpeg_files(args.warmups + args.rounds)
    with (
        running(
            checkpoint, args, device, max_batch_size=_MAX_BATCH_SIZE, max_in_flight=1, num_threads=num_threads
        ) as stack,
        httpx.Client(base_url=stack.url, timeout=TIMEOUT_S, trust_env=False) as http,
    ):
        services = Services(http, args.tokens)
        # Each side takes the same images in the same order.
        sides = {
            name: functools.partial(_on_next, answer, itertools.chain(files))
            for name, answer in ((FOVEA, services.answer), (UNSPLIT, unsplit.answer))
        }
        times = interleaved(sides, device, args)
    kept, total = (services.usage[f"visual_tokens_{name}"] for name in ("kept", "total"))
    text = services.usage["prompt_tokens"] - kept
    if (total, text) != (unsplit.num_visual, unsplit.prompt_tokens - unsplit.num_visual):
        raise RuntimeError(f"the sides have different prompts: {unsplit.prompt_tokens} tokens and {services.usage}")
    return {
        "visual_tokens": {"kept": kept, "total": total},
        "text_tokens": text,
        "seconds": spreads(times),
        "ratio": ratio(times, FOVEA, UNSPLIT).summary(),
        "rounds": times,
    }


def _goal(result: Mapping[str, Any]) -> str:
    device = result["device"]
    has_goal = result["size"] in _SIZES_WITH_GOAL[device] and result["tokens"] == 16
    return goal(result["ratio"]["median"], _GOALS[device] if has_goal else None)


def markdown(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    visual, over = result["visual_tokens"], Spread(**result["ratio"]).text()
    rows = [
        [_SIDES[FOVEA], str(visual["kept"]), Spread(**result["seconds"][FOVEA]).text(3), over, _goal(result)],
        [_SIDES[UNSPLIT], str(visual["total"]), Spread(**result["seconds"][UNSPLIT]).text(3), "", ""],
    ]
    return (
        f"# An answer, split and unsplit\n\n{origin(result, packages=['torch', 'transformers'])} {size_text(result)}"
        f" Both sides: {result['threads']} threads, one request at a time, a prompt of {result['text_tokens']} text"
        f" tokens and an image, {result['tokens']} new tokens.\n\nMedians of {result['num_rounds']} rounds in which the"
        " sides take turns, with the lowest and the highest. The ratio is taken within a round.\n\n"
    ) + table(["side", "visual tokens", "an answer, s", "over the unsplit model", "goal"], rows, num_labels=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it into --out."""
    parser = command_parser("benchmarks.speed.answer", __doc__)
    add_services(parser, cpu_size="7b-4-layers")
    parser.add_argument("--threads", type=positive, help="CPU threads of each model (default: one for each core)")
    parser.add_argument("--tokens", type=count(256), default=16, help="tokens of an answer")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--warmups", type=positive, default=1, help="answers of each side before the first round")
    parser.set_defaults(clock="wall")  # the services are other processes
    add_output(parser, size="tiny", rounds=2, tokens=4)
    args = parser.parse_args(argv)
    device = device_of(args)
    size, num_threads = size_of(args, device), args.threads or available_cores()
    with provided(args, size) as checkpoint, _threads(num_threads):
        measured = _measure(args, checkpoint, device, num_threads)
    result = {
        "provenance": provenance("benchmarks.speed.answer"),
        **model_facts(args, size, device),
        "threads": num_threads,
        "tokens": args.tokens,
        "num_rounds": args.rounds,
        **measured,
    }
    publish(args.out, f"answer_{device.type}", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
