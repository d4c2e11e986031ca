"""`sam validate` and `sam build` as a newcomer runs them; what is built fits the functions that load it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from infrastructure import project

# e_machine of the ELF header: https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html
ELF_MACHINES = {"x86_64": 62, "arm64": 183}
HOST = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine().lower()]
OTHER = next(each for each in ELF_MACHINES if each != HOST)


def _sam(*arguments: str, cwd: Path = project.ROOT) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "AWS_DEFAULT_REGION": "us-east-1", "SAM_CLI_TELEMETRY": "0"}
    return subprocess.run(
        ["sam", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def test_sam_validates_and_lints_the_template():
    done = _sam("validate", "--lint")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is a valid SAM Template" in done.stdout


@pytest.fixture(scope="module", params=[HOST, OTHER])
def build(request, tmp_path_factory):
    """Build everything for one architecture, the host's own or the other one."""
    target = tmp_path_factory.mktemp(request.param)
    python = f"PythonRuntime=python{sys.version_info.major}.{sys.version_info.minor}"
    overrides = ["--parameter-overrides", python, f"Architecture={request.param}"]
    folders = ["--build-dir", str(target / "build"), "--cache-dir", str(target / "cache")]
    done = _sam("build", "--config-env", "local", *folders, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    return request.param, target / "build"


def test_the_layers_binaries_are_of_the_functions_architecture(build):
    architecture, folder = build
    binaries = [path for path in folder.rglob("*.so*") if path.read_bytes()[:4] == b"\x7fELF"]
    assert binaries, "pydantic_core at least is a binary"
    for path in binaries:
        header = path.read_bytes()[:20]
        assert int.from_bytes(header[18:20], "little") == ELF_MACHINES[architecture], path.name


def test_every_function_and_layer_holds_its_code(build):
    _, folder = build
    for name, function in project.resources("AWS::Serverless::Function").items():
        assert (folder / name / function["Properties"]["Handler"].replace(".handler", ".py")).is_file()
    assert (folder / "CoreLayer" / "python" / "ebb" / "__init__.py").is_file()
    assert (folder / "CoreLayer" / "python" / "ebb" / "py.typed").is_file()
    assert (folder / "JobsLayer" / "python" / "run.py").is_file()
    assert (folder / "JobsLayer" / "python" / "ebb_jobs" / "__init__.py").is_file()


def test_the_layer_brings_the_catalogs_data(build):
    _, folder = build
    source = project.ROOT / "layers" / "core" / "ebb" / "catalog"
    data = {path.name for path in source.iterdir() if path.suffix in (".yaml", ".json")}
    assert data
    assert data <= {path.name for path in (folder / "CoreLayer" / "python" / "ebb" / "catalog").iterdir()}


def test_the_layer_brings_the_reports_template_and_its_engine(build):
    _, folder = build
    layer = folder / "CoreLayer" / "python"
    assert (layer / "ebb" / "report" / "report.html.j2").is_file()
    assert (layer / "ebb" / "report" / "report.css").is_file()
    assert (layer / "jinja2" / "__init__.py").is_file()


def test_functions_and_layer_fit_into_lambda(build):
    """250 MB unzipped, layers included: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""
    _, folder = build
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert total < 250 * 10**6


def test_the_built_template_points_to_what_was_built(build):
    _, folder = build
    text = (folder / "template.yaml").read_text(encoding="utf-8")
    built = yaml.load(text, project.Loader)["Resources"]
    for name in project.resources("AWS::Serverless::Function"):
        assert (folder / built[name]["Properties"]["CodeUri"]).is_dir()
    for name in project.resources("AWS::Serverless::StateMachine"):
        assert (folder / built[name]["Properties"]["DefinitionUri"]).is_file()
