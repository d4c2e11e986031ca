"""Lists and unpacks .zip and .tar.gz without trusting them: what they hold is counted, and nothing leaves its folder.

Standard library only: Lambdas look into archives with it before any job starts.
"""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, cast

from ebb_jobs import infer, refusals
from ebb_jobs.rejection import RejectedError, Rejection

CHUNK_BYTES = 2**20
MAX_AT_ONCE_BYTES = 32 * 2**20
"""More than any directory or header needs: `zipfile` and `tarfile` read each in one go, however long it says it is."""
MAX_NAME_BYTES = 1000
MAX_PART_BYTES = 255
RATIO_FROM_BYTES = 64 * 2**20
END_BYTES = 2**16 + 22 + 20
"""Where the last record of a zip stands: it may end in a comment of up to 64 KiB."""
ZIP_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
ENCRYPTED = 0x1
BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,  # `tarfile` follows headers that announce headers
    NotImplementedError,  # raised by `zipfile` for forms of zip that it cannot read: such an archive is refused
)


class Limits(NamedTuple):
    """How much an archive may hold. The defaults leave room for any honest set of pictures or tables."""

    members: int = 200_000
    bytes: int = 20 * 2**30
    ratio: int = 200
    """Unpacked over packed bytes, judged once RATIO_FROM_BYTES are unpacked: tables rarely pass 20."""


class Member(NamedTuple):
    """A file in an archive: its path with forward slashes, and its unpacked size."""

    name: str
    size_bytes: int


class Listing(NamedTuple):
    """The files of an archive; not `complete` when there were bytes for a part of them only."""

    members: list[Member]
    complete: bool


LIMITS = Limits()


def listing(name: str, size_bytes: int, stream: BinaryIO, *, limits: Limits = LIMITS) -> Listing:
    """Return the files that an archive names, after checking each name, kind and size; nothing is written.

    `stream` is seekable. It may hold less than the `size_bytes` of the archive: a .tar.gz is then listed as far as it
    goes, a .zip not at all, because its directory stands at the end.
    Raises: RejectedError.
    """
    complete = stream.seek(0, io.SEEK_END) >= size_bytes
    stream.seek(0)
    if not complete and _is_zip(name):
        return Listing([], complete=False)
    found: list[Member] = []
    try:
        with _explained(name):
            for member, _ in _members(name, size_bytes, stream, limits):
                found.append(member)
    except RejectedError as rejected:
        if complete or rejected.rejection.code != "broken-archive" or not found:
            raise
    if complete and not found:
        raise RejectedError(refusals.empty_archive(name))
    return Listing(found, complete)


def extract(
    file: Path,
    into: Path,
    *,
    name: str | None = None,
    limits: Limits = LIMITS,
    leave_out: Callable[[str], bool] = infer.is_no_data,
) -> list[Path]:
    """Unpack an archive into the new folder `into` and return the files, but those that are no data.

    `name` is how rejections call the archive, `leave_out` judges its members by their names. After a rejection the
    folder may hold a part: it is the caller's to delete.
    Raises: RejectedError; FileExistsError when the folder is there already.
    """
    told = name or file.name
    into.mkdir(parents=True)
    files, written = [], 0
    size_bytes = file.stat().st_size
    with file.open("rb") as stream, _explained(told):
        for member, content in _members(told, size_bytes, stream, limits):
            if leave_out(member.name) or not _can_be_written(member.name):
                continue
            path = into / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as out, content() as source:
                while chunk := source.read(CHUNK_BYTES):
                    written += len(chunk)
                    _check_bytes(told, written, size_bytes, limits)
                    out.write(chunk)
            if path.stat().st_size != member.size_bytes:
                raise RejectedError(_broken(told))
            files.append(path)
    if not files:
        raise RejectedError(refusals.empty_archive(told))
    return files


