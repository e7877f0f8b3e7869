"""Questions for the families of Qwen, split over both services, and the unsplit model fed with the kept tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from PIL import Image

from encoder_service.media.videos import FrameList
from encoder_service.models.media_features import VideoFrames
from llm_service.prompts import Prompt
from tests.unit.encoder_service.coarse_images import frames, image
from tests.unit.families.services import NEW_TOKENS, Answer, Services, png

__all__ = ["SEVERAL", "Asked", "QwenSplit", "fed_with_kept"]

QUESTION: Final = "what colour is the red circle?"


@dataclass(frozen=True)
class Asked:
    """Images, then videos, then the question."""

    images: Sequence[Image.Image] = ()
    videos: Sequence[Sequence[Image.Image]] = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        content = [{"type": "image"} for _ in self.images] + [{"type": "video"} for _ in self.videos]
        return [{"role": "user", "content": [*content, {"type": "text", "text": QUESTION}]}]


SEVERAL: Final = (
    Asked(videos=[frames(4, (112, 84))]),
    Asked(videos=[frames(7, (200, 150))]),
    Asked([image((112, 84)), image((300, 99), 1), image((60, 60), 2)]),
    Asked([image((112, 84))], [frames(5, (64, 48)), frames(2, (120, 90))]),
)


@dataclass(frozen=True)
class QwenSplit:
    """The services and the unsplit model. Videos have `seconds_per_frame`."""

    services: Services
    unsplit: Any
    image_processor: Any
    seconds_per_frame: float

    def text(self, asked: Asked) -> str:
        tokenizer = self.services.tokenizer
        return str(tokenizer.apply_chat_template(asked.messages, tokenize=False, add_generation_prompt=True))

    def prompt(self, asked: Asked, pruner: str = "none", **options: Any) -> Prompt:
        """The prompt as the LLM service reads it."""
        videos = [FrameList(tuple(map(png, one)), self.seconds_per_frame) for one in asked.videos]
        tokens = self.services.visual_tokens(asked.images, videos, question=QUESTION, pruner=pruner, **options)
        return self.services.prompt(self.text(asked), tokens)

    def media(self, asked: Asked) -> dict[str, Any]:
        """Inputs of the unsplit model for images and videos; the pixels of videos are the encoder's."""
        inputs: dict[str, Any] = {}
        if asked.images:
            inputs |= self.image_processor(images=list(asked.images), return_tensors="pt")
        if asked.videos:
            encoder = self.services.encoder
            clips = [encoder.media.video(VideoFrames(tuple(one), self.seconds_per_frame)) for one in asked.videos]
            inputs["pixel_values_videos"] = encoder.pixel_values(clips)
            lay = [one.layout for one in clips]
            inputs["video_grid_thw"] = torch.tensor([[one.num_inputs, 2 * one.rows, 2 * one.columns] for one in lay])
        return inputs

    def text_inputs(self, ids: Sequence[int]) -> dict[str, torch.Tensor]:
        """Inputs of the unsplit model for the ids of a whole prompt."""
        input_ids, model = torch.tensor([ids]), self.services.model
        kinds = torch.where(input_ids == model.image_token_id, 1, 0)
        kinds[input_ids == model.video_token_id] = 2
        return {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "mm_token_type_ids": kinds,
        }


@torch.inference_mode()
def fed_with_kept(split: QwenSplit, inputs: dict[str, Any], prompt: Prompt) -> Answer:
    """Answer of the unsplit language model on its whole sequence without the dropped tokens.

    Args:
        split: The services and the unsplit model.
        inputs: Inputs of the unsplit model.
        prompt: The same prompt with kept tokens alone.
    """
    ids, model = inputs["input_ids"][0], split.services.model
    names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
    position_ids, _ = split.unsplit.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], **{name: inputs[name] for name in names if name in inputs}
    )
    embeds = split.unsplit.get_input_embeddings()(ids)
    planes = embeds.new_zeros(model.num_planes, *embeds.shape)
    kept_tokens: list[int] = []
    index, tokens = 0, iter(prompt.visual_tokens)
    while index < len(ids):
        if ids[index] not in model.visual_token_ids:
            kept_tokens.append(index)
            index += 1
            continue
        one = next(tokens)
        at = (index + one.positions).tolist()
        embeds[at] = torch.from_numpy(one.features)
        for plane, values in zip(planes, one.planes, strict=True):
            plane[at] = torch.from_numpy(values)
        kept_tokens += at
        index += math.prod(one.grid)
    deepstack: dict[str, Any] = {}
    if model.num_planes:
        is_visual = torch.isin(ids[kept_tokens], torch.tensor(model.visual_token_ids))[None]
        visual_planes = list(planes[:, kept_tokens][:, is_visual[0]])
        deepstack = {"visual_pos_masks": is_visual, "deepstack_visual_embeds": visual_planes}
    cache, following = None, int(position_ids[0, 0, -1]) + 1
    embeds, position_ids = embeds[kept_tokens][None], position_ids[:, :, kept_tokens]
    first, answer = None, list[int]()
    while True:
        output = split.unsplit.model.language_model(
            inputs_embeds=embeds, position_ids=position_ids, past_key_values=cache, use_cache=True, **deepstack
        )
        logits = split.unsplit.lm_head(output.last_hidden_state[0, -1])
        first = logits if first is None else first
        answer.append(int(logits.argmax()))
        if len(answer) == NEW_TOKENS or answer[-1] in split.services.eos_token_ids:
            return first, answer
        cache, embeds = output.past_key_values, split.unsplit.get_input_embeddings()(torch.tensor([answer[-1:]]))
        position_ids, following, deepstack = torch.full((3, 1, 1), following), following + 1, {}
