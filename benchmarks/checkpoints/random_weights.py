"""Random weights, drawn on the device of a model."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

__all__ = ["DEVIATION", "draw_all_weights", "draw_weights"]

DEVIATION: Final = 0.02  # as CLIP and Llama are initialized


def draw_weights(module: nn.Module) -> None:
    """Replaces all parameters: ones in norms, zeros as biases, else a normal distribution."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            # New memory, as that of a checkpoint is mapped from its file.
            drawn = torch.empty_like(parameter)
            if name == "bias":
                drawn.zero_()
            elif name == "weight" and parameter.ndim == 1:  # of a norm
                drawn.fill_(1)
            else:
                drawn.normal_(0, DEVIATION)
            parameter.data = drawn


def draw_all_weights(model: object) -> None:
    """Replaces all parameters of a service's model, whose modules are its attributes; see `draw_weights`."""
    for value in vars(model).values():
        if isinstance(value, nn.Module):
            draw_weights(value)
