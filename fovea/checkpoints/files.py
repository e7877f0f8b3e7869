"""Location, name and fingerprint of a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["CONFIG_FILES", "fingerprint", "local_directory", "public_name", "resolve", "shown_name"]

CONFIG_FILES: Final = ("*.json", "*.jinja", "*.txt", "*.model")

# Weights aside, answers depend on these files: the last three set end tokens, token ids and pixel values.
_FINGERPRINTED_FILES: Final = ("config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json")
_NUM_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 4096


def resolve(model: str, *, files: Sequence[str], revision: str | None = None) -> Path:
    """Directory of a checkpoint: `model` itself if it is one, else the local copy of the hub, downloaded as needed.

    Args:
        model: local directory or hub id ("llava-hf/llava-1.5-7b-hf").
        files: glob patterns of the files to download.
        revision: branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: `model` is neither a directory nor a model on the hub; the message is one sentence.
    """
    directory = local_directory(model)
    if directory is not None:
        return directory

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(files)))
    except (HFValidationError, OSError) as error:  # all errors of the hub but that of a malformed name are OSErrors
        raise FileNotFoundError(
            f"{model!r} is not a local directory and could not be fetched from the hub: {_reason(error)}"
        ) from error


def local_directory(model: str) -> Path | None:
    """Directory that `model` names; None for what may be the name of a model on the hub.

    Raises:
        FileNotFoundError: `model` is a file, or a path that leads to no directory; the message is one sentence.
    """
    path = _path(model)
    if path.is_dir():
        return path
    if path.exists():
        raise FileNotFoundError(f"{path.name!r} is a file; a checkpoint is a directory in Hugging Face's layout")
    if not _may_be_hub_id(model):
        raise FileNotFoundError(f"there is no checkpoint directory {model!r}")
    return None


def _path(model: str) -> Path:
    try:
        return Path(model).expanduser()
    except RuntimeError:  # `~` with the name of a user that does not exist
        return Path(model)


def _reason(error: Exception) -> str:
    """Why a model could not be fetched, in words for the operator."""
    from huggingface_hub import constants, errors

    match error:
        case errors.HFValidationError():
            return "it is not the name of a model there; OWNER/NAME of letters, digits and . _ - is"
        case errors.GatedRepoError():
            return "its owner grants access there, and HF_TOKEN must have a token of an account that has it"
        case errors.RepositoryNotFoundError():
            return "there is no such model, or only with a token in HF_TOKEN"
        case errors.RevisionNotFoundError():
            return "the model has no such revision"
        case errors.LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE is set, and this machine's cache has no copy"
        case errors.LocalEntryNotFoundError():
            return "it cannot be reached, and this machine's cache has no copy"
    return type(error).__name__


def public_name(model: str) -> str:
    """Default served model name: a hub id as it is, a directory's name without its path."""
    path = _path(model)
    if path.is_dir():
        return path.resolve().name
    return model if _may_be_hub_id(model) else path.name


def shown_name(checkpoint: Path) -> str:
    """Name of a checkpoint directory for messages: its own name, or the hub id for a copy of the hub."""
    if checkpoint.parent.name == "snapshots":
        return checkpoint.parent.parent.name.removeprefix("models--").replace("--", "/")
    return checkpoint.resolve().name


def _may_be_hub_id(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith((".", "/", "~"))


def fingerprint(checkpoint: Path) -> str:
    """Fingerprint of a checkpoint: 16 hex digits of its weights and of the files that change answers.

    Weights are sampled (size and 64 evenly spaced blocks of 4 KiB per file), so that a checkpoint of 14 GB takes
    milliseconds. A fingerprint distinguishes checkpoints; it does not prove their integrity.

    Raises:
        FileNotFoundError: the directory has no config.json or no weights.
    """
    if not (checkpoint / "config.json").is_file():
        raise FileNotFoundError(f"there is no config.json in {shown_name(checkpoint)!r}")
    # OpenAI's CLIP, the text tower of LLaVA-1.5, is on the hub as pytorch_model.bin alone.
    weights = sorted(checkpoint.glob("*.safetensors")) or sorted(checkpoint.glob("pytorch_model*.bin"))
    if not weights:
        raise FileNotFoundError(
            f"there is no weights file (*.safetensors, or pytorch_model*.bin of a text tower) in"
            f" {shown_name(checkpoint)!r}"
        )
    digest = hashlib.sha256()
    for name in _FINGERPRINTED_FILES:
        if (checkpoint / name).is_file():
            digest.update(f"{name}:".encode() + hashlib.sha256((checkpoint / name).read_bytes()).digest())
    for path in weights:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            for i in range(_NUM_SAMPLES):
                file.seek(i * max(size - _SAMPLE_BYTES, 0) // (_NUM_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
