"""Jobs that fail, runs that are cancelled or repeated: nothing is lost, nothing is left running."""

import json
from pathlib import Path

import pytest

from .conftest import Cloud, Ebb, wait_until


@pytest.fixture
def broken_training(cloud: Cloud):
    """Break the deployed training script, and mend it afterwards."""
    s3, bucket = cloud.client("s3"), cloud.outputs["ArtifactBucketName"]
    key = cloud.outputs["JobsUri"].removeprefix(f"s3://{bucket}/").rstrip("/") + "/ebb_jobs/train.py"
    whole = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    broken = b"""from ebb_jobs.errors import JobError

def main(*_, **__):
    raise JobError("the flux capacitor is empty")

run = train = main
"""

    def mend() -> None:
        s3.put_object(Bucket=bucket, Key=key, Body=whole)

    s3.put_object(Bucket=bucket, Key=key, Body=broken)
    yield mend
    mend()


def test_a_failed_stage_ends_the_run_with_the_jobs_own_words_and_a_retry_goes_on_from_there(
    ebb: Ebb, cloud: Cloud, tables: Path, broken_training
):
    done = ebb("drop", tables / "few.csv", "--project", "flux", "--wait", "--json")
    assert done.returncode == 1
    record = json.loads(done.stdout)
    assert record["status"] == "failed"
    assert record["error"]["stage"] == "train"
    assert "the flux capacitor is empty" in record["error"]["message"]
    assert cloud.jobs_in_progress() == []
    log = ebb("logs", record["run_id"], "train")
    assert "the flux capacitor is empty" in log.stdout

    broken_training()
    before, run_id = cloud.job_names(), record["run_id"]
    (wanted,) = [stage["instance_type"] for stage in record["stages"] if stage["stage"] == "train"]
    moved = [f"{run_id}-a2-train-{number}" for number in (1, 2)] if cloud.endpoint_url else []
    if moved:  # an account refuses capacity when it will, the embedded cloud when it is asked to
        cloud.control("SetFaults", {"refusedInstanceTypes": [wanted]})  # on spot capacity, and on demand
    ebb.json("retry", run_id)
    if moved:
        wait_until(lambda: moved[-1] in cloud.job_names(), "the plan's third machine is tried", within_s=120)
        cloud.control("ClearFaults", {})
    again = ebb.json("show", run_id, "--wait")
    assert again["status"] == "succeeded", again
    assert again["attempt"] == 2
    stages = {f"{run_id}-a2-{stage}" for stage in ("train", "compress", "compile")}
    assert cloud.job_names() - before == stages | set(moved), "process had finished and is not repeated"
    if moved:
        assert all(stage["instance_type"] != wanted for stage in again["stages"] if stage["stage"] == "train")
        assert f"refused: {wanted} on spot capacity at " in ebb("why", run_id).stdout


def test_a_cancelled_run_stops_its_job_and_the_same_drop_runs_again(ebb: Ebb, cloud: Cloud, tables: Path):
    started = ebb.json("drop", tables / "few.csv", "--project", "halt")
    run_id = started["run_id"]
    wait_until(lambda: any(name.startswith(run_id) for name in cloud.jobs_in_progress()), "its first job")
    cancelled = ebb.json("cancel", run_id, "--wait")
    assert cancelled["status"] == "cancelled"
    wait_until(lambda: not cloud.jobs_in_progress(), "its job stops", within_s=30)
    again = ebb.drop(tables / "few.csv", "halt")
    assert again["status"] == "succeeded", again


def test_a_duplicate_and_a_late_event_start_no_job(ebb: Ebb, cloud: Cloud, few_run: dict):
    drop = few_run["drop"]
    event = json.loads((Path(__file__).parents[2] / "events/s3_object_created.json").read_text())
    event["detail"]["bucket"]["name"] = drop["bucket"]
    event["detail"]["object"] = {
        "key": drop["key"], "size": drop["size_bytes"], "etag": drop["etag"], "sequencer": drop["sequencer"],
    }  # fmt: skip
    event["time"] = drop["uploaded_at"]
    before, executions = cloud.job_names(), len(cloud.executions())

    def send(message: dict) -> None:
        cloud.client("sqs").send_message(QueueUrl=cloud.outputs["UploadsQueueUrl"], MessageBody=json.dumps(message))

    send(event)
    late = json.loads(json.dumps(event))
    late["detail"]["object"]["sequencer"] = "0000000000000001"
    send(late)
    superseded = wait_until(
        lambda: [run for run in ebb.json("runs", "--project", "few") if run["status"] == "superseded"],
        "the late event is recorded as superseded",
    )
    assert len(superseded) == 1
    assert len(cloud.executions()) == executions + 1, "the duplicate started nothing"
    assert cloud.job_names() == before


def test_an_older_run_never_overwrites_a_newer_model(ebb: Ebb, cloud: Cloud, few_run: dict, tables: Path):
    run = few_run
    assert run["deployed"]
    project = {"pk": {"S": "PROJECT#few"}, "sk": {"S": "PROJECT"}}
    cloud.client("dynamodb").update_item(
        TableName=cloud.outputs["LedgerTableName"],
        Key=project,
        UpdateExpression="SET deployed_generation = :newer",
        ExpressionAttributeValues={":newer": {"N": "1000"}},
    )
    before = cloud.client("sagemaker").describe_endpoint(EndpointName=run["endpoint_name"])["EndpointConfigName"]
    late = ebb.drop(tables / "few.csv", "few", "--force")
    assert late["status"] == "succeeded"
    assert not late["deployed"]
    assert "newer" in late["deploy_reason"]
    after = cloud.client("sagemaker").describe_endpoint(EndpointName=run["endpoint_name"])["EndpointConfigName"]
    assert after == before
