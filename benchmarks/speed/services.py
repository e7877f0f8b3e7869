"""The three services as processes, on a random LLaVA of a chosen size, for benchmarks of whole answers."""

from __future__ import annotations

import argparse
import contextlib
import math
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig

from benchmarks.checkpoints.random_llava import SIZES, Checkpoint, num_parameters, provide
from benchmarks.speed.full_size_towers import dtype_of
from fovea.processes.stack import Stack, free_port
from llm_service.engine.slot_cache import CacheShape

__all__ = ["TIMEOUT_S", "add_services", "model_facts", "provided", "running", "size_of", "size_text"]

TIMEOUT_S: Final = 600.0
_MAX_MODEL_LEN: Final = 1024  # holds an unpruned image, its question and a short answer
_SHORT_SLOT: Final = 256  # holds the same of a pruned one
_LOG_TAIL: Final = 4000  # characters


def add_services(parser: argparse.ArgumentParser, *, cpu_size: str) -> None:
    """Adds the options of model and services. `cpu_size` is the default size on a CPU; on CUDA it is 7b."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="auto: float32 on a CPU, bfloat16 on a GPU",
    )
    parser.add_argument(
        "--size", choices=list(SIZES), help=f"size of the random model (default: {cpu_size}, on CUDA 7b, LLaVA-1.5-7B)"
    )
    parser.set_defaults(cpu_size=cpu_size)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="folder in which the checkpoint is written, or found (default: a temporary one)",
    )
    for service in ("encoder", "llm"):
        parser.add_argument(
            f"--{service}-flags",
            default="",
            metavar="TEXT",
            help=f'further flags of the {service} service, as --{service}-flags="--flag value"',
        )


def size_of(args: argparse.Namespace, device: torch.device) -> str:
    """Name of the model's size."""
    default: str = args.cpu_size if device.type == "cpu" else "7b"
    return args.size or default


@contextlib.contextmanager
def provided(args: argparse.Namespace, size: str) -> Iterator[Checkpoint]:
    """The checkpoint, in the folder of --checkpoint or for the time of the context."""
    with contextlib.ExitStack() as resources:
        folder = args.checkpoint or Path(resources.enter_context(tempfile.TemporaryDirectory()))
        yield provide(folder, size)


@contextlib.contextmanager
def running(
    checkpoint: Checkpoint,
    args: argparse.Namespace,
    device: torch.device,
    *,
    max_batch_size: int,
    max_in_flight: int,
    num_threads: int = 0,
    flags: Mapping[str, list[str]] | None = None,
) -> Iterator[Stack]:
    """The services, ready. If the context ends with an error, the end of their log is printed.

    Args:
        checkpoint: The model.
        args: Arguments of `add_services`.
        device: Device of both models.
        max_batch_size: Most running sequences, each of which has slots for a pruned and an unpruned prompt.
        max_in_flight: Most concurrent requests; none of them is refused.
        num_threads: CPU threads of each model; 0: the service chooses.
        flags: Further flags by service.
    """
    dtype = dtype_of(args, device)
    compute = ["--device", device.type, "--dtype", str(dtype).removeprefix("torch.")]
    compute += ["--num-threads", str(num_threads)]
    # An answer that has just ended may still be counted when the next request comes.
    requests = str(2 * max_in_flight)
    queue = ["--max-queue-size", requests, "--max-queue-time-s", str(TIMEOUT_S)]
    own = {
        "encoder_service": [*compute, *queue, *shlex.split(args.encoder_flags)],
        "llm_service": [
            *(*compute, "--engine", "transformers", *queue),
            *("--max-batch-size", str(max_batch_size), "--max-model-len", str(_MAX_MODEL_LEN)),
            *("--kv-cache-gib", str(_kv_cache_gib(checkpoint, dtype, max_batch_size))),
            *shlex.split(args.llm_flags),
        ],
        "gateway": ["--max-concurrent-requests", requests, "--max-timeout-s", str(TIMEOUT_S)],
    }
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        try:
            with Stack(
                str(checkpoint.model),
                str(checkpoint.text_tower),
                listen=f"127.0.0.1:{free_port()}",
                name="random",
                flags={service: [*words, *(flags or {}).get(service, ())] for service, words in own.items()},
                environment={"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
                log_to=log,
            ) as stack:
                stack.wait_ready(TIMEOUT_S)
                yield stack
        except Exception:
            print(log.read_text(errors="replace")[-_LOG_TAIL:], file=sys.stderr)
            raise


def _kv_cache_gib(checkpoint: Checkpoint, dtype: torch.dtype, max_batch_size: int) -> float:
    """Memory of a short and of a long slot for each sequence, rounded up to 1/1024 GiB."""
    shape = CacheShape.of(AutoConfig.from_pretrained(checkpoint.model), dtype)
    num_bytes = max_batch_size * (_SHORT_SLOT + _MAX_MODEL_LEN) * shape.position_bytes
    return math.ceil(num_bytes / 2**20) / 2**10


def model_facts(args: argparse.Namespace, size: str, device: torch.device) -> dict[str, Any]:
    """Facts for the result file: the model, where it runs, and further flags of the services."""
    return {
        "size": size,
        "parameters": num_parameters(size),
        "device": device.type,
        "dtype": str(dtype_of(args, device)).removeprefix("torch."),
        "flags": {"encoder": args.encoder_flags, "llm": args.llm_flags},
    }


def size_text(result: Mapping[str, Any]) -> str:
    """The same facts in a sentence of a report."""
    tower, language_model = (result["parameters"][part] / 1e6 for part in ("vision_tower", "language_model"))
    flags = "".join(f"; {name} service: `{words}`" for name, words in result["flags"].items() if words)
    return (
        f"Device: {result['device']}, {result['dtype']}. Model: random, size {result['size']}, {tower:,.1f} million"
        f" parameters in the vision tower and {language_model:,.1f} in the language model{flags}."
    )
