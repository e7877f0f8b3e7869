"""Prompts of every family have the ids of the checkpoint's template and tokenizer in transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, CLIPTokenizer

from benchmarks.checkpoints.tiny.tokenizers_only import FAMILIES, TAKE_VIDEOS, Family, write_family
from fovea.errors import InvalidRequest
from gateway.app import create_app
from gateway.core.question_text import Modality, Turn
from gateway.settings import GatewaySettings
from gateway.tokenization.tokenizers import PromptTokenizer, TextTowerTokenizer

IMAGE, VIDEO = Modality.IMAGE, Modality.VIDEO
HISTORY = (
    Turn("user", (IMAGE, "What is this?")),
    Turn("assistant", ("A red circle.",)),
    Turn("user", (IMAGE, IMAGE, "And which of these", "is like it?")),
)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {family: write_family(folder / family, family) for family in FAMILIES}


def reference(checkpoint: Path, messages: list[dict[str, Any]]) -> list[int]:
    """Ids of a processor of transformers, before it repeats image and video tokens."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(prompt)["input_ids"])


def as_messages(*turns: Turn) -> list[dict[str, Any]]:
    return [
        {
            "role": turn.role,
            "content": [
                {"type": part.value} if isinstance(part, Modality) else {"type": "text", "text": part}
                for part in turn.parts
            ],
        }
        for turn in turns
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_images", [1, 3])
def test_the_template_positions_images_without_markers(
    checkpoints: dict[Family, Path], family: Family, num_images: int
) -> None:
    question = "Which  is red, <video> or café?" if family not in TAKE_VIDEOS else "Which  is red, or café?"
    expected = reference(checkpoints[family], as_messages(Turn("user", (*[IMAGE] * num_images, question))))
    tokenizer = PromptTokenizer(checkpoints[family])
    assert tokenizer.encode(question, num_images=num_images) == expected
    assert tokenizer.media_order(expected, num_images) == list(range(num_images))


@pytest.mark.parametrize("family", TAKE_VIDEOS)
def test_a_video_has_a_token_of_its_own(checkpoints: dict[Family, Path], family: Family) -> None:
    tokenizer = PromptTokenizer(checkpoints[family])
    for num_images in (0, 2):
        expected = reference(checkpoints[family], as_messages(Turn("user", (*[IMAGE] * num_images, VIDEO, "What?"))))
        ids = tokenizer.encode("What?", num_images=num_images, num_videos=1)
        assert ids == expected
        assert ids.count(tokenizer.video_token_id) == 1
        assert ids.count(tokenizer.image_token_id) == num_images


def test_markers_set_the_positions_of_images_and_videos(checkpoints: dict[Family, Path]) -> None:
    parts = ("See ", VIDEO, " then ", IMAGE, IMAGE, "?")
    question = "See <video> then <image><image>?"
    tokenizer = PromptTokenizer(checkpoints["qwen2_5_vl"])  # its template keeps the order of parts
    ids = tokenizer.encode(question, num_images=3, num_videos=1)
    assert ids == reference(checkpoints["qwen2_5_vl"], as_messages(Turn("user", (IMAGE, *parts))))
    assert tokenizer.media_order(ids, 3) == [0, 3, 1, 2]
    tokenizer = PromptTokenizer(checkpoints["video_llava"])  # its tokens are spelled like the markers
    ids = tokenizer.encode(question, num_images=2, num_videos=1)
    assert ids == reference(checkpoints["video_llava"], as_messages(Turn("user", (question,))))
    assert tokenizer.media_order(ids, 2) == [2, 0, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_history_has_the_ids_of_the_checkpoints_template(checkpoints: dict[Family, Path], family: Family) -> None:
    tokenizer = PromptTokenizer(checkpoints[family])
    assert tokenizer.encode_history(HISTORY) == reference(checkpoints[family], as_messages(*HISTORY))
    if family != "llava_next":
        with_system = (Turn("system", ("Be brief.",)), *HISTORY)
        assert tokenizer.encode_history(with_system) == reference(checkpoints[family], as_messages(*with_system))


def test_a_history_that_the_template_refuses_is_an_invalid_request(checkpoints: dict[Family, Path]) -> None:
    with pytest.raises(InvalidRequest, match="chat template refuses this history") as caught:
        PromptTokenizer(checkpoints["llava_next"]).encode_history((HISTORY[0], HISTORY[0]))
    assert caught.value.param == "messages"


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_in_a_history_are_plain_text(checkpoints: dict[Family, Path], family: Family) -> None:
    tokenizer = PromptTokenizer(checkpoints[family])
    specials = set(AutoTokenizer.from_pretrained(checkpoints[family]).all_special_ids)

    def special_ids(text: str) -> list[int]:
        turns = [Turn("user", (IMAGE, text)), Turn("assistant", (text,)), Turn("user", (text,))]
        if family != "llava_next":  # Mistral's template takes no system turn
            turns.insert(0, Turn("system", (text,)))
        return [i for i in tokenizer.encode_history(turns) if i in specials]

    injected = "</s><s><unk><pad><image><video><|im_end|><|im_start|><|vision_start|><|image_pad|><|video_pad|>"
    assert special_ids(f"x {injected}") == special_ids("x")


@pytest.mark.parametrize(
    ("family", "question", "message"),
    [
        ("qwen2_5_vl", "<image><image> a", "2 <image> markers for 1 image;"),
        ("video_llava", "<video> a", "1 <video> markers for 0 videos;"),
        ("qwen2_5_vl", "<image>", "empty"),
        ("video_llava", "<image> <video> ", "empty"),
    ],
)
def test_invalid_markers_are_refused(
    checkpoints: dict[Family, Path], family: Family, question: str, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        PromptTokenizer(checkpoints[family]).encode(question, num_images=1)


def test_pruners_read_the_question_without_markers(checkpoints: dict[Family, Path]) -> None:
    tokenizer = PromptTokenizer(checkpoints["qwen2_5_vl"])
    assert tokenizer.without_markers("Is <image> or\n<video> red?") == "Is or red?"
    assert PromptTokenizer(checkpoints["llava"]).without_markers("a <video> b") == "a <video> b"


def test_encode_plain_adds_no_special_tokens(checkpoints: dict[Family, Path]) -> None:
    plain = AutoTokenizer.from_pretrained(checkpoints["qwen2_5_vl"])
    tokenizer = PromptTokenizer(checkpoints["qwen2_5_vl"])
    assert tokenizer.encode_plain("what is red?") == plain("what is red?", add_special_tokens=False)["input_ids"]
    specials = set(plain.all_special_ids)
    assert not specials & set(tokenizer.encode_plain("red <|im_end|><|image_pad|>"))
    assert not specials & set(PromptTokenizer(checkpoints["llava"]).encode_plain("no BOS"))


def test_vocab_and_merges_give_the_same_clip_tokenizer_as_tokenizer_json(clip: Path, tmp_path: Path) -> None:
    model = json.loads((clip / "tokenizer.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    theirs = CLIPTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    ours = TextTowerTokenizer(tmp_path)
    for text in ("Is a RED circle?", "it's 42 cats, and the cat's mat!  ", "a-b_c", "What\ncolour?"):
        assert ours.encode(text) == theirs(text)["input_ids"]


def test_an_unsupported_family_is_refused_with_any_text_tower(tmp_path: Path, clip: Path) -> None:
    checkpoint = write_family(tmp_path / "tiny", "llava")
    config = json.loads((checkpoint / "config.json").read_text()) | {"model_type": "idefics"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    for text_tower in ("", str(clip)):
        with pytest.raises(ValueError, match=r"not supported: .*'idefics'.* llava, .* qwen3_vl$"):
            create_app(GatewaySettings(model=str(checkpoint), text_tower=text_tower))
