"""Costs of every stage of an answer: seconds, bytes and memory, and the origin of the figures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.harness.output import read_result

__all__ = ["Decode", "Encode", "Prefill", "Profile", "Regroup"]


@dataclass(frozen=True, slots=True)
class Encode:
    """Seconds of one forward of the encoder, towers and pruner.

    Attributes:
        floor: Least seconds of the towers.
        fixed: Seconds of every forward.
        per_question: Seconds of every question, for work that is not batched.
        per_image: Seconds of every image.
    """

    floor: float
    fixed: float
    per_question: float
    per_image: float

    def seconds(self, questions: int, images: int) -> float:
        """Seconds of a batch."""
        return max(self.floor, self.fixed + self.per_image * images) + self.per_question * questions


@dataclass(frozen=True, slots=True)
class Prefill:
    """Seconds of one forward over the prompts of new sequences, padded to the longest.

    Attributes:
        floor: Least seconds of a forward.
        fixed: Seconds of every forward.
        per_sequence: Seconds of every prompt.
        per_token: Seconds of every position, padding included.
        per_square: Seconds of every pair of positions of a prompt (attention).
    """

    floor: float
    fixed: float
    per_sequence: float
    per_token: float
    per_square: float

    def seconds(self, sequences: int, length: int) -> float:
        """Seconds for some prompts of which the longest has `length` tokens."""
        return max(
            self.floor,
            self.fixed + sequences * (self.per_sequence + self.per_token * length + self.per_square * length**2),
        )


@dataclass(frozen=True, slots=True)
class Decode:
    """Seconds of one decoding step, which gives every sequence a token.

    Attributes:
        floor: Least seconds of a step.
        fixed: Seconds of every step.
        per_sequence: Seconds of every sequence.
        per_position: Seconds of every position of the KV cache that is read, padding included.
    """

    floor: float
    fixed: float
    per_sequence: float
    per_position: float

    def seconds(self, sequences: int, length: int) -> float:
        """Seconds for some sequences of which the longest has `length` positions."""
        return max(self.floor, self.fixed + sequences * (self.per_sequence + self.per_position * length))


@dataclass(frozen=True, slots=True)
class Regroup:
    """Seconds of copying the KV cache of a batch when a sequence joins or leaves it.

    Attributes:
        fixed: Seconds of every copy.
        per_position: Seconds of every position of the cache, padding included.
    """

    fixed: float
    per_position: float

    def seconds(self, sequences: int, length: int) -> float:
        """Seconds for the sequences of the new batch, of which the longest has `length` positions."""
        return self.fixed + self.per_position * sequences * length


@dataclass(frozen=True, slots=True)
class Profile:
    """Costs of a model on a machine.

    Attributes:
        name: Model and machine, for reports.
        origin: "measured", or "derived" from a data sheet, arithmetic and assumptions.
        notes: Measurements and assumptions, one sentence each.
        shares_cores: Whether the models run on the cores of their pods (no accelerator).
        encode: Forward of the encoder.
        prefill: Prefill of the language model.
        decode: Decoding step of the language model.
        regroup: Copy of the KV cache when a sequence joins or leaves a batch.
        prepare_per_image: Seconds of a core to decode and preprocess an image file in the encoder.
        encoder_call: Seconds of a core for the rest of a call to the encoder service.
        llm_call: Seconds of a core for the rest of a call to the LLM service.
        llm_per_token: Seconds of a core to detokenize and send a token.
        gateway_request: Seconds of a core for a request with one image.
        gateway_per_image: Seconds of a core for each further image.
        gateway_per_token: Seconds of a core to pass a token on.
        text_tokens: Tokens of a prompt without visual tokens.
        visual_tokens: Visual tokens of each image that reach the language model.
        request_bytes: Bytes of each image on the way to the encoder service.
        token_bytes: Bytes of a visual token on the wire.
        kv_bytes_per_token: Bytes of one position of the KV cache.
        kv_bytes: Memory for KV caches; 0 where it is unknown.
    """

    name: str
    origin: str
    notes: tuple[str, ...]
    shares_cores: bool
    encode: Encode
    prefill: Prefill
    decode: Decode
    regroup: Regroup
    prepare_per_image: float
    encoder_call: float
    llm_call: float
    llm_per_token: float
    gateway_request: float
    gateway_per_image: float
    gateway_per_token: float
    text_tokens: int
    visual_tokens: int
    request_bytes: int
    token_bytes: float
    kv_bytes_per_token: int = 0
    kv_bytes: int = 0

    def prompt_tokens(self, images: int) -> int:
        """Positions of a prompt with some images."""
        return self.text_tokens + images * self.visual_tokens

    def prefill_s(self, sequences: int, length: int) -> float:
        """Seconds of a prefill, first tokens sent; the longest prompt has `length` tokens."""
        return self._with_sending(self.prefill.seconds(sequences, length), self.prefill.floor, sequences)

    def step_s(self, sequences: int, length: int) -> float:
        """Seconds of a decoding step, tokens sent; the longest sequence has `length` positions."""
        return self._with_sending(self.decode.seconds(sequences, length), self.decode.floor, sequences)

    def _with_sending(self, forward: float, launches: float, sequences: int) -> float:
        """Seconds of a forward and of sending its tokens.

        On shared cores the two follow each other. With an accelerator, sending follows the kernel launches, which hold
        the interpreter's lock too, while the device computes.
        """
        sending = self.llm_per_token * sequences
        return forward + sending if self.shares_cores else max(forward, launches + sending)

    def sequences_in_memory(self, tokens: int) -> int | None:
        """Sequences of `tokens` positions that fit the memory for KV caches; None where it is unknown."""
        if not (self.kv_bytes and self.kv_bytes_per_token):
            return None
        return self.kv_bytes // (self.kv_bytes_per_token * tokens)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """The profile that a result file holds as a dictionary.

        Raises:
            ValueError: A field is missing or unknown.
        """
        try:
            return cls(
                **{
                    **values,
                    "notes": tuple(values["notes"]),
                    "encode": Encode(**values["encode"]),
                    "prefill": Prefill(**values["prefill"]),
                    "decode": Decode(**values["decode"]),
                    "regroup": Regroup(**values["regroup"]),
                }
            )
        except (KeyError, TypeError) as error:
            fields = ", ".join(field.name for field in dataclasses.fields(cls))
            raise ValueError(f"not a profile ({error}); its fields are {fields}") from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """The profile in a JSON file, as the whole file or under the key `profile`."""
        values = read_result(path)
        return cls.of(values.get("profile", values))
