"""Writing of checkpoints in the hub's layout: safetensors, LLaVA-1.5's keys, tokenizer and image processor.

transformers 5 reads the hub's layout but writes another one; vLLM, older transformers and this project's services read
the hub's. Files are written to a temporary folder and renamed one by one, so that no reader sees half a file.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import CLIPModel, LlavaForConditionalGeneration, PretrainedConfig, PreTrainedTokenizerFast

from lab.tokenizers import CHAT_TEMPLATE, IMAGE

CHECKPOINTS = Path(__file__).parent / "checkpoints"
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)

MAX_SHARD_BYTES = 5 * 10**9

_HUB_PREFIXES = (
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.language_model.", "language_model.model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)


def hub_key(key: str) -> str:
    """Name of a parameter in the hub's layout.

    Args:
        key: name of the parameter in transformers 5.

    Raises:
        KeyError: the parameter is not one of a LLaVA.
    """
    for own, hub in _HUB_PREFIXES:
        if key.startswith(own):
            return hub + key[len(own) :]
    raise KeyError(key)


def _image_processor_config(image_size: int) -> dict[str, Any]:
    return {
        "crop_size": {"height": image_size, "width": image_size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(IMAGE_MEAN),
        "image_processor_type": "CLIPImageProcessor",
        "image_std": list(IMAGE_STD),
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": image_size},
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path, tokenizer_class: str, **extra: Any) -> None:
    """Writes `tokenizer.json`, and a configuration with a class that every version of transformers has."""
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "model_max_length": tokenizer.model_max_length,
        "padding_side": tokenizer.padding_side,
        "tokenizer_class": tokenizer_class,
        "clean_up_tokenization_spaces": False,
    }
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        if getattr(tokenizer, name) is not None:
            config[name] = getattr(tokenizer, name)
    _write_json(folder / "tokenizer_config.json", config | extra)


def _save_weights(state: dict[str, torch.Tensor], folder: Path, dtype: torch.dtype, max_shard_bytes: int) -> None:
    half = {key: value.detach().to("cpu", dtype).contiguous() for key, value in state.items()}
    split = split_torch_state_dict_into_shards(half, max_shard_size=max_shard_bytes)
    for name, keys in split.filename_to_tensors.items():
        save_file({key: half[key] for key in keys}, str(folder / name), metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        _write_json(folder / "model.safetensors.index.json", index)


def _install(staged: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    # Weights of another number of parts would be read as well.
    for old in target.glob("model*.safetensors*"):
        if not (staged / old.name).exists():
            old.unlink()
    for file in sorted(staged.iterdir()):
        file.chmod(0o644)
        os.replace(file, target / file.name)


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """Temporary folder, whose files replace those of `target` at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        yield Path(name)
        _install(Path(name), target)


def save_clip(
    model: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    target: Path,
    dtype: torch.dtype = torch.float16,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a `CLIPModel` with its tokenizer and image processor.

    Args:
        model: model.
        tokenizer: tokenizer of the text tower.
        target: folder to write.
        dtype: dtype of the weights.
        max_shard_bytes: largest size of a file of weights; more weights are split, with an index.
    """
    with _staged(target) as staged:
        _write_json(staged / "config.json", _config(model.config, "CLIPModel", dtype))
        _save_weights(model.state_dict(), staged, dtype, max_shard_bytes)
        _save_tokenizer(tokenizer, staged, "CLIPTokenizer")
        image_processor = _image_processor_config(model.config.vision_config.image_size)
        _write_json(staged / "preprocessor_config.json", image_processor)


def save_llava(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    target: Path,
    dtype: torch.dtype = torch.float16,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a `LlavaForConditionalGeneration` in the hub's key layout, with the files of a `LlavaProcessor`.

    Args:
        model: model.
        tokenizer: tokenizer of the language model.
        target: folder to write.
        dtype: dtype of the weights.
        max_shard_bytes: largest size of a file of weights; more weights are split, with an index.
    """
    vision = model.config.vision_config
    with _staged(target) as staged:
        _write_json(staged / "config.json", _config(model.config, "LlavaForConditionalGeneration", dtype))
        ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
        _write_json(staged / "generation_config.json", ids | {"do_sample": False, "max_new_tokens": 64})
        state = {hub_key(key): value for key, value in model.state_dict().items()}
        _save_weights(state, staged, dtype, max_shard_bytes)
        _save_tokenizer(
            tokenizer, staged, "PreTrainedTokenizerFast", image_token=IMAGE, processor_class="LlavaProcessor"
        )
        image_processor = _image_processor_config(vision.image_size) | {"processor_class": "LlavaProcessor"}
        _write_json(staged / "preprocessor_config.json", image_processor)
        processor = {
            "image_token": IMAGE,
            "num_additional_image_tokens": 1,
            "patch_size": vision.patch_size,
            "processor_class": "LlavaProcessor",
            "vision_feature_select_strategy": "default",
        }
        _write_json(staged / "processor_config.json", processor)
        (staged / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def _config(config: PretrainedConfig, architecture: str, dtype: torch.dtype) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(config.to_json_string())
    return content | {"architectures": [architecture], "dtype": str(dtype).removeprefix("torch.")}


def parameter_count(folder: Path) -> str:
    """Number of parameters of a checkpoint in millions, for a model card.

    Raises:
        FileNotFoundError: the folder has no weights.
    """
    files = list(folder.glob("model*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no weights in {folder}")
    count = 0
    for file in files:
        with safe_open(str(file), "pt") as weights:
            count += sum(weights.get_tensor(key).numel() for key in weights.keys())  # noqa: SIM118
    return f"{count / 1e6:.1f} M"
