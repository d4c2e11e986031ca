"""Tag each image with the hash of what it is built from, and keep the defaults in template.yaml equal to it.

    python containers/content_hash.py            print the tags
    python containers/content_hash.py --check    exit with 1 when template.yaml names another tag
    python containers/content_hash.py --write    write the tags into template.yaml

The tag is the first 12 hex digits of the SHA-256 over every file below containers/<name>: its path and its bytes, in
the order of the paths. Stdlib only.
"""

import argparse
import hashlib
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TEMPLATE = HERE.parent / "template.yaml"
PARAMETERS = {"jobs": "JobsImageTag", "serve": "ServeImageTag"}
_NOT_CONTENT = {"__pycache__", ".DS_Store"}


def content_hash(folder: Path) -> str:
    """Return the tag of the image that is built from `folder`."""
    digest = hashlib.sha256()
    files = (path for path in folder.rglob("*") if path.is_file() and not _NOT_CONTENT & set(path.parts))
    for path in sorted(files, key=lambda each: each.relative_to(folder).as_posix()):
        content = path.read_bytes()
        # Lengths keep the end of one file apart from the start of the next.
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def with_tags(template: str, tags: dict[str, str]) -> str:
    """Return the template's text with these tags as the defaults of their parameters.

    Raises: ValueError when a parameter is not found in its expected form.
    """
    for name, tag in tags.items():
        pattern = rf'(?m)^(  {PARAMETERS[name]}:\n    Type: String\n    Default: )"[^"\n]*"$'
        template, found = re.subn(pattern, rf'\g<1>"{tag}"', template)
        if found != 1:
            raise ValueError(f"template.yaml has no parameter {PARAMETERS[name]} with a quoted default")
    return template


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true")
    group.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    tags = {name: content_hash(HERE / name) for name in PARAMETERS}
    for name, tag in tags.items():
        print(f"{name} {tag}")
    text = TEMPLATE.read_text(encoding="utf-8")
    wanted = with_tags(text, tags)
    if chosen.write and wanted != text:
        TEMPLATE.write_text(wanted, encoding="utf-8")
    if chosen.check and wanted != text:
        print("template.yaml names other tags: python containers/content_hash.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
