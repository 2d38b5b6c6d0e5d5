"""The automatic cache: same tokens, less to read, never above its bound."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2edge.errors import ConfigError
from gpt2edge.runtime import Model, load
from gpt2edge.runtime.kv_cache import Segment
from gpt2edge.runtime.prefix_cache import BLOCK, PrefixCache

SYSTEM = list(range(40, 100))
WHOLE_BLOCKS = len(SYSTEM) // BLOCK * BLOCK


@pytest.fixture(params=["fp32", "fp32-portable"])
def cached(request: pytest.FixtureRequest, tiny_bundle: Path) -> Model:
    return load(tiny_bundle, request.param, threads=1, prefix_cache_mb=8)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.9, "seed": 4}, {"draft": "lookup"}])
def test_prompts_that_begin_alike_are_read_once(
    cached: Model, variants: dict[str, Model], settings: dict[str, Any]
) -> None:
    plain = variants[cached.variant.name]
    assert cached.prefix_cache is not None
    cached.prefix_cache.clear()
    reused = []
    for prompt in ([*SYSTEM, 5], [*SYSTEM, 6, 7], SYSTEM[:50], [1, 2], [*SYSTEM, 5], [2, *SYSTEM]):
        done = cached.generate_ids(prompt, max_new_tokens=40, **settings)
        assert done == plain.generate_ids(prompt, max_new_tokens=40, **settings)
        reused.append(done.reused)
    assert reused == [0, WHOLE_BLOCKS, WHOLE_BLOCKS, 0, WHOLE_BLOCKS, 0]


def test_batches(cached: Model, variants: dict[str, Model]) -> None:
    """Rows of which some are known, and of different lengths."""
    prompts = [[*SYSTEM, 5], [1, 2, 3], [*SYSTEM[:21], *SYSTEM], SYSTEM[:49]]
    wanted = variants[cached.variant.name].generate_ids(prompts, max_new_tokens=50)
    first = cached.generate_ids(prompts, max_new_tokens=50)
    again = cached.generate_ids([*prompts, [7, 7]], max_new_tokens=50)
    assert first == wanted == again[:4]
    assert [row.reused for row in first] == [0] * 4
    assert [row.reused for row in again] == [WHOLE_BLOCKS, 0, 80, 48, 0]


def test_texts_and_streams(tiny_bundle: Path, model: Model) -> None:
    cached = load(tiny_bundle, threads=1, prefix_cache_mb=8)
    text = "A name refers to an object; names are introduced by name binding operations. "
    for end in ("The", "A", "The"):
        wanted = model.generate(text + end, max_new_tokens=20)
        assert cached.generate(text + end, max_new_tokens=20) == wanted
    stream = cached.stream(text, max_new_tokens=20)
    assert "".join(stream) == model.generate(text, max_new_tokens=20)
    assert stream.reused >= BLOCK
    # A prefix that was given is used in place of the cache.
    prefix = cached.prefix(text)
    held = cached.prefix_cache.nbytes  # type: ignore[union-attr]
    assert cached.generate("x" * 40, prefix=prefix, max_new_tokens=5) == model.generate(
        text + "x" * 40, max_new_tokens=5
    )
    assert cached.prefix_cache.nbytes == held  # type: ignore[union-attr]


def test_memory_stays_within_the_bound(tiny_bundle: Path, model: Model) -> None:
    per_token = model.spec.cache_bytes(1, 1)
    room = 10 * BLOCK * per_token
    cached = load(tiny_bundle, threads=1, prefix_cache_mb=(room + 5) / 1e6)
    cache = cached.prefix_cache
    assert cache is not None
    rng = np.random.default_rng(0)
    for length in (30, 100, 200, 17, 160, 40, 250):
        prompt = [int(id) for id in rng.integers(0, 390, length)]
        wanted = model.generate_ids(prompt, max_new_tokens=4)
        for known in (0, min(length - 1, 10 * BLOCK) // BLOCK * BLOCK):
            done = cached.generate_ids(prompt, max_new_tokens=4)
            assert (done, done.reused) == (wanted, known)
        assert 0 < cache.nbytes <= room
    assert cache.nbytes == room
    cache.clear()
    assert cache.nbytes == 0


@pytest.mark.parametrize("size", [-1, True, "256", None])
def test_a_size_that_is_none(tiny_bundle: Path, size: Any) -> None:
    with pytest.raises(ConfigError, match="prefix_cache_mb must be a number of at least 0"):
        load(tiny_bundle, prefix_cache_mb=size)


def test_no_cache_is_kept_unasked(model: Model, tiny_bundle: Path) -> None:
    assert model.prefix_cache is None
    tiny = load(tiny_bundle, threads=1, prefix_cache_mb=1e-6)
    assert tiny.generate_ids(SYSTEM, max_new_tokens=3) == model.generate_ids(
        SYSTEM, max_new_tokens=3
    )
    assert tiny.prefix_cache.nbytes == 0  # type: ignore[union-attr]


# The cache alone ----------------------------------------------------------------------------------


class Read:
    """A decoder's cache whose keys are the tokens' ids, 8 bytes each."""

    def __init__(self, ids: list[int], start: int = 0) -> None:
        self.keys = np.asarray([0] * start + ids, np.int64)

    def read(self, row: int, start: int, end: int) -> Segment:
        assert row == 3
        return [self.keys[None, start:end, None]]


def keep(cache: PrefixCache, ids: list[int], start: int = 0) -> None:
    cache.keep(ids, Read(ids, start), 3, start)  # type: ignore[arg-type]


def found(cache: PrefixCache, ids: list[int]) -> list[int]:
    return [int(key) for segment in cache.find(ids) for key in segment[0].ravel()]


def text(*blocks: int, rest: int = 0) -> list[int]:
    return [block * 100 + n for block in blocks for n in range(BLOCK)] + [7] * rest


def test_blocks_that_begin_alike_are_held_once() -> None:
    cache = PrefixCache(1000 * BLOCK)
    keep(cache, text(1, 2, 3, rest=5), start=4)
    keep(cache, text(1, 2, 4))
    keep(cache, text(2, 3))  # the same blocks after others are others
    assert cache.nbytes == 6 * BLOCK * 8
    assert found(cache, text(1, 2, 4, 9)) == text(1, 2, 4)
    assert found(cache, text(1, 2, 3, rest=3)) == text(1, 2, 3)
    assert found(cache, text(2, rest=BLOCK)) == text(2)
    assert found(cache, text(3)) == []
    assert found(cache, text(1)[:-1]) == []


def test_the_longest_unused_goes_first() -> None:
    cache = PrefixCache(4 * BLOCK * 8)
    keep(cache, text(1, 2))
    keep(cache, text(5, 6))
    assert found(cache, text(1, 2)) == text(1, 2)  # used just now
    keep(cache, text(7))
    # Of 5 6 the end goes, as the end is worth nothing without the beginning.
    assert found(cache, text(5, 6)) == text(5)
    assert found(cache, text(1, 2)) == text(1, 2)
    keep(cache, text(1, 2, 3, 4, 5, 6))
    assert found(cache, text(1, 2, 3, 4, 5, 6)) == text(1, 2, 3, 4)
    assert cache.nbytes == 4 * BLOCK * 8


PIECES = st.lists(st.integers(1, 3), min_size=1, max_size=5)


@given(st.lists(st.tuples(PIECES, st.integers(0, BLOCK - 1)), max_size=12), st.integers(0, 6))
def test_what_is_found_is_what_was_kept(texts: list[tuple[list[int], int]], blocks: int) -> None:
    cache = PrefixCache(blocks * BLOCK * 8)
    for pieces, rest in texts:
        ids = text(*pieces, rest=rest)
        keep(cache, ids)
        got = found(cache, ids)
        # All of it, as far as it has room.
        assert got == text(*pieces)[: blocks * BLOCK]
        assert cache.nbytes <= cache.max_bytes
        held = sum(array.nbytes for _, segment in cache._blocks.values() for array in segment)
        assert cache.nbytes == held


def test_many_threads() -> None:
    cache = PrefixCache(6 * BLOCK * 8)

    def use(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        good = True
        for _ in range(200):
            ids = text(*(int(n) for n in rng.integers(1, 4, rng.integers(1, 5))))
            keep(cache, ids)
            got = found(cache, ids)
            good &= got == ids[: len(got)] and cache.nbytes <= cache.max_bytes
        return good

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(8)))


def test_threads_on_one_model(tiny_bundle: Path, model: Model) -> None:
    small = load(
        tiny_bundle, threads=1, prefix_cache_mb=6 * BLOCK * model.spec.cache_bytes(1, 1) / 1e6
    )
    prompts = [[*SYSTEM[: 10 * n % 60], n, n + 1] for n in range(24)]
    wanted = [model.generate_ids(prompt, max_new_tokens=8) for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(small.generate_ids, p, max_new_tokens=8) for p in prompts * 2]
        assert [job.result() for job in jobs] == wanted * 2
