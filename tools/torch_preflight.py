"""Stop before pip fetches a CUDA build of PyTorch: several GB, unless `make demo TORCH_CUDA=1` asks for them.

`python tools/torch_preflight.py REQUIREMENTS` asks pip what it would take and ends it as soon as the wheel is named,
because older ones download it even for a dry run.
"""

import platform
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

ADVICE = (
    "pip would fetch {wheel}, PyTorch's CUDA build of several GB: set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU "
    "wheels (pytorch.org, Get Started, Linux, Pip, CPU), or say make demo TORCH_CUDA=1 to accept the download."
)


def requirement(text: str) -> str:
    """Return the pinned torch of a requirements file."""
    return next(line.strip() for line in text.splitlines() if line.startswith("torch=="))


def wheel_in(line: str) -> str | None:
    """Return the torch wheel that a line of pip's output names."""
    found = re.search(r"\btorch-[^\s/]+?\.whl", unquote(line))
    return found[0] if found else None


def is_cuda(wheel: str) -> bool:
    """Return whether a wheel is the CUDA build: on Linux for x86_64 the plain one is, others say `+cpu`."""
    version = wheel.split("-")[1]
    return "linux" in wheel and wheel.endswith("x86_64.whl") and "+cpu" not in version


def chosen(asked: str) -> str | None:
    """Return the wheel that pip would take; None when it does not say, so that the installation tells why."""
    options = ["--dry-run", "--no-deps", "--ignore-installed", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, asked]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as pip:
        assert pip.stdout
        wheel = next(filter(None, map(wheel_in, pip.stdout)), None)
        pip.kill()
    return wheel


def main() -> None:
    if platform.system() != "Linux":
        return
    wheel = chosen(requirement(Path(sys.argv[1]).read_text()))
    if wheel and is_cuda(wheel):
        raise SystemExit(ADVICE.format(wheel=wheel))


if __name__ == "__main__":
    main()
