"""Video-LLaVA split over both services gives the answers of the unsplit model of transformers.

The services' own code from image and video files to token ids, in one process, with the messages of the wire in
between. transformers' video processor needs torchvision. Its image processor, which does not, makes the same numbers
where nothing is resized: clips have the size of the tower here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import VideoLlavaForConditionalGeneration, VideoLlavaImageProcessor

from benchmarks.checkpoints.tiny import video_llava
from benchmarks.checkpoints.tiny.clips import clip_file, clip_frames
from encoder_service.engine.request_media import EncodeRequest
from encoder_service.media.video_limits import VideoLimits
from encoder_service.media.videos import FrameList, VideoFile, VideoItem, decode
from encoder_service.models import load as load_encoder
from encoder_service.models.base import LoadOptions
from encoder_service.models.media_features import VideoFrames
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.tower_outputs import SALIENCY_LAST
from fovea.budget import Budget
from fovea.modeling.errors import CheckpointError
from fovea.v1 import tensor_pb2
from llm_service.models import load_model
from llm_service.prompts import Prompt
from llm_service.pruners import PRUNERS as LLM_PRUNERS
from tests.single_features import tower_features
from tests.unit.encoder_service.frame_samplings import EvenSampling
from tests.unit.families.services import Services, assert_same, engine_of, generate, noise, png

PATCHES = 16  # patches of a frame
SIZE = (56, 56)
SHAPES = [(56, 56), (112, 112), (60, 52), (52, 60), (168, 56), (61, 47), (113, 56), (97, 131), (333, 217), (640, 480)]
SHAPES += [(5, 7), (57, 56), (999, 331)]


def frame_list(images: Sequence[Image.Image]) -> FrameList:
    return FrameList(tuple(map(png, images)), 0.25)


@dataclasses.dataclass(frozen=True)
class Split:
    """The services and the unsplit model."""

    services: Services
    unsplit: Any
    processor: Any

    def visual_tokens(
        self, images: Sequence[Image.Image] = (), videos: Sequence[VideoItem] = (), pruner: str = "none", **how: Any
    ) -> list[tensor_pb2.VisualTokens]:
        """Visual tokens in the response of the encoder service."""
        question = "what happens in the video?"
        return self.services.visual_tokens(images, videos, question=question, pruner=pruner, **how)

    def prompt(self, text: str, tokens: Sequence[tensor_pb2.VisualTokens]) -> Prompt:
        """The prompt as the LLM service reads it."""
        return self.services.prompt(text, tokens)

    def pixel_values(self, images: Sequence[Image.Image]) -> torch.Tensor:
        made = self.processor(images=list(images), return_tensors="pt", return_legacy_image_output=False)
        values: torch.Tensor = made["pixel_values"]
        return values

    def whole_inputs(
        self, text: str, images: Sequence[Image.Image] = (), videos: Sequence[Sequence[Image.Image]] = ()
    ) -> dict[str, Any]:
        """Inputs of the unsplit model as the processor of transformers makes them, placeholders repeated."""
        for frames in videos:
            text = text.replace("<video>", "<frame>" * (len(frames) * (PATCHES + 1)), 1)
        text = text.replace("<image>", "<image>" * PATCHES).replace("<frame>", "<video>")
        inputs = dict(self.services.tokenizer(text, return_tensors="pt"))
        if images:
            inputs["pixel_values"] = self.pixel_values(images)
        if videos:
            inputs["pixel_values_videos"] = torch.stack([self.pixel_values(frames) for frames in videos])
        return inputs

    @torch.inference_mode()
    def projected(self, images: Sequence[Image.Image], tower: str) -> torch.Tensor:
        """[images, 1 + PATCHES, H] visual tokens before the unsplit language model, CLS first."""
        hidden = getattr(self.unsplit.model, tower)(self.pixel_values(images), output_hidden_states=True)
        rows: torch.Tensor = self.unsplit.model.multi_modal_projector(hidden.hidden_states[-2])
        return rows

    def assert_same(self, prompt: Prompt, **inputs: Any) -> None:
        assert_same(self.services.answer(prompt), generate(self.unsplit, **inputs))

    def spliced(self, prompt: Prompt, rows: Sequence[torch.Tensor]) -> dict[str, Any]:
        """The unsplit model's inputs with `rows` in place of the tokens of images and videos."""
        embed = self.unsplit.get_input_embeddings()
        config, parts, rest = self.unsplit.config, [], iter(rows)
        for token in prompt.input_ids.tolist():
            is_visual = token in (config.image_token_id, config.video_token_id)
            parts.append(next(rest) if is_visual else embed(torch.tensor([token])))
        embeds = torch.cat(parts)[None].detach()
        return {"inputs_embeds": embeds, "attention_mask": torch.ones(embeds.shape[:2], dtype=torch.long)}

    def chat(self, num_images: int, num_videos: int) -> str:
        content = [*[{"type": "image"}] * num_images, *[{"type": "video"}] * num_videos]
        content.append({"type": "text", "text": "what happens?"})
        turn = [{"role": "user", "content": content}]
        text: str = self.services.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        return text


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    root = tmp_path_factory.mktemp("video_llava")
    folder, text_tower = video_llava.write(root / "model"), video_llava.write_text_tower(root / "text")
    return Split(
        Services.load(folder, text_tower),
        VideoLlavaForConditionalGeneration.from_pretrained(folder).eval(),
        VideoLlavaImageProcessor.from_pretrained(folder),
    )


