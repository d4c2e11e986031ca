"""`up`, `doctor`, the demo's arithmetic, and how problems and figures are told."""

import json
import sys
from pathlib import Path

import pytest
import typer
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from typer.testing import CliRunner

from ebb.errors import InvalidSpecError, Rejection
from ebb_cli import account, cloud, demo, doctor, output, problems
from ebb_cli.target import Target
from ebb_local import lifecycle


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "PutObject")


@pytest.mark.parametrize(
    ("problem", "told", "remedy", "status"),
    [
        pytest.param(refused("AccessDenied"), "PutObject was refused: AccessDenied: no", "--profile", 1, id="denied"),
        pytest.param(refused("ExpiredToken"), "ExpiredToken", "Sign in again", 1, id="expired keys"),
        pytest.param(NoCredentialsError(), "Unable to locate credentials", "ebb up", 1, id="no keys"),
        pytest.param(
            EndpointConnectionError(endpoint_url="http://x"), "http://x", "cloud running?", 1, id="nobody answers"
        ),
        pytest.param(
            InvalidSpecError(Rejection("unknown-field", "unknown field servee", "a.yaml", 3, None, "Write serve.")),
            "a.yaml: unknown field servee", "Write serve.", 3, id="a spec that cannot be used",
        ),
        pytest.param(lifecycle.ServerBusy(Path("home"), None), "is busy", "ebb down", 1, id="busy"),
        pytest.param(lifecycle.LifecycleError("did not answer"), "did not answer", "ebb doctor", 1, id="no start"),
        pytest.param(KeyError("Outputs"), "KeyError: 'Outputs'", "EBB_DEBUG=1", 1, id="a mistake of ours"),
    ],
)  # fmt: skip
def test_every_problem_is_one_line_with_a_remedy(problem, told, remedy, status):
    found = problems.describe(problem)
    assert told in found.message
    assert remedy in found.remedy
    assert found.status == status


def failing() -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @problems.reported
    def fail() -> None:
        raise KeyError("Outputs")

    return app


def test_no_traceback_reaches_a_user():
    done = CliRunner().invoke(failing(), [])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: KeyError")
    assert "Traceback" not in done.stderr


def test_debugging_lets_the_traceback_through(monkeypatch):
    monkeypatch.setenv("EBB_DEBUG", "1")
    assert isinstance(CliRunner().invoke(failing(), []).exception, KeyError)


def test_every_ending_status_of_the_ledger_has_an_exit_status():
    assert problems.EXIT_OF_STATUS == {
        "succeeded": 0, "reused": 0, "superseded": 0, "failed": 1, "rejected": 3, "cancelled": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0, "0"), (0.0412345, "0.0412"), (0.97321, "0.973"), (12.3456, "12.3"), (123.4, "123"),
        (1234567, "1,234,567"), (0.00001234, "0.0000123"), (1.234e-9, "1.23e-09"),
    ],
)  # fmt: skip
def test_numbers_keep_three_digits(value, text):
    assert output.number(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (8.24, "8.2 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations(seconds, text):
    assert output.duration(seconds) == text


@pytest.mark.parametrize(("size_bytes", "text"), [(512, "512 B"), (2048, "2.0 KiB"), (5 * 1024**3, "5.0 GiB")])
def test_sizes(size_bytes, text):
    assert output.size(size_bytes) == text


def test_a_figure_is_told_with_its_band():
    assert output.band({"low": 0.2, "value": 0.4, "high": 0.8}, "gCO2e") == "0.400 (0.200 to 0.800) gCO2e"


def test_labels_are_judged_by_the_share_that_is_right():
    assert demo.score([{"label": 1}, {"label": "b"}, {"label": "c"}, {"label": "d"}], ["1", "b", "c", "x"]) == (
        "75.00% are right"
    )


def test_values_are_judged_by_their_root_mean_square_error():
    assert demo.score([{"value": 3.0}, {"value": 6.0}], ["0", "2"]) == "root mean square error 3.536"


def test_a_missing_answer_is_an_error_and_no_score():
    with pytest.raises(ValueError, match="longer"):
        demo.score([{"value": 1.0}], ["1", "2"])


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch) -> Path:
    for name in ("template.yaml", "functions/on_upload.py", "jobs/run.py", "README.md"):
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before")
    monkeypatch.setattr(cloud, "CHECKOUT", tmp_path / "checkout")
    return tmp_path / "checkout"


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        pytest.param("template.yaml", True, id="the template"),
        pytest.param("functions/on_upload.py", True, id="a function"),
        pytest.param("jobs/run.py", True, id="job code"),
        pytest.param("functions/new.py", True, id="a new file"),
        pytest.param("README.md", False, id="the README"),
        pytest.param("functions/__pycache__/on_upload.pyc", False, id="byte code"),
    ],
)
def test_the_stack_is_deployed_again_only_when_what_it_is_made_of_changes(checkout, changed, again):
    before = cloud.fingerprint()
    path = checkout / changed
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("changed")
    assert (cloud.fingerprint() != before) is again


def test_sam_can_reach_nothing_but_the_embedded_cloud(target: Target, monkeypatch, home):
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret")
    embedded = Target(target.session, "http://127.0.0.1:4747", True, "000000000000", "us-east-1", "ebb")
    environment = cloud.sam_environment(embedded)
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4747"
    assert environment["AWS_PROFILE"] == "ebb"
    assert Path(environment["AWS_CONFIG_FILE"]).is_relative_to(home)
    assert "AWS_SESSION_TOKEN" not in environment
    assert "AWS_ACCESS_KEY_ID" not in environment


