"""What a preparation remembers on disk: fingerprints of the documents kept, and how far it is.

Everything a chunk of documents changes is one transaction: killed at any moment, the next run finds
the state after some whole chunk, and cuts the token files back to it. Memory does not grow with the
corpus, as fingerprints and MinHash bands lie in the database.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .encoding import PERMUTATIONS

_TABLES = """
    CREATE TABLE IF NOT EXISTS exact (fingerprint BLOB PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS near (id INTEGER PRIMARY KEY, signature BLOB);
    CREATE TABLE IF NOT EXISTS bands (band BLOB, id INTEGER, PRIMARY KEY (band, id)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS state (one INTEGER PRIMARY KEY CHECK (one = 1), content TEXT);
"""


class Ledger:
    def __init__(self, path: Path, near_threshold: float | None) -> None:
        self._database = sqlite3.connect(path)
        self._database.executescript(_TABLES)
        self._threshold = near_threshold
        self._bands, self._rows = _banding(near_threshold)

    def state(self) -> dict[str, Any] | None:
        row = self._database.execute("SELECT content FROM state").fetchone()
        found: dict[str, Any] | None = None if row is None else json.loads(row[0])
        return found

    def commit(self, state: dict[str, Any]) -> None:
        self._database.execute("INSERT OR REPLACE INTO state VALUES (1, ?)", [json.dumps(state)])
        self._database.commit()

    def clear(self) -> None:
        for table in ("exact", "near", "bands", "state"):
            self._database.execute(f"DELETE FROM {table}")
        self._database.commit()

    def is_new(self, fingerprint: bytes) -> bool:
        """Whether no equal text was there before; it then is from now on."""
        added = self._database.execute("INSERT OR IGNORE INTO exact VALUES (?)", [fingerprint])
        return added.rowcount == 1

    def is_far(self, signature: NDArray[np.uint32]) -> bool:
        """Whether no text before was as alike as the threshold; it then counts from now on.

        Texts that share a band of their signatures are compared (locality-sensitive hashing, Indyk
        & Motwani 1998); how much of the whole signatures agrees estimates their Jaccard similarity.
        """
        keys = [
            b"%d:" % band + signature[band * self._rows : (band + 1) * self._rows].tobytes()
            for band in range(self._bands)
        ]
        for key in keys:
            others = self._database.execute(
                "SELECT signature FROM near JOIN bands USING (id) WHERE band = ?", [key]
            )
            for (other,) in others:
                alike = float(np.mean(np.frombuffer(other, np.uint32) == signature))
                if alike >= (self._threshold or 2):
                    return False
        added = self._database.execute(
            "INSERT INTO near (signature) VALUES (?)", [signature.tobytes()]
        )
        self._database.executemany(
            "INSERT OR IGNORE INTO bands VALUES (?, ?)", [(key, added.lastrowid) for key in keys]
        )
        return True

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()


def _banding(threshold: float | None) -> tuple[int, int]:
    """How many bands of how many rows find pairs at the threshold best."""
    if threshold is None:
        return 0, 0
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
    return int(index.b), int(index.r)
