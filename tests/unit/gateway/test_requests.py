"""Random fields: either a valid request or an error for the client."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.errors import InvalidRequest
from gateway.http.schemas.answer import AnswerRequest
from gateway.http.schemas.parsing import parse_request

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
fields = st.dictionaries(st.sampled_from([*AnswerRequest.model_fields, "colour", ""]) | st.text(), values, max_size=4)


def outcome(fields: dict[str, Any], *, strict: bool) -> AnswerRequest | InvalidRequest:
    try:
        return parse_request(AnswerRequest, fields, strict=strict)
    except InvalidRequest as error:
        return error


@settings(deadline=None)
@given(fields, st.booleans())
def test_fields_are_a_request_or_a_named_error(fields: dict[str, Any], strict: bool) -> None:
    fields = {"question": "What?"} | fields
    result = outcome(fields, strict=strict)
    if isinstance(result, AnswerRequest):
        assert result.question == fields.get("question")
    else:
        assert result.message
