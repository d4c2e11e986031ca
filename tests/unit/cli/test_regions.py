"""`ebb regions`: the ranking as people and programs read it, and what a Region is asked."""

import json
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from ebb_cli import regions as command

RUN = json.loads((Path(__file__).parents[1] / "data" / "digits_run.json").read_text())
NAME = RUN["run_id"]
NAMED = ("stage", "attempt", "status", "earlier_attempts")


@pytest.fixture
def digits(put, put_stage):
    """The recorded run of digits in the ledger."""
    kept = ("drop", "sources", "footprint", "task", "metric")
    put(run_id=NAME, **{name: RUN[name] for name in kept})
    for stage in RUN["stages"]:
        known = {key: value for key, value in stage.items() if key not in NAMED}
        put_stage(stage["stage"], run_id=NAME, **known)
    return NAME


def test_the_ranking_counts_the_way_of_the_data_and_keeps_what_it_does_not_know(digits, ebb):
    done = ebb("regions", "--offline", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["region"] == "us-east-1"
    assert answer["data_bytes"] == 1_828_427
    first = answer["regions"][0]
    assert first["region"] == "eu-north-1"
    assert first["surely_less"]
    assert first["transfer_g"]["value"] > 0
    assert first["machines"] == "unknown"
    assert answer["not_known"]


def test_a_project_stands_for_its_newest_run_that_used_anything(digits, put, ebb):
    put("reused", run_id="demo-digits-20261124164103-aaaaaaaaaa", reuses=digits)
    assert json.loads(ebb("regions", "demo-digits", "--offline", "--json").stdout)["run_id"] == digits


def test_people_read_where_it_would_be_less_and_what_is_not_moved(digits, ebb):
    told = ebb("regions", "--offline").stdout
    assert "eu-north-1" in told
    assert "here" in told
    assert "Nothing is moved" in told
    assert "price of machines" in told
    assert "\x1b[" not in told, "no colours in a pipe"


def test_a_region_that_does_not_answer_is_unknown_and_one_without_the_machine_says_which(target, monkeypatch):
    class Ec2:
        def __init__(self, region):
            self.region = region

        def describe_instance_type_offerings(self, **_):
            if self.region == "me-south-1":
                raise ClientError({"Error": {"Code": "AuthFailure", "Message": "not enabled"}}, "Describe")
            return {"InstanceTypeOfferings": [{"InstanceType": "m5.large"}]}

    monkeypatch.setattr(target.session, "client", lambda service, region_name, **_: Ec2(region_name))
    found = command.available(target, ["ml.m5.large", "ml.g6.xlarge"], ["eu-north-1", "me-south-1"])
    assert found == {"eu-north-1": "no: g6.xlarge", "me-south-1": "unknown"}


def test_an_unknown_signal_names_those_there_are(digits, ebb):
    done = ebb("regions", "--signal", "guess", "--offline")
    assert done.exit_code == 2
    assert "average" in done.output


def test_a_run_that_used_nothing_is_told_so(put, ebb):
    put("rejected")
    done = ebb("regions", "--offline")
    assert done.exit_code == 1
    assert "used nothing" in done.output
