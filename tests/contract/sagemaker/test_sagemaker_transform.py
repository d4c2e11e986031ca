"""Batch transform: a model's container over an input, a result beside each object, and nothing left running."""

import json
import subprocess

import pytest
from botocore.exceptions import ClientError

from contract.sagemaker.lab import Lab, next_number
from contract.sagemaker.test_sagemaker_step_functions import machine
from contract.support import allow, messages, task, wait_until

ACCOUNT = "000000000000"


def transform(lab: Lab, model: str, objects: dict[str, str], **changes) -> dict:
    name = f"transform-{next_number()}"
    for key, body in objects.items():
        lab.put(f"{name}/in/{key}", body)
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{lab.bucket}/{name}/in/"}}
    request = {
        "TransformJobName": name,
        "ModelName": model,
        "TransformInput": {"DataSource": source, "ContentType": "text/csv"},
        "TransformOutput": {"S3OutputPath": f"s3://{lab.bucket}/{name}/out"},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
    }
    for member, value in changes.items():
        request[member] = {**request[member], **value} if isinstance(value, dict) and member in request else value
    return request


def run(lab: Lab, request: dict) -> dict:
    lab.sagemaker.create_transform_job(**request)
    name, describe = request["TransformJobName"], lab.sagemaker.describe_transform_job
    wait_until(
        lambda: describe(TransformJobName=name)["TransformJobStatus"] in ("Completed", "Failed", "Stopped"),
    )
    return describe(TransformJobName=name)


@pytest.fixture(scope="module")
def model(lab: Lab) -> str:
    return lab.model(answer="scored")


def test_each_object_gets_a_result_beside_it(lab: Lab, model: str) -> None:
    queue = next(events := lab.events_of("SageMaker Transform Job State Change"))
    request = transform(lab, model, {"a.csv": "1,2\n", "deep/b.csv": "3,4\n"})
    job = run(lab, request)
    assert job["TransformJobStatus"] == "Completed", job.get("FailureReason")
    assert job["TransformStartTime"] <= job["TransformEndTime"]
    name = request["TransformJobName"]
    assert lab.keys(f"{name}/out") == [f"{name}/out/a.csv.out", f"{name}/out/deep/b.csv.out"]
    assert json.loads(lab.get(f"{name}/out/deep/b.csv.out"))["got"] == "3,4\n"
    wait_until(lambda: "served 1,2" in lab.log_lines("TransformJobs", name))
    seen = {json.loads(message["Body"])["detail"]["TransformJobStatus"] for message in messages(lab.cloud, queue)}
    assert "InProgress" in seen
    next(events, None)
    listing = subprocess.run(["ps", "-axwwo", "args="], capture_output=True, text=True, check=True).stdout
    assert name not in listing


@pytest.mark.parametrize(
    ("strategy", "payload_mb", "answers"),
    [
        pytest.param("SingleRecord", 1, ["1\n", "2\n", "3\n"], id="line by line"),
        pytest.param("MultiRecord", 1, ["1\n2\n3\n"], id="as many as a payload holds"),
    ],
)
def test_an_input_is_split_and_assembled_by_lines(
    lab: Lab, model: str, strategy: str, payload_mb: int, answers: list[str]
) -> None:
    request = transform(
        lab, model, {"a.csv": "1\n2\n3\n"}, TransformInput={"SplitType": "Line"}, BatchStrategy=strategy,
        TransformOutput={"AssembleWith": "Line"}, MaxPayloadInMB=payload_mb,
    )  # fmt: skip
    assert run(lab, request)["TransformJobStatus"] == "Completed"
    lines = lab.get(f"{request['TransformJobName']}/out/a.csv.out").splitlines()
    assert [json.loads(line)["got"] for line in lines] == answers


@pytest.mark.parametrize(
    ("objects", "changes", "reason"),
    [
        pytest.param({"a": "bad"}, {}, "ClientError: See job logs for more information", id="the model refuses"),
        pytest.param({"a": "x" * (1024 * 1024 + 1)}, {"MaxPayloadInMB": 1}, "larger than MaxPayloadInMB 1", id="size"),
    ],
)
def test_a_job_fails_with_a_reason(lab: Lab, model: str, objects: dict, changes: dict, reason: str) -> None:
    job = run(lab, transform(lab, model, objects, **changes))
    assert job["TransformJobStatus"] == "Failed"
    assert reason in job["FailureReason"]


def test_capacity_may_be_refused(lab: Lab, model: str) -> None:
    lab.control("SetFaults", refusedInstanceTypes=["ml.c5.xlarge"])
    request = transform(lab, model, {"a": "1"}, TransformResources={"InstanceType": "ml.c5.xlarge"})
    assert run(lab, request)["FailureReason"].startswith("CapacityError: Unable to provision requested ML compute")
    lab.control("ClearFaults")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        pytest.param({"ModelName": "nobody"}, "Could not find model", id="no model"),
        pytest.param({"DataProcessing": {"JoinSource": "Input"}}, "DataProcessing .* is not implemented", id="joins"),
        pytest.param({"TransformInput": {"SplitType": "TFRecord"}}, "SplitType TFRecord is not", id="records"),
        pytest.param({"TransformOutput": {"AssembleWith": "Line"}}, "AssembleWith Line needs", id="lines of no lines"),
        pytest.param({"MaxPayloadInMB": 101}, "must not be larger than 100 MB", id="a large payload"),
    ],
)
def test_a_transform_request_is_refused(lab: Lab, model: str, changes: dict, text: str) -> None:
    with pytest.raises(ClientError, match=text):
        lab.sagemaker.create_transform_job(**transform(lab, model, {"a": "1"}, **changes))


def test_a_state_machine_waits_for_it_and_stops_it(lab: Lab, tmp_path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    slow = lab.model(answer="slow", hold=str(hold))
    verbs = ("Create", "Describe", "Stop")
    rule = f"arn:aws:events:us-east-1:{ACCOUNT}:rule/StepFunctionsGetEventsForSageMakerTransformJobsRule"
    jobs = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:transform-job/*"
    statements = [
        allow([*(f"sagemaker:{verb}TransformJob" for verb in verbs), "sagemaker:AddTags"], jobs),
        allow(["events:PutTargets", "events:PutRule", "events:DescribeRule"], rule),
    ]
    resource = "arn:aws:states:::sagemaker:createTransformJob.sync"
    held = transform(lab, slow, {"a": "1\n" * 2}, TransformInput={"SplitType": "Line"}, BatchStrategy="SingleRecord")
    runs = machine(lab, {"Score": task(resource, "{% $states.input %}")}, statements)
    execution = runs.start(held)
    describe = lab.sagemaker.describe_transform_job
    wait_until(
        lambda: lab.sagemaker.list_transform_jobs(NameContains=held["TransformJobName"])["TransformJobSummaries"]
    )
    wait_until(lambda: "TransformStartTime" in describe(TransformJobName=held["TransformJobName"]))
    lab.cloud.client("stepfunctions").stop_execution(executionArn=execution)
    wait_until(lambda: describe(TransformJobName=held["TransformJobName"])["TransformJobStatus"] == "Stopped")
    hold.unlink()
    ended = runs.run(transform(lab, slow, {"a": "1"}))
    assert ended["status"] == "SUCCEEDED", ended
    assert ended["output"]["TransformJobStatus"] == "Completed"
