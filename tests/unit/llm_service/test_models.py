"""Loading of checkpoints: only the needed tensors, in every layout, with a clear error for each defect."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MistralConfig, Qwen2Config

from fovea.modeling.compute import resolve_device
from fovea.modeling.errors import CheckpointError
from llm_service.models import load_model, load_visual_embedder
from llm_service.prompts import Prompt, VisualTokens
from tests.dispatched_operations import operations_of
from tests.unit.llm_service.conftest import make_llava, save

PROMPT = Prompt(
    np.array([1, 60, 4, 61]),
    (VisualTokens(np.full((2, 32), 0.5, np.float32), np.array([0, 3]), (1, 4, 4)),),
)


def load(checkpoint, **kwargs):
    options = {"device": torch.device("cpu"), "dtype": "auto", "attn_implementation": "sdpa", **kwargs}
    return load_model(checkpoint, **options)


@torch.inference_mode()
def last_logits(model):
    inputs = model.embed(PROMPT)
    return model.causal_lm(inputs_embeds=inputs.inputs_embeds[None]).logits[0, -1]


def edit_config(checkpoint, **changes):
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(checkpoint, change):
    path = checkpoint / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def test_placeholders_are_replaced_by_projected_tokens(checkpoint, llava):
    model = load(checkpoint)
    with torch.inference_mode():
        inputs = model.embed(PROMPT)
        projected = llava.model.multi_modal_projector(torch.full((2, 32), 0.5))
        text = llava.get_input_embeddings()(torch.tensor([1, 60, 61]))
    assert torch.allclose(inputs.inputs_embeds, torch.cat([text[:2], projected, text[2:]]))
    assert inputs.position_ids.tolist() == [0, 1, 2, 3, 4]


def test_the_visual_embedder_loads_without_the_language_model(checkpoint, copy_of):
    copy = copy_of(checkpoint)
    edit_weights(copy, lambda tensors: {name: t for name, t in tensors.items() if name.startswith("multi_modal_pro")})
    embedder = load_visual_embedder(copy, device=torch.device("cpu"), dtype="auto")
    (tokens,) = PROMPT.visual_tokens
    with torch.inference_mode():
        assert torch.equal(embedder.embed_visual(tokens), load(checkpoint).embed_visual(tokens))
    assert (embedder.vocab_size, embedder.image_token_id, embedder.visual_hidden_size) == (288, 4, 32)
    assert (embedder.device.type, embedder.dtype) == ("cpu", torch.float32)


def test_the_vision_tower_is_not_read(checkpoint, copy_of):
    """Its shard is not a safetensors file, and loading still works."""
    copy = copy_of(checkpoint)
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    weight_map = {}
    for name in tensors:
        shard = 3 if name.startswith("vision_tower.") else 1 + len(weight_map) % 2
        weight_map[name] = f"model-{shard:05}-of-00003.safetensors"
    for shard in (1, 2):
        file_name = f"model-{shard:05}-of-00003.safetensors"
        save_file({n: t for n, t in tensors.items() if weight_map[n] == file_name}, copy / file_name)
    (copy / "model-00003-of-00003.safetensors").write_bytes(b"not a tensor in sight")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    model = load(copy)
    assert torch.equal(last_logits(model), last_logits(load(checkpoint)))
    assert not any("vision" in name for name, _ in model.causal_lm.named_parameters())


def test_the_layout_of_transformers_5_is_read(checkpoint, copy_of, llava):
    copy = copy_of(checkpoint)
    edit_weights(copy, lambda _: {name: tensor.clone() for name, tensor in llava.state_dict().items()})
    assert "model.language_model.norm.weight" in load_file(copy / "model.safetensors")
    assert torch.equal(last_logits(load(copy)), last_logits(load(checkpoint)))


def test_tied_embeddings_need_no_head(checkpoint, copy_of):
    copy = copy_of(checkpoint)
    text_config = json.loads((copy / "config.json").read_text())["text_config"] | {"tie_word_embeddings": True}
    edit_config(copy, text_config=text_config)
    edit_weights(copy, lambda tensors: {n: t for n, t in tensors.items() if "lm_head" not in n})
    model = load(copy)
    assert torch.equal(model.causal_lm.lm_head.weight, model.causal_lm.get_input_embeddings().weight)


@pytest.mark.parametrize("kind", [MistralConfig, Qwen2Config])
def test_text_models_with_llamas_structure_are_served(kind, tokenizer, tmp_path):
    unsplit = make_llava(tokenizer.get_vocab_size(), text_config=kind)
    model = load(save(unsplit, tmp_path, tokenizer))
    with torch.inference_mode():
        inputs_embeds = model.embed(PROMPT).inputs_embeds[None]
        expected = unsplit.lm_head(unsplit.model.language_model(inputs_embeds=inputs_embeds).last_hidden_state[0, -1])
    assert torch.allclose(last_logits(model), expected, atol=1e-5)


def test_half_precision_weights_compute_in_float32_on_a_cpu(checkpoint, copy_of):
    copy = copy_of(checkpoint)
    edit_weights(copy, lambda tensors: {name: tensor.half() for name, tensor in tensors.items()})
    model = load(copy)
    assert {p.dtype for p in model.causal_lm.parameters()} == {torch.float32}
    assert torch.allclose(last_logits(model), last_logits(load(checkpoint)), atol=0.1)


def test_the_compute_dtype_can_be_chosen(checkpoint):
    model = load(checkpoint, dtype="bfloat16")
    assert last_logits(model).dtype == torch.bfloat16
    assert torch.allclose(last_logits(model).float(), last_logits(load(checkpoint)), atol=1.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without CUDA")
def test_cuda_without_a_device_is_an_error():
    with pytest.raises(CheckpointError, match="no CUDA device"):
        resolve_device("cuda")


def drop(pattern):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if pattern not in name}


def add(name):
    return lambda tensors: tensors | {name: torch.zeros(1)}


def narrow(name):
    return lambda tensors: tensors | {name: tensors[name][:, :3].contiguous()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("language_model.model.norm"), "lacks 1 of .* tensors of the language model, 'model.norm.weight' among"),
        (drop("multi_modal_projector"), "lacks 4 of 4 tensors of the projector"),
        (add("language_model.model.surprise"), "has no tensor 'model.surprise' in the language model"),
        (narrow("multi_modal_projector.linear_1.weight"), r"has shape \[64, 3\]; the config says \[64, 32\]"),
    ],
)
def test_weights_that_do_not_fit_are_named(checkpoint, copy_of, change, message):
    copy = copy_of(checkpoint)
    edit_weights(copy, change)
    with pytest.raises(CheckpointError, match=message):
        load(copy)


def test_another_family_is_refused_by_name(checkpoint, copy_of):
    copy = copy_of(checkpoint)
    edit_config(copy, model_type="qwen3_5")
    with pytest.raises(CheckpointError, match=r"is of family 'qwen3_5'; the LLM service serves llava"):
        load(copy)


def test_a_truncated_file_and_a_missing_config_are_errors(checkpoint, copy_of):
    copy = copy_of(checkpoint)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"cannot be read .*is the download complete"):
        load(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"no config.json that can be read") as caught:
        load(copy)
    assert str(copy.parent) not in str(caught.value)


def test_weights_in_a_pickle_are_not_read(checkpoint, copy_of):
    copy = copy_of(checkpoint)
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    edit_weights(copy, drop("multi_modal_projector"))
    with pytest.raises(CheckpointError, match="lacks 4 of 4 tensors of the projector"):
        load(copy)


def test_visual_tokens_are_projected_from_the_memory_that_they_were_decoded_into(checkpoint):
    """On a CPU in float32; on a GPU the copy to the device is the only one."""
    model, read = load(checkpoint), []
    model.projector.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].data_ptr()))
    with torch.inference_mode():
        model.embed(PROMPT)
    assert read == [PROMPT.visual_tokens[0].features.ctypes.data]


def test_projected_tokens_are_copied_once_into_the_embeddings(checkpoint):
    model = load(checkpoint)
    operations = operations_of(lambda: model.embed(PROMPT))
    assert [name for name in operations if name.split(".")[1] in ("cat", "clone", "copy_", "_to_copy")] == [
        "aten.cat.default"
    ]