@pytest.mark.parametrize("size", SHAPES)
def test_one_image(size: tuple[int, int], split: Split) -> None:
    image = noise(size)
    encoder = split.services.encoder
    difference = encoder.pixel_values([encoder.media.image(image)]) - split.pixel_values([image])
    assert difference.abs().max() <= 1e-6
    text = split.chat(1, 0)
    split.assert_same(split.prompt(text, split.visual_tokens([image])), **split.whole_inputs(text, [image]))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_video_file_of_sampled_frames(seed: int, split: Split) -> None:
    file = clip_file(20, seed=seed, size=SIZE)
    frames = decode(VideoFile(file, 20), EvenSampling(20), VideoLimits()).frames
    sampled = [frames[i] for i in (0, 2, 5, 7, 10, 12, 15, 17)]
    text = split.chat(0, 1)
    (tokens,) = split.visual_tokens(videos=[VideoFile(file)])
    assert tokens.kind == tensor_pb2.VISUAL_KIND_VIDEO
    assert (tokens.grid.frames, tokens.grid.rows, tokens.grid.columns, tokens.grid.cls_per_frame) == (8, 4, 4, 1)
    assert len(tokens.positions) == 8 * 17
    assert tokens.positions[:18] == [128, *range(16), 129]
    split.assert_same(split.prompt(text, [tokens]), **split.whole_inputs(text, videos=[sampled]))


def test_images_and_videos_in_one_question(split: Split) -> None:
    images, clips = (
        [noise((61, 47)), noise((100, 90), 1)],
        [clip_frames(8, seed=2, size=SIZE), clip_frames(8, seed=3, size=SIZE)],
    )
    tokens = split.visual_tokens(images, [frame_list(clip) for clip in clips])
    for text in (split.chat(2, 2), "first <image> and <image> then <video><video> end"):
        split.assert_same(split.prompt(text, tokens), **split.whole_inputs(text, images, clips))


@pytest.mark.parametrize("size", [(144, 144), (96, 80), (80, 100), (320, 57), (64, 300), (57, 56)])
def test_frames_are_resized_like_images_but_for_rounding(size: tuple[int, int], split: Split) -> None:
    """torch and Pillow round an antialiased resize differently."""
    clip = clip_frames(3, size=size)
    encoder = split.services.encoder
    made = encoder.pixel_values([encoder.media.video(VideoFrames(tuple(clip)))])
    grey_levels = (made - split.pixel_values(clip)).abs() * 255 * 0.2613
    assert grey_levels.max() < 5
    assert grey_levels.mean() < 0.1


@pytest.mark.parametrize("num_frames", [1, 3, 12])
def test_another_number_of_frames(num_frames: int, split: Split) -> None:
    clip = clip_frames(num_frames, size=SIZE)
    text = split.chat(0, 1)
    tokens = split.visual_tokens(videos=[frame_list(clip)])
    split.assert_same(split.prompt(text, tokens), **split.whole_inputs(text, videos=[clip]))


