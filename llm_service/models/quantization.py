"""Language models in 8 or 4 bits, by bitsandbytes where it is installed.

Weights are quantised one layer at a time as they are read, so that memory never holds the model in full precision:
LLM.int8() (arXiv 2208.07339) or NF4 (arXiv 2305.14314). Embeddings, norms, the projector and lm_head stay as they are.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn

from fovea.modeling.errors import CheckpointError

__all__ = ["QUANTIZATIONS", "quantize"]


def _int8(bnb: Any, linear: nn.Linear, device: torch.device) -> nn.Module:
    made: nn.Module = bnb.nn.Linear8bitLt(
        linear.in_features, linear.out_features, linear.bias is not None, has_fp16_weights=False, device="meta"
    )
    made.weight = bnb.nn.Int8Params(linear.weight.data.clone(), requires_grad=False, has_fp16_weights=False).to(device)
    return made


def _nf4(bnb: Any, linear: nn.Linear, device: torch.device) -> nn.Module:
    made: nn.Module = bnb.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        linear.bias is not None,
        compute_dtype=linear.weight.dtype,
        quant_type="nf4",
        device="meta",
    )
    made.weight = bnb.nn.Params4bit(linear.weight.data.clone(), requires_grad=False, quant_type="nf4").to(device)
    return made


QUANTIZATIONS: Final[dict[str, Callable[[Any, nn.Linear, torch.device], nn.Module]]] = {"int8": _int8, "nf4": _nf4}


def quantize(causal_lm: Any, scheme: str, device: torch.device) -> None:
    """Replaces the linear layers of a loaded language model, in place, but for lm_head, by quantised ones on `device`.

    Args:
        causal_lm: Its weights on the CPU.
        scheme: A name in QUANTIZATIONS.
        device: Where the quantised layers go; the other layers stay where they are.

    Raises:
        CheckpointError: bitsandbytes is not installed, or has no kernels for this device.
    """
    try:
        bnb = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise CheckpointError(
            f"quantization {scheme} needs the package bitsandbytes, which is not installed; accepted without it: none"
        ) from error
    make = QUANTIZATIONS[scheme]
    head = causal_lm.get_output_embeddings()
    names = [name for name, m in causal_lm.named_modules() if type(m) is nn.Linear and m is not head]
    for name in names:
        linear = causal_lm.get_submodule(name)
        try:
            quantised = make(bnb, linear, device)
        except (RuntimeError, NotImplementedError) as error:
            raise CheckpointError(f"quantization {scheme} is not possible on {device.type}: {error}") from error
        if linear.bias is not None:
            quantised.bias = nn.Parameter(linear.bias.data.to(device), requires_grad=False)
        causal_lm.set_submodule(name, quantised.eval())