@pytest.fixture
def registry(target: Target) -> Target:
    """Repositories for both images, of which the jobs image alone has been built."""
    ecr = target.client("ecr")
    for kind in ("jobs", "serve"):
        uri = ecr.create_repository(repositoryName=f"ebb-{kind}")["repository"]["repositoryUri"]
        target.outputs[f"{kind.capitalize()}RepositoryUri"] = uri
        target.outputs[f"{kind.capitalize()}ImageUri"] = f"{uri}:0123456789ab"
    form = "application/vnd.oci.image.manifest.v1+json"
    ecr.put_image(repositoryName="ebb-jobs", imageManifest="{}", imageManifestMediaType=form, imageTag="0123456789ab")
    return target


def test_an_image_that_is_not_built_yet_will_be_by_the_first_run(registry):
    state, detail, _ = account.images(registry)
    assert state == "ok"
    assert "ebb-jobs:0123456789ab," in detail
    assert "ebb-serve:0123456789ab (the first run builds it)" in detail


def test_an_image_that_is_named_ready_is_not_looked_for(registry):
    registry.outputs["ServeImageUri"] = "public.ecr.aws/somebody/serve:1"
    assert account.images(registry)[1].endswith("public.ecr.aws/somebody/serve:1")


@pytest.mark.parametrize(
    ("quotas", "state"),
    [
        pytest.param({account.BUILD_QUOTA: 0.0}, "fail", id="a new account may build nothing"),
        pytest.param({account.BUILD_QUOTA: 1.0}, "ok", id="one at a time is enough: the others queue"),
        pytest.param({"Concurrently running builds for ARM/Medium environment": 60.0}, "warn", id="it is not listed"),
    ],
)
def test_the_quota_of_builds_is_judged_with_its_remedy(monkeypatch, target, quotas, state):
    monkeypatch.setattr(account, "_quotas", lambda _, service: quotas if service == "codebuild" else {})
    found, _, remedy = account.build_quota(target)
    assert found == state
    assert "CodeBuild" in remedy
    assert "JobsImageUri" in remedy


@pytest.mark.parametrize(
    ("caller", "principal"),
    [
        ("arn:aws:iam::1:user/ada", "arn:aws:iam::1:user/ada"),
        ("arn:aws:sts::1:assumed-role/Deployer/session", "arn:aws:iam::1:role/Deployer"),
    ],
)
def test_a_session_is_simulated_as_its_role(caller, principal):
    assert account._role_of(caller) == principal


def test_doctor_names_what_is_missing_and_what_installs_it(ebb, monkeypatch, tmp_path):
    monkeypatch.setenv("EBB_VENVS", str(tmp_path / "none"))
    done = ebb("doctor", "--json")
    found = {item["check"]: item for item in json.loads(done.stdout)}
    assert found["environments"]["state"] == "fail"
    assert "make setup" in found["environments"]["remedy"]
    assert found["python"]["state"] == "ok"
    assert done.exit_code == 1


def test_doctor_warns_of_a_python_that_unpacks_without_a_filter(monkeypatch):
    assert doctor.python().state == "ok"
    monkeypatch.delattr("tarfile.data_filter")
    assert doctor.python().state == "warn"
    assert "3.11.4" in doctor.python().remedy


def test_doctor_warns_of_a_cuda_build(monkeypatch, tmp_path):
    monkeypatch.setenv("EBB_VENVS", str(tmp_path))
    for name in cloud.ENVIRONMENTS:
        (tmp_path / name / "bin").mkdir(parents=True)
        (tmp_path / name / "bin/python").touch()
    assert doctor.environments().state == "ok"
    (tmp_path / "jobs/lib/python3.11/site-packages/nvidia").mkdir(parents=True)
    assert doctor.environments().state == "warn"


@pytest.mark.parametrize(("free", "state"), [(512 * 1024**2, "fail"), (2 * 1024**3, "warn"), (40 * 1024**3, "ok")])
def test_doctor_judges_the_free_space(monkeypatch, free, state):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert doctor.disk().state == state


def test_up_without_the_environments_says_what_installs_them(ebb, monkeypatch, tmp_path):
    monkeypatch.setenv("EBB_VENVS", str(tmp_path / "none"))
    done = ebb("up")
    assert done.exit_code == 1
    assert "make setup" in done.stderr


def test_down_is_harmless_when_nothing_runs(ebb):
    assert json.loads(ebb("down", "--json").stdout)["stopped"] is False


def test_another_port_than_the_running_servers_is_refused(ebb, monkeypatch, tmp_path):
    server = lifecycle.Server("http://127.0.0.1:4747", 7, 4747, "us-east-1", "000000000000", tmp_path)
    monkeypatch.setattr(lifecycle, "running", lambda home: server)
    monkeypatch.setattr(cloud, "_require_environments", lambda: None)
    done = ebb("up", "--port", "5000")
    assert done.exit_code == 2
    assert "already runs on port 4747" in done.stderr
    assert "ebb down" in done.stderr


@pytest.mark.parametrize(
    ("found", "told"),
    [
        pytest.param(lambda name: str(Path(sys.argv[0]).absolute()), "ebb", id="on the PATH"),
        pytest.param(lambda name: None, "bin/ebb", id="not on the PATH"),
        pytest.param(lambda name: "/elsewhere/ebb", "bin/ebb", id="another one on the PATH"),
    ],
)
def test_commands_are_told_so_that_they_run_as_printed(monkeypatch, tmp_path, found, told):
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "bin" / "ebb"), "up"])
    monkeypatch.setattr(output.shutil, "which", found)
    assert output.command() == told


def test_a_long_step_is_told_when_it_begins(capsys):
    seconds: dict[str, float] = {}
    with cloud._timed("build", "sam build", seconds):
        assert "… sam build" in capsys.readouterr().err
    assert "\u2713 sam build" in capsys.readouterr().err
    assert list(seconds) == ["build"]
