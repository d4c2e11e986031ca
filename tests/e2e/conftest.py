"""A cloud with the stack deployed to it, and the `ebb` command as a user runs it.

It is an embedded cloud, started by `ebb up` for these tests alone; or, when tools/conformance.py says so, an account.
"""

import contextlib
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import boto3
import pytest
import yaml
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError

from ebb_cli import demo_data
from ebb_local import lifecycle
from ebb_local.settings import Home

from . import diagnosis

ROOT = Path(__file__).parents[2]
CORPUS = demo_data.Wheel(
    "chatterbot-corpus==1.3.3", "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154", "py2.py3-none-any"
)
LANGUAGES = ("english", "italian", "spanish", "ukrainian")
ENDED = {"succeeded", "rejected", "failed", "cancelled", "reused", "superseded"}
ACCOUNT_PROFILE = os.environ.get("EBB_CONFORMANCE_PROFILE")
"""The AWS profile of the account to run against; None: an embedded cloud."""
STACK = os.environ.get("EBB_STACK", "ebb")
MARK = "ebb:conformance"
"""Tag of the stacks that these tests deployed to an account, the only ones there that they may touch."""
COST_CAP_USD = float(os.environ["EBB_COST_CAP_USD"]) if "EBB_COST_CAP_USD" in os.environ else None
PATIENCE = 12 if ACCOUNT_PROFILE else 1  # jobs of an account wait minutes for their machines
TEST_TIMEOUT_S = 420 * PATIENCE
CURIOUS = "curious"
"""Session of the calls that a test expects to be denied; every other denial is a fault."""


# One embedded cloud serves them all; destroy comes last.
LAST = "test_zz_destroy"
_calls_before_restart: list[dict[str, Any]] = []
_deployed: list["Ebb"] = []
_healed: list[str] = []
_diagnoses = iter(range(4))  # of what follows from the first failures there is nothing new to tell


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "embedded_only: asks what only the embedded cloud can answer (its control, restarts, call records)"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder, so that `-m "not e2e"` leaves it out, and bring it into its order."""
    here = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    for item in here:
        item.add_marker(pytest.mark.e2e)
        if ACCOUNT_PROFILE:
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))
            if item.get_closest_marker("embedded_only"):
                item.add_marker(pytest.mark.skip(reason="only the embedded cloud can answer this"))
    items.sort(key=lambda item: item.path.stem == LAST)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is left once the cost cap is reached; the last tests, which destroy the stack, always run."""
    if item.path.stem == LAST and _deployed and not _healed:
        _healed.extend(diagnosis.healed(lambda: seen(_deployed[0])) or [""])  # what they are to remove is still there
    if COST_CAP_USD is None or not _deployed or item.path.stem == LAST:
        return
    spent_usd = counted_cost_usd(_deployed[0])
    # Only in an account, where a cap is given: what is left out for money is no failure, and is listed as skipped.
    if spent_usd >= COST_CAP_USD:
        pytest.skip(f"the cost cap is reached: the runs have cost {spent_usd:.2f} of {COST_CAP_USD:.2f} USD")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what went wrong on the way and was mended by the product itself: no test fails of that."""
    for line in filter(None, _healed):
        terminalreporter.write_line(line)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Add what the cloud shows to the report of a test that failed: its record has to be enough to find the cause."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and _deployed and next(_diagnoses, None) is not None:
        report.sections.append(("what the cloud shows", diagnosis.report(lambda: seen(_deployed[0]))))


def seen(ebb: "Ebb") -> diagnosis.Seen:
    """The cloud for whoever looks for a cause in it."""
    cloud = connect(ebb)
    if ACCOUNT_PROFILE:
        return diagnosis.Seen(cloud.client, cloud.outputs, {})
    return diagnosis.Seen(cloud.client, cloud.outputs, cloud.control("Status"), Home(ebb.home).log_file)


def counted_cost_usd(ebb: "Ebb") -> float:
    """Return what the runs of the stack have cost so far, by its ledger; those still going are not counted yet."""
    return sum(
        run["footprint"]["cost_usd"]["value"] for run in ebb.json("runs", "--limit", "1000") if run.get("footprint")
    )


def environment(home: Path) -> dict[str, str]:
    """The caller's environment without anything that could reach a real account, unless one was asked for."""
    if ACCOUNT_PROFILE:
        return os.environ | {"EBB_HOME": str(home), "EBB_STACK": STACK}  # tests/conftest.py left it one profile
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return kept | {"EBB_HOME": str(home), "EBB_STACK": STACK}


