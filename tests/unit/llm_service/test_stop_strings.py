"""Stop strings cut a streamed text independently of how it is split."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_service.engine.stop_strings import StopStrings


def run(stop, pieces):
    checker = StopStrings(stop)
    emitted = [checker.push(piece) for piece in pieces]
    return [*emitted, "" if checker.found else checker.flush()], checker.found


@pytest.mark.parametrize(
    ("stop", "pieces", "emitted"),
    [
        (["END"], ["one E", "N", "D two"], ["one ", "", "", ""]),
        (["END"], ["one E", "N", "O"], ["one ", "", "ENO", ""]),
        (["END"], ["one E", "N"], ["one ", "", "EN"]),
        (["\n\n", "a\n"], ["a", "\n"], ["", "", ""]),
        ([], ["as it is"], ["as it is", ""]),
        (["aab"], ["a", "a", "a", "b"], ["", "", "a", "", ""]),
    ],
)
def test_a_possible_beginning_of_a_stop_string_is_held_back(stop, pieces, emitted):
    assert run(stop, pieces)[0] == emitted


def test_nothing_follows_a_stop_string():
    checker = StopStrings(["."])
    assert checker.push("one. two") == "one"
    assert checker.push("three") == ""


texts = st.text("abc", max_size=20)


@given(text=texts, stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), cuts=st.sets(st.integers(1, 19)))
def test_the_cut_depends_on_the_text_and_not_on_its_pieces(text, stop, cuts):
    bounds = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]
    emitted, found = run(stop, pieces)
    # By definition: the shortest prefix that ends with a stop string, without the longest such string.
    ends = [(end, s) for end in range(1, len(text) + 1) for s in stop if text[:end].endswith(s)]
    expected = text
    if ends:
        first = min(end for end, _ in ends)
        expected = text[: first - max(len(s) for end, s in ends if end == first)]
    assert "".join(emitted) == expected
    assert found == bool(ends)
