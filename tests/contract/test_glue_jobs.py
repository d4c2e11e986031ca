"""Spark jobs on the embedded Glue: the job's own script, its role, its states, and how it is stopped."""

import json
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import botocore.exceptions
import pytest
from ministack.services import glue

from contract.support import allow, task, wait_until
from ebb_local.glue import runs, service
from ebb_local.sagemaker import settings
from ebb_local.sagemaker.roles import Credentials
from ebb_local.sagemaker.settings import Settings
from ebb_local.settings import environments

JOB = "arn:aws:glue:us-east-1:000000000000:job"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED", "TIMEOUT", "ERROR")
START = "arn:aws:states:::glue:startJobRun.sync"
COUNT = """
import json, sys
from pyspark.sql import SparkSession
told = dict(zip(sys.argv[1::2], sys.argv[2::2]))
spark = SparkSession.builder.getOrCreate()
first, *names = json.loads(spark.sparkContext.wholeTextFiles(told["--manifest"]).collect()[0][1])
table = spark.read.csv([first["prefix"] + name for name in names], header=True)
table.write.mode("overwrite").option("compression", "zstd").parquet(told["--out"] + "rows.parquet")
print("counted", table.count(), "for", told["--JOB_NAME"])
"""


def test_what_is_replaced_of_ministack_exists():
    for name in ("create_job", "update_job", "start_job_run", "get_job_run", "batch_stop_job_run"):
        assert callable(getattr(glue, f"_{name}"))
    assert hasattr(glue._job_runs, "_data")


@pytest.fixture(scope="module")
def bucket(cloud):
    cloud.client("s3").create_bucket(Bucket="glue-lab")
    return "glue-lab"


@pytest.fixture
def put(cloud, bucket, name):
    def put(key, text):
        cloud.client("s3").put_object(Bucket=bucket, Key=f"{name}/{key}", Body=text.encode())
        return f"s3://{bucket}/{name}/{key}"

    return put


@pytest.fixture
def worker(role, bucket):
    """The role of a job: its bucket and its log."""
    return role(
        allow("s3:ListBucket", f"arn:aws:s3:::{bucket}"),
        allow(["s3:GetObject", "s3:PutObject"], f"arn:aws:s3:::{bucket}/*"),
        allow(
            ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"],
            "arn:aws:logs:us-east-1:000000000000:log-group:/aws-glue/lab/*",
        ),
        trust="glue.amazonaws.com",
    )


@pytest.fixture
def job(cloud, put, worker, name):
    """`job(script)` makes a job of it and returns its name."""

    def make(script, client=None, **changes):
        definition = {
            "Name": name,
            "Role": worker.arn,
            "GlueVersion": "5.1",
            "ExecutionClass": "FLEX",
            "Command": {
                "Name": "glueetl",
                "PythonVersion": "3",
                "ScriptLocation": put("run.py", textwrap.dedent(script)),
            },
            "DefaultArguments": {"--custom-logGroup-prefix": "/aws-glue/lab"},
            "WorkerType": "G.1X",
            "NumberOfWorkers": 2,
        }
        return (client or cloud.client("glue")).create_job(**(definition | changes))["Name"]

    return make


def ended(cloud, job_name, run_id, timeout_s=60):
    def look():
        found = cloud.client("glue").get_job_run(JobName=job_name, RunId=run_id)["JobRun"]
        return found if found["JobRunState"] in ENDED else None

    return wait_until(look, timeout_s)


def test_a_script_reads_and_writes_s3_on_real_spark_under_its_role(cloud, bucket, put, job, name):
    put("in/a.csv", "x,y\n1,2\n3,4\n")
    put("in/b.csv", "x,y\n5,6\n")
    manifest = put("manifest.json", json.dumps([{"prefix": f"s3://{bucket}/{name}/in/"}, "a.csv", "b.csv"]))
    arguments = {"--manifest": manifest, "--out": f"s3://{bucket}/{name}/out/"}
    job_name = job(COUNT)
    run_id = cloud.client("glue").start_job_run(JobName=job_name, Arguments=arguments)["JobRunId"]
    run = ended(cloud, job_name, run_id)
    assert (run["JobRunState"], run.get("ErrorMessage")) == ("SUCCEEDED", None)
    assert (run["Arguments"], run["GlueVersion"], run["ExecutionClass"]) == (arguments, "5.1", "FLEX")
    assert run["ExecutionTime"] >= 1
    assert run["CompletedOn"] >= run["StartedOn"]
    listed = cloud.client("s3").list_objects_v2(Bucket=bucket, Prefix=f"{name}/out/")["Contents"]
    assert {each["Key"].removeprefix(f"{name}/out/rows.parquet/").partition("-")[0] for each in listed} == {
        "_SUCCESS",
        "part",
    }, "and none of the files that Spark keeps beside them on this machine"
    events = cloud.client("logs").get_log_events(logGroupName="/aws-glue/lab/output", logStreamName=run_id)["events"]
    assert [each["message"] for each in events if "counted" in each["message"]] == [f"counted 3 for {job_name}"]


