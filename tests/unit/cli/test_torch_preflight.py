"""What pip says it would take, and whether that is several GB too much."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "tools" / "torch_preflight.py"


@pytest.fixture(scope="module")
def preflight():
    spec = importlib.util.spec_from_file_location("torch_preflight", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "wheel"),
    [
        pytest.param(
            "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (29 kB)",
            "torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl", id="only its metadata",
        ),
        pytest.param(
            "  Using cached https://index/torch-2.13.0%2Bcpu-cp312-cp312-manylinux_2_28_x86_64.whl (190 MB)",
            "torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl", id="by its address",
        ),
        pytest.param(
            "Processing /wheels/torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl",
            "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl", id="from a folder",
        ),
        pytest.param("Collecting torch==2.13.0", None, id="not yet"),
        pytest.param("Looking in links: /torch-wheels", None, id="something else"),
    ],
)  # fmt: skip
def test_the_wheel_that_pip_names(preflight, line, wheel):
    assert preflight.wheel_in(line) == wheel


@pytest.mark.parametrize(
    ("wheel", "cuda"),
    [
        ("torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl", True),
        ("torch-2.13.0+cu130-cp311-cp311-manylinux_2_28_x86_64.whl", True),
        ("torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl", False),
        ("torch-2.13.0-cp311-none-macosx_14_0_arm64.whl", False),
    ],
)
def test_on_linux_the_plain_wheel_is_the_cuda_build(preflight, wheel, cuda):
    assert preflight.is_cuda(wheel) is cuda


def test_what_the_jobs_image_pins_is_asked_for(preflight):
    text = (SCRIPT.parents[1] / "containers" / "jobs" / "requirements.txt").read_text()
    assert preflight.requirement(text).startswith("torch==")


def test_the_refusal_says_what_to_set(preflight, monkeypatch, tmp_path):
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\n")
    monkeypatch.setattr(preflight.sys, "argv", ["torch_preflight", str(tmp_path / "requirements.txt")])
    monkeypatch.setattr(preflight.platform, "system", lambda: "Linux")
    monkeypatch.setattr(preflight, "chosen", lambda asked: f"{asked.replace('==', '-')}-cp311-cp311-linux_x86_64.whl")
    with pytest.raises(SystemExit, match="PIP_EXTRA_INDEX_URL"):
        preflight.main()
    monkeypatch.setattr(preflight.platform, "system", lambda: "Darwin")
    preflight.main()
