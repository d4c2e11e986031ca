"""Put many files into one zip: one object to send instead of thousands, with equal bytes for equal files."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

# Compressed by their own format: deflating them again costs time and saves nothing.
PACKED_ALREADY = {".png", ".jpg", ".jpeg", ".gz", ".tgz", ".zip", ".whl", ".parquet", ".npz"}
# The earliest moment that a zip can hold: one that never changes, so that the same files are the same drop.
EPOCH = (1980, 1, 1, 0, 0, 0)


def write(archive: Path, files: Iterable[tuple[str, bytes | Path]]) -> None:
    """Write a zip of (name inside, content or the file that holds it), in the order given."""
    with zipfile.ZipFile(archive, "w") as packed:
        for name, content in files:
            member = zipfile.ZipInfo(name, EPOCH)
            stored = PurePosixPath(name).suffix.lower() in PACKED_ALREADY
            member.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            if isinstance(content, bytes):
                packed.writestr(member, content)
                continue
            member.file_size = content.stat().st_size  # tells in advance whether the entry needs 64-bit sizes
            with content.open("rb") as source, packed.open(member, "w") as sink:
                shutil.copyfileobj(source, sink)
