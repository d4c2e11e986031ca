"""Processing jobs: inputs, outputs, keys, messages."""

import json

import pytest
from botocore.exceptions import ClientError

from contract.sagemaker.lab import Lab, processing_input
from contract.support import allow, key_with, wait_until

COPIES = """
    import json, os, pathlib
    root = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"], "processing")
    config = json.loads((root.parent / "config/processingjobconfig.json").read_text())
    print(config["ProcessingJobName"], os.environ["EBB_SETTINGS"], flush=True)
    for path in (root / "input/data").rglob("*.csv"):
        target = root / "output/table" / path.relative_to(root / "input/data")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text().upper())
"""


def test_a_job_turns_inputs_into_outputs(lab: Lab) -> None:
    lab.put("in/a.csv", "a")
    lab.put("in/deep/b.csv", "b")
    uri = lab.put("in/manifest.json", json.dumps([{"prefix": f"s3://{lab.bucket}/in/"}, "a.csv", "deep/b.csv"]))
    request = lab.processing(COPIES, Environment={"EBB_SETTINGS": "{}"})
    request["ProcessingInputs"].append(processing_input("data", uri, "ManifestFile"))
    name = request["ProcessingJobName"]
    lab.sagemaker.create_processing_job(**request)

    job = lab.processed(name)

    assert job["ProcessingJobStatus"] == "Completed", job
    assert job["CreationTime"] <= job["ProcessingStartTime"] <= job["ProcessingEndTime"]
    assert lab.keys(f"{name}/out/") == [f"{name}/out/a.csv", f"{name}/out/deep/b.csv"]
    assert lab.get(f"{name}/out/deep/b.csv") == "B"
    assert lab.log_lines("ProcessingJobs", f"{name}/algo-1-") == [f"{name} {{}}"]


def test_the_message_file_is_the_exit_message_and_outputs_of_a_failed_job_are_not_stored(lab: Lab) -> None:
    script = """
        import os, pathlib, sys
        root = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
        (root / "processing/output/table/half.csv").write_text("1")
        (root / "output/message").write_text("line 3 has 4 columns, the header has 3")
        sys.exit(1)
    """
    request = lab.processing(script)
    lab.sagemaker.create_processing_job(**request)
    job = lab.processed(request["ProcessingJobName"])
    assert job["ProcessingJobStatus"] == "Failed"
    assert job["ExitMessage"] == "line 3 has 4 columns, the header has 3"
    assert job["FailureReason"] == "AlgorithmError: See job logs for more information"
    assert lab.keys(f"{request['ProcessingJobName']}/out/") == []


def test_outputs_need_the_key_that_encrypts_them(lab: Lab) -> None:
    key = key_with(lab.cloud)
    request = lab.processing(
        "import os\nopen(os.environ['SAGEMAKER_BASE_DIR'] + '/processing/output/table/x.csv', 'w').write('1')"
    )
    request["ProcessingOutputConfig"]["KmsKeyId"] = key
    lab.sagemaker.create_processing_job(**request)
    job = lab.processed(request["ProcessingJobName"])
    assert job["ProcessingJobStatus"] == "Failed"
    assert "kms:GenerateDataKey" in job["FailureReason"]

    role = lab.role(allow(["kms:GenerateDataKey", "kms:Decrypt"], key))
    allowed = {**request, "ProcessingJobName": f"{request['ProcessingJobName']}-b", "RoleArn": role}
    lab.sagemaker.create_processing_job(**allowed)
    job = lab.processed(allowed["ProcessingJobName"])
    assert job["ProcessingJobStatus"] == "Completed", job
    stored = lab.s3.head_object(Bucket=lab.bucket, Key=f"{request['ProcessingJobName']}/out/x.csv")
    assert (stored["ServerSideEncryption"], stored["SSEKMSKeyId"]) == ("aws:kms", key)


def test_continuous_outputs_arrive_while_the_job_runs_and_stop_ends_it(lab: Lab) -> None:
    script = """
        import os, pathlib, time
        pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"], "processing/output/table/early.csv").write_text("1")
        time.sleep(60)
    """
    request = lab.processing(script)
    request["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]["S3UploadMode"] = "Continuous"
    name = request["ProcessingJobName"]
    lab.sagemaker.create_processing_job(**request)
    wait_until(lambda: lab.keys(f"{name}/out/") == [f"{name}/out/early.csv"])
    lab.sagemaker.stop_processing_job(ProcessingJobName=name)
    assert lab.processed(name)["ProcessingJobStatus"] == "Stopped"


def test_an_input_without_objects_fails_the_job(lab: Lab) -> None:
    request = lab.processing("pass")
    request["ProcessingInputs"].append(processing_input("data", f"s3://{lab.bucket}/nowhere/"))
    lab.sagemaker.create_processing_job(**request)
    reason = lab.processed(request["ProcessingJobName"])["FailureReason"]
    assert reason == f"ClientError: Data download failed:No S3 objects found under s3://{lab.bucket}/nowhere/"


def test_a_manifest_cannot_write_outside_its_directory(lab: Lab) -> None:
    lab.put("evil/../up.csv", "1")
    uri = lab.put("evil.json", json.dumps([{"prefix": f"s3://{lab.bucket}/evil/"}, "../up.csv"]))
    request = lab.processing("pass")
    request["ProcessingInputs"].append(processing_input("data", uri, "ManifestFile"))
    lab.sagemaker.create_processing_job(**request)
    assert "is not inside its directory" in lab.processed(request["ProcessingJobName"])["FailureReason"]


def test_local_paths_lie_under_opt_ml_processing(lab: Lab) -> None:
    request = lab.processing("pass")
    request["ProcessingInputs"][0]["S3Input"]["LocalPath"] = "/etc"
    with pytest.raises(ClientError, match=r"LocalPath \[/etc\] must be under /opt/ml/processing"):
        lab.sagemaker.create_processing_job(**request)
