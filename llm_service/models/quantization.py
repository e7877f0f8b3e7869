"""Quantization of language models to 8 or 4 bits with bitsandbytes.

The schemes are LLM.int8() (arXiv 2208.07339) and NF4 (arXiv 2305.14314). Weights are quantized one layer at a time, so
that the device never holds the model in full precision. Embeddings, norms, the projector and lm_head are not quantized.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn

from fovea.modeling.errors import CheckpointError
from fovea.processes.extras import install_command

__all__ = ["QUANTIZATIONS", "quantize"]


def _int8(bnb: Any, linear: nn.Linear, device: torch.device) -> nn.Module:
    layer: nn.Module = bnb.nn.Linear8bitLt(
        linear.in_features, linear.out_features, linear.bias is not None, has_fp16_weights=False, device="meta"
    )
    layer.weight = bnb.nn.Int8Params(linear.weight.data.clone(), requires_grad=False, has_fp16_weights=False).to(device)
    return layer


def _nf4(bnb: Any, linear: nn.Linear, device: torch.device) -> nn.Module:
    layer: nn.Module = bnb.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        linear.bias is not None,
        compute_dtype=linear.weight.dtype,
        quant_type="nf4",
        device="meta",
    )
    layer.weight = bnb.nn.Params4bit(linear.weight.data.clone(), requires_grad=False, quant_type="nf4").to(device)
    return layer


QUANTIZATIONS: Final[dict[str, Callable[[Any, nn.Linear, torch.device], nn.Module]]] = {"int8": _int8, "nf4": _nf4}


def quantize(causal_lm: Any, scheme: str, device: torch.device) -> None:
    """Replaces the linear layers of a language model except lm_head, in place, by quantized ones.

    Args:
        causal_lm: Language model with its weights on the CPU.
        scheme: Name in QUANTIZATIONS.
        device: Device of the quantized layers; other layers are not moved.

    Raises:
        CheckpointError: bitsandbytes is not installed or has no kernels for this device.
    """
    try:
        bnb = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise CheckpointError(
            f"quantization {scheme} needs the package bitsandbytes, which is not installed:"
            f" {install_command('quantization')}; accepted without it: none"
        ) from error
    quantize_layer = QUANTIZATIONS[scheme]
    head = causal_lm.get_output_embeddings()
    names = [name for name, module in causal_lm.named_modules() if type(module) is nn.Linear and module is not head]
    for name in names:
        linear = causal_lm.get_submodule(name)
        try:
            quantized = quantize_layer(bnb, linear, device)
        except (RuntimeError, NotImplementedError) as error:
            raise CheckpointError(f"quantization {scheme} is not possible on {device.type}: {error}") from error
        if linear.bias is not None:
            quantized.bias = nn.Parameter(linear.bias.data.to(device), requires_grad=False)
        causal_lm.set_submodule(name, quantized.eval())
