"""SageMaker Neo: what is checked before a compiler would begin, and that no job pretends to have compiled."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import yaml
from botocore.exceptions import ClientError

from contract.sagemaker.lab import Lab, next_number
from contract.sagemaker.test_sagemaker_step_functions import machine
from contract.support import allow, wait_until
from ebb import compilers

ROOT = Path(__file__).parents[3]


def archive(*names: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    return packed.getvalue()


def request(lab: Lab, body: bytes = b"", **changes) -> dict:
    uri = lab.put(f"neo/{next_number()}/model.tar.gz", body or archive("network.onnx"))
    asked = {
        "CompilationJobName": f"compile-{next_number()}",
        "RoleArn": lab.role_arn,
        "InputConfig": {"S3Uri": uri, "DataInputConfig": json.dumps({"input": [1, 7]}), "Framework": "ONNX"},
        "OutputConfig": {"S3OutputLocation": f"s3://{lab.bucket}/neo/out/", "TargetDevice": "ml_c5"},
        "StoppingCondition": {"MaxRuntimeInSeconds": 900},
    }
    for part, fields in changes.items():
        asked[part] = {key: value for key, value in (asked[part] | fields).items() if value is not None}
    return asked


def ended(lab: Lab, asked: dict) -> dict:
    lab.sagemaker.create_compilation_job(**asked)
    name = asked["CompilationJobName"]

    def over() -> dict | None:
        found = lab.sagemaker.describe_compilation_job(CompilationJobName=name)
        return found if found["CompilationJobStatus"] in ("COMPLETED", "FAILED", "STOPPED") else None

    return wait_until(over)


def test_a_job_that_neo_would_compile_ends_as_failed_and_says_that_the_compiler_is_not_here(lab: Lab):
    found = ended(lab, request(lab))
    assert found["CompilationJobStatus"] == "FAILED"
    assert "not part of the embedded cloud" in found["FailureReason"]
    assert found["CompilationEndTime"] >= found["CompilationStartTime"]
    assert lab.keys("neo/out/") == [], "nothing is written that nobody compiled"
    listed = lab.sagemaker.list_compilation_jobs(NameContains=found["CompilationJobName"])["CompilationJobSummaries"]
    assert [each["CompilationTargetDevice"] for each in listed] == ["ml_c5"]


@pytest.mark.parametrize(
    ("body", "changes", "reason"),
    [
        pytest.param(archive("a.txt"), {}, "expects one model file", id="no model in the archive"),
        pytest.param(archive("a.onnx", "b.onnx"), {}, "expects one model file", id="two of them"),
        pytest.param(b"no archive", {}, "not a tar.gz", id="no archive"),
        pytest.param(b"", {"OutputConfig": {"TargetDevice": "ml_c6g"}}, "not in Neo's table", id="not in the table"),
        pytest.param(
            b"",
            {"InputConfig": {"Framework": "PYTORCH", "FrameworkVersion": "2.13"}},
            "PYTORCH 2.13 is not in",
            id="a framework that is too new",
        ),
    ],
)
def test_what_neo_refuses_fails_the_job_with_its_reason(lab: Lab, body, changes, reason):
    found = ended(lab, request(lab, body, **changes))
    assert found["CompilationJobStatus"] == "FAILED"
    assert found["FailureReason"].startswith("ClientError")
    assert reason in found["FailureReason"]


def test_a_role_that_may_not_read_the_model_fails_the_job(lab: Lab):
    asked = request(lab) | {"RoleArn": lab.role(allow("s3:ListAllMyBuckets"), given=False)}
    assert "ClientError" in ended(lab, asked)["FailureReason"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        pytest.param({"OutputConfig": {"TargetDevice": None}}, "Exactly one of", id="for nothing"),
        pytest.param({"InputConfig": {"DataInputConfig": None}}, "DataInputConfig is required", id="no shapes"),
        pytest.param({"InputConfig": {"DataInputConfig": "[1"}}, "not valid JSON", id="shapes that are no JSON"),
        pytest.param({"InputConfig": {"FrameworkVersion": "1.7"}}, "not supported for ONNX", id="a version of ONNX"),
        pytest.param({"OutputConfig": {"TargetDevice": "ml_x9"}}, "enum value set", id="no such device"),
    ],
)
def test_a_request_that_aws_does_not_accept_is_refused(lab: Lab, changes, text):
    with pytest.raises(ClientError, match=text) as refused:
        lab.sagemaker.create_compilation_job(**request(lab, **changes))
    assert refused.value.response["Error"]["Code"] == "ValidationException"


def test_a_name_is_used_once_and_what_has_ended_is_not_stopped(lab: Lab):
    asked = request(lab)
    ended(lab, asked)
    name = asked["CompilationJobName"]
    with pytest.raises(ClientError) as taken:
        lab.sagemaker.create_compilation_job(**asked)
    assert taken.value.response["Error"]["Code"] == "ResourceInUse"
    with pytest.raises(ClientError, match="in status FAILED"):
        lab.sagemaker.stop_compilation_job(CompilationJobName=name)
    with pytest.raises(ClientError) as missing:
        lab.sagemaker.describe_compilation_job(CompilationJobName="nobody")
    assert missing.value.response["Error"]["Code"] == "ResourceNotFound"


def polling(lab: Lab) -> tuple[dict, list[dict]]:
    """Return the states of `compile_model`, all but the one that records, and what its role grants on the job."""
    states = yaml.safe_load((ROOT / "statemachines/compile_model.asl.yaml").read_text())["States"]
    states["Record compilation"] = {"Type": "Pass", "Output": "{% $states.input %}", "End": True}
    for unreached in ("Compilation over", "Compilation not recorded"):
        del states[unreached]
    actions = ["CreateCompilationJob", "DescribeCompilationJob", "StopCompilationJob", "AddTags"]
    mine = "arn:aws:sagemaker:us-east-1:000000000000:compilation-job/*-a*-neo"
    passed = {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
    granted = [
        allow([f"sagemaker:{each}" for each in actions], mine),
        allow("iam:PassRole", lab.role_arn, **passed),
    ]
    return states, granted


def given(lab: Lab) -> dict:
    name = f"wine-20261123093000-3f9a1c07be-a{next_number()}-neo"
    asked = request(lab) | {"CompilationJobName": name, "Tags": [{"Key": "ebb:stack", "Value": "ebb"}]}
    return {"compilation": {"request": asked, "job": {"CompilationJobName": name}}}


def test_a_state_machine_polls_the_job_to_its_end_and_reads_why_it_failed(lab: Lab):
    states, granted = polling(lab)
    ended = machine(lab, states, granted).run(given(lab))
    assert ended["status"] == "SUCCEEDED", ended
    job = ended["output"]["job"]
    assert job["CompilationJobStatus"] == "FAILED"
    fields = compilers.stage_fields(job, status="failed", attempt=1, region="us-east-1")
    assert fields["duration_s"] > 0, "the moments are read as Step Functions writes them"
    assert "not part of the embedded cloud" in compilers.outcome(job, None, None)["reason"]


@pytest.mark.parametrize("missing", ["sagemaker:CreateCompilationJob", "sagemaker:AddTags", "iam:PassRole"])
def test_without_a_permission_there_is_no_job_and_the_machine_knows_why(lab: Lab, missing: str):
    states, granted = polling(lab)
    for each in granted:
        actions = each["Action"] if isinstance(each["Action"], list) else [each["Action"]]
        each["Action"] = [action for action in actions if action != missing] or ["sagemaker:ListTags"]
    states["Create compilation job"]["Retry"] = []
    ended = machine(lab, states, granted).run(given(lab))
    assert ended["status"] == "SUCCEEDED", ended
    assert ended["output"]["job"] == {}
    assert missing in ended["output"]["cause"]
