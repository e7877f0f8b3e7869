"""Parts of the training: sizes, blocks, targets, losses on any device, and runs that are resumed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPModel, PreTrainedTokenizerFast

from lab.checkpoint import save_clip, save_llava
from lab.models import adopt_vision_tower, build_clip, build_llava
from lab.scenes import FIRST_EVALUATION_SEED
from lab.tokenizers import PROMPT_HEAD
from lab.world576 import pool
from lab.world576.atlas import SPRITE_INDEX
from lab.world576.captions import CONCEPTS, OF_COLORS, concept_labels
from lab.world576.composition import Composer, pack
from lab.world576.dialogues import evaluation_dialogues
from lab.world576.evaluate import _prompt
from lab.world576.kinds import GLYPHS
from lab.world576.loop import Trainer, pace, train
from lab.world576.parts import load_progress, load_tensors, save_tensors
from lab.world576.patch_head import PatchTargets
from lab.world576.plan import CALL_MINUTES, STAGE_MINUTES, Clock, allowed_steps, stage_minutes
from lab.world576.pool import GROUP_NAMES, PER_SCENE, Pool, training_split
from lab.world576.questions import evaluation_questions
from lab.world576.recipe import DROP_KEEP, FULL, MAX_PART_BYTES, SMALL
from lab.world576.scenes import GRID, Scene, Thing, sample_scene
from lab.world576.texts import DIALOGUE_LENGTH, SHORT_LENGTH, BlockEncoder, train_tokenizers
from lab.world576.train_clip import ClipTrainer
from lab.world576.train_llava import LlavaTrainer

CPU = torch.device("cpu")
TINY = replace(SMALL, scenes=24, clip_batch=2, llava_batch=1, concepts=24, questions=2, alignment_scenes=1, saves=1)


@pytest.fixture(scope="module")
def tokenizers() -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    return train_tokenizers(60)


@pytest.fixture(scope="module")
def folder(tokenizers: tuple[PreTrainedTokenizerFast, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained checkpoints and the pool of a few scenes."""
    folder: Path = tmp_path_factory.mktemp("world576")
    save_clip(build_clip(tokenizers[0], size=TINY.size), tokenizers[0], folder / "clip")
    save_llava(build_llava(tokenizers[1], size=TINY.size), tokenizers[1], folder / "llava")
    pool.build(folder / "pool.npz", folder / "clip", folder / "llava", TINY.scenes, workers=1)
    return folder


@pytest.fixture(scope="module")
def scenes(folder: Path) -> Pool:
    return pool.load(folder / "pool.npz")


def ticking(limit: float) -> Clock:
    """A clock that goes one second further at each look."""
    ticks = itertools.count()
    return Clock(0.0, limit, lambda: float(next(ticks)))


def test_both_models_fit_into_48_mb_and_their_files_into_16(
    tokenizers: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast], tmp_path: Path
) -> None:
    clip, llava = build_clip(tokenizers[0], size=FULL.size), build_llava(tokenizers[1], size=FULL.size)
    adopt_vision_tower(llava, clip)
    save_clip(clip, tokenizers[0], tmp_path / "clip", torch.bfloat16, MAX_PART_BYTES - 500_000)
    save_llava(llava, tokenizers[1], tmp_path / "llava", torch.bfloat16, MAX_PART_BYTES - 500_000)
    files = list(tmp_path.glob("*/model-*.safetensors"))
    assert len(files) == 4
    assert max(file.stat().st_size for file in files) <= MAX_PART_BYTES
    assert sum(file.stat().st_size for file in files) <= 48_000_000
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "llava")
    assert loaded.dtype == torch.bfloat16
    own = llava.state_dict()
    assert all(torch.equal(value, own[key].bfloat16()) for key, value in loaded.state_dict().items())
    vision, text = loaded.config.vision_config, loaded.config.text_config
    assert (vision.image_size, vision.patch_size) == (336, 14)
    assert 8 <= vision.num_hidden_layers <= 12
    assert 256 <= vision.hidden_size <= 384
    assert clip.config.text_config.num_hidden_layers == 4
    assert text.num_hidden_layers >= 8
    # Fewer parts replace more: none of the old ones stays behind.
    save_llava(llava, tokenizers[1], tmp_path / "llava")
    assert [file.name for file in (tmp_path / "llava").glob("model*")] == ["model.safetensors"]


