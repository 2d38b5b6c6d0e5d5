"""From documents to a corpus: vocabulary, tokens, duplicates out, splits, shards, manifest.

Workers tokenize and fingerprint chunks of documents; one process takes the chunks in order,
decides, and writes. So the result does not depend on how many workers there are. What is done is
committed chunk by chunk in the folder `<target>.preparing`, and the same command goes on there.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...cores import usable_cores
from ...errors import ConfigError, CorpusError, StorageError, TokenizerError
from ...files import read_json, replacing_folder, write_json
from ...one_at_a_time import alone_in, settle_worker
from ...staging import put_in_place, storage_errors
from ..tokenizer_files import check_vocabulary, copy_tokenizer
from ..vocabulary import open_vocabulary, train_vocabulary
from .encoding import Encoded, encode
from .ledger import Ledger
from .shards import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST_FILE,
    TOKENIZER_FOLDER,
    Corpus,
    open_corpus,
    words_sha256,
)
from .sources import HUB, Document, Unusable, documents, source_files
from .writer import SPLITS, SplitWriter, split_of, split_records

PLAN_FILE, LEDGER_FILE = "plan.json", "ledger.sqlite"
_CHUNK_CHARACTERS, _CHUNK_DOCUMENTS = 2_000_000, 2_000
_VOCABULARY_CHARACTERS = 50_000_000  # a vocabulary learned from more is hardly another
_NAMED = 20  # unusable documents that the manifest names


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """What decides the bytes of a corpus, given its sources."""

    vocab_size: int = 8192
    """Tokens of the vocabulary that is learned where none is given."""
    validation_share: float = 0.01
    """Of the documents, drawn by their content; 0: none, and nothing to measure training with."""
    near_duplicates: float | None = 0.8
    """Jaccard similarity of 5-word shingles from which on a text counts as seen; None: keep."""
    shard_tokens: int = 100_000_000
    text_field: str = "text"

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise ConfigError(
                f"validation_share must lie between 0 and 1, but is {self.validation_share}"
            )
        if self.near_duplicates is not None and not 0.1 <= self.near_duplicates <= 1:
            raise ConfigError(
                f"near_duplicates must lie between 0.1 and 1, but is {self.near_duplicates}"
            )
        if self.shard_tokens < 1:
            raise ConfigError(f"shard_tokens must be at least 1, but is {self.shard_tokens}")


def prepare(
    sources: Sequence[str],
    folder: Path,
    settings: PrepareSettings | None = None,
    *,
    tokenizer_folder: Path | None = None,
    processes: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Corpus:
    """Make the corpus `folder` of the documents of `sources`; it appears whole or not at all.

    sources: text files, folders, JSON lines, Parquet, `hub:NAME`; see `sources`. Without
    `tokenizer_folder` a vocabulary is learned from the beginning of the text. Empty, non-UTF-8 and
    malformed documents are counted and named in the manifest. A document is held in memory, the
    corpus is not.

    Raises CorpusError when a source is missing or nothing is left, StorageError when `folder` is in
    the way or the disk is full, ConfigError when the work left by an earlier run was another one.
    """
    settings = settings or PrepareSettings()
    folder = Path(os.path.realpath(folder))  # a link to a folder stays a link
    if folder.exists():
        if not overwrite:
            raise StorageError(f"{folder}: exists already; choose another path or pass --force")
        if not (folder / MANIFEST_FILE).is_file() or (folder / ".git").exists():
            raise StorageError(f"{folder}: is no corpus, so it is not replaced")
    files = source_files(sources)
    work = folder.with_name(f"{folder.name}.preparing")
    plan = _plan(files, settings, tokenizer_folder)
    with storage_errors(folder), alone_in(work):
        _open_work(work, plan, overwrite=overwrite)
        try:
            manifest = _prepare(work, files, settings, tokenizer_folder, processes, progress)
        except (CorpusError, TokenizerError, ConfigError):
            if not _has_begun(work):  # nothing to go on from: it would only be in the way
                shutil.rmtree(work, ignore_errors=True)
            raise
        write_json(work / MANIFEST_FILE, manifest)
        put_in_place(work, folder)
        for name in (PLAN_FILE, LEDGER_FILE):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(work, ignore_errors=True)  # what was there before, where something was
    return open_corpus(folder, verify=False)


def _prepare(
    work: Path,
    files: Sequence[str],
    settings: PrepareSettings,
    given: Path | None,
    processes: int | None,
    progress: bool,
) -> dict[str, Any]:
    _make_vocabulary(work, files, settings, given)
    try:
        with (
            Ledger(work / LEDGER_FILE, settings.near_duplicates) as ledger,
            tqdm(
                total=_size(files), unit="B", unit_scale=True, desc="preparing",
                disable=not (progress and sys.stderr.isatty()),
            ) as bar,
        ):  # fmt: skip
            state = _go_through(work, files, settings, ledger, processes or usable_cores(), bar)
    except sqlite3.DatabaseError as reason:
        raise CorpusError(f"{work}: damaged: {reason}; --force begins anew") from None
    except BrokenProcessPool:
        raise CorpusError(
            "a worker process was ended from outside, as where memory runs out: the same command "
            "goes on, with fewer --processes if need be"
        ) from None
    return _finish(work, files, settings, given, state)


def _has_begun(work: Path) -> bool:
    """Whether there is a document's worth of work to go on from."""
    return (work / LEDGER_FILE).exists() and any(file.stat().st_size for file in work.glob("*.bin"))


