"""Finding a checkpoint on disk and telling one from another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["CONFIG_FILES", "fingerprint", "public_name", "resolve", "shown_name"]

CONFIG_FILES: Final = ("*.json", "*.jinja", "*.txt", "*.model")

# End tokens, ids and pixel values depend on the last three.
_TELLING_FILES: Final = ("config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json")
_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 4096


def resolve(model: str, *, files: Sequence[str], revision: str | None = None) -> Path:
    """The directory of a checkpoint: `model` itself if it is one, else the hub's copy of it, fetched as needed.

    Args:
        model: A local directory or a hub id ("llava-hf/llava-1.5-7b-hf").
        files: Glob patterns of the files wanted; nothing else is fetched.
        revision: Branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: `model` is neither; the message says so in one sentence.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise FileNotFoundError(f"{path.name!r} is a file; a checkpoint is a directory in Hugging Face's layout")
    if not _may_be_hub_id(model):
        raise FileNotFoundError(f"there is no checkpoint directory {model!r}")

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(files)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{model!r} is no local directory and could not be fetched from the hub ({type(error).__name__})"
        ) from error


def public_name(model: str) -> str:
    """The name under which `model` is served by default: a hub id as it is, a directory's own name without its path."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve().name
    return model if _may_be_hub_id(model) else path.name


def shown_name(checkpoint: Path) -> str:
    """What a message calls the directory of a checkpoint: its own name, or the hub id of the hub's copy."""
    if checkpoint.parent.name == "snapshots":
        return checkpoint.parent.parent.name.removeprefix("models--").replace("--", "/")
    return checkpoint.resolve().name


def _may_be_hub_id(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith((".", "/", "~"))


def fingerprint(checkpoint: Path) -> str:
    """16 hex digits that change when the weights change, or a file beside them that changes answers.

    Weights are sampled (size, head, and 64 evenly spaced blocks of 4 KiB a file), so that a 14 GB checkpoint takes
    milliseconds. That tells checkpoints apart; it is no proof of integrity.

    Raises:
        FileNotFoundError: No config.json or no weights.
    """
    # OpenAI's CLIP, the text tower of LLaVA-1.5, is on the hub as pytorch_model.bin alone.
    weights = sorted(checkpoint.glob("*.safetensors")) or sorted(checkpoint.glob("pytorch_model*.bin"))
    if not (checkpoint / "config.json").is_file() or not weights:
        raise FileNotFoundError(f"{checkpoint.name!r} holds no config.json with weights beside it")
    digest = hashlib.sha256()
    for name in _TELLING_FILES:
        if (checkpoint / name).is_file():
            digest.update(f"{name}:".encode() + hashlib.sha256((checkpoint / name).read_bytes()).digest())
    for path in weights:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            for i in range(_SAMPLES):
                file.seek(i * max(size - _SAMPLE_BYTES, 0) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
