"""Large CSV in chunks of whole rows, and which of their rows were there before.

Several chunks are worked on at once, each on one core, and none needs more memory than it does alone. What must be
known of all rows is a number of each: its hash.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ebb_jobs.process_guess import NotQuickError

BYTES = 64 * 2**20
_PIECE = 2**22
_IN_A_NUMBER = re.compile(rb"[0-9]_[0-9]")
_OTHER_SPACE = (b"\t", b"\r", b"\v", b"\f")
"""DuckDB trims all of it from numbers; the rules trim the first two from all cells."""
_LEAST_BITS, _MOST_BITS = 20, 28
_BITS_EACH = 32
_FIRST_BITS = 20


class Chunk(NamedTuple):
    """A part of a file: where its rows lie, and their bytes until the thread that took it takes the next one."""

    number: int
    file: Path
    start: int
    stop: int
    mark: int
    quotes: bool
    """Quotation marks, or bytes of 0: rows that DuckDB reads, as in the slow way."""
    data: memoryview

    @property
    def blanks(self) -> bool:
        """A blank stands beside the end of a cell."""
        ends: np.ndarray = np.zeros(256, dtype=bool)
        ends[[self.mark, ord("\n"), ord('"')]] = True
        seen = np.frombuffer(self.data, dtype=np.uint8)
        if seen[0] == ord(" ") or seen[-1] == ord(" "):
            return True
        for start in range(0, len(seen), _PIECE):
            blank: np.ndarray = start + np.flatnonzero(seen[start : start + _PIECE] == ord(" "))
            if ends[seen[np.maximum(blank - 1, 0)]].any() or ends[seen[np.minimum(blank + 1, len(seen) - 1)]].any():
                return True
        return False

    def copy(self, into: Path) -> None:
        """Make a file of the rows: DuckDB reads files."""
        into.unlink(missing_ok=True)  # a file that is written anew goes to the disk at once, one that is gone never
        into.write_bytes(self.data)


class Reader:
    """Hands out the chunks of some files one after the other, to several threads."""

    def __init__(self, files: Sequence[Path], mark: str, bytes_each: int = BYTES) -> None:
        """Read files whose first line is a header; `mark` stands between the cells."""
        self._ahead = list(files)
        self._mark = ord(mark)
        self._bytes = bytes_each
        self._own = threading.local()
        self._at = 0
        self._number = 0
        self._lock = threading.Lock()

    def next(self, into: Path) -> Chunk | None:
        """Return the next chunk, None where all are read; one with quotation marks is also copied to the file `into`.

        Raises NotQuickError for bytes that the quick way reads otherwise than the slow one.
        """
        with self._lock:
            while self._ahead and self._at >= self._ahead[0].stat().st_size:
                self._ahead.pop(0)
                self._at = 0
            if not self._ahead:
                return None
            file = self._ahead[0]
            with file.open("rb") as stream:
                stream.seek(self._at)
                if not self._at:
                    self._at = len(stream.readline())
                    if self._at >= file.stat().st_size:
                        raise NotQuickError("a file without rows")
                buffer = self._buffer()
                size = stream.readinto(buffer)
                last = stream.tell() == file.stat().st_size
            found = self._cut(file, buffer if size == len(buffer) else buffer[:size], last=last)
            self._at = found.stop
            self._number += 1
        if found.quotes:
            found.copy(into)
        return found

    def again(self, chunk: Chunk, into: Path) -> Chunk:
        """Return a chunk once more, as `next` does."""
        with chunk.file.open("rb") as stream:
            stream.seek(chunk.start)
            found = chunk._replace(data=memoryview(stream.read(chunk.stop - chunk.start)))
        if found.quotes:
            found.copy(into)
        return found

    def _buffer(self) -> bytearray:
        """Return the thread's own buffer: pages that are there already need not be asked for again."""
        if not hasattr(self._own, "buffer"):
            self._own.buffer = bytearray(self._bytes)
        return self._own.buffer

    def _cut(self, file: Path, data: bytearray, *, last: bool) -> Chunk:
        quotes = b'"' in data
        stop = len(data) if last else _end_of_rows(data, quotes=quotes)
        if any(each in data for each in _OTHER_SPACE):
            raise NotQuickError("white space other than blanks")
        if b"+" in data and b"+-" in data:
            raise NotQuickError("DuckDB reads +-1 as a number, and the rules do not")
        if b"_" in data and _IN_A_NUMBER.search(data):
            raise NotQuickError("DuckDB reads 1_000 as a number, and the rules do not")
        return Chunk(
            self._number, file, self._at, self._at + stop, self._mark, quotes or b"\0" in data, memoryview(data)[:stop]
        )


def _end_of_rows(data: bytearray, *, quotes: bool) -> int:
    """Return where the last whole row ends: at a line break that stands in no quotes.

    The chunk begins with a row, so an even number of quotation marks stands before each row's end.
    """
    stop = data.rfind(b"\n") + 1
    if quotes:
        before = data.count(b'"', 0, stop)
        while stop and before % 2:
            further = data.rfind(b"\n", 0, stop - 1) + 1
            before -= data.count(b'"', further, stop)
            stop = further
    if not stop:
        raise NotQuickError("a row longer than a chunk")
    return stop


class Seen:
    """The hashes of all rows of the chunks before, eight bytes each, and a filter in front of them."""

    def __init__(self, rows: int) -> None:
        """Expect about so many rows; more of them let the filter pass what is not there, which costs time alone."""
        self._bits = min(max((rows * _BITS_EACH).bit_length(), _LEAST_BITS), _MOST_BITS)
        self._filter = np.zeros(2**self._bits // 8, dtype=np.uint8)
        self._chunks: dict[int, np.ndarray] = {}

    def add(self, number: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add the hashes of a chunk's rows; return those that it holds twice and those that another chunk holds."""
        rows = np.sort(rows)
        twice = np.unique(rows[1:][rows[1:] == rows[:-1]])
        place = rows >> np.uint64(64 - self._bits)
        byte = (place >> np.uint64(3)).astype(np.int64)
        bit = np.left_shift(np.uint8(1), (place & np.uint64(7)).astype(np.uint8))
        maybe = np.unique(rows[(self._filter[byte] & bit) != 0])
        np.bitwise_or.at(self._filter, byte, bit)
        late = maybe[self.known(maybe)] if len(maybe) else maybe
        self._chunks[number] = rows
        return twice, late

    def known(self, rows: np.ndarray) -> np.ndarray:
        """Tell of each hash whether some chunk holds it."""
        found: np.ndarray = np.zeros(len(rows), dtype=bool)
        for number in self._chunks:
            found |= self._held(number, rows)
        return found

    def chunks_with(self, rows: np.ndarray) -> list[int]:
        """Return the chunks that hold one of the hashes."""
        return [number for number in self._chunks if self._held(number, rows).any()]

    def _held(self, number: int, rows: np.ndarray) -> np.ndarray:
        mine = self._chunks[number]
        place = np.minimum(np.searchsorted(mine, rows), len(mine) - 1)
        return mine[place] == rows if len(mine) else np.zeros(len(rows), dtype=bool)


def among(rows: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Return the places of those rows whose hash is one of few."""
    begins: np.ndarray = np.zeros(2**_FIRST_BITS, dtype=bool)  # small enough for the processor's own memory
    begins[hashes >> np.uint64(64 - _FIRST_BITS)] = True
    maybe = np.flatnonzero(begins[rows >> np.uint64(64 - _FIRST_BITS)])
    found: np.ndarray = maybe[np.isin(rows[maybe], hashes)]
    return found