def test_a_block_is_the_prompt_of_the_chat_template_with_its_answer(folder: Path) -> None:
    """What is trained is what the processor asks, in one turn and in two."""
    processor = AutoProcessor.from_pretrained(folder / "llava")
    encode = BlockEncoder(processor.tokenizer)
    for dialogue in evaluation_dialogues("crowded", 0, 12):
        first, second = dialogue.first, dialogue.second
        for turn, questions, length in (
            ((first, None), [first], SHORT_LENGTH),
            ((second, first), [first, second], DIALOGUE_LENGTH),
        ):
            ids, answers = encode(questions, length)
            asked = int(np.flatnonzero(~answers & (np.arange(length) < answers.nonzero()[0].max()))[-1]) + 1
            head, block = _prompt(processor, turn).split("<image>")
            expected = processor.tokenizer(head + "<image>" + block)["input_ids"]
            image = processor.tokenizer.convert_tokens_to_ids("<image>")
            place = expected.index(image)
            assert ids[:asked].tolist() == expected[place + 1 :]
            prompt_head = processor.tokenizer(PROMPT_HEAD, add_special_tokens=False)["input_ids"]
            assert expected[:place] == prompt_head
            decoded = processor.tokenizer.decode(ids[answers])
            assert decoded.split("</s>")[-2].strip() == questions[-1].answer


def test_training_scenes_and_their_texts_are_never_those_of_the_evaluation(scenes: Pool) -> None:
    assert FULL.scenes < FIRST_EVALUATION_SEED
    assert all(q.scene.seed >= FIRST_EVALUATION_SEED for q in evaluation_questions("easy", 0, 3))
    packed = pack([sample_scene(training_split(5), 5)])
    assert np.array_equal(scenes.scenes.select(np.array([5])).layers, packed.layers)
    assert scenes.short.shape == (24, PER_SCENE, SHORT_LENGTH)
    assert scenes.short_answers.any(-1).all()
    groups = {GROUP_NAMES[index] for index in scenes.short_groups.ravel()}
    assert {"color", "kind", "existence", "count", "side", "relation", "reading", "place"} <= groups


def test_the_curriculum_leaves_crowded_scenes_out(scenes: Pool) -> None:
    rng = np.random.default_rng(0)
    assert {training_split(row) for row in scenes.sample(200, False, rng)} == {"simple", "easy"}
    assert {training_split(row) for row in scenes.sample(200, True, rng)} == {"simple", "easy", "crowded"}


def test_concepts_hold_for_what_is_in_the_scene() -> None:
    cat, sign = Thing("cat", "red", 60, 250, 60), Thing("sign", "blue", 250, 60, 70, text="STOP")
    scene = Scene("easy", 0, "gradient", True, (cat, sign, Thing("pizza", "", 168, 168, 90)))
    held = {CONCEPTS[index] for index in np.flatnonzero(concept_labels(scene))}
    assert {("pair", "red", "cat"), ("kind", "sign"), ("text", "STOP"), ("category", "animal")} <= held
    assert {("kind place", "cat", "left"), ("color place", "blue", "top"), ("distractor", "pizza")} <= held
    assert ("pair", "blue", "cat") not in held
    assert ("kind", "pizza") not in held
    assert all(
        OF_COLORS[index] == (concept[0] in ("pair", "color", "color place")) for index, concept in enumerate(CONCEPTS)
    )