def _plan(
    files: Sequence[str], settings: PrepareSettings, tokenizer_folder: Path | None
) -> dict[str, Any]:
    """What must be as it was for the work of an earlier run to be of use."""
    return {
        "files": [[file, *_stamp(file)] for file in files],
        "settings": asdict(settings),
        "tokenizer": None if tokenizer_folder is None else words_sha256(tokenizer_folder),
    }


def _stamp(file: str) -> tuple[int, int]:
    if file.startswith(HUB):
        return 0, 0
    info = Path(file).stat()
    return info.st_size, info.st_mtime_ns


def _open_work(work: Path, plan: dict[str, Any], *, overwrite: bool) -> None:
    if work.exists():
        earlier = _earlier_plan(work)
        if earlier == plan:
            return
        if not overwrite:
            raise ConfigError(
                f"{work}: holds unfinished work on other sources or with other settings; "
                "--force begins anew"
            )
        known = {PLAN_FILE, LEDGER_FILE, TOKENIZER_FOLDER, MANIFEST_FILE}
        if any(file.name not in known and file.suffix != ".bin" for file in work.iterdir()):
            raise StorageError(f"{work}: holds something else; move it away")
        shutil.rmtree(work)
    with replacing_folder(work) as staging:
        write_json(staging / PLAN_FILE, plan)


def _earlier_plan(work: Path) -> Any:
    """None where it is missing or damaged: then it is not that of now."""
    try:
        return read_json(work / PLAN_FILE, CorpusError)
    except CorpusError:
        return None


def _make_vocabulary(
    work: Path, files: Sequence[str], settings: PrepareSettings, given: Path | None
) -> None:
    target = work / TOKENIZER_FOLDER
    if target.exists():
        return
    with replacing_folder(target) as staging:
        if given is None:
            beginning = _beginning(files, settings.text_field)
            first = next(beginning, None)
            if first is None:
                raise _nothing_left(_unusable(files, settings.text_field))
            texts = itertools.chain([first], beginning)
            train_vocabulary(texts, staging, settings.vocab_size)
            return
        copy_tokenizer(given, staging)
        try:
            check_vocabulary(staging, open_vocabulary(staging).get_vocab_size())
        except TokenizerError as reason:
            raise TokenizerError(str(reason).replace(str(staging), str(given))) from None


def _items(files: Sequence[str], field: str) -> Iterator[Document | Unusable]:
    return itertools.chain.from_iterable(documents(file, field) for file in files)


def _beginning(files: Sequence[str], field: str) -> Iterator[str]:
    left = _VOCABULARY_CHARACTERS
    for item in _items(files, field):
        if isinstance(item, Document):
            yield item.text[:left]
            left -= len(item.text)
            if left <= 0:
                return


def _unusable(files: Sequence[str], field: str) -> list[str]:
    return [
        f"{item.where}: {item.reason}"
        for item in _items(files, field)
        if isinstance(item, Unusable)
    ]


def _nothing_left(unusable: Sequence[str]) -> CorpusError:
    reasons = Counter(named.rpartition(": ")[2] for named in unusable)
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    first = f", the first {unusable[0]}" if unusable else ""
    return CorpusError(f"no document is left to train on ({counted or 'none was found'}{first})")


