"""Settings of the LLM service. Each field is a flag (`--max-batch-size`) and a variable (`LLM_MAX_BATCH_SIZE`)."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeVar, get_args

from pydantic import Field, ValidationInfo, field_validator

from fovea.settings import HostAndPort, ModelSettings, settings_config

__all__ = ["LLMSettings"]

_Value = TypeVar("_Value", str, float)
_Quantization = Literal["none", "int8", "nf4"]

# Settings that only --engine transformers has, and the arguments of vLLM's AsyncEngineArgs in their place.
_TRANSFORMERS_ONLY: Final = {
    "quantization": "quantization",
    "attn_implementation": "attention_backend",
    "kv_cache_gib": "gpu_memory_utilization",
    "max_prefill_tokens": "max_num_batched_tokens",
    "cuda_graphs": "enforce_eager",
}


class LLMSettings(ModelSettings):
    """Generates answers with the language model and the projector of a checkpoint."""

    model_config = settings_config("python -m llm_service", "LLM_")

    model: str
    """Checkpoint: a local directory or a hub id (llava-hf/llava-1.5-7b-hf). Its language model and projector are
    loaded, not its vision tower."""

    listen: HostAndPort = Field("127.0.0.1:50052", description=ModelSettings.model_fields["listen"].description)

    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """Engine that runs the language model. vllm needs the package vllm (pip install 'fovea[vllm]') and does not prune
    inside the model. auto is vllm if it can be imported and there is a CUDA device, else transformers; the log says
    which, and why."""

    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of vLLM's AsyncEngineArgs as JSON, for example {"tensor_parallel_size": 2, "gpu_memory_utilization":
    0.85}. Arguments that another setting determines, or that the engine relies on, are refused. For --engine vllm
    only."""

    quantization: _Quantization = "none"
    """Quantization of the language model's linear layers: int8 (LLM.int8()) or nf4 (4 bits); needs the package
    bitsandbytes. dtype then applies to the other layers and to products; auto is bfloat16 on CUDA. For --engine
    transformers only; vLLM has quantization among --engine-args."""

    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention kernel of --engine transformers; flash_attention_2 needs its own package, CUDA and a half dtype."""

    num_threads: int = Field(0, ge=0)
    """CPU threads of a forward pass. 0 is one for each core that the process may use (affinity, cgroup quota), at most
    one for each 8 million parameters of the model. For --engine transformers only; vLLM chooses its own."""

    max_model_len: int = Field(0, ge=0)
    """Positions of prompt and answer together; 0 is the model's context. A longer prompt is refused with the number of
    surplus tokens; an answer that reaches the limit is cut with finish_reason "length". More than the model's context
    is an error at start."""

    max_batch_size: int = Field(8, ge=1)
    """Most running sequences (vLLM's max_num_seqs). Further requests wait in the queue until a sequence finishes."""

    kv_cache_gib: float = Field(0, ge=0)
    """Most memory of the key-value cache in GiB, reserved at start; 0 is what is free on the GPU once the model is
    loaded, less 4 GiB for prefills and an encoder service on the same GPU, and on the CPU half of the free memory. The
    log states the resulting slots: of 256 positions, of 1024 and of max_model_len, of each at most max_batch_size. A
    request takes the shortest free slot that holds its prompt and max_tokens, or waits; one that fits into no slot is
    refused. For --engine transformers only; vLLM has gpu_memory_utilization among --engine-args."""

    max_prefill_tokens: int = Field(1024, ge=16)
    """Most prompt tokens that are prefilled between two decoding steps of running sequences. A longer prompt is
    prefilled in chunks, so that no stream stalls for long; a smaller number makes stalls shorter and the first token
    of long prompts later. While nothing decodes, prompts are prefilled whole, and those with llm_pruner or
    cross_attention always. For --engine transformers only; vLLM has max_num_batched_tokens among --engine-args."""

    cuda_graphs: Literal["off", "auto"] = "off"
    """auto captures decoding steps over up to 4,096 positions and prefills of up to 1,024 tokens as CUDA graphs before
    the service is ready, at most 144 of them. Without CUDA it has no effect, and flash_attention_2 cannot be captured.
    These graphs have not been measured on a GPU yet. For --engine transformers only; vLLM captures graphs unless
    --engine-args has enforce_eager."""

    max_batch_delay_ms: float = Field(2.0, ge=0)
    """Time in milliseconds that an idle engine waits for more requests before its first prefill; 0 for none. An engine
    that is decoding admits waiting requests after each step without delay. vLLM never waits."""

    max_queue_size: int = Field(64, ge=1)
    """Most waiting requests. Further ones are refused at once with RESOURCE_EXHAUSTED and a retry time."""

    max_queue_time_s: float = Field(10.0, gt=0)
    """Longest estimated queue time of an accepted request, in seconds. One that would have to wait longer, or whose
    answer could not be finished before its deadline, is refused at once with RESOURCE_EXHAUSTED and a retry time. The
    estimate is the measured rate at which waiting requests are admitted, prefill time and time per token included for
    the deadline."""

    max_tokens: int = Field(2048, ge=1)
    """Largest max_tokens of a request; more is refused. A gateway reads it, and asks for no more by default."""

    generation_defaults: Literal["greedy", "full", "none"] = "greedy"
    """Defaults of a request's sampling parameters from the checkpoint's generation_config.json. greedy: its end tokens
    and repetition_penalty. full: also its temperature, top_p, top_k and min_p, if it has do_sample true; temperature is
    then 1 if the file has none. none: nothing; end tokens are those of config.json."""

    max_visual_tokens: int = Field(16384, ge=1)
    """Most visual tokens in a request, all images and videos together; more is refused before tensors are decoded."""

    max_timeout_s: float = Field(600.0, gt=0)
    """Longest deadline of a call in seconds, and the default. When it passes, the call ends with DEADLINE_EXCEEDED and
    its sequence is aborted."""

    @field_validator("engine_args")
    @classmethod
    def _require_vllm(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if value and info.data.get("engine") != "vllm":
            raise ValueError("only --engine vllm accepts them; give --engine vllm as well")
        return value

    @field_validator("quantization", mode="before")
    @classmethod
    def _quantizes_at_load(cls, value: object) -> object:
        if value not in get_args(_Quantization):
            raise ValueError(
                f"{value!r:.80} is not accepted; accepted: 'none', 'int8' or 'nf4', which quantize at load. A"
                " checkpoint that is quantized already (AWQ, GPTQ, FP8) needs --engine vllm (LLM_ENGINE=vllm) in place"
                " of this setting"
            )
        return value

    @field_validator(*_TRANSFORMERS_ONLY)
    @classmethod
    def _require_transformers(cls, value: _Value, info: ValidationInfo) -> _Value:
        name = str(info.field_name)
        if info.data.get("engine") == "vllm" and value != cls.model_fields[name].default:
            argument = _TRANSFORMERS_ONLY[name]
            raise ValueError(f"only --engine transformers accepts it; vLLM has {argument!r} among --engine-args")
        return value

    @field_validator("cuda_graphs")
    @classmethod
    def _require_capturable(cls, value: str, info: ValidationInfo) -> str:
        if value == "auto" and info.data.get("attn_implementation") == "flash_attention_2":
            raise ValueError("flash_attention_2 cannot be captured, as it reads values back; sdpa can")
        return value

    @property
    def transformers_only_flag(self) -> str | None:
        """A flag that is set and that only --engine transformers has; None for none."""
        fields = type(self).model_fields
        is_set = (name for name in _TRANSFORMERS_ONLY if getattr(self, name) != fields[name].default)
        return next((f"--{name.replace('_', '-')}" for name in is_set), None)
