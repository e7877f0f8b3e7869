"""The llava family: what is loaded, what is computed, what is refused."""

from __future__ import annotations

import io
import json
import shutil
import tracemalloc
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, LlavaForConditionalGeneration
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from encoder_service.models import load
from encoder_service.models.base import EncoderModel, LoadOptions
from encoder_service.models.media_features import TowerInputs
from encoder_service.pruners.base import TowerFeatures
from encoder_service.pruners.in_tower import InTowerPruner, TowerLayer
from encoder_service.pruners.tower_outputs import (
    ALL_OUTPUTS,
    CLS_HIDDEN,
    KEYS,
    MEAN_KEYS_SECOND_LAST,
    SALIENCY_FIRST,
    SALIENCY_LAST,
    SALIENCY_ONE_HEAD,
    SALIENCY_SECOND_LAST,
    OutputKind,
    TowerOutput,
)
from fovea.modeling.errors import CheckpointError
from tests.single_features import single_text, tower_features

REQUESTED_OUTPUTS = ALL_OUTPUTS
NO_OUTPUTS: frozenset[TowerOutput] = frozenset()


def encoded(
    model: EncoderModel, images: Sequence[TowerInputs], outputs: Set[TowerOutput], in_tower: InTowerPruner | None = None
) -> list[TowerFeatures]:
    """Features of each image, which has one tower input."""
    return [tower_features(media)[0] for media in model.encode(images, outputs, in_tower)]


@pytest.fixture
def images(model: EncoderModel, make_image: Callable[..., bytes]) -> list[TowerInputs]:
    return [model.media.image(Image.open(io.BytesIO(make_image(i))).convert("RGB")) for i in range(3)]


@pytest.fixture
def pixel_values(model: EncoderModel, images: list[TowerInputs]) -> torch.Tensor:
    return model.pixel_values(images)


