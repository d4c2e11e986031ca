"""The images: what they are built from, how that is named, and how the account builds them."""

import json
import re
import subprocess
from pathlib import Path

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator

import content_hash
from ebb import catalog
from ebb.images import Image
from ebb.requests import builds, start_build
from infrastructure import project

CONTAINERS = project.ROOT / "containers"
PROJECT = project.template()["Resources"]["ImagesProject"]["Properties"]
CODEBUILD = botocore.session.get_session().get_service_model("codebuild")


def _pins(name: str) -> dict[str, str]:
    lines = (CONTAINERS / name / "requirements.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def _api(value):
    """Spell a document of CloudFormation or of Step Functions as CodeBuild's API does."""
    if isinstance(value, dict):
        return {key[0].lower() + key[1:]: _api(each) for key, each in value.items()}
    return [_api(each) for each in value] if isinstance(value, list) else value


# ---- What is built ----


@pytest.mark.parametrize("name", content_hash.IMAGES)
def test_every_package_is_pinned_and_nothing_else_comes(name):
    pins = _pins(name)
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.]*", version) for version in pins.values())
    script = (CONTAINERS / name / "install.sh").read_text()
    installs = [line for line in script.splitlines() if "--python" in line and " install " in line]
    assert installs
    assert all("--no-deps" in line for line in installs)


def test_what_serves_is_what_was_measured():
    """compile measures in the jobs image; the same versions answer in the serve image, without PyTorch."""
    jobs, serve = _pins("jobs"), _pins("serve")
    assert serve.items() <= jobs.items()
    assert "torch" in jobs
    assert "torch" not in serve


@pytest.mark.parametrize("name", content_hash.IMAGES)
def test_an_image_is_built_by_its_own_script_on_any_base(name):
    text = (CONTAINERS / name / "Dockerfile").read_text()
    base = re.search(r"^ARG BASE_IMAGE=(\S+)\nFROM \$\{BASE_IMAGE\}$", text, re.MULTILINE)
    assert base, "the base image is an argument"
    assert base[1].startswith("public.ecr.aws/docker/library/python:"), "a mirror without a limit on anonymous pulls"
    assert "sh /tmp/image/install.sh" in text
    start = {"serve": '["python3", "/opt/ml/model/code/serve.py"]', "jobs": '["sh", "/usr/local/bin/start.sh"]'}[name]
    assert f"ENTRYPOINT {start}" in text, "models that need PyTorch are served by jobs"


@pytest.mark.parametrize(
    ("word", "program"),
    [
        pytest.param("train", "/opt/ml/input/data/code/run.py train", id="a trial of a tuning job"),
        pytest.param("serve", "/opt/ml/model/code/serve.py", id="an endpoint"),
    ],
)
def test_the_jobs_image_does_what_the_word_that_sagemaker_appends_says(tmp_path, word, program):
    """A tuning job's trials have no entry point of their own in the API."""
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = ["sh", str(CONTAINERS / "jobs" / "start.sh"), word]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == program
    assert "COPY start.sh /usr/local/bin/start.sh" in (CONTAINERS / "jobs" / "Dockerfile").read_text()


