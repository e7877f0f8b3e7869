"""What every stage of an answer costs: seconds, bytes and memory, with where the figures come from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

__all__ = ["Decode", "Encode", "Prefill", "Profile", "Regroup"]


@dataclass(frozen=True, slots=True)
class Encode:
    """One forward of the encoder: towers and pruner. Seconds.

    Attributes:
        floor: The towers never take less.
        fixed: Of every forward.
        per_question: Of every question: what is not batched.
        per_picture: Of every picture.
    """

    floor: float
    fixed: float
    per_question: float
    per_picture: float

    def seconds(self, questions: int, pictures: int) -> float:
        """Of a batch."""
        return max(self.floor, self.fixed + self.per_picture * pictures) + self.per_question * questions


@dataclass(frozen=True, slots=True)
class Prefill:
    """One forward over the prompts of newcomers, padded to the longest. Seconds.

    Attributes:
        floor: It never takes less.
        fixed: Of every forward.
        per_row: Of every prompt.
        per_token: Of every position, padding included.
        per_square: Of every pair of positions of a prompt (attention).
    """

    floor: float
    fixed: float
    per_row: float
    per_token: float
    per_square: float

    def seconds(self, rows: int, length: int) -> float:
        """Of `rows` prompts, `length` the longest."""
        return max(
            self.floor, self.fixed + rows * (self.per_row + self.per_token * length + self.per_square * length**2)
        )


@dataclass(frozen=True, slots=True)
class Decode:
    """One token for every row. Seconds.

    Attributes:
        floor: It never takes less.
        fixed: Of every step.
        per_row: Of every row.
        per_position: Of every position of the key-value cache that is read, padding included.
    """

    floor: float
    fixed: float
    per_row: float
    per_position: float

    def seconds(self, rows: int, length: int) -> float:
        """Of `rows` rows, `length` the positions of the longest."""
        return max(self.floor, self.fixed + rows * (self.per_row + self.per_position * length))


@dataclass(frozen=True, slots=True)
class Regroup:
    """A row that joins rows or leaves them: the key-value cache of all is copied. Seconds.

    Attributes:
        fixed: Of every time.
        per_position: Of every position of the cache, padding included.
    """

    fixed: float
    per_position: float

    def seconds(self, rows: int, length: int) -> float:
        """Of the `rows` rows that are then there, `length` the positions of the longest."""
        return self.fixed + self.per_position * rows * length


@dataclass(frozen=True, slots=True)
class Profile:
    """A model on a machine.

    Attributes:
        name: For reports.
        origin: "measured", or "derived": from a data sheet, arithmetic and assumptions.
        notes: What was measured or assumed, a line each.
        shares_cores: The models run on the same cores as everything else in their pods (no accelerator).
        encode, prefill, decode, regroup: The models.
        prepare_per_picture: Decoding and preprocessing of a picture file in the encoder, seconds of a core.
        encoder_call: Everything else that a call costs the encoder service, seconds of a core.
        llm_call: Likewise the LLM service.
        llm_per_token: Detokenizing and sending a token.
        gateway_request: A request with one picture, seconds of a core.
        gateway_per_picture: Each further one.
        gateway_per_token: Passing a token on.
        text_tokens: Of a prompt, without visual tokens.
        visual_tokens: That reach the language model, of each picture.
        request_bytes: To the encoder service, for each picture.
        token_bytes: Of a visual token on the wire.
        kv_bytes_per_token: Key-value cache of one position.
        kv_bytes: Memory for key-value caches; 0 where nothing is known.
    """

    name: str
    origin: str
    notes: tuple[str, ...]
    shares_cores: bool
    encode: Encode
    prefill: Prefill
    decode: Decode
    regroup: Regroup
    prepare_per_picture: float
    encoder_call: float
    llm_call: float
    llm_per_token: float
    gateway_request: float
    gateway_per_picture: float
    gateway_per_token: float
    text_tokens: int
    visual_tokens: int
    request_bytes: int
    token_bytes: float
    kv_bytes_per_token: int = 0
    kv_bytes: int = 0

    def prompt_tokens(self, pictures: int) -> int:
        """Positions that a question takes before its answer."""
        return self.text_tokens + pictures * self.visual_tokens

    def prefill_s(self, rows: int, length: int) -> float:
        """A prefill of `rows` prompts, `length` the longest, and their first tokens sent."""
        return self._with_sending(self.prefill.seconds(rows, length), self.prefill.floor, rows)

    def step_s(self, rows: int, length: int) -> float:
        """A token for each of `rows` rows, `length` the positions of the longest, and the tokens sent."""
        return self._with_sending(self.decode.seconds(rows, length), self.decode.floor, rows)

    def _with_sending(self, forward: float, launches: float, rows: int) -> float:
        """Sending takes turns with the model where they share cores. Beside an accelerator it takes turns with the
        launches, which hold the interpreter's lock as well, while the device computes."""
        sending = self.llm_per_token * rows
        return forward + sending if self.shares_cores else max(forward, launches + sending)

    def rows_in_memory(self, tokens: int) -> int | None:
        """Rows of so many positions that fit the memory for key-value caches; None where nothing is known."""
        if not (self.kv_bytes and self.kv_bytes_per_token):
            return None
        return self.kv_bytes // (self.kv_bytes_per_token * tokens)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """Back from a dictionary.

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
        """A profile from a JSON file, alone or under the name `profile`."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls.of(values.get("profile", values))
