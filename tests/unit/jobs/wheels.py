"""Wheels written by hand."""

import zipfile


def wheel(folder, name, code):
    """Write a wheel by hand: an archive with the module and its papers."""
    folder.mkdir(exist_ok=True)
    papers = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", code)
        archive.writestr(f"{papers}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{papers}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{papers}/RECORD", "")