def test_the_environments_are_installed_by_the_same_scripts():
    made = subprocess.run(
        ["make", "-n", "-B", "setup"], cwd=project.ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in content_hash.IMAGES:
        assert f"sh containers/{name}/install.sh .venvs/{name}/bin/python" in made


@pytest.mark.parametrize(
    ("kept", "calls_wanted"),
    [pytest.param("0", 2, id="a plain Python"), pytest.param("1", 1, id="a base with a PyTorch of its own")],
)
def test_torch_comes_from_the_index_or_from_the_base(tmp_path, kept, calls_wanted):
    """With a pip and a python that take notes."""
    notes = tmp_path / "notes"
    openvino = tmp_path / "openvino"
    (openvino / "libs").mkdir(parents=True)
    python, pip = tmp_path / "python", tmp_path / "pip"
    python.write_text(f'#!/bin/sh\ncase "$2" in *submodule_search*) echo {openvino};; esac\n')
    pip.write_text(f'#!/bin/sh\necho "$@" >> {notes}\n')
    for each in (python, pip):
        each.chmod(0o755)
    environment = {
        "PATH": "/usr/bin:/bin",
        "PIP": str(pip),
        "KEEP_TORCH": kept,
        "TORCH_INDEX_URL": "https://index.example/cpu",
    }
    script = CONTAINERS / "jobs" / "install.sh"
    subprocess.run(["sh", str(script), str(python)], env=environment, check=True, capture_output=True)
    calls = notes.read_text().splitlines()
    assert len(calls) == calls_wanted
    assert all(call.startswith(f"--python {python} install --no-deps ") for call in calls)
    if kept == "0":
        assert calls[0].endswith(f"--index-url https://index.example/cpu torch=={_pins('jobs')['torch']}")
    assert " -r " in calls[-1]
    assert "index-url" not in calls[-1], "the index of PyTorch holds PyTorch only"


@pytest.mark.parametrize("name", content_hash.IMAGES)
def test_without_a_python_named_the_one_on_the_path_is_filled(tmp_path, name):
    """As the Dockerfile calls it. pip takes the path of an interpreter, and refuses a name."""
    notes, openvino, bin_ = tmp_path / "notes", tmp_path / "openvino", tmp_path / "bin"
    (openvino / "libs").mkdir(parents=True)
    bin_.mkdir()
    python = bin_ / "python3"
    python.write_text(f'#!/bin/sh\necho "$@" >> {notes}\ncase "$2" in *submodule_search*) echo {openvino};; esac\n')
    python.chmod(0o755)
    environment = {"PATH": f"{bin_}:/usr/bin:/bin"}
    subprocess.run(["sh", str(CONTAINERS / name / "install.sh")], env=environment, check=True, capture_output=True)
    calls = [line.split() for line in notes.read_text().splitlines() if line.startswith("-m pip ")]
    assert calls
    assert {call[call.index("--python") + 1] for call in calls} == {str(python)}


def test_a_python_that_is_not_there_is_an_error():
    script = CONTAINERS / "serve" / "install.sh"
    assert subprocess.run(["sh", str(script), "nowhere/python"], capture_output=True, check=False).returncode != 0


# ---- How it is named ----


def test_the_hash_follows_names_and_bytes_and_nothing_else(tmp_path):
    folder = tmp_path / "image"
    (folder / "etc").mkdir(parents=True)
    (folder / "Dockerfile").write_text("FROM scratch")
    (folder / "etc" / "a").write_text("1")
    first = content_hash.content_hash(folder)
    assert len(first) == 12
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_bytes(b"x")
    assert content_hash.content_hash(folder) == first
    (folder / "etc" / "a").rename(folder / "etc" / "b")
    renamed = content_hash.content_hash(folder)
    (folder / "etc" / "b").write_text("2")
    assert len({first, renamed, content_hash.content_hash(folder)}) == 3


def test_moving_bytes_from_one_file_to_the_next_changes_the_hash(tmp_path):
    for name, parts in {"one": ("ab", "c"), "other": ("a", "bc")}.items():
        (tmp_path / name).mkdir()
        for file, text in zip("xy", parts, strict=True):
            (tmp_path / name / file).write_text(text)
    assert content_hash.content_hash(tmp_path / "one") != content_hash.content_hash(tmp_path / "other")


def test_the_tag_is_that_of_the_published_files_and_a_parameter_cannot_say_otherwise():
    text = project.TEMPLATE.read_text(encoding="utf-8")
    for name in ("Jobs", "Serve"):
        assert f"${{{name}Repository.RepositoryUri}}:${{PublishedCode.{name}ImageTag}}" in text
    assert not [name for name in project.template()["Parameters"] if name.endswith("Tag")]


# ---- How the account builds it ----


def test_the_project_builds_privileged_limited_and_encrypted():
    assert PROJECT["Environment"]["PrivilegedMode"] is True
    assert PROJECT["TimeoutInMinutes"] <= 60
    assert PROJECT["Environment"]["ComputeType"] == builds.COMPUTE_TYPE
    assert catalog.build_machine(builds.COMPUTE_TYPE) is not None, "what it costs is known"
    assert PROJECT["EncryptionKey"] == {"Fn::GetAtt": ["DataKey", "Arn"]}
    assert PROJECT["LogsConfig"]["CloudWatchLogs"]["GroupName"] == {"Ref": "ImagesProjectLogGroup"}
    shape = CODEBUILD.shape_for("ProjectEnvironment")
    plain = json.loads(json.dumps(_api(PROJECT["Environment"])).replace('{"ref": "TorchIndexUrl"}', '"https://x"'))
    assert not ParamValidator().validate(plain, shape).generate_report()


def test_builds_queue_where_the_account_allows_few():
    """A limit of the project above the account's quota fails the stack, and one that is met fails StartBuild."""
    assert "ConcurrentBuildLimit" not in PROJECT
    assert PROJECT["QueuedTimeoutInMinutes"] >= PROJECT["TimeoutInMinutes"]


def test_only_this_project_of_this_account_may_have_the_builds_role_assumed():
    role = project.template()["Resources"]["ImagesProjectRole"]["Properties"]["AssumeRolePolicyDocument"]
    (statement,) = role["Statement"]
    equal = statement["Condition"]["StringEquals"]
    assert equal["aws:SourceAccount"] == {"Ref": "AWS::AccountId"}
    assert equal["aws:SourceArn"]["Fn::Sub"].endswith(f":project/{PROJECT['Name']['Fn::Sub']}")


@pytest.mark.parametrize("name", ["JobsRepository", "ServeRepository"])
def test_images_that_an_endpoint_may_still_run_are_not_expired(name):
    policy = project.template()["Resources"][name]["Properties"]["LifecyclePolicy"]["LifecyclePolicyText"]
    untagged, tagged = [rule["selection"] for rule in json.loads(policy)["rules"]]
    assert (untagged["tagStatus"], untagged["countType"]) == ("untagged", "sinceImagePushed")
    assert (tagged["countType"], tagged["countNumber"]) == ("imageCountMoreThan", 100)


@pytest.mark.parametrize("base", ["", catalog.deep_learning_container("gpu", "eu-west-1")])
def test_a_build_request_is_valid_for_codebuild(base):
    body = start_build(
        "ebb-images", Image("1.dkr.ecr.eu-west-1.amazonaws.com/ebb/jobs:1", "s3://b/images/jobs/1", base)
    )
    shape = CODEBUILD.operation_model("StartBuild").input_shape
    assert not ParamValidator().validate(_api(body), shape).generate_report()
    assert set(_api(body)) <= set(shape.members)


def _script() -> str:
    spec = yaml.safe_load(PROJECT["Source"]["BuildSpec"])
    assert spec["version"] == 0.2
    (command,) = spec["phases"]["build"]["commands"]
    return command


class Build:
    """The buildspec's command, with an `aws` and a `docker` that take notes."""

    def __init__(self, folder: Path):
        self.notes, self.looks, bin_ = folder / "notes", folder / "looks", folder / "bin"
        bin_.mkdir()
        self.folder = folder
        (bin_ / "aws").write_text(
            f'#!/bin/sh\necho "aws $@" >> {self.notes}\n'
            f'case "$2" in describe-images) echo x >> {self.looks}\n'
            f'[ $(wc -l < {self.looks}) -gt $THERE_AFTER ] || {{ echo "An error occurred ($SAYS)" >&2; exit 254; }};;\n'
            "get-login-password) echo secret;; esac\n"
        )
        (bin_ / "docker").write_text(
            f'#!/bin/sh\necho "docker $@" >> {self.notes}\n[ "$1" != login ] || read password\n[ "$1" != "$FAILING" ]\n'
        )
        for each in bin_.iterdir():
            each.chmod(0o755)

    def run(
        self, *, there_after: int, failing: str = "", base: str = "", says: str = "ImageNotFoundException"
    ) -> tuple[int, list[str]]:
        variables = {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "IMAGE_URI": "1.dkr.ecr.eu-west-1.amazonaws.com/ebb/jobs:abc",
            "CONTEXT_URI": "s3://b/images/jobs/abc",
            "TORCH_INDEX_URL": "https://index.example/cpu",
            "THERE_AFTER": str(there_after),
            "FAILING": failing,
            "SAYS": says,
        } | ({"BASE_IMAGE": base} if base else {})
        done = subprocess.run(["sh", "-c", _script()], env=variables, cwd=self.folder, capture_output=True, check=False)
        return done.returncode, self.notes.read_text().splitlines()


@pytest.fixture
def build(tmp_path) -> Build:
    return Build(tmp_path)


NEVER = 99
IMAGE = "1.dkr.ecr.eu-west-1.amazonaws.com/ebb/jobs:abc"


def test_a_build_fetches_the_context_builds_for_x86_64_and_pushes(build):
    code, asked = build.run(there_after=NEVER)
    assert code == 0
    assert sorted(asked[2:4]) == [  # the two ends of a pipe
        "aws ecr get-login-password",
        "docker login --username AWS --password-stdin 1.dkr.ecr.eu-west-1.amazonaws.com",
    ]
    assert asked[:2] + asked[4:] == [
        "aws ecr describe-images --repository-name ebb/jobs --image-ids imageTag=abc",
        "aws s3 cp --recursive --only-show-errors s3://b/images/jobs/abc/ context",
        "docker build --platform linux/amd64 --build-arg TORCH_INDEX_URL=https://index.example/cpu"
        f" --tag {IMAGE} context",
        f"docker push {IMAGE}",
    ]


def test_a_build_of_what_is_there_ends_at_once(build):
    code, asked = build.run(there_after=0)
    assert (code, len(asked)) == (0, 1)


def test_a_build_that_another_one_overtook_succeeds(build):
    assert build.run(there_after=1, failing="push")[0] == 0


@pytest.mark.parametrize("says", ["AccessDeniedException", "RepositoryNotFoundException", "ThrottlingException"])
def test_a_registry_that_cannot_be_asked_is_not_taken_for_an_empty_one(build, says):
    code, asked = build.run(there_after=NEVER, says=says)
    assert code != 0
    assert len(asked) == 1, "nothing is built"


@pytest.mark.parametrize("failing", ["login", "build", "push"])
def test_a_build_that_fails_says_so_and_pushes_nothing_after(build, failing):
    code, asked = build.run(there_after=NEVER, failing=failing)
    assert code != 0
    if failing != "push":
        assert not [line for line in asked if line.startswith("docker push")]


def test_a_variant_is_built_on_awss_container_whose_registry_is_logged_in_to(build):
    base = catalog.deep_learning_container("gpu", "eu-west-1")
    code, asked = build.run(there_after=NEVER, base=base)
    assert code == 0
    assert f"docker login --username AWS --password-stdin {base.partition('/')[0]}" in asked
    (built,) = [line for line in asked if line.startswith("docker build")]
    assert f"--build-arg BASE_IMAGE={base} " in built


# ---- The catalog of AWS's containers ----


def test_the_build_may_pull_every_container_of_the_catalog():
    allowed = {
        resource["Fn::Sub"].rpartition("/")[2]
        for statement in project.statements()
        if statement.where == "ImagesProjectRole"
        for resource in statement.resources
        if isinstance(resource, dict) and ":repository/" in str(resource.get("Fn::Sub"))
    }
    facts = json.loads((Path(catalog.__file__).parent / "images.json").read_text())
    assert set(facts["containers"]) == set(catalog.ACCELERATOR_KINDS)
    for container in facts["containers"].values():
        for region, uri in container["uris"].items():
            found = re.fullmatch(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.([a-z0-9.-]+)/([a-z-]+):(\S+)", uri)
            assert found, uri
            assert found[2] == region
            assert found[4] in allowed
            assert found[5].startswith(container["version"])


def test_the_container_for_gpus_runs_the_packages_of_the_jobs_image():
    """NumPy's wheels among the pins are for Python 3.11 and later."""
    facts = json.loads((Path(catalog.__file__).parent / "images.json").read_text())
    for container in facts["containers"].values():
        assert int(container["python"].removeprefix("py3")) >= 11
