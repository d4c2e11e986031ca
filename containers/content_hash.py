"""Tag each image with the hash of what it is built from.

    python containers/content_hash.py            print the tags

The tag is the first 12 hex digits of the SHA-256 over every file below containers/<name>: its path and its bytes, in
the order of the paths. When the stack is deployed the files are published under that hash, and a build in the account
gives the image this tag. Stdlib only.
"""

import hashlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
IMAGES = ("jobs", "serve")
_NOT_CONTENT = {"__pycache__", ".DS_Store"}


def files(folder: Path) -> dict[str, bytes]:
    """Return what an image is built from, by relative path, in the order in which it is hashed."""
    found = (path for path in folder.rglob("*") if path.is_file() and not _NOT_CONTENT & set(path.parts))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(found)}


def content_hash(folder: Path) -> str:
    """Return the tag of the image that is built from `folder`."""
    digest = hashlib.sha256()
    for path, content in sorted(files(folder).items()):
        # Lengths keep the end of one file apart from the start of the next.
        digest.update(f"{path}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    for name in IMAGES:
        print(name, content_hash(HERE / name))