def _go_through(
    work: Path,
    files: Sequence[str],
    settings: PrepareSettings,
    ledger: Ledger,
    processes: int,
    bar: Any,
) -> dict[str, Any]:
    """Every document that is not done yet, chunk by chunk; returns the counts."""
    words = work / TOKENIZER_FOLDER
    dtype_size = open_vocabulary(words).get_vocab_size()
    state = ledger.state()
    if state is not None and _is_cut(work, state):
        ledger.clear()
        state = None
    learned = words_sha256(words)
    if state is not None and state["words"] != learned:
        raise CorpusError(f"{words}: is not what the work began with; --force begins anew")
    state = state or {
        "words": learned, "seen": 0, "exact": 0, "near": 0, "unusable": {}, "named": [],
        "splits": {name: {} for name in SPLITS},
    }  # fmt: skip
    writers = {
        name: SplitWriter(work, name, dtype_size, settings.shard_tokens, state["splits"][name])
        for name in SPLITS
    }
    rest = itertools.islice(_items(files, settings.text_field), state["seen"], None)
    near = settings.near_duplicates is not None
    for chunk, encoded in _encoded(_chunks(rest), words, near, processes):
        ready = iter(encoded)
        for item in chunk:
            state["seen"] += 1
            if isinstance(item, Unusable):
                state["unusable"][item.reason] = state["unusable"].get(item.reason, 0) + 1
                state["named"] += [f"{item.where}: {item.reason}"] * (len(state["named"]) < _NAMED)
                continue
            document = next(ready)
            bar.update(document.characters)
            if not ledger.is_new(document.fingerprint):
                state["exact"] += 1
            elif document.signature is not None and not ledger.is_far(document.signature):
                state["near"] += 1
            else:
                split = split_of(document.fingerprint, settings.validation_share)
                writers[split].add(document.tokens)
        state["splits"] = {name: writer.flush() for name, writer in writers.items()}
        ledger.commit(state)
    for writer in writers.values():
        writer.close()
    return state


def _is_cut(work: Path, state: dict[str, Any]) -> bool:
    """Whether token files lack something: a run was killed while it moved the end of a split."""
    sizes = itertools.chain.from_iterable(split.items() for split in state["splits"].values())
    return any(
        not (work / name).exists() or (work / name).stat().st_size < size for name, size in sizes
    )


Chunk = list[Document | Unusable]


def _chunks(items: Iterable[Document | Unusable]) -> Iterator[Chunk]:
    """Documents of together a few megabytes; a larger one is a chunk of its own."""
    chunk: Chunk = []
    size = 0
    for item in items:
        chunk.append(item)
        size += len(item.text) if isinstance(item, Document) else 0
        if size >= _CHUNK_CHARACTERS or len(chunk) >= _CHUNK_DOCUMENTS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _encoded(
    chunks: Iterator[Chunk], words: Path, near: bool, processes: int
) -> Iterator[tuple[Chunk, list[Encoded]]]:
    """Chunks in order with their documents encoded; at most two a worker are under way."""
    if processes == 1:
        for chunk in chunks:
            yield chunk, _encode_chunk(chunk, words, near)
        return
    # Spawned: a fork would take over the threads of whoever imported torch.
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=settle_worker
    ) as pool:
        under_way: deque[tuple[Chunk, Future[list[Encoded]]]] = deque()
        for chunk in chunks:
            under_way.append((chunk, pool.submit(_encode_chunk, chunk, words, near)))
            if len(under_way) >= 2 * processes:
                first, future = under_way.popleft()
                yield first, future.result()
        while under_way:
            first, future = under_way.popleft()
            yield first, future.result()


def _encode_chunk(chunk: Chunk, words: Path, near: bool) -> list[Encoded]:
    return [encode(item, words, near) for item in chunk if isinstance(item, Document)]


def _finish(
    work: Path,
    files: Sequence[str],
    settings: PrepareSettings,
    given: Path | None,
    state: dict[str, Any],
) -> dict[str, Any]:
    vocab_size = open_vocabulary(work / TOKENIZER_FOLDER).get_vocab_size()
    splits = split_records(work, vocab_size, settings)
    if splits is None:
        raise _nothing_left(_unusable(files, settings.text_field))
    unusable = sum(state["unusable"].values())
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "vocab_size": vocab_size,
        "tokenizer_sha256": words_sha256(work / TOKENIZER_FOLDER),
        "settings": {
            **asdict(settings),
            "vocab_size": None if given is not None else settings.vocab_size,
        },
        "sources": [{"file": file, "bytes": _stamp(file)[0]} for file in files],
        "documents": {
            "seen": state["seen"],
            "kept": state["seen"] - state["exact"] - state["near"] - unusable,
            "exact_duplicates": state["exact"],
            "near_duplicates": state["near"],
            "unusable": state["unusable"],
            "unusable_named": state["named"],
        },
        "splits": splits,
    }


def _size(files: Sequence[str]) -> int | None:
    """Bytes to go through; unknown where something is compressed or far away."""
    if any(file.startswith(HUB) or file.endswith((".gz", ".xz", ".parquet")) for file in files):
        return None
    return sum(_stamp(file)[0] for file in files)
