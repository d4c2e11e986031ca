"""A run with a deadline waits before its costliest stage, and begins it in the window that emits least."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from boto3.dynamodb.types import TypeDeserializer

from ebb import ledger

from .conftest import Cloud, Ebb, wait_until
from .test_tasks import SCRIPTS

HOUR = timedelta(hours=1)
SPEC = """
train: {rungs: [linear]}
compress: {methods: [quantize]}
carbon: {deadline: 9h}
"""


def _now(cloud: Cloud) -> datetime:
    """The embedded cloud's own time."""
    answer = cloud.client("s3").list_buckets()
    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])


def _put_forecast(cloud: Cloud, begins: datetime, low_from: int) -> None:
    """A day of 500 g/kWh; from so many hours on three of 50."""
    hours = range(-2, 24)
    points = [
        {"from": (begins + HOUR * n).isoformat(), "g_per_kwh": 50 if low_from <= n < low_from + 3 else 500}
        for n in hours
    ]
    body = json.dumps({"source": "a test", "points": points}).encode()
    region = cloud.session.region_name
    cloud.client("s3").put_object(Bucket=cloud.outputs["ArtifactBucketName"], Key=f"carbon/{region}.json", Body=body)


@pytest.mark.embedded_only
def test_a_run_waits_and_begins_its_costliest_stage_inside_its_window(ebb: Ebb, cloud: Cloud, tmp_path: Path):
    (tmp_path / "pipeline.yaml").write_text(SPEC)
    begun = _now(cloud).replace(minute=0, second=0, microsecond=0)
    _put_forecast(cloud, begun, low_from=4)
    run_id = ebb.json("drop", SCRIPTS / "penguins.csv", "--project", "patient", "--spec", tmp_path / "pipeline.yaml")[
        "run_id"
    ]

    def noted() -> dict:
        """What the ledger says, read at once: the command takes a second to start."""
        key = {"pk": {"S": f"RUN#{run_id}"}, "sk": {"S": "RUN"}}
        found = cloud.client("dynamodb").get_item(TableName=cloud.outputs["LedgerTableName"], Key=key)["Item"]
        return ledger.from_item({name: TypeDeserializer().deserialize(value) for name, value in found.items()})

    window = wait_until(lambda: noted().get("window"), "its costliest stage is looked at")
    stage = window["stage"]
    job = f"{run_id}-a1-{stage}"
    assert window["state"] == "waiting"
    assert datetime.fromisoformat(window["begins"]) == begun + 4 * HOUR
    assert ebb("advance", "2h").returncode == 0
    assert job not in cloud.job_names(), "two hours later it still waits"
    assert noted()["status"] == "running"
    assert ebb("advance", "3h").returncode == 0
    run = wait_until(lambda: noted()["status"] != "running" and noted(), "the run ends")

    assert run["status"] == "succeeded", run
    described = (
        cloud.client("sagemaker").describe_training_job(TrainingJobName=job)
        if stage in ("train", "compress")
        else cloud.client("sagemaker").describe_processing_job(ProcessingJobName=job)
    )
    assert begun + 4 * HOUR <= described["CreationTime"] < begun + 5 * HOUR
    assert (run["window"]["state"], run["window"]["saved_g"] > 0) == ("begun", True)
    month = f"FOOTPRINT#patient#{described['CreationTime'].astimezone(UTC):%Y-%m}"
    entry = {"pk": {"S": month}, "sk": {"S": f"avoided#waited#{run_id}#1"}}
    booked = cloud.client("dynamodb").get_item(TableName=cloud.outputs["LedgerTableName"], Key=entry)["Item"]
    assert float(booked["saved"]["M"]["carbon_g"]["M"]["value"]["N"]) > 0
    why = ebb("why", run_id).stdout
    assert f"when {stage} runs" in why
    assert "forecast file (a test) decided" in why