@pytest.mark.parametrize("joins_frames", [False, True])
@pytest.mark.parametrize("pruner", ["hired", "holov", "random"])
def test_pruned_is_the_unsplit_model_fed_with_the_kept_positions(pruner: str, joins_frames: bool, split: Split) -> None:
    image, clip = noise((60, 60)), clip_frames(8, size=SIZE)
    params = {"keep_ratio": 1 / 4}
    tokens = split.visual_tokens([image], [frame_list(clip)], pruner, joins_frames=joins_frames, **params)
    if pruner == "random":  # dropped tokens are merged: positions are compared, features are those that were sent
        with torch.inference_mode():
            rows = [
                split.unsplit.model.multi_modal_projector(
                    torch.frombuffer(bytearray(one.features.data), dtype=torch.float32).view(len(one.positions), -1)
                )
                for one in tokens
            ]
    else:
        by_place = [split.projected([image], "image_tower")[:, 1:], split.projected(clip, "video_tower")[:, 1:]]
        rows = [all_rows.flatten(0, 1)[list(one.positions)] for all_rows, one in zip(by_place, tokens, strict=True)]
    frames = np.bincount(np.array(tokens[1].positions) // PATCHES, minlength=8)
    assert len(tokens[0].positions) == 4
    assert frames.sum() == 32
    if not joins_frames:
        assert frames.tolist() == [4] * 8
    elif pruner == "hired":
        assert frames.max() > 4 > frames.min()
    prompt = split.prompt(split.chat(1, 1), tokens)
    split.assert_same(prompt, **split.spliced(prompt, rows))


@pytest.mark.parametrize("pruner", PRUNERS)
def test_every_method_keeps_its_share_of_every_frame(pruner: str, split: Split) -> None:
    (tokens,) = split.visual_tokens(videos=[frame_list(clip_frames(8, size=SIZE))], pruner=pruner, keep_ratio=0.5)
    counts = np.bincount(np.array(tokens.positions) // PATCHES).tolist()
    assert counts == ([8] * 8 if pruner != "none" else [PATCHES] * 8 + [8])  # positions after the patches: CLS tokens


def test_with_one_budget_for_the_whole_video_all_frames_compete(split: Split) -> None:
    clip = frame_list(clip_frames(8, seed=4, size=SIZE))
    (tokens,) = split.visual_tokens(videos=[clip], pruner="cls", keep_tokens=20, joins_frames=True)
    frames = split.services.encoder.media.video(decode(clip, EvenSampling(8), VideoLimits()))
    (features,) = split.services.encoder.encode([frames], {SALIENCY_LAST})
    saliency = torch.cat([part.outputs[SALIENCY_LAST] for part in tower_features(features)])
    assert sorted(tokens.positions) == sorted(saliency.argsort(descending=True, stable=True)[:20].tolist())


def test_images_and_videos_share_a_batch_and_the_cache(split: Split) -> None:
    engine = engine_of(split.services.encoder, cache_bytes=2**24)
    bound = PRUNERS["desap"].bind({})
    ids = tuple(split.services.text_tokenizer("where is the circle?")["input_ids"])
    clip, image = frame_list(clip_frames(8, size=SIZE)), png(noise((60, 60)))
    requests = [
        EncodeRequest((image,), ids, bound, Budget.ratio(0.5)),
        EncodeRequest((), ids, bound, Budget.ratio(0.5), videos=(clip,)),
        EncodeRequest((image,), ids, bound, Budget.ratio(0.5), videos=(clip,)),
    ]
    alone, clips, both = engine.run([engine.prepare(request) for request in requests])
    assert not isinstance(both, Exception)
    np.testing.assert_array_equal(both[0].features, alone[0].features)
    np.testing.assert_array_equal(both[1].features, clips[0].features)
    (again,) = engine.run([engine.prepare(requests[2])])
    assert [one.features_cached for one in again] == [True, True]
    np.testing.assert_array_equal(again[1].features, both[1].features)
    other = EncodeRequest((), ids, bound, Budget.ratio(1.0), videos=(clip,))
    (whole,) = engine.run([engine.prepare(other)])
    assert whole[0].features_cached
    assert len(whole[0].positions) == 8 * 17


@pytest.mark.parametrize("name", LLM_PRUNERS)
async def test_pruners_inside_the_language_model_leave_cls_rows(name: str, split: Split) -> None:
    prompt = split.prompt(split.chat(0, 1), split.visual_tokens(videos=[frame_list(clip_frames(8, size=SIZE))]))
    services = split.services
    whole = await services.answer_pruned_inside(prompt, name, 1.0)
    assert list(whole.token_ids) == services.answer(prompt)[1][:8]
    by_layer = (await services.answer_pruned_inside(prompt, name, 0.6)).visual_tokens_by_layer
    assert by_layer[0] == 8 * PATCHES
    assert by_layer[-1] < by_layer[0]


def test_checkpoints_of_other_layouts_and_dtypes(split: Split, tmp_path: Path) -> None:
    folder = video_llava.write(tmp_path / "model")
    text_tower = video_llava.write_text_tower(tmp_path / "text", model_type="LanguageBindVideo")
    tensors = load_file(folder / "model.safetensors")
    hub = {key.replace("_tower.", "_tower.vision_model."): tensor.to(torch.float16) for key, tensor in tensors.items()}
    save_file(hub, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = load_encoder(str(folder), LoadOptions(text_tower=str(text_tower), device="cpu"))
    frames = decode(frame_list(clip_frames(8, size=SIZE)), EvenSampling(8), VideoLimits())
    got, want = (one.encode([one.media.video(frames)], set())[0] for one in (encoder, split.services.encoder))
    for part, other in zip(tower_features(got), tower_features(want), strict=True):
        assert torch.nn.functional.cosine_similarity(part.hidden, other.hidden).min() > 0.999
    model = load_model(folder, device=torch.device("cpu"), dtype="float32", attn_implementation="sdpa")
    assert model.video_token_id == split.services.model.video_token_id == 4

    save_file(
        {key: tensor for key, tensor in tensors.items() if not key.startswith("video_tower")},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(CheckpointError, match="no video tower"):
        load_encoder(str(folder), LoadOptions(text_tower=str(text_tower), device="cpu"))
