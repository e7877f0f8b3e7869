"""Settings of the LLM service: every field is a flag (`--max-batch-size`) and a variable (`LLM_MAX_BATCH_SIZE`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from fovea.rpc.server import split_address
from fovea.settings import GrpcSettings, settings_config

__all__ = ["LLMSettings"]


def _address(listen: str) -> str:
    split_address(listen)
    return listen


Address = Annotated[str, AfterValidator(_address)]


class LLMSettings(GrpcSettings):
    """Decodes answers with the language model and the projector of a LLaVA checkpoint."""

    model_config = settings_config("python -m llm_service", "LLM_")

    model: str
    """Checkpoint: a local directory or a hub id (llava-hf/llava-1.5-7b-hf). Only its language model and projector are
    loaded."""

    revision: str | None = None
    """Branch, tag or commit on the hub; has no meaning for a local directory."""

    wire_basis: str = ""
    """File that `python -m encoder_service.calibrate` made for this model, for visual tokens of the wire dtype basis;
    the encoder service must load the same. Empty for wire.basis of the checkpoint, if it has one."""

    served_model_name: str = ""
    """Name under which the model is reported; empty: the hub id, or the directory's own name."""

    listen: Address = "127.0.0.1:50052"
    """host:port of the gRPC server; port 0 takes a free one, which the log tells."""

    metrics_listen: Annotated[str, AfterValidator(lambda v: v and _address(v))] = ""
    """host:port of the Prometheus endpoint; empty for none."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the language model. vllm needs the package of that name (pip install 'fovea[vllm]') and does not prune
    inside the model."""

    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of vLLM's AsyncEngineArgs as JSON, for example {"tensor_parallel_size": 2, "gpu_memory_utilization":
    0.85}. Those that a setting here says, or that the engine relies on, are refused. Of --engine vllm alone."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; auto takes CUDA if there is a device. cuda without one is an error at start."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute dtype; auto is float32 on a CPU and the checkpoint's half dtype on CUDA (bfloat16 if it has none)."""

    quantization: Literal["none", "int8", "nf4"] = "none"
    """Bits of the language model's linear layers: int8 (LLM.int8()) or nf4 (4 bits), by the package bitsandbytes, which
    must be installed. dtype is then what the other layers, and the products, are in; auto is bfloat16 on CUDA. Of
    --engine transformers; for vllm, quantization is one of --engine-args."""

    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention kernel of --engine transformers; flash_attention_2 needs its own package, CUDA and a half dtype."""

    num_threads: int = Field(0, ge=0)
    """CPU threads of one forward; 0: one for each core that the process may use (affinity, cgroup quota), but one for
    each 8 million parameters of the model at most. Of --engine transformers; vLLM chooses its own."""

    max_model_len: int = Field(0, ge=0)
    """Positions of prompt and answer together; 0 is the model's own context. A longer prompt is refused with the number
    of tokens too many; an answer that reaches the end is cut with finish_reason "length". More than the model's context
    is an error at start."""

    max_batch_size: int = Field(8, ge=1)
    """Rows decoded together (vLLM's max_num_seqs). Requests beyond it wait in the queue until a row ends. Memory of the
    key-value cache grows with it."""

    max_batch_delay_ms: float = Field(2.0, ge=0)
    """How long an idle model waits for more requests before it prefills the first; 0 never waits. A model that is
    decoding takes newcomers between two tokens without delay. vLLM never waits."""

    max_queue_size: int = Field(64, ge=1)
    """Requests that wait for a row. The next one is refused at once with RESOURCE_EXHAUSTED and a time to come back."""

    max_tokens: int = Field(2048, ge=1)
    """Most tokens that a request may ask for; more is refused."""

    max_visual_tokens: int = Field(16384, ge=1)
    """Most visual tokens in a request, all pictures together; more is refused before the tensors are read."""

    max_timeout_s: float = Field(600.0, gt=0)
    """Deadline of a call that brings none or a later one. When it passes, the call ends with DEADLINE_EXCEEDED and its
    row is freed."""

    max_message_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    """Cap on a gRPC message in either direction; the transport refuses a larger one with RESOURCE_EXHAUSTED."""

    max_concurrent_rpcs: int = Field(256, ge=1)
    """Calls in progress, waiting ones included. The transport refuses more with RESOURCE_EXHAUSTED before any work."""

    drain_grace_s: float = Field(30.0, ge=0)
    """After SIGTERM or SIGINT no new call is taken; streams under way have this long to finish, then they are cut."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line that is written to stderr."""

    @field_validator("engine_args")
    @classmethod
    def _of_vllm(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if value and info.data.get("engine") != "vllm":
            raise ValueError("they are vLLM's; give --engine vllm as well")
        return value

    @field_validator("quantization", "attn_implementation")
    @classmethod
    def _of_transformers(cls, value: str, info: ValidationInfo) -> str:
        name = str(info.field_name)
        if info.data.get("engine") == "vllm" and value != cls.model_fields[name].default:
            argument = "attention_backend" if name == "attn_implementation" else name
            raise ValueError(f"it is of --engine transformers; vLLM has {argument!r} among --engine-args")
        return value