class _Names:
    """The names met so far: each is checked alone, and against the others."""

    def __init__(self, archive: str, limits: Limits) -> None:
        self._archive, self._limits = archive, limits
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._entries = 0

    def add_file(self, name: str) -> str:
        """Return a file's name with forward slashes. Raises RejectedError when it cannot be written where it says."""
        clean = self.check(name, file=True)
        folders = {clean[:position] for position, letter in enumerate(clean) if letter == "/"}
        if clean in self._files or clean in self._folders or folders & self._files:
            raise self._refused(
                "archive-duplicate", f"holds {_told(clean)} twice", clean, "Give every file its own name."
            )
        self._files.add(clean)
        self._folders |= folders
        return clean

    def check(self, name: str, *, file: bool = False) -> str:
        """Return the name of a file or folder with forward slashes, counted and checked by itself."""
        self._entries += 1
        if self._entries > self._limits.members:
            raise self.refuse_many(f"holds more than {self._limits.members:,} files")
        clean = name.replace("\\", "/").rstrip("/")
        while clean.startswith("./"):
            clean = clean[2:]
        parts = clean.split("/")
        drive = clean[:1].isalpha() and clean[1:3] == ":/"
        outside = clean.startswith("/") or ".." in parts or drive
        top = clean in ("", ".") and not file
        # What is no data needs no name that can be written: macOS leaves a file called "Icon\r".
        if not top and (outside or not (_can_be_written(clean) or infer.is_no_data(clean))):
            told = "would be written outside of its folder" if outside else "has a name that no file can have"
            raise self._refused(
                "archive-path",
                f"{_told(clean)} {told}",
                clean,
                "Pack the files by relative names, from inside their folder.",
            )
        return clean

    def refuse_many(self, what: str) -> RejectedError:
        """Return the rejection for more members than are ever read."""
        return self._refused("archive-too-many-files", what, None, "Drop fewer files, or join small ones into a table.")

    def refuse_kind(self, name: str, *, link: bool) -> RejectedError:
        """Return the rejection for a member that is neither file nor folder."""
        clean = self.check(name)
        if link:
            return self._refused(
                "archive-link",
                f"{_told(clean)} is a link",
                clean,
                "Pack the file itself (zip and tar -h follow links).",
            )
        return self._refused(
            "archive-special", f"{_told(clean)} is neither a file nor a folder", clean, "Pack plain files only."
        )

    def refuse_content(self, name: str, method: int | None) -> RejectedError:
        """Return the rejection for a member that cannot be read: encrypted, or packed in an unknown way."""
        clean = self.check(name)
        if method is None:
            return self._refused(
                "archive-encrypted", f"{_told(clean)} is encrypted", clean, "Pack the files without a password."
            )
        return self._refused(
            "archive-method",
            f"{_told(clean)} is packed by the unknown method {method}",
            clean,
            "Pack the files with deflate, as zip does when nothing is asked of it.",
        )

    def _refused(self, code: str, what: str, member: str | None, remedy: str) -> RejectedError:
        file = f"{self._archive}/{_told(member)}" if member else self._archive
        return RejectedError(Rejection(code, f"{self._archive}: {what}", file=file, remedy=remedy))


class _Opener(NamedTuple):
    """Opens one member's content."""

    archive: zipfile.ZipFile | tarfile.TarFile
    member: zipfile.ZipInfo | tarfile.TarInfo

    def __call__(self) -> IO[bytes]:
        if isinstance(self.archive, zipfile.ZipFile):
            return self.archive.open(cast(zipfile.ZipInfo, self.member))
        return cast(IO[bytes], self.archive.extractfile(cast(tarfile.TarInfo, self.member)))


