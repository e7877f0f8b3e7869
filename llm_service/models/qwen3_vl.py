"""Qwen3-VL (arXiv 2511.21631): visual tokens arrive with the width of the language model, and with DeepStack planes.

Plane i of a token is added to its hidden state after layer i of the language model (DeepStack, arXiv 2406.04334).
Position ids are those of Qwen2.5-VL, on axes that the rotary embedding interleaves. A video is a row of frames: the
prompt has the time of each frame as text, and a placeholder for each frame.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3VLConfig, Qwen3VLTextModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from fovea.modeling.transfers import to_device
from llm_service.models.base import ModelInputs
from llm_service.models.placeholders import expand_placeholders
from llm_service.models.qwen2_5_vl import QwenLanguageModel
from llm_service.prompts import Prompt, VisualTokens

__all__ = ["Qwen3LanguageModel"]


class Qwen3LanguageModel(QwenLanguageModel):
    """Language model of a Qwen3-VL checkpoint. See `VisionLanguageModel` for the attributes."""

    family = "qwen3_vl"
    config_class = Qwen3VLConfig

    def __init__(self, config: Any, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(config, device, dtype)
        self.num_planes = len(config.vision_config.deepstack_visual_indexes)
        self.frame_token_ids = (config.vision_start_token_id, config.video_token_id, config.vision_end_token_id)

    @classmethod
    def _empty_causal_lm(cls, config: Any, attn_implementation: str, dtype: torch.dtype) -> Any:
        text_model = _TextModel._from_config(config.text_config, attn_implementation=attn_implementation, dtype=dtype)
        return _CausalLM(text_model, dtype)

    def embed(self, prompt: Prompt) -> ModelInputs:
        """Embeds a prompt: each placeholder is replaced by the visual tokens of its image or frame.

        Returns:
            L = `prompt.num_tokens` embeddings with the position ids of the unpruned prompt, and their planes.
        """
        inputs = super().embed(prompt)
        placeholders = prompt.placeholders(self.visual_token_ids)
        no_planes = inputs.inputs_embeds.new_zeros(len(prompt.input_ids), self.num_planes, self.visual_hidden_size)
        visual = [self.embed_planes(tokens).transpose(0, 1) for tokens in prompt.visual_tokens]
        planes = expand_placeholders(no_planes, placeholders, visual).transpose(0, 1)
        return ModelInputs(inputs.inputs_embeds, inputs.position_ids, inputs.next_position_id, planes)

    def embed_planes(self, tokens: VisualTokens) -> Tensor:
        """[P, `tokens.num_tokens`, H] DeepStack planes, unchanged."""
        planes = torch.stack([torch.from_numpy(plane) for plane in tokens.planes])
        return to_device(planes, self.device).to(self.dtype)


class _TextModel(Qwen3VLTextModel):
    """transformers' text model for planes that cover the whole prompt, so that no mask of visual tokens is read."""

    def _deepstack_process(self, hidden_states: Tensor, visual_pos_masks: None, visual_embeds: Tensor) -> Tensor:
        """The hidden states after a layer, with the plane of that layer added."""
        return hidden_states + visual_embeds


class _LanguageModel(nn.Module):
    """Owner of the text model under the name that transformers gives it in checkpoints."""

    def __init__(self, text_model: Qwen3VLTextModel) -> None:
        super().__init__()
        self.language_model = text_model


class _CausalLM(nn.Module):
    """Text model and output embeddings. transformers' own class passes on no planes: it computes them from pixels."""

    def __init__(self, text_model: Qwen3VLTextModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = text_model.config
        self.model = _LanguageModel(text_model)
        self.lm_head = nn.Linear(self.config.hidden_size, self.config.vocab_size, bias=False, dtype=dtype)

    def forward(self, *, planes: Tensor | None = None, logits_to_keep: int | Tensor = 0, **inputs: Any) -> Any:
        """Logits of the tokens `logits_to_keep`: the last ones, or those at given indices, as in transformers.

        Args:
            planes: [P, b, L, H] DeepStack planes; None in decoding steps.
            logits_to_keep: Number of tokens, 0 for all, or indices.
            inputs: Arguments of the text model.
        """
        hidden = self.model.language_model(deepstack_visual_embeds=planes, **inputs).last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutputWithPast(logits=self.lm_head(hidden[:, kept]))

    def get_input_embeddings(self) -> nn.Module:
        """Token embeddings."""
        embeddings: nn.Module = self.model.language_model.embed_tokens
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        """The layer that gives the logits."""
        return self.lm_head

    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())