@dataclass(frozen=True)
class Ebb:
    """The command line, bound to one cloud."""

    home: Path

    @property
    def named(self) -> list[str]:
        """The options that name the account and the stack, for what takes neither by default: destroy."""
        return ["--profile", ACCOUNT_PROFILE, "--stack", STACK] if ACCOUNT_PROFILE else []

    def __call__(self, *arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ebb_cli.main", *map(str, arguments)],
            cwd=ROOT,
            env=environment(self.home),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TEST_TIMEOUT_S,
            check=False,
        )

    def json(self, *arguments: str | Path, stdin: str | None = None) -> Any:
        done = self(*arguments, "--json", stdin=stdin)
        try:
            return json.loads(done.stdout)
        except ValueError:
            pytest.fail(f"ebb {' '.join(map(str, arguments))} printed no JSON: {done.stdout}\n{done.stderr}")

    def drop(self, path: Path, project: str, *more: str | Path) -> dict[str, Any]:
        return self.json("drop", path, "--project", project, "--wait", *more)


@dataclass(frozen=True)
class Cloud:
    """The account as its owner sees it."""

    session: boto3.Session
    endpoint_url: str | None
    outputs: dict[str, str]
    stack: str = STACK

    def client(self, service: str) -> Any:
        return _client(self.session, service, self.endpoint_url)

    def control(self, operation: str, asked: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the embedded cloud itself, which only the account's root may."""
        assert self.endpoint_url, "only the embedded cloud has controls: mark the test embedded_only"
        body = json.dumps(asked or {}).encode()
        request = AWSRequest("POST", self.endpoint_url, {"X-Amz-Target": f"Ebb.{operation}"}, body)
        SigV4Auth(self.session.get_credentials(), "ebb", self.session.region_name).add_auth(request)
        prepared = request.prepare()
        sent = urllib.request.Request(prepared.url, prepared.body, dict(prepared.headers))
        # An advance waits for what works, up to its budget before, between and after its steps.
        with urllib.request.urlopen(sent, timeout=30 + 3 * (asked or {}).get("BudgetSeconds", 0)) as answer:
            return json.load(answer)

    def calls(self) -> list[dict[str, Any]]:
        """Every authorisation decision since the first start; `remember_calls` carries them over a restart."""
        return [*_calls_before_restart, *self.control("GetCalls")["Calls"]]

    def remember_calls(self) -> None:
        """Keep the record of calls, which a restart empties."""
        _calls_before_restart.extend(self.control("GetCalls")["Calls"])

    def put(self, key: str, body: bytes, **more: Any) -> None:
        self.client("s3").put_object(Bucket=self.outputs["LandingBucketName"], Key=key, Body=body, **more)

    def run_of(self, key: str) -> dict[str, Any] | None:
        """The newest run in the ledger that the object `key` started."""
        found = self.client("dynamodb").query(
            TableName=self.outputs["LedgerTableName"],
            IndexName="runs",
            KeyConditionExpression="gsi_pk = :runs",
            ExpressionAttributeValues={":runs": {"S": "RUNS"}},
            ScanIndexForward=False,
        )
        for item in found["Items"]:
            if item["drop"]["M"]["key"]["S"] == key:
                return {"run_id": item["pk"]["S"].removeprefix("RUN#"), "status": item["status"]["S"]}
        return None

    def job_names(self) -> set[str]:
        sagemaker = self.client("sagemaker")
        training = sagemaker.list_training_jobs(MaxResults=100)["TrainingJobSummaries"]
        processing = sagemaker.list_processing_jobs(MaxResults=100)["ProcessingJobSummaries"]
        return {job["TrainingJobName"] for job in training} | {job["ProcessingJobName"] for job in processing}

    def jobs_in_progress(self) -> list[str]:
        sagemaker = self.client("sagemaker")
        training = sagemaker.list_training_jobs(StatusEquals="InProgress")["TrainingJobSummaries"]
        processing = sagemaker.list_processing_jobs(StatusEquals="InProgress")["ProcessingJobSummaries"]
        return [job["TrainingJobName"] for job in training] + [job["ProcessingJobName"] for job in processing]

    def executions(self) -> list[dict[str, Any]]:
        machine = self.outputs["RunPipelineStateMachineArn"]
        return self.client("stepfunctions").list_executions(stateMachineArn=machine)["executions"]


@functools.cache
def _client(session: boto3.Session, service: str, endpoint_url: str | None) -> Any:
    """Made once for the session: reading a service's model takes longer than most calls."""
    return session.client(service, endpoint_url=endpoint_url)


@functools.cache
def _session(region: str | None) -> boto3.Session:
    """The account's owner; of an account, as the environment says."""
    if region is None:
        return boto3.Session()
    return boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=region)


