"""Video-LLaVA scaled down, and a CLIP checkpoint in the layout of LanguageBind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration, VideoLlavaImageProcessor

from benchmarks.checkpoints.tiny import clip, templates
from benchmarks.checkpoints.tiny.clip import IMAGE_SIZE, vision_config
from benchmarks.checkpoints.tiny.llava import llama_config
from benchmarks.checkpoints.tiny.tokenizers import vicuna_tokenizer

__all__ = ["SPECIALS", "write", "write_text_tower"]

SPECIALS: Final = ("<unk>", "<s>", "</s>", "<image>", "<video>", "<pad>")


def write(folder: Path, *, seed: int = 0) -> Path:
    """Writes config, weights, tokenizer and processor; returns `folder`.

    The processor is written file by file, as on the hub: its class needs torchvision for videos.
    """
    torch.manual_seed(seed)
    tokenizer = vicuna_tokenizer(SPECIALS, image_token="<image>", video_token="<video>")  # noqa: S106  # no passwords
    config = VideoLlavaConfig(
        vision_config=vision_config(),
        text_config=llama_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=16,
        video_seq_length=8 * 17,
    )
    model = VideoLlavaForConditionalGeneration(config)
    # Its own initialisation puts the CLS embedding near 0; CLIP's has the size of a patch embedding.
    for tower in (model.model.image_tower, model.model.video_tower):
        torch.nn.init.normal_(tower.embeddings.class_embedding, std=clip.HIDDEN_SIZE**-0.5)
    model.save_pretrained(folder)
    tokenizer.chat_template = templates.VIDEO_LLAVA
    tokenizer.save_pretrained(folder)
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = VideoLlavaImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=side)
    images.save_pretrained(folder)
    videos = images.to_dict() | {"video_processor_type": "VideoLlavaVideoProcessor", "do_sample_frames": False}
    videos.pop("image_processor_type")
    processor = {
        "processor_class": "VideoLlavaProcessor",
        "image_token": "<image>",
        "video_token": "<video>",
        "patch_size": 14,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }
    (folder / "video_preprocessor_config.json").write_text(json.dumps(videos, indent=2))
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=2))
    return folder


def write_text_tower(folder: Path, *, seed: int = 0, model_type: str = "LanguageBindImage") -> Path:
    """Writes a text tower as LanguageBind publishes it: a pytorch_model.bin and a config of its own; returns `folder`.

    Args:
        folder: Directory of the checkpoint, created if it is missing.
        seed: Seed of the weights.
        model_type: Name in the config, LanguageBindImage or LanguageBindVideo.
    """
    clip.write(folder, seed=seed)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= {"model_type": model_type, "architectures": [model_type]}
    config["vision_config"] |= {"add_time_attn": True, "lora_r": 64, "num_frames": 8, "num_mel_bins": 0.0}
    path.write_text(json.dumps(config, indent=2))
    return folder
