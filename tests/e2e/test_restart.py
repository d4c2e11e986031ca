"""The embedded cloud is stopped in the middle of a run and started again."""

import json
from pathlib import Path

import pytest

from .conftest import Cloud, Ebb, connect, wait_until


@pytest.mark.embedded_only
def test_a_run_in_flight_goes_on_as_the_next_attempt_after_a_restart(ebb: Ebb, cloud: Cloud, tables: Path):
    served = ebb.drop(tables / "few.csv", "steady")
    run_id = ebb.json("drop", tables / "cut.csv", "--project", "phoenix")["run_id"]
    wait_until(lambda: any(name.startswith(run_id) for name in cloud.jobs_in_progress()), "its first job")
    cloud.remember_calls()
    assert ebb("down").returncode == 0
    assert ebb("up").returncode == 0
    record = json.loads(ebb("show", run_id, "--wait", "--json").stdout)
    assert record["status"] == "succeeded", record
    assert record["attempt"] == 2
    sagemaker = connect(ebb).client("sagemaker")
    wait_until(
        lambda: sagemaker.describe_endpoint(EndpointName=served["endpoint_name"])["EndpointStatus"] == "InService",
        "the endpoint of before the restart",
    )
    row = (tables / "few.csv").read_text().splitlines()[1].rsplit(",", 1)[0]
    assert ebb.json("invoke", "steady", "-", stdin=row + "\n")["predictions"]
