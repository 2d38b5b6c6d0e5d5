"""Weights on huge pages: only new memory is asked for, and nothing that is computed changes."""

import mmap
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpt2edge
from gpt2edge.runtime.huge_pages import (
    HUGE,
    anonymous_regions,
    move_to_huge_pages,
    start_moving,
    subtract,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")


@st.composite
def regions(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Apart from each other, rising, as /proc/self/maps has them."""
    bounds = sorted(draw(st.sets(st.integers(0, 60), max_size=12)))
    return list(zip(bounds[::2], bounds[1::2], strict=False))


@given(regions(), regions())
def test_what_is_left_is_what_was_not_there_before(
    now: list[tuple[int, int]], before: list[tuple[int, int]]
) -> None:
    def cells(of: list[tuple[int, int]]) -> list[int]:
        return [cell for start, end in of for cell in range(start, end)]

    left = list(subtract(now, before))
    assert cells(left) == sorted(set(cells(now)) - set(cells(before)))
    assert all(start < end for start, end in left)


@linux
def test_new_memory_is_found_and_keeps_its_contents() -> None:
    before = anonymous_regions()
    fresh = mmap.mmap(-1, 4 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    fresh.write(b"weights" * 10)
    asked = move_to_huge_pages(subtract(anonymous_regions(), before))
    assert asked >= 3 * HUGE
    assert fresh[:14] == b"weightsweights"
    fresh.close()


def test_nothing_known_starts_nothing() -> None:
    threads = threading.active_count()
    start_moving([])()  # another system than Linux, or no /proc
    start_moving([(0, 1 << 64)])()  # nothing new
    assert threading.active_count() == threads


@linux
def test_what_is_no_longer_mapped_is_no_error() -> None:
    before = anonymous_regions()
    fresh = mmap.mmap(-1, 4 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    settle = start_moving(before)
    fresh.close()
    settle()
    settle()


@linux
def test_where_no_thread_is_to_be_had_pages_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = anonymous_regions()
    fresh = mmap.mmap(-1, 4 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    monkeypatch.setattr(threading.Thread, "start", refused)
    start_moving(before)()
    fresh.close()


def test_a_model_says_the_same_on_either_pages(tiny_bundle: Path) -> None:
    plain = gpt2edge.load(tiny_bundle, huge_pages=False)
    moved = gpt2edge.load(tiny_bundle)
    moved.settle()
    plain.settle()
    ids = [5, 9, 2]
    assert moved.generate_ids(ids, max_new_tokens=9) == plain.generate_ids(ids, max_new_tokens=9)