def wait_until(condition: Callable[[], Any], what: str, *, within_s: float = 60) -> Any:
    """Return the first true value of `condition`; fail with `what` when there is none in time."""
    within_s *= PATIENCE
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.3)
    pytest.fail(f"not within {within_s} s: {what}")


@pytest.fixture(scope="session")
def ebb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ebb]:
    command = Ebb(tmp_path_factory.mktemp("ebb"))
    with account(command) if ACCOUNT_PROFILE else embedded_cloud(command):
        _deployed.append(command)
        yield command


@contextlib.contextmanager
def embedded_cloud(command: Ebb) -> Iterator[None]:
    """Start an embedded cloud with the stack in it, and stop it at the end."""
    up = command("up")
    assert up.returncode == 0, up.stdout + up.stderr
    yield
    down = command("down")
    assert down.returncode == 0, down.stdout + down.stderr


@contextlib.contextmanager
def account(command: Ebb) -> Iterator[None]:
    """Deploy the stack to the account as a user would, and destroy it whatever happens.

    A stack that was there before is nobody's but its owner's: the tests refuse to start.
    """
    assert COST_CAP_USD is not None, "an account is billed: start these tests by make conformance"
    assert STACK != "ebb", "ebb is the name of a stack that people use: choose another"
    found = deployed_stack()
    mine = found is None or {"Key": MARK, "Value": "yes"} in found.get("Tags", [])
    assert mine, f"the account has a stack {STACK!r} already, which these tests did not make"
    runtime = f"PythonRuntime=python{sys.version_info.major}.{sys.version_info.minor}"  # the one that is on PATH
    arm = platform.machine().lower() in {"arm64", "aarch64"}
    overrides = ["--parameter-overrides", runtime, f"Architecture={'arm64' if arm else 'x86_64'}"]
    try:
        for arguments in (["build"], ["deploy", "--stack-name", STACK, "--tags", f"{MARK}=yes"]):
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
            done = subprocess.run(
                [sys.executable, "-m", "samcli", *arguments, *overrides],
                cwd=ROOT,
                env=os.environ | {"SAM_CLI_TELEMETRY": "0", "PATH": path},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        yield
    finally:
        if deployed_stack() is not None:  # the last test has destroyed it, unless it was left out or failed
            done = command("destroy", "--with-stack", "--delete-data", *command.named, stdin=f"{STACK}\n")
            by_hand = f"ebb destroy --with-stack --delete-data {' '.join(command.named)}"
            assert done.returncode == 0, f"THE STACK IS STILL THERE AND BILLED, run: {by_hand}\n{done.stderr}"


def deployed_stack() -> dict[str, Any] | None:
    """The account's stack of this name, None when there is none."""
    try:
        return boto3.Session().client("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]
    except ClientError as problem:
        if problem.response["Error"]["Code"] != "ValidationError":
            raise
        return None


@pytest.fixture
def cloud(ebb: Ebb) -> Cloud:
    """Made anew for each test: a restart may have moved the embedded cloud to another port."""
    return connect(ebb)


def connect(ebb: Ebb) -> Cloud:
    cloud = connect_without_stack(ebb)
    stack = cloud.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    return Cloud(cloud.session, cloud.endpoint_url, outputs)


def connect_without_stack(ebb: Ebb) -> Cloud:
    """The account when the stack may be gone."""
    if ACCOUNT_PROFILE:
        return Cloud(_session(None), None, {})
    server = lifecycle.running(ebb.home)
    assert server is not None, "the embedded cloud is not running"
    return Cloud(_session(server.region), server.endpoint_url, {})


@pytest.fixture(scope="session")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the packages with the real data lie, for the whole session."""
    return tmp_path_factory.mktemp("fetched")


@pytest.fixture(scope="session")
def tables(fetched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real tables: `cut.csv` (classification), `price.csv` (regression) and `few.csv`, the first in small."""
    folder = tmp_path_factory.mktemp("tables")
    for name, source, rows in (("cut", "diamonds", 4000), ("price", "housing", 1500), ("few", "diamonds", 600)):
        lines = demo_data.fetch(source, fetched).drop.read_text().splitlines()
        step = (len(lines) - 1) // rows
        (folder / f"{name}.csv").write_text("\n".join([lines[0], *lines[1::step][:rows]]) + "\n")
    return folder


@pytest.fixture(scope="session")
def few_run(ebb: Ebb, tables: Path) -> dict[str, Any]:
    """A small model that is trained and served, in the project `few`: for tests that need one and do not train."""
    run = ebb.drop(tables / "few.csv", "few")
    assert run["status"] == "succeeded", run
    return run


@pytest.fixture(scope="session")
def digits(fetched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 real handwritten digits, as PNG files in one folder per digit."""
    folder = tmp_path_factory.mktemp("pictures") / "digits"
    with zipfile.ZipFile(demo_data.fetch("digits", fetched).drop) as archive:
        for label in "0123456789":
            names = [name for name in sorted(archive.namelist()) if name.startswith(f"{label}/")]
            archive.extractall(folder, names[::16][:30])
    return folder


@pytest.fixture(scope="session")
def unseen_digits(fetched: Path) -> dict[Path, str]:
    """Digits that lie in no drop, with what each of them is."""
    data = demo_data.fetch("digits", fetched)
    return dict(zip(sorted(data.held_out.iterdir()), data.answers, strict=True))


@pytest.fixture(scope="session")
def lines(fetched: Path) -> list[tuple[str, str]]:
    """600 real lines of talk, (line, language), as many in each of four languages."""
    spoken: dict[str, set[str]] = {}
    with zipfile.ZipFile(demo_data.fetched(CORPUS, fetched)) as archive:
        for name in sorted(archive.namelist()):
            said = spoken.setdefault(PurePosixPath(name).parent.name, set())
            if name.endswith(".yml"):
                talks = yaml.safe_load(archive.read(name)).get("conversations") or []
                said.update(line for talk in talks for line in talk if isinstance(line, str) and len(line.split()) > 2)
    chosen = {language: sorted(spoken[language]) for language in LANGUAGES}
    return [(line, language) for language, said in chosen.items() for line in said[:: len(said) // 150][:150]]


@dataclass(frozen=True)
class Served:
    """A small model that a project serves: three kinds of penguins by four measures, trained once for the session.

    `move` brings it to another kind, `ask` asks it as a user does, `at` is its address in the ledger. It is of the kind
    that the test before has left: a test moves it to the one that it needs.
    """

    ebb: Ebb
    project: str
    run: dict[str, Any]

    ROWS: ClassVar[dict[str, Any]] = {"instances": [[39.1, 18.7, 181.0, 3750.0], [47.5, 15.0, 218.0, 4950.0]]}
    LABELS: ClassVar[tuple[str, ...]] = ("Adelie", "Gentoo")

    def ask(self, *more: str) -> list[dict[str, Any]]:
        """Return the predictions for two birds, by `ebb invoke`."""
        return self.ebb.json("invoke", self.project, "-", *more, stdin=json.dumps(self.ROWS))["predictions"]

    @property
    def at(self) -> dict[str, Any]:
        cloud = connect(self.ebb)
        key = {"pk": {"S": f"ADDRESS#{cloud.stack}-{self.project}"}, "sk": {"S": "ADDRESS"}}
        found = cloud.client("dynamodb").get_item(TableName=cloud.outputs["LedgerTableName"], Key=key)["Item"]
        return {name: _plain(value) for name, value in found.items()}

    def start_move(self, kind: str) -> str:
        """Begin to move it and return the execution."""
        return self.ebb.json("deploy", self.project, "--kind", kind)["execution_arn"]

    def ended(self, execution: str, *, advance: str = "1m") -> dict[str, Any]:
        """Return how a deployment ended; what it waits for comes by the embedded cloud's clock."""
        states, began = connect(self.ebb).client("stepfunctions"), time.monotonic()

        def look() -> dict[str, Any] | None:
            found = states.describe_execution(executionArn=execution)
            if found["status"] != "RUNNING":
                return found
            if not ACCOUNT_PROFILE and time.monotonic() - began > 2:
                self.ebb("advance", advance)
            return None

        return wait_until(look, f"{execution} ends", within_s=120)

    def move(self, kind: str) -> dict[str, Any]:
        """Bring it to another kind and return its address."""
        if self.at["kind"] != kind:
            done = self.ended(self.start_move(kind))
            assert done["status"] == "SUCCEEDED", (done.get("error"), done.get("cause"))
        return self.at


def let_time_pass(cloud: Cloud, served: Served, until: str) -> None:
    """Put the clock forward, half a minute at a time, until the address is in a state."""
    for _ in range(120):
        if served.at["state"] == until:
            return
        cloud.control("Advance", {"Seconds": 30, "BudgetSeconds": 5})
    pytest.fail(f"an hour later it is {served.at['state']}, not {until}")


def _plain(value: dict[str, Any]) -> Any:
    """Return a value of DynamoDB without its types, as far as addresses hold them."""
    ((kind, held),) = value.items()
    if kind == "M":
        return {name: _plain(each) for name, each in held.items()}
    return [_plain(each) for each in held] if kind == "L" else float(held) if kind == "N" else held


def model_of_another_hand(cloud: Cloud, name: str, like: str) -> str:
    """Make a model that Ebb did not make, of the same container as one that it made, with a role of its own."""
    iam, sagemaker = cloud.client("iam"), cloud.client("sagemaker")
    service = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
    trust = {"Version": "2012-10-17", "Statement": [service]}
    role = iam.create_role(RoleName=f"{name}-model", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    anything = {"Effect": "Allow", "Action": ["s3:*", "kms:*", "logs:*", "ecr:*", "cloudwatch:*"], "Resource": "*"}
    policy = {"Version": "2012-10-17", "Statement": [anything]}
    iam.put_role_policy(RoleName=f"{name}-model", PolicyName="serve", PolicyDocument=json.dumps(policy))
    container = sagemaker.describe_model(ModelName=like)["PrimaryContainer"]
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=role, PrimaryContainer=container)
    return name


@pytest.fixture(scope="session")
def served_project(ebb: Ebb, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A served model for tests of serving, sleeping and waking. Not watched when it moves, so that moves are quick.

    Its size comes from a load test by Inference Recommender, which its first deployment runs.
    """
    folder = tmp_path_factory.mktemp("served") / "birds"
    data = ROOT / "tests/unit/jobs/data"
    shutil.copytree(data / "custom_export", folder)
    shutil.copyfile(data / "penguins.csv", folder / "penguins.csv")
    spec = folder.parent / "pipeline.yaml"
    spec.write_text("task: custom\nserve: {watch: 0s, recommender: true}\n")
    run = ebb.drop(folder, "birds", "--spec", spec)
    assert run["status"] == "succeeded", run
    return Served(ebb, "birds", run)
