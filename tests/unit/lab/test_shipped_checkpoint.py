"""The shipped checkpoint has the hub's layout, loads in plain transformers, and answers questions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    CLIPModel,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from lab.checkpoint import CHECKPOINTS, hub_key
from lab.evaluate import accuracy, answers
from lab.questions import evaluation_questions

LLAVA, CLIP = CHECKPOINTS / "llava", CHECKPOINTS / "clip"
DEMO = Path(__file__).parents[3] / "lab" / "demo"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def test_size_dtype_and_hub_layout() -> None:
    weights = tensors(LLAVA)
    total = sum(file.stat().st_size for folder in (LLAVA, CLIP) for file in folder.iterdir())
    assert total <= 24e6
    assert {value.dtype for value in weights.values()} == {torch.float16}
    for key in (
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "multi_modal_projector.linear_1.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.7.mlp.down_proj.weight",
        "language_model.lm_head.weight",
    ):
        assert key in weights
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_hub_key_rejects_what_it_does_not_know() -> None:
    with pytest.raises(KeyError):
        hub_key("model.audio_tower.weight")


def test_both_towers_are_one() -> None:
    llava, clip = tensors(LLAVA), tensors(CLIP)
    names = [key for key in clip if key.startswith("vision_model.")]
    assert names
    for name in names:
        assert torch.equal(clip[name], llava[f"vision_tower.{name}"]), name


def test_loads_without_missing_or_unexpected_keys() -> None:
    for cls, folder in ((LlavaForConditionalGeneration, LLAVA), (CLIPModel, CLIP)):
        _, info = cls.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert not info["mismatched_keys"]


def test_clip_tokenizer_behaves_like_clips() -> None:
    for cls in (AutoTokenizer, PreTrainedTokenizerFast):
        tokenizer = cls.from_pretrained(CLIP)
        first, second = tokenizer(["What COLOR is the star?", "a"], padding=True)["input_ids"]
        assert tokenizer.convert_ids_to_tokens([first[0], first[-1]]) == ["<|startoftext|>", "<|endoftext|>"]
        assert tokenizer("what color is the star?")["input_ids"] == first
        assert second[3:] == [tokenizer.eos_token_id] * (len(first) - 3)
        assert tokenizer.unk_token_id not in tokenizer("Ünïcode 日本 \u0000 zyx 42")["input_ids"][1:-1]


def test_chat_template_is_llava_1_5s() -> None:
    processor = AutoProcessor.from_pretrained(LLAVA)
    parts = [{"type": "text", "text": "What?"}, {"type": "image"}]
    first = {"role": "user", "content": parts}
    assert processor.apply_chat_template([first], add_generation_prompt=True) == "USER: <image>\nWhat? ASSISTANT:"
    turns = [first, {"role": "assistant", "content": "red"}, {"role": "user", "content": "Sure?"}]
    expected = "USER: <image>\nWhat? ASSISTANT: red</s>USER: Sure? ASSISTANT:"
    assert processor.apply_chat_template(turns, add_generation_prompt=True) == expected


def test_prompt_has_one_id_per_patch() -> None:
    processor = AutoProcessor.from_pretrained(LLAVA)
    inputs = processor(images=Image.new("RGB", (300, 200)), text="USER: <image>\nHi 日 ASSISTANT:", return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 144, 144)
    assert int((inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<image>")).sum()) == 144
    assert inputs["input_ids"][0, 0] == processor.tokenizer.bos_token_id


def test_answers_fresh_questions() -> None:
    questions = evaluation_questions("easy", 77, 10, groups=("color", "shape", "existence", "count"))
    figures = accuracy(questions, answers(LLAVA, questions))
    assert figures["core"] >= 85, figures


def test_answers_the_demo() -> None:
    demo = json.loads((DEMO / "demo.json").read_text())
    processor, model = AutoProcessor.from_pretrained(LLAVA), AutoModelForImageTextToText.from_pretrained(LLAVA)
    image = Image.open(DEMO / demo["image"])
    for entry in demo["questions"]:
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": entry["question"]}]}]
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = processor(images=image, text=prompt, return_tensors="pt")
        with torch.inference_mode():
            out = model.float().generate(**inputs, max_new_tokens=64, do_sample=False)
        answer = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert answer == entry["answer"], entry["question"]
