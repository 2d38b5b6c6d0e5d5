"""Text in pieces: the same text whatever the pieces, and nothing of a stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpt2edge.runtime.stop_text import TextAssembler

TEXT = st.text("ab\u00e9\u4e2d\U0001f600", max_size=12)
STOPS = st.lists(st.text("ab\u4e2d", min_size=1, max_size=4), max_size=3)
CUTS = st.lists(st.integers(0, 40), max_size=6)


def pieces(data: bytes, cuts: list[int], stop: list[str]) -> tuple[list[str], bool]:
    assembler = TextAssembler(stop)
    out = []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        out.append(assembler.add(data[start:end]))
        if assembler.stopped:
            break
    return [*out, assembler.finish()], assembler.stopped


def until_stop(text: str, stop: list[str]) -> tuple[str, bool]:
    """Character by character, with all of the text in view."""
    for end in range(len(text) + 1):
        done = [end - len(s) for s in stop if text[:end].endswith(s)]
        if done:
            return text[: min(done)], True
    return text, False


@given(TEXT, CUTS, STOPS)
def test_pieces_make_the_text_up_to_the_first_stop(
    text: str, cuts: list[int], stop: list[str]
) -> None:
    out, stopped = pieces(text.encode(), cuts, stop)
    assert ("".join(out), stopped) == until_stop(text, stop)


@given(st.binary(max_size=20), CUTS)
def test_bytes_that_are_no_text(data: bytes, cuts: list[int]) -> None:
    assert "".join(pieces(data, cuts, [])[0]) == data.decode("utf-8", "replace")


@given(TEXT, CUTS)
def test_pieces_hold_whole_characters(text: str, cuts: list[int]) -> None:
    assert all("\ufffd" not in piece for piece in pieces(text.encode(), cuts, [])[0])


def test_the_start_of_a_stop_string_waits() -> None:
    assembler = TextAssembler(["###", "##!"])
    assert assembler.add(b"a#") == "a"
    assert assembler.add(b"#") == ""
    assert assembler.add(b"b#") == "##b"
    assert assembler.finish() == "#"