def test_a_script_that_fails_says_why(cloud, job):
    job_name = job("raise ValueError('no such thing')")
    run = ended(cloud, job_name, cloud.client("glue").start_job_run(JobName=job_name)["JobRunId"])
    assert (run["JobRunState"], run["ErrorMessage"]) == ("FAILED", "ValueError: no such thing")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(
            {"--additional-python-modules": "sqlglot==0.0.1"}, "make spark", id="a package of another version"
        ),
        pytest.param({"--extra-py-files": "s3://glue-lab/nothing.zip"}, "nothing.zip", id="a library that is missing"),
    ],
)
def test_what_a_run_lacks_is_named(cloud, job, arguments, words):
    job_name = job("print('never')", DefaultArguments=arguments)
    run = ended(cloud, job_name, cloud.client("glue").start_job_run(JobName=job_name)["JobRunId"])
    assert run["JobRunState"] == "FAILED"
    assert words in run["ErrorMessage"]


def test_a_run_is_stopped_once(cloud, job):
    client, job_name = cloud.client("glue"), job("import time; time.sleep(600)")
    run_id = client.start_job_run(JobName=job_name)["JobRunId"]
    with pytest.raises(client.exceptions.ConcurrentRunsExceededException):
        client.start_job_run(JobName=job_name)
    wait_until(lambda: client.get_job_run(JobName=job_name, RunId=run_id)["JobRun"]["JobRunState"] == "RUNNING")
    told = client.batch_stop_job_run(JobName=job_name, JobRunIds=[run_id])
    assert told["SuccessfulSubmissions"] == [{"JobName": job_name, "JobRunId": run_id}]
    assert ended(cloud, job_name, run_id)["JobRunState"] == "STOPPED"
    (error,) = client.batch_stop_job_run(JobName=job_name, JobRunIds=[run_id])["Errors"]
    assert error["ErrorDetail"]["ErrorCode"] == "InvalidInputException"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Runs in this process, on a script of this machine: what would take a server minutes. Returns its settings."""
    found = Settings(tmp_path, "http://127.0.0.1:1", environments(), False, 1.0, 1.0, 1.0)
    monkeypatch.setattr(settings, "_current", found)
    monkeypatch.setattr(runs, "Bucket", lambda _: _Scripts())
    monkeypatch.setattr(runs, "LogStream", lambda *_: SimpleNamespace(write=lambda _: None, flush=lambda: None))
    monkeypatch.setattr(runs.roles, "credentials", lambda *_, **__: Credentials("a", "b", "c", "d"))
    return found


class _Scripts:
    """A bucket with one script that never ends."""

    def download(self, location, path):
        path.parent.mkdir(parents=True)
        path.write_text("import time; time.sleep(600)")

    def upload(self, path, location, key):
        pytest.fail(f"nothing was written, and {path} is stored")


def run_here(**changes):
    job = {
        "Name": "j",
        "Role": "arn:aws:iam::0:role/r",
        "GlueVersion": "5.1",
        "Command": {"ScriptLocation": "s3://b/s.py"},
    }
    record = service._run_of(job, {"JobName": "j"}) | changes
    runs.begin(record)
    runs.run(record, job)
    return record["JobRunState"], record["ErrorMessage"]


def test_a_run_is_ended_when_its_time_is_over(here):
    assert run_here(Timeout=0) == ("TIMEOUT", "Job run timed out")


def test_without_spark_a_run_fails_with_the_command_that_installs_it(here, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "_current", replace(here, environments=tmp_path))
    state, words = run_here()
    assert (state, "make spark" in words) == ("FAILED", True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"GlueVersion": "6.0"}, "Glue 5.1 only", id="another version"),
        pytest.param({"Connections": {"Connections": ["vpc"]}}, "Connections", id="what it would not do"),
        pytest.param({"SecurityConfiguration": "none"}, "not found", id="a security configuration that is missing"),
        pytest.param({"ExecutionClass": "SLOW"}, "executionClass", id="what the model does not know"),
    ],
)
def test_a_job_that_could_not_run_is_refused_by_name(job, changes, words):
    with pytest.raises(botocore.exceptions.ClientError, match=words):
        job("", **changes)


def test_a_job_needs_a_role_that_glue_may_take_and_the_caller_may_pass(cloud, role, job, worker):
    with pytest.raises(botocore.exceptions.ClientError, match="should be given assume role permissions"):
        job("", Role=role(trust="sagemaker.amazonaws.com").arn)
    caller = cloud.client("glue", role(allow("glue:CreateJob", f"{JOB}/*")).session)
    with pytest.raises(botocore.exceptions.ClientError, match=f"iam:PassRole on resource: {worker.arn}"):
        job("", client=caller)


def test_a_later_definition_takes_the_place_of_the_earlier_one(cloud, job, put, worker):
    client, job_name = cloud.client("glue"), job("raise SystemExit('old')")
    update = {
        "Role": worker.arn,
        "GlueVersion": "5.1",
        "Command": {"Name": "glueetl", "PythonVersion": "3", "ScriptLocation": put("new.py", "print('new')")},
    }
    with pytest.raises(client.exceptions.AlreadyExistsException):
        client.create_job(Name=job_name, **update)
    client.update_job(JobName=job_name, JobUpdate=update)
    run_id = client.start_job_run(JobName=job_name)["JobRunId"]
    assert ended(cloud, job_name, run_id)["JobRunState"] == "SUCCEEDED"


RUNNING = ["glue:StartJobRun", "glue:GetJobRun", "glue:BatchStopJobRun"]


def test_a_state_machine_waits_for_a_run_and_gets_it_as_glue_tells_it(job, machine):
    job_name = job("print('done')")
    ran = machine({"A": task(START, {"JobName": job_name})}, allow(RUNNING, f"{JOB}/{job_name}")).run()
    assert ran["status"] == "SUCCEEDED", ran
    run = ran["output"]
    assert (run["JobName"], run["JobRunState"], run["WorkerType"]) == (job_name, "SUCCEEDED", "G.1X")
    assert isinstance(run["CompletedOn"], int)
    assert run["CompletedOn"] > 10**12, "milliseconds"


def test_a_run_that_fails_fails_its_task_with_the_whole_run(job, machine):
    job_name = job("raise ValueError('no')")
    ran = machine({"A": task(START, {"JobName": job_name})}, allow(RUNNING, f"{JOB}/{job_name}")).run()
    assert ran["error"] == "States.TaskFailed"
    assert json.loads(ran["cause"])["ErrorMessage"] == "ValueError: no"


def test_what_glue_refuses_has_the_name_of_its_exception(job, machine):
    ran = machine({"A": task(START, {"JobName": "nothing"})}, allow(RUNNING, f"{JOB}/*")).run()
    assert ran["error"] == "Glue.EntityNotFoundException"
    ran = machine({"A": task(START, {"JobName": "nothing"})}).run()
    assert ran["error"] == "Glue.AWSGlueException"


def test_a_stopped_execution_stops_its_run(cloud, job, machine):
    client, job_name = cloud.client("glue"), job("import time; time.sleep(600)")
    running = machine({"A": task(START, {"JobName": job_name})}, allow(RUNNING, f"{JOB}/{job_name}"))
    execution = running.start()
    run = wait_until(lambda: client.get_job_runs(JobName=job_name)["JobRuns"])[0]
    wait_until(lambda: client.get_job_run(JobName=job_name, RunId=run["Id"])["JobRun"]["JobRunState"] == "RUNNING")
    cloud.client("stepfunctions").stop_execution(executionArn=execution)
    assert ended(cloud, job_name, run["Id"])["JobRunState"] == "STOPPED"
