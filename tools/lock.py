"""Resolve the dependency groups of pyproject.toml afresh and write the lock files under requirements/.

Each file pins every package, transitive ones included. `pip --dry-run --report` resolves without installing, so this
needs no environment of its own. The groups that lie on top of another one are resolved with the lower pins as
constraints and name only what they add.

    python tools/lock.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
HEADER = "# Written by `make lock` from pyproject.toml; do not edit.\n"


def resolve(requirements: list[str], constraints: Path | None = None) -> dict[str, str]:
    """Return {package: version} of a clean resolution for this Python."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        wanted = Path(folder, "wanted.txt")
        wanted.write_text("\n".join(requirements) + "\n")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report), "-r", str(wanted)]
        command += ["-c", str(constraints)] if constraints else []
        subprocess.run(command, check=True)
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    # "+cpu" and the like say which build this machine found, not which version is wanted
    return {item["name"].lower().replace("_", "-"): item["version"].split("+")[0] for item in found}


def write(name: str, pins: dict[str, str], *, on_top_of: str | None = None) -> Path:
    lines = [f"-r {on_top_of}"] if on_top_of else []
    lines += [f"{package}=={version}" for package, version in sorted(pins.items())]
    path = LOCKS / name
    path.write_text(HEADER + "\n".join(lines) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(pins)} packages")
    return path


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    control = resolve(project["dependencies"])
    control_lock = write("control.txt", control)
    dev = resolve(project["dependencies"] + extras["dev"], control_lock)
    write("dev.txt", {name: pin for name, pin in dev.items() if name not in control}, on_top_of="control.txt")
    for name in ("jobs-test", "spark"):
        write(f"{name}.txt", resolve(extras[name]))
    # What AWS's Python runtimes hold besides the standard library.
    boto3 = next(item for item in project["dependencies"] if item.startswith("boto3=="))
    write("lambda.txt", resolve([boto3], control_lock))


if __name__ == "__main__":
    main()