@pytest.fixture(scope="session")
def copy_of(checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A copy of a checkpoint with its config or tensors changed."""

    def copy(kind: str, *, config: Callable[[dict[str, Any]], None] | None = None, drop: str = "") -> Path:
        target = tmp_path_factory.mktemp("changed") / kind
        shutil.copytree(getattr(checkpoints, kind), target)
        if config is not None:
            content = json.loads((target / "config.json").read_text())
            config(content)
            (target / "config.json").write_text(json.dumps(content))
        if drop:
            tensors = load_file(target / "model.safetensors")
            kept = {key: tensor for key, tensor in tensors.items() if drop not in key}
            assert len(kept) < len(tensors)
            save_file(kept, target / "model.safetensors")
        return target

    return copy


@pytest.mark.parametrize("layout", ["saved", "sharded"])
def test_every_key_layout_gives_the_same_features(
    layout: str, checkpoints: Any, model: EncoderModel, images: list[TowerInputs]
) -> None:
    other = load(str(getattr(checkpoints, layout)), LoadOptions(text_tower=str(checkpoints.clip), device="cpu"))
    for got, want in zip(encoded(other, images, NO_OUTPUTS), encoded(model, images, NO_OUTPUTS), strict=True):
        # The hub layout is stored in float16.
        torch.testing.assert_close(got.hidden, want.hidden, atol=5e-2 if layout == "saved" else 0, rtol=0)


def test_hidden_states_are_those_that_llava_projects(
    checkpoints: Any, model: EncoderModel, images: list[TowerInputs], pixel_values: torch.Tensor
) -> None:
    llava = LlavaForConditionalGeneration.from_pretrained(checkpoints.hub, dtype=torch.float32).eval()
    with torch.inference_mode():
        states = llava.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states
    for i, features in enumerate(encoded(model, images, NO_OUTPUTS)):
        torch.testing.assert_close(features.hidden, states[-2][i, 1:], atol=1e-5, rtol=1e-5)
        assert features.outputs == {}
        assert features.grid == (6, 6)


def test_saliency_is_the_cls_attention_of_eager_attention(
    checkpoints: Any, model: EncoderModel, images: list[TowerInputs], pixel_values: torch.Tensor
) -> None:
    llava = LlavaForConditionalGeneration.from_pretrained(
        checkpoints.hub, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        attentions = llava.model.vision_tower(pixel_values, output_attentions=True).attentions
    for i, features in enumerate(encoded(model, images, REQUESTED_OUTPUTS)):
        for output, layer in ((SALIENCY_LAST, -1), (SALIENCY_SECOND_LAST, -2)):
            torch.testing.assert_close(
                features.outputs[output], attentions[layer][i].mean(0)[0, 1:], atol=1e-6, rtol=1e-4
            )


def test_outputs_of_other_layers_and_head_widths_match_the_unsplit_tower(
    checkpoints: Any, model: EncoderModel, images: list[TowerInputs], pixel_values: torch.Tensor
) -> None:
    llava = LlavaForConditionalGeneration.from_pretrained(
        checkpoints.hub, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tower = llava.model.vision_tower
    with torch.inference_mode():
        unsplit = tower(pixel_values, output_attentions=True, output_hidden_states=True)
        second_last, last = model.vision_tower.vision_model.encoder.layers[-2:]  # type: ignore[attr-defined]
        normed = last.layer_norm1(unsplit.hidden_states[-2])
        keys = second_last.self_attn.k_proj(second_last.layer_norm1(unsplit.hidden_states[-3]))
        query, key = last.self_attn.q_proj(normed[:, :1]), last.self_attn.k_proj(normed)
        one_head = (query @ key.transpose(1, 2) / 32**0.5).softmax(-1)
    for i, features in enumerate(encoded(model, images, REQUESTED_OUTPUTS)):
        for output, want in (
            (CLS_HIDDEN, unsplit.hidden_states[-2][i, 0]),
            (SALIENCY_FIRST, unsplit.attentions[0][i].mean(0)[0, 1:]),
            (SALIENCY_ONE_HEAD, one_head[i, 0, 1:]),
            (MEAN_KEYS_SECOND_LAST, keys[i, 1:].view(36, 4, 8).mean(1)),
        ):
            torch.testing.assert_close(features.outputs[output], want, atol=1e-5, rtol=1e-4)


class Watcher:
    """In-tower pruner that records every layer and drops the patches of `leaving` after one of them."""

    def __init__(self, leave_after: int = -1, leaving: tuple[int, ...] = ()) -> None:
        self.seen: list[tuple[int, int, torch.Tensor, torch.Tensor]] = []
        self._leave_after, self._leaving = leave_after, leaving

    def new_hook(self) -> Watcher:
        return self

    def after_layer(self, layer: TowerLayer) -> torch.Tensor | None:
        self.seen.append((layer.index, layer.num_layers, layer.cls_attention(), layer.values()))
        if layer.index != self._leave_after:
            return None
        return torch.tensor([i for i in range(layer.values().shape[1] - 1) if i not in self._leaving])


def test_a_hook_sees_each_layer_that_the_language_model_reads(
    checkpoints: Any, model: EncoderModel, images: list[TowerInputs], pixel_values: torch.Tensor
) -> None:
    llava = LlavaForConditionalGeneration.from_pretrained(
        checkpoints.hub, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        attentions = llava.model.vision_tower(pixel_values[:1], output_attentions=True).attentions
    watcher = Watcher()
    (features,) = encoded(model, images[:1], NO_OUTPUTS, watcher)
    assert [(index, num_layers) for index, num_layers, _, _ in watcher.seen] == [(0, 3), (1, 3)]
    for (_, _, attention, values), want in zip(watcher.seen, attentions[:-1], strict=True):
        torch.testing.assert_close(attention, want[0, :, 0, 1:], atol=1e-6, rtol=1e-4)
        assert values.shape == (4, 37, 8)
    (whole,) = encoded(model, images[:1], NO_OUTPUTS)
    assert torch.equal(features.hidden, whole.hidden)
    assert features.kept_in_tower is not None
    assert features.kept_in_tower.tolist() == list(range(36))


def test_dropped_patches_are_not_attended_to_by_later_layers(
    model: EncoderModel, images: list[TowerInputs], pixel_values: torch.Tensor
) -> None:
    watcher = Watcher(leave_after=0, leaving=(0, 7, 35))
    (features,) = encoded(model, images[:1], NO_OUTPUTS, watcher)
    staying = [i for i in range(36) if i not in (0, 7, 35)]
    assert features.kept_in_tower is not None
    assert features.kept_in_tower.tolist() == staying
    tower = model.vision_tower.vision_model  # type: ignore[attr-defined]
    with torch.inference_mode():
        hidden = tower.encoder.layers[0](tower.pre_layrnorm(tower.embeddings(pixel_values[:1])), None)
        want = tower.encoder.layers[1](hidden[:, [0, *(1 + i for i in staying)]], None)
    torch.testing.assert_close(features.hidden, want[0, 1:])
    assert watcher.seen[1][3].shape[1] == 34


def test_a_pruned_tower_offers_no_outputs(model: EncoderModel, images: list[TowerInputs]) -> None:
    with pytest.raises(ValueError, match="offers no outputs, keys"):
        encoded(model, images, {KEYS}, Watcher())


def test_layer_identity(
    checkpoints: Any, model: EncoderModel, images: list[TowerInputs], pixel_values: torch.Tensor
) -> None:
    """X[V] = X + A + FFN(LN2(X + A)) with the ordinary attention output A (eq. 1 of the paper)."""
    tower = model.vision_tower.vision_model  # type: ignore[attr-defined]
    layer = tower.encoder.layers[-1]
    features = encoded(model, images, REQUESTED_OUTPUTS)
    with torch.inference_mode():
        states = tower(pixel_values, output_hidden_states=True).hidden_states
        for i, image in enumerate(features):
            after = image.hidden + image.outputs[TowerOutput(OutputKind.ATTENTION, qkv="qkv")]
            torch.testing.assert_close(
                after + layer.mlp(layer.layer_norm2(after)), states[-1][i, 1:], atol=1e-5, rtol=1e-4
            )


def test_the_layer_before_the_last_is_seen_likewise(
    checkpoints: Any, model: EncoderModel, images: list[TowerInputs], pixel_values: torch.Tensor
) -> None:
    """Layer V-2 on X[V-2]; with the ordinary attention output eq. 1 leads to X[V-1], which is its vanilla output."""
    vision = model.vision_tower  # type: ignore[attr-defined]
    layer = vision.vision_model.encoder.layers[-2]
    features = encoded(model, images, REQUESTED_OUTPUTS)
    with torch.inference_mode():
        states = vision.vision_model(pixel_values, output_hidden_states=True).hidden_states
        normed = layer.layer_norm1(states[-3])
        q, v = (
            proj(normed).unflatten(-1, (-1, 8)).transpose(1, 2)
            for proj in (layer.self_attn.q_proj, layer.self_attn.v_proj)
        )
        mixed = (q @ q.transpose(-1, -2) / 8**0.5).softmax(-1) @ v
        decoupled = layer.self_attn.out_proj(mixed.transpose(1, 2).flatten(2))

        def joint(rows: torch.Tensor) -> torch.Tensor:
            projected: torch.Tensor = vision.visual_projection(vision.vision_model.post_layernorm(rows))
            return projected

        for i, image in enumerate(features):
            after = states[-3][i, 1:] + image.outputs[TowerOutput(OutputKind.ATTENTION, layer=-2, qkv="qkv")]
            for got, want in (
                (after + layer.mlp(layer.layer_norm2(after)), image.hidden),
                (image.outputs[TowerOutput(OutputKind.ATTENTION, layer=-2, qkv="qqv")], decoupled[i, 1:]),
                (image.outputs[TowerOutput(OutputKind.JOINT, layer=-2, qkv="qqv")], joint(decoupled)[i]),
                (image.outputs[TowerOutput(OutputKind.JOINT, layer=-2)], joint(states[-2])[i]),
            ):
                torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_images_in_a_batch_equal_images_alone(model: EncoderModel, images: list[TowerInputs]) -> None:
    together = encoded(model, images, REQUESTED_OUTPUTS)
    for i, batched in enumerate(together):
        (alone,) = encoded(model, images[i : i + 1], REQUESTED_OUTPUTS)
        torch.testing.assert_close(batched.hidden, alone.hidden, atol=1e-5, rtol=1e-5)
        for output in REQUESTED_OUTPUTS:
            torch.testing.assert_close(batched.outputs[output], alone.outputs[output], atol=1e-5, rtol=1e-4)


def test_the_eos_token_is_clips_text_embedding(checkpoints: Any, model: EncoderModel) -> None:
    clip = CLIPModel.from_pretrained(checkpoints.clip).eval()
    ids = [98, 5, 17, 40, 99]
    text = single_text(model.encode_texts([ids]))
    with torch.inference_mode():
        want = clip.get_text_features(torch.tensor([ids])).pooler_output[0]
    torch.testing.assert_close(text.eos[0], want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(text.tokens[-1], text.eos[0])
    assert text.is_word.tolist() == [False, True, True, True, False]


def test_a_text_is_not_changed_by_the_texts_beside_it(model: EncoderModel) -> None:
    texts = [[98, 5, 99], [98, *range(14), 99], [98, *range(40), 99], [98, 7, 7, 99]]
    together = model.encode_texts(texts, eos_attention=True)
    for index, text in enumerate(texts):
        batched, alone = single_text(together, index), single_text(model.encode_texts([text], eos_attention=True))
        for name in ("tokens", "eos", "is_word", "eos_attention"):
            torch.testing.assert_close(getattr(batched, name), getattr(alone, name), atol=1e-5, rtol=1e-4)


def test_long_texts_are_read_in_windows_of_whole_length(model: EncoderModel) -> None:
    words = list(range(30))
    text = single_text(model.encode_texts([[98, *words, 99]]))  # 16 positions: 14 words, 14 words, 2 words
    assert text.tokens.shape[0] == 30 + 2 * 3
    assert text.eos.shape[0] == 3
    assert int(text.is_word.sum()) == 30
    assert text.is_bos.nonzero().squeeze(1).tolist() == [0, 16, 32]
    assert text.is_eos.nonzero().squeeze(1).tolist() == [15, 31, 35]
    second = single_text(model.encode_texts([[98, *words[14:28], 99]]))
    torch.testing.assert_close(text.tokens[16:32], second.tokens, atol=1e-5, rtol=1e-5)


def test_eos_attention_is_that_of_eager_attention(checkpoints: Any, model: EncoderModel) -> None:
    clip = CLIPModel.from_pretrained(checkpoints.clip, attn_implementation="eager").eval()
    ids = [98, 5, 17, 40, 99]
    text = single_text(model.encode_texts([ids], eos_attention=True))
    with torch.inference_mode():
        attention = clip.text_model(torch.tensor([ids]), output_attentions=True).attentions[-1][0].mean(0)[-1]
    torch.testing.assert_close(text.eos_attention, attention, atol=1e-6, rtol=1e-4)


def test_a_large_image_is_resized_without_copies_of_it(model: EncoderModel) -> None:
    image = Image.new("RGB", (2000, 2000))
    tracemalloc.start()
    try:
        model.media.image(image)
        assert tracemalloc.get_traced_memory()[1] < 2000 * 2000  # one numpy copy is 3 bytes a pixel
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [(48, 48), (61, 47), (200, 90), (217, 333), (1, 1), (3, 250), (4999, 50)])
def test_pixel_values_are_those_of_the_checkpoints_processor(
    size: tuple[int, int], checkpoints: Any, model: EncoderModel
) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8))
    processor = CLIPImageProcessorPil.from_pretrained(checkpoints.hub)
    want = processor(images=image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(model.pixel_values([model.media.image(image)])[0], want)


def test_only_the_vision_tower_is_loaded(model: EncoderModel, copy_of: Callable[..., Path], checkpoints: Any) -> None:
    without = copy_of("hub", drop="language_model")
    load(str(without), LoadOptions(text_tower=str(checkpoints.clip), device="cpu"))
    held = sum(p.numel() for tower in (model.vision_tower, model.text_tower) for p in tower.parameters())  # type: ignore[attr-defined]
    stored = load_file(checkpoints.hub / "model.safetensors")
    clip = load_file(checkpoints.clip / "model.safetensors")
    assert held == sum(t.numel() for key, t in stored.items() if "vision_tower" in key) + sum(
        t.numel() for key, t in clip.items() if key.startswith(("text_model", "text_projection", "visual_projection"))
    )


def test_weights_published_as_pytorch_bin_load_too(checkpoints: Any, tmp_path: Path, model: EncoderModel) -> None:
    shutil.copy(checkpoints.clip / "config.json", tmp_path)
    state = load_file(checkpoints.clip / "model.safetensors")
    state["text_model.embeddings.position_ids"] = torch.arange(16)[None]  # old files carry it
    torch.save(state, tmp_path / "pytorch_model.bin")
    other = load(str(checkpoints.hub), LoadOptions(text_tower=str(tmp_path), device="cpu"))
    torch.testing.assert_close(other.encode_texts([[98, 1, 99]]).eos, model.encode_texts([[98, 1, 99]]).eos)


def test_eager_attention_gives_the_same_features(
    checkpoints: Any, model: EncoderModel, images: list[TowerInputs]
) -> None:
    options = LoadOptions(text_tower=str(checkpoints.clip), device="cpu", attn_implementation="eager")
    eager = load(str(checkpoints.hub), options)
    for got, want in zip(
        encoded(eager, images, REQUESTED_OUTPUTS), encoded(model, images, REQUESTED_OUTPUTS), strict=True
    ):
        torch.testing.assert_close(got.hidden, want.hidden, atol=1e-5, rtol=1e-4)


def test_configs_as_the_hub_has_them_are_read(
    copy_of: Callable[..., Path], checkpoints: Any, model: EncoderModel
) -> None:
    """OpenAI's CLIP configs are of transformers 4.16: sizes stand in text_config_dict too, beside generation keys."""

    def as_in_2022(config: dict[str, Any]) -> None:
        config["text_config_dict"] = dict(config["text_config"])
        config["text_config"] |= {"torch_dtype": None, "temperature": 1.0, "bad_words_ids": None, "return_dict": True}
        config["torch_dtype"] = "float32"

    hub = copy_of("hub", config=lambda config: config["vision_config"].update(vocab_size=32000))
    other = load(str(hub), LoadOptions(text_tower=str(copy_of("clip", config=as_in_2022)), device="cpu"))
    torch.testing.assert_close(other.encode_texts([[98, 1, 99]]).eos, model.encode_texts([[98, 1, 99]]).eos)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_scores_in_float32(dtype: str, checkpoints: Any, images: list[TowerInputs]) -> None:
    half = load(str(checkpoints.hub), LoadOptions(text_tower=str(checkpoints.clip), device="cpu", dtype=dtype))
    (features,) = encoded(half, images[:1], REQUESTED_OUTPUTS)
    assert features.hidden.dtype == getattr(torch, dtype)
    assert features.outputs[SALIENCY_LAST].dtype == torch.float32


def _set(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config.update(values)


@pytest.mark.parametrize(
    ("kind", "change", "drop", "message"),
    [
        ("hub", _set(model_type="bert"), "", "'bert' is not a family that this service runs; accepted: llava"),
        ("hub", _set(vision_feature_layer=-1), "", "reads vision layer -1"),
        ("hub", _set(vision_config={"model_type": "siglip_vision_model"}), "", "takes a CLIP one"),
        ("hub", None, "vision_tower.vision_model.encoder.layers.1", "tensors of the vision tower"),
        ("clip", _set(model_type="bert"), "", "a CLIP one is needed"),
        ("clip", None, "text_model", "holds no text tower"),
        ("clip", None, "text_projection", "holds no text_projection"),
        ("clip", None, "visual_projection", "holds no visual_projection"),
    ],
)
def test_checkpoints_that_cannot_be_run_are_refused_in_one_sentence(
    kind: str, change: Any, drop: str, message: str, copy_of: Callable[..., Path], checkpoints: Any
) -> None:
    changed = copy_of(kind, config=change, drop=drop)
    hub, clip = (changed, checkpoints.clip) if kind == "hub" else (checkpoints.hub, changed)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(str(hub), LoadOptions(text_tower=str(clip), device="cpu"))
    assert str(changed.parent) not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_tower_of_another_width_is_refused(checkpoints: Any, tmp_path: Path) -> None:
    shutil.copytree(checkpoints.clip, tmp_path / "narrow")
    tensors = load_file(checkpoints.clip / "model.safetensors")
    tensors["visual_projection.weight"] = torch.zeros(16, 20)
    save_file(tensors, tmp_path / "narrow/model.safetensors")
    with pytest.raises(CheckpointError, match="takes 20 channels, the vision tower has 32"):
        load(str(checkpoints.hub), LoadOptions(text_tower=str(tmp_path / "narrow"), device="cpu"))


def test_an_image_processor_of_another_size_is_refused(copy_of: Callable[..., Path], checkpoints: Any) -> None:
    changed = copy_of("hub")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(changed)
    with pytest.raises(CheckpointError, match="image processor"):
        load(str(changed), LoadOptions(text_tower=str(checkpoints.clip), device="cpu"))


def test_settings_fingerprint_follows_what_changes_results(checkpoints: Any, model: EncoderModel) -> None:
    half = load(str(checkpoints.hub), LoadOptions(text_tower=str(checkpoints.clip), device="cpu", dtype="bfloat16"))
    assert half.settings_fingerprint != model.settings_fingerprint
    assert half.fingerprint == model.fingerprint
    assert model.text_tower_fingerprint != model.fingerprint