def test_patch_targets_name_the_glyph_at_its_place() -> None:
    scene = Scene("easy", 0, "gradient", False, (Thing("sign", "", 168, 168, 84, text="ZOO"),))
    packed = pack([scene])
    owners = torch.zeros(1, GRID * GRID, dtype=torch.int64)
    things = torch.tensor([[[1, 8, 168, 168]]])
    targets = PatchTargets.from_arrays(owners, things, torch.from_numpy(packed.layers))
    found = {patch: GLYPHS[index] for patch, index in enumerate(targets.glyph[0].tolist()) if index < len(GLYPHS)}
    assert sorted(found.values()) == ["O", "O", "Z"]
    assert GLYPHS[int(packed.layers[0, 1, 0]) - SPRITE_INDEX[f"glyph {GLYPHS[0]}"]] == "Z"
    assert {patch // GRID for patch in found} == {12}
    assert found[min(found)] == "Z"


def clip_maker(scenes: Pool, tokenizer: PreTrainedTokenizerFast) -> Callable[[], Trainer]:
    composer = Composer()
    return lambda: ClipTrainer(TINY, scenes, tokenizer, composer)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_resumed_run_of_clip_equals_one_that_was_not_stopped(
    scenes: Pool, tokenizers: tuple[PreTrainedTokenizerFast, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make = clip_maker(scenes, tokenizers[0])

    def run(name: str, limit: float) -> bool:
        return train(make, tmp_path / f"state-{name}", tmp_path / name, lambda: 3, ticking(limit), CPU, 1)

    assert run("whole", 1000)
    assert not run("stopped", 2)  # two looks at the clock, so two steps
    assert load_progress(tmp_path / "stopped") == (2, 3)
    assert not same(tmp_path / "whole", tmp_path / "stopped")
    assert run("stopped", 1000)
    assert "resumed at step 2 of 3" in capsys.readouterr().out
    assert same(tmp_path / "whole", tmp_path / "stopped")
    assert run("whole", 0)  # trained already: nothing is done


def test_without_its_state_a_run_goes_on_from_the_weights(
    scenes: Pool, tokenizers: tuple[PreTrainedTokenizerFast, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make = clip_maker(scenes, tokenizers[0])
    assert not train(make, tmp_path / "state", tmp_path / "clip", lambda: 2, ticking(1), CPU, 1)
    before = weights(tmp_path / "clip")
    trainer = make()
    trainer.adopt(tmp_path / "clip")
    adopted = dict(trainer.model.named_parameters())  # type: ignore[attr-defined]
    assert all(torch.equal(adopted[key].bfloat16(), value) for key, value in before.items() if key in adopted)
    assert train(make, tmp_path / "another", tmp_path / "clip", lambda: 99, ticking(1000), CPU, 1)
    printed = capsys.readouterr().out
    assert "resumed at step 1 from the weights alone" in printed
    assert "negative" in printed  # the share of negative cosines, which the pruners depend on
    assert load_progress(tmp_path / "clip") == (2, 2)


def test_a_resumed_run_of_llava_equals_one_that_was_not_stopped(
    scenes: Pool, folder: Path, tokenizers: tuple[PreTrainedTokenizerFast, ...], tmp_path: Path
) -> None:
    composer = Composer()

    def make() -> Trainer:
        clip = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32)
        return LlavaTrainer(TINY, scenes, clip, tokenizers[1], composer)

    def run(name: str, limit: float) -> bool:
        return train(make, tmp_path / f"state-{name}", tmp_path / name, lambda: 3, ticking(limit), CPU, 1)

    assert run("whole", 1000)
    assert not run("stopped", 1)
    assert run("stopped", 1000)
    assert same(tmp_path / "whole", tmp_path / "stopped")
    tower = "vision_tower.vision_model.post_layernorm.weight"
    assert torch.equal(
        weights(tmp_path / "whole")[tower], weights(folder / "clip")[tower.removeprefix("vision_tower.")]
    )


def test_all_of_a_step_is_on_the_device_of_the_composer(
    scenes: Pool, tokenizers: tuple[PreTrainedTokenizerFast, ...]
) -> None:
    """A step on the "meta" device, which has shapes only and refuses to mix with tensors of the CPU."""
    composer = Composer("meta")
    clip = ClipTrainer(TINY, scenes, tokenizers[0], composer)
    llava = LlavaTrainer(TINY, scenes, clip.model, tokenizers[1], composer)
    rows = np.arange(1)
    assert llava._features(rows).device.type == "meta"
    dropped = llava._dropped(llava._features(rows), rows, np.random.default_rng(0))
    assert dropped.shape[1] in DROP_KEEP
    for trainer in (clip, llava):
        # The length of the gradient is a value, which "meta" does not have.
        trainer.optimizer.step = lambda *rates: 0.0  # type: ignore[method-assign]
        assert {value.device.type for name, value in trainer.step(0, 4).items() if name != "dialogue/n"} == {"meta"}


def test_state_is_written_in_parts(tmp_path: Path) -> None:
    tensors = {f"t{index}": torch.randn(1_000_000) for index in range(9)}  # 36 MB
    save_tensors(tmp_path / "state", tensors, {"step": 3})
    save_tensors(tmp_path / "state", tensors, {"step": 4})
    parts = list((tmp_path / "state").glob("*.safetensors"))
    assert len(parts) == 3
    assert max(part.stat().st_size for part in parts) <= MAX_PART_BYTES
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    loaded = load_tensors(tmp_path / "state", CPU)
    assert loaded is not None
    assert loaded[1] == {"step": 4}
    assert all(torch.equal(loaded[0][name], value) for name, value in tensors.items())


def test_the_plan_fits_into_a_call() -> None:
    assert sum(STAGE_MINUTES.values()) < CALL_MINUTES <= 9
    assert allowed_steps(3.0, 0.05, 6000) == 3240
    assert allowed_steps(3.0, 0.001, 6000) == 6000
    assert allowed_steps(3.0, 1e6, 6000) == 1
    early, late = (Clock(0.0, 9 * 60 - 30, lambda at=at: at) for at in (30.0, 500.0))  # type: ignore[misc]
    assert stage_minutes("clip", early, 9) == pytest.approx(
        8.5 - 0.5 - 3.2 - 1.0
    )  # half a minute saved is half a minute more
    assert stage_minutes("llava", late, 9) == STAGE_MINUTES["llava"]  # the rest is for the next call
    clock = Clock(0.0, 9 * 60 - 30, lambda: 509.0)
    assert not clock.over
    assert replace(clock, now=lambda: 510.0).over


def test_the_pace_is_measured(scenes: Pool, tokenizers: tuple[PreTrainedTokenizerFast, ...]) -> None:
    assert 0 < pace(clip_maker(scenes, tokenizers[0])) < 60