class _Bounded:
    """A stream of which nobody can ask for too much: at once, or (`total`) altogether."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile, archive: str, size_bytes: int, limits: Limits | None) -> None:
        self._stream, self._archive, self._size_bytes, self._limits = stream, archive, size_bytes, limits

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes. Raises RejectedError when a header asks for more than a header can need."""
        if size > MAX_AT_ONCE_BYTES:
            raise RejectedError(_broken(self._archive))
        found = self._stream.read(size if size >= 0 else MAX_AT_ONCE_BYTES)
        self._check()
        return found

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, in compressed data by reading what lies between: a step at a time, so that the limits hold."""
        if self._limits is not None:
            while whence == io.SEEK_SET and offset - self._stream.tell() > CHUNK_BYTES:
                if not self._stream.read(CHUNK_BYTES):
                    break
                self._check()
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._stream.tell()

    def seekable(self) -> bool:
        """Tell that it can move."""
        return True

    def _check(self) -> None:
        if self._limits is not None:
            _check_bytes(self._archive, self._stream.tell(), self._size_bytes, self._limits)


def _members(name: str, size_bytes: int, stream: BinaryIO, limits: Limits) -> Iterator[tuple[Member, _Opener]]:
    return (_zip_members if _is_zip(name) else _tar_members)(name, size_bytes, stream, limits)


def _zip_members(name: str, size_bytes: int, stream: BinaryIO, limits: Limits) -> Iterator[tuple[Member, _Opener]]:
    names = _Names(name, limits)
    _check_directory(names, name, stream, limits)
    with zipfile.ZipFile(cast(IO[bytes], _Bounded(stream, name, size_bytes, None))) as archive:
        _check_bytes(name, sum(each.file_size for each in archive.infolist()), size_bytes, limits)
        found = []
        for each in archive.infolist():
            mode = each.external_attr >> 16
            kind = stat.S_IFMT(mode) if each.create_system == 3 else 0  # 3: packed on Unix, so that there is a mode
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                if infer.is_no_data(names.check(each.filename)):
                    continue
                raise names.refuse_kind(each.filename, link=kind == stat.S_IFLNK)
            if each.is_dir():
                names.check(each.filename)
                continue
            if each.flag_bits & ENCRYPTED:
                raise names.refuse_content(each.filename, None)
            if each.compress_type not in ZIP_METHODS:
                raise names.refuse_content(each.filename, each.compress_type)
            found.append((Member(names.add_file(each.filename), each.file_size), _Opener(archive, each)))
        yield from found


def _check_directory(names: _Names, archive: str, stream: BinaryIO, limits: Limits) -> None:
    """Raise RejectedError when a zip's directory has too many entries; `zipfile` would hold all before any is counted.

    They are counted one by one: what the archive says of their number may be wrong. A directory that cannot be found
    is left for `zipfile` to refuse.
    """
    end = stream.seek(0, io.SEEK_END)
    tail_at = stream.seek(max(0, end - END_BYTES))
    tail = stream.read(END_BYTES)
    stream.seek(0)
    found = tail.rfind(b"PK\5\6")
    if found < 0 or len(tail) < found + 22:
        return
    (size,) = struct.unpack_from("<L", tail, found + 12)
    begin = tail_at + found - size
    if found >= 20 and tail[found - 20 :].startswith(b"PK\6\7"):  # zip64, for large archives
        (at,) = struct.unpack_from("<Q", tail, found - 12)
        at = min(at, end)  # what it says may be wrong
        stream.seek(at)
        record = stream.read(56)
        stream.seek(0)
        if len(record) < 56 or not record.startswith(b"PK\6\6"):
            return
        (size,) = struct.unpack_from("<Q", record, 40)
        begin = at - size
    if begin < 0:
        return
    if size > MAX_AT_ONCE_BYTES:
        raise names.refuse_many(f"has names of files that take {size / 2**20:,.0f} MiB, too many to be read")
    stream.seek(begin)
    directory = stream.read(size)
    stream.seek(0)
    count = position = 0
    while directory[position : position + 4] == b"PK\1\2" and position + 46 <= len(directory):
        count += 1
        if count > limits.members:
            raise names.refuse_many(f"holds more than {limits.members:,} files")
        position += 46 + sum(struct.unpack_from("<HHH", directory, position + 28))


def _tar_members(name: str, size_bytes: int, stream: BinaryIO, limits: Limits) -> Iterator[tuple[Member, _Opener]]:
    names = _Names(name, limits)
    with gzip.GzipFile(fileobj=stream) as unpacked:
        bounded = _Bounded(unpacked, name, size_bytes, limits)
        with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r:") as archive:
            for each in archive:
                if each.isdir():
                    names.check(each.name)
                    continue
                if not each.isreg() or each.issparse():
                    if infer.is_no_data(names.check(each.name)):
                        continue
                    raise names.refuse_kind(each.name, link=each.issym() or each.islnk())
                yield Member(names.add_file(each.name), each.size), _Opener(archive, each)
            # `tarfile` takes a header that it cannot read for the end; at the true one stand zeros, or nothing.
            bounded.seek(archive.offset)
            while rest := bounded.read(CHUNK_BYTES):
                if any(rest):
                    raise RejectedError(_broken(name))


def _check_bytes(name: str, unpacked: int, packed: int, limits: Limits) -> None:
    if unpacked > limits.bytes:
        raise RejectedError(
            Rejection(
                "archive-too-large",
                f"{name} unpacks to more than {limits.bytes / 2**30:,.3g} GiB",
                file=name,
                remedy="Drop less at a time, or tables as Parquet, which needs no archive.",
            )
        )
    if unpacked > RATIO_FROM_BYTES and unpacked > limits.ratio * max(packed, 1):
        raise RejectedError(
            Rejection(
                "archive-bomb",
                f"{name} unpacks to more than {limits.ratio} times its size",
                file=name,
                remedy="Pack real data; nothing that can be learned from shrinks so much.",
            )
        )


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what the standard library raises for a damaged archive into a rejection."""
    try:
        yield
    except BROKEN as error:
        raise RejectedError(_broken(name)) from error


def _broken(name: str) -> Rejection:
    return Rejection(
        "broken-archive",
        f"{name} is damaged or cut, or no {'zip' if _is_zip(name) else 'tar.gz'} at all",
        file=name,
        remedy="Pack the files again, test the archive (unzip -t, tar -tzf), and upload it again.",
    )


def _can_be_written(name: str) -> bool:
    """Tell whether a file can be called so: no control characters, no halves of characters, no part without a name."""
    parts = name.split("/")
    return (
        not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)
        and all(part not in ("", ".") for part in parts)
        and len(name.encode(errors="replace")) <= MAX_NAME_BYTES
        and all(len(part.encode(errors="replace")) <= MAX_PART_BYTES for part in parts)
    )


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def _told(name: str | None) -> str:
    """Return a member's name as it may be shown: printable, and not too long for a sentence."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name or "")
    return shown if len(shown) <= 120 else shown[:117] + "..."
