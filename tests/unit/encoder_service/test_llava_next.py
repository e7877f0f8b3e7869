"""LLaVA-NeXT in the encoder service, compared with transformers' processor and vision tower."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlavaNextForConditionalGeneration, LlavaNextProcessor
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

from benchmarks.checkpoints.tiny import clip, llava_next
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.feature_cache import FeatureCache
from encoder_service.engine.request_media import EncodeRequest
from encoder_service.models import load
from encoder_service.models.base import EncoderModel, LoadOptions
from encoder_service.models.media_features import PatchLayout
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import PrunerInput
from encoder_service.pruners.tile_mosaic import mosaic
from encoder_service.pruners.tower_outputs import ALL_OUTPUTS, CLS_HIDDEN, KEYS, SALIENCY_LAST, OutputKind, TowerOutput
from fovea.budget import Budget, allocate_budget
from fovea.modeling.errors import CheckpointError
from tests.single_features import tower_features

N = 16  # patches of a tile, 4 x 4

# Width and height: exact canvases, wide, tall, tiny, large, strips of 100 to 1, and sizes that fall between patches.
SHAPES = [
    (56, 56),
    (112, 112),
    (56, 112),
    (168, 56),
    (1, 1),
    (5, 7),
    (3, 250),
    (61, 47),
    (113, 56),
    (97, 131),
    (333, 217),
    (640, 480),
    (2000, 1500),
    (1000, 10),
    (10, 1000),
    (999, 331),
]


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("next")
    return llava_next.write(root / "next"), clip.write(root / "clip")


@pytest.fixture(scope="module")
def towers(folders: tuple[Path, Path]) -> EncoderModel:
    return load(str(folders[0]), LoadOptions(text_tower=str(folders[1]), device="cpu"))


@pytest.fixture(scope="module")
def processor(folders: tuple[Path, Path]) -> Any:
    return LlavaNextProcessor.from_pretrained(folders[0])


@pytest.fixture(scope="module")
def unsplit(folders: tuple[Path, Path]) -> Any:
    return LlavaNextForConditionalGeneration.from_pretrained(folders[0], attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def question(folders: tuple[Path, Path]) -> tuple[int, ...]:
    return tuple(AutoTokenizer.from_pretrained(folders[1])("how many red objects are there?")["input_ids"])


@pytest.fixture
def encode(towers: EncoderModel, question: tuple[int, ...]) -> Callable[..., EncodedMedia]:
    """One image through the engine."""

    def run(
        image: Image.Image,
        pruner: str,
        *,
        params: dict[str, Any] | None = None,
        max_tokens: int | None = None,
        **fields: Any,
    ) -> EncodedMedia:
        engine = EncoderEngine(towers, FeatureCache(0), max_batch_size=4, max_image_bytes=10**8, max_image_pixels=10**8)
        budget = Budget.of(fields.get("keep_tokens"), fields.get("keep_ratio"))
        assert budget is not None
        bound = PRUNERS[pruner].bind(params or {})
        request = EncodeRequest((png(image),), question, bound, budget.capped(max_tokens))
        (outcome,) = engine.run([engine.prepare(request)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome[0]

    return run


def test_hired_as_released_keeps_one_token_where_rounding_leaves_none(
    encode: Callable[..., EncodedMedia],
) -> None:
    media = encode(noise((112, 112)), "hired", params={"fidelity": True}, keep_tokens=1)
    assert len(media.positions) == 1


@torch.inference_mode()
def tower_of(unsplit: Any, pixel_values: torch.Tensor) -> Any:
    return unsplit.model.vision_tower(pixel_values, output_hidden_states=True, output_attentions=True)


@pytest.mark.parametrize("size", SHAPES)
def test_pixel_values_are_those_of_the_checkpoints_processor(
    size: tuple[int, int], towers: EncoderModel, processor: Any
) -> None:
    want = processor.image_processor(images=noise(size), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(towers.pixel_values([towers.media.image(noise(size))]), want)


@pytest.mark.parametrize("size", SHAPES)
def test_an_unpruned_image_is_what_transformers_packs(
    size: tuple[int, int], encode: Callable[..., EncodedMedia], processor: Any, unsplit: Any
) -> None:
    inputs = processor(images=noise(size), text="<image>", return_tensors="pt")
    with torch.inference_mode():
        (want,) = unsplit.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output
        media = encode(noise(size), "none", keep_ratio=0.1)
        rows = list(unsplit.model.multi_modal_projector(torch.from_numpy(media.features)))
    for count, row in enumerate(media.newline_after.tolist()):
        rows.insert(row + 1 + count, unsplit.model.image_newline)
    torch.testing.assert_close(torch.stack(rows), want, atol=1e-4, rtol=1e-4)
    assert int((inputs["input_ids"] == unsplit.config.image_token_id).sum()) == len(rows)
    assert media.num_tokens_total == len(media.positions)


@given(width=st.integers(1, 4000), height=st.integers(1, 4000))
@settings(max_examples=200, deadline=None)
def test_the_mosaic_of_the_published_size_is_that_of_transformers(width: int, height: int) -> None:
    canvases = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    rows, columns = get_anyres_image_grid_shape((height, width), canvases, 336)
    numbers = 576 + torch.arange(rows * columns * 576).view(rows, columns, 24, 24)
    stitched = numbers.permute(0, 2, 1, 3).reshape(1, rows * 24, columns * 24)
    of_transformers = unpad_image(stitched, (height, width))[0].numpy()
    assert np.array_equal(mosaic((24, 24), (rows, columns), (height, width)), of_transformers)


def test_a_ninth_of_a_square_image_of_the_published_size_is_320_tokens() -> None:
    layout = PatchLayout(5, 24, 24, mosaic=mosaic((24, 24), (2, 2), (672, 672)))
    sizes = [len(positions) for positions in layout.patch_positions()]
    assert sum(sizes) == 2880
    assert allocate_budget(sizes, Budget.ratio(1 / 9)) == (64,) * 5
    assert allocate_budget(sizes, Budget.count(320)) == (64,) * 5


def test_what_a_pruner_sees_of_a_tile_is_the_tower_without_padding(towers: EncoderModel, unsplit: Any) -> None:
    inputs = towers.media.image(noise((112, 60)))  # 4 lines of the mosaic's 8: of each tile two rows
    (media,) = towers.encode([inputs], ALL_OUTPUTS)
    output = tower_of(unsplit, towers.pixel_values([inputs]))
    tiles, positions_of_tiles = tower_features(media), media.patch_positions()
    assert [features.grid for features in tiles] == [(4, 4), *[(2, 4)] * 4]
    assert positions_of_tiles[1].tolist() == list(range(N + 8, 2 * N))
    for tile, (features, positions) in enumerate(zip(tiles, positions_of_tiles, strict=True)):
        patches = positions - tile * N
        hidden = output.hidden_states[-2][tile]
        torch.testing.assert_close(features.hidden, hidden[1 + patches], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(features.outputs[CLS_HIDDEN], hidden[0], atol=1e-5, rtol=1e-4)
        attention = output.attentions[-1][tile].mean(0)[0, 1:]
        torch.testing.assert_close(features.outputs[SALIENCY_LAST], attention[patches], atol=1e-6, rtol=1e-4)
        assert features.outputs[TowerOutput(OutputKind.JOINT, qkv="qqv")].shape == (1 + len(patches), 32)
        assert features.outputs[KEYS].shape == (len(patches), 64)


def test_images_in_a_batch_equal_images_alone(towers: EncoderModel) -> None:
    inputs = [towers.media.image(noise(size)) for size in ((112, 60), (56, 112), (1, 1))]
    for together, one in zip(towers.encode(inputs, ALL_OUTPUTS), inputs, strict=True):
        (alone,) = towers.encode([one], ALL_OUTPUTS)
        for got, want in zip(tower_features(together), tower_features(alone), strict=True):
            torch.testing.assert_close(got.hidden, want.hidden, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(dict(got.outputs), dict(want.outputs), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pruner", [name for name in PRUNERS if name != "none"])
@pytest.mark.parametrize("size", [(112, 112), (300, 120), (40, 100), (1000, 10)])
def test_no_token_stands_for_padding_and_a_ratio_applies_to_each_tile(
    pruner: str, size: tuple[int, int], encode: Callable[..., EncodedMedia], towers: EncoderModel
) -> None:
    media = encode(noise(size), pruner, keep_ratio=0.25)
    positions = towers.media.image(noise(size)).layout.patch_positions()
    assert len(np.unique(media.positions)) == len(media.positions)
    assert np.isin(media.positions, np.concatenate(positions)).all()
    assert not len(media.newline_after)
    kept = [int(np.isin(media.positions, tile).sum()) for tile in positions]
    share = [max(1, (len(tile) + 2) // 4) if len(tile) else 0 for tile in positions]
    if pruner in ("hired", "holov"):
        assert sum(kept) == sum(share)
    elif pruner == "flowcut":
        assert all(count <= N // 4 for count in kept)
        assert kept[0] == N // 4
    else:
        assert kept == share
    dropped = np.setdiff1d(np.arange(media.layout.num_patches), np.concatenate(positions))
    assert (media.cluster_of_patch[dropped] == -1).all()


@pytest.mark.parametrize("pruner", [name for name in PRUNERS if name != "none"])
def test_a_full_budget_changes_nothing(pruner: str, encode: Callable[..., EncodedMedia]) -> None:
    image = noise((300, 120))
    whole = encode(image, "none", keep_ratio=1.0)
    for budget in ({"keep_ratio": 1.0}, {"keep_tokens": len(whole.positions)}):
        media = encode(image, pruner, **budget)
        assert media.positions.tolist() == whole.positions.tolist()
        assert media.newline_after.tolist() == whole.newline_after.tolist()
        np.testing.assert_allclose(media.features, whole.features, atol=1e-5)


def test_a_count_is_allocated_to_the_tiles_by_their_patches_without_padding(
    encode: Callable[..., EncodedMedia],
) -> None:
    media = encode(noise((112, 60)), "cls", keep_tokens=12)  # 16 patches, then four times 8
    assert np.bincount(media.positions // N).tolist() == [4, 2, 2, 2, 2]


@pytest.mark.parametrize("pruner", [name for name in PRUNERS if name != "none"])
@pytest.mark.parametrize("size", [(300, 120), (10, 1000)])
@pytest.mark.parametrize("keep_tokens", [1, 3, 15])
def test_a_count_is_kept_exactly_and_by_flowcut_at_most(
    pruner: str, size: tuple[int, int], keep_tokens: int, encode: Callable[..., EncodedMedia]
) -> None:
    kept = len(encode(noise(size), pruner, keep_tokens=keep_tokens).positions)
    if pruner == "flowcut" and size != (10, 1000):  # that one has a base tile alone, and no padding in it
        assert 1 <= kept <= keep_tokens
    else:
        assert kept == keep_tokens


@pytest.mark.parametrize("pruner", ["desap", "cls", "uniform", "random"])
def test_merged_tokens_are_means_of_the_unsplit_towers_features(
    pruner: str, encode: Callable[..., EncodedMedia], processor: Any, unsplit: Any
) -> None:
    image = noise((300, 120))
    media = encode(image, pruner, keep_ratio=0.2)
    pixel_values = processor.image_processor(images=image, return_tensors="pt")["pixel_values"][0]
    hidden = tower_of(unsplit, pixel_values).hidden_states[-2][:, 1:].flatten(0, 1).numpy()
    for row, position in enumerate(media.positions):
        members = np.flatnonzero(media.cluster_of_patch == row)
        assert position in members
        assert len(np.unique(members // N)) == 1  # nothing is merged across tiles
        np.testing.assert_allclose(media.features[row], hidden[members].mean(0), atol=1e-4)


def test_the_tokens_of_plain_methods_are_in_the_order_of_the_mosaic(encode: Callable[..., EncodedMedia]) -> None:
    image = noise((300, 120))
    whole = encode(image, "none", keep_ratio=1.0).positions.tolist()
    for pruner in ("desap", "cls", "uniform", "random", "hired", "flowcut"):
        positions = encode(image, pruner, keep_ratio=0.4).positions.tolist()
        assert [whole.index(position) for position in positions] == sorted(map(whole.index, positions)), pruner


def features_of(towers: EncoderModel, image: Image.Image, pruner: str) -> Any:
    inputs = towers.media.image(image)
    (media,) = towers.encode([inputs], inputs.layout.outputs(PRUNERS[pruner].bind({}).requirements))
    return media


def alone(media: Any, pruner: str, keeps: Sequence[int]) -> list[Any]:
    """Each tile as if it were an image of its own."""
    bound = PRUNERS[pruner].bind({})
    return [
        bound.prune(PrunerInput(features, keep)) for features, keep in zip(tower_features(media), keeps, strict=True)
    ]


def test_visionzip_reads_base_then_dominant_then_cls_then_context(
    towers: EncoderModel, encode: Callable[..., EncodedMedia]
) -> None:
    image = noise((112, 112))
    base, *tiles = alone(
        features_of(towers, image, "visionzip"), "visionzip", [8] * 5
    )  # CLS, 6 dominant, 1 context row
    got = encode(image, "visionzip", keep_ratio=0.5).features
    rank = {number: i for i, number in enumerate(encode(image, "none", keep_ratio=1.0).positions.tolist())}
    dominant = [
        (rank[(1 + t) * N + index], tile.features[1 + i])
        for t, tile in enumerate(tiles)
        for i, index in enumerate(tile.origins[1:7].tolist())
    ]
    want = [
        *base.features,
        *(row for _, row in sorted(dominant, key=lambda pair: pair[0])),
        *(tile.features[0] for tile in tiles),
        *(tile.features[7] for tile in tiles),
    ]
    np.testing.assert_allclose(got, torch.stack(want).numpy(), atol=1e-5)


@pytest.mark.parametrize("pruner", ["prumerge", "prumerge_plus"])
def test_prumerge_is_tile_after_tile(pruner: str, towers: EncoderModel, encode: Callable[..., EncodedMedia]) -> None:
    image = noise((112, 60))
    want = torch.cat([t.features for t in alone(features_of(towers, image, pruner), pruner, [4, 2, 2, 2, 2])])
    np.testing.assert_allclose(encode(image, pruner, keep_ratio=0.25).features, want.numpy(), atol=1e-5)


def test_holov_cuts_its_crops_out_of_base_and_mosaic_together(
    encode: Callable[..., EncodedMedia], processor: Any, unsplit: Any
) -> None:
    image = noise((300, 120))
    whole = encode(image, "none", keep_ratio=1.0).positions
    pixel_values = processor.image_processor(images=image, return_tensors="pt")["pixel_values"][0]
    attention = tower_of(unsplit, pixel_values).attentions[-2].mean(1)[:, 0, 1:].flatten().numpy()[whole]
    media = encode(image, "holov", params={"crops": 2}, keep_tokens=12)
    half = (len(whole) + 1) // 2
    crops = [attention[:half], attention[half:]]
    means = [crop.mean() for crop in crops]
    first = int(12 * means[0] / sum(means) + (means[0] > means[1]))
    want = [*whole[np.argsort(-crops[0])[:first]], *whole[half + np.argsort(-crops[1])[: 12 - first]]]
    assert media.positions.tolist() == want


def test_hired_gives_the_base_tile_alpha_and_keeps_the_best_of_each_tile(
    encode: Callable[..., EncodedMedia], processor: Any, unsplit: Any
) -> None:
    image = noise((300, 120))
    pixel_values = processor.image_processor(images=image, return_tensors="pt")["pixel_values"][0]
    attention = tower_of(unsplit, pixel_values).attentions[-2].mean(1)[:, 0, 1:].numpy()
    for alpha in (0.25, 0.5):
        media = encode(image, "hired", params={"alpha": alpha}, keep_tokens=16)
        assert len(media.positions) == 16
        assert (media.positions < N).sum() == 16 * alpha
        for tile, positions in enumerate(media.layout.patch_positions()):
            kept = media.positions[np.isin(media.positions, positions)] - tile * N
            if len(kept):
                shown = positions - tile * N
                assert set(kept) == set(shown[np.argsort(-attention[tile][shown])[: len(kept)]])


def test_hired_after_a_method_with_the_same_requirements_but_for_tiles(
    towers: EncoderModel, encode: Callable[..., EncodedMedia]
) -> None:
    """HoloV leaves features in the cache without the outputs that HiRED allocates its budget by."""
    engine = EncoderEngine(towers, FeatureCache(2**20), max_batch_size=4, max_image_bytes=10**8, max_image_pixels=10**8)
    image = noise((300, 120))
    cached, positions = [], []
    for name in ("holov", "hired", "hired"):
        request = EncodeRequest((png(image),), (), PRUNERS[name].bind({}), Budget.count(16))
        ((media,),) = engine.run([engine.prepare(request)])
        cached.append(media.features_cached)
        positions.append(media.positions.tolist())
    assert cached == [False, False, True]
    assert positions[1] == positions[2] == encode(image, "hired", keep_tokens=16).positions.tolist()


@pytest.mark.parametrize("name", sorted(set(PRUNERS) - {"none"}))
@pytest.mark.parametrize("size", [(56, 56), (61, 47), (300, 120), (1000, 10)])
def test_max_tokens_holds_for_all_tiles_and_newlines(
    encode: Callable[..., EncodedMedia], name: str, size: tuple[int, int]
) -> None:
    image = noise(size)
    whole = encode(image, name, keep_ratio=1.0)
    total = len(whole.positions) + len(whole.newline_after)
    for most in (1, 3, 20, total - 1):
        media = encode(image, name, keep_ratio=1.0, max_tokens=most)
        assert 1 <= len(media.positions) <= most
        assert not len(media.newline_after)
    assert encode(image, name, keep_ratio=1.0, max_tokens=total).positions.tolist() == whole.positions.tolist()


def test_hired_counts_as_released_on_demand(encode: Callable[..., EncodedMedia]) -> None:
    image = noise((300, 120))
    released = encode(image, "hired", params={"fidelity": True}, keep_tokens=17)
    assert (released.positions < N).sum() == 8
    assert len(released.positions) <= 17


def test_flowcut_prunes_each_tile_with_its_padding_and_drops_the_padding_afterwards(
    towers: EncoderModel, encode: Callable[..., EncodedMedia]
) -> None:
    image = noise((112, 60))
    media = encode(image, "flowcut", keep_ratio=0.5)
    bound = PRUNERS["flowcut"].bind({})
    assert bound.requirements.in_tower is not None
    inputs = towers.media.image(image)
    tiles = towers.vision_tower(towers.pixel_values([inputs]), frozenset(), bound.requirements.in_tower(8))  # type: ignore[attr-defined]
    shown = set(np.concatenate(inputs.layout.patch_positions()).tolist())
    want = {
        n: row
        for t in range(tiles.num_inputs)
        for n, row in zip(tiles.kept_in_tower[t] + t * N, tiles.hidden[t], strict=True)
    }
    want = {int(number): row for number, row in want.items() if int(number) in shown}
    assert set(media.positions.tolist()) == set(want)
    assert len(want) < 5 * 8
    for position, row in zip(media.positions.tolist(), media.features, strict=True):
        np.testing.assert_allclose(row, want[position].numpy(), atol=1e-5)


def test_the_hubs_layout_in_half_precision_loads_and_nothing_but_the_vision_tower_is_read(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    stored = load_file(folders[0] / "model.safetensors")
    tower = {name: tensor.bfloat16() for name, tensor in stored.items() if name.startswith("vision_tower.")}
    hub, saved = (Path(shutil.copytree(folders[0], tmp_path / name)) for name in ("hub", "saved"))
    save_file(
        {name.replace("vision_tower.", "vision_tower.vision_model."): tensor for name, tensor in tower.items()},
        hub / "model.safetensors",
    )
    save_file({f"model.{name}": tensor.float() for name, tensor in tower.items()}, saved / "model.safetensors")
    got, want = (load(str(one), LoadOptions(text_tower=str(folders[1]), device="cpu")) for one in (hub, saved))
    inputs = got.media.image(noise((60, 60)))
    assert torch.equal(
        tower_features(got.encode([inputs], frozenset())[0])[1].hidden,
        tower_features(want.encode([inputs], frozenset())[0])[1].hidden,
    )


def test_the_hubs_processor_config_is_read(folders: tuple[Path, Path], towers: EncoderModel, tmp_path: Path) -> None:
    hub = Path(shutil.copytree(folders[0], tmp_path / "hub"))
    (hub / "processor_config.json").unlink()
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    published = {
        "aspect_ratio_setting": "anyres",
        "crop_size": {"height": 56, "width": 56},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_grid_pinpoints": llava_next.CANVASES,
        "image_mean": mean,
        "image_processor_type": "LlavaNextImageProcessor",
        "image_std": std,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": 56},
    }
    (hub / "preprocessor_config.json").write_text(json.dumps(published))
    other = load(str(hub), LoadOptions(text_tower=str(folders[1]), device="cpu"))
    assert torch.equal(
        other.pixel_values([other.media.image(noise((300, 120)))]),
        towers.pixel_values([towers.media.image(noise((300, 120)))]),
    )


def _processor(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "processor_config.json"
        content = json.loads(path.read_text())
        content["image_processor"] |= values
        path.write_text(json.dumps(content))

    return change


def _config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([_config(vision_feature_layer=-1)], "reads vision layer -1 .* family llava_next reads layer -2"),
        ([_config(image_grid_pinpoints=[[56, 112]])], "other image_grid_pinpoints than its config"),
        (
            [_config(image_grid_pinpoints=[[60, 56]]), _processor(image_grid_pinpoints=[[60, 56]])],
            "sides must be multiples of 56",
        ),
        ([_processor(size={"shortest_edge": 60})], "makes tiles of another size"),
        ([_processor(crop_size={"height": 28, "width": 28})], "its vision tower takes"),
    ],
)
def test_checkpoints_that_cannot_be_run_are_refused_in_one_sentence(
    changes: list[Callable[[Path], None]], message: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    changed = Path(shutil.copytree(folders[0], tmp_path / "changed"))
    for change in changes:
        change(changed)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(str(changed), LoadOptions(text_tower=str(folders[1]), device="cpu"))
    assert str(tmp_path) not in str(caught.value)
