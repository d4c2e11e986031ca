"""The hours of Ebb's own endpoints, from CloudWatch and the ledger into the footprint ledger."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from ebb import addresses, ledger
from ebb.addresses import Address
from ebb.aws import clients, publishing, serving_hours
from ebb.aws.accounts import Accounts
from ebb.aws.ledger import Ledger
from ebb.serving_hours import Due
from ebb.sweep import Report
from worked_run import LEDGER

NOW = datetime.now(UTC).replace(hour=0, minute=7, second=0, microsecond=0)  # the service keeps metrics of these days
UNTIL = NOW - timedelta(hours=1, minutes=7)
HOUR = UNTIL - timedelta(hours=6)
AT = Address(
    address="ebb-iris",
    project="iris",
    kind="async",
    endpoint_name="ebb-iris",
    instance_type="ml.m5.large",
    in_service_since=NOW - timedelta(days=9),
)


@pytest.fixture
def told(account) -> None:
    """Half an hour's samples of an endpoint that then slept for two hours."""
    dimensions = [{"Name": "EndpointName", "Value": "ebb-iris"}, {"Name": "VariantName", "Value": "AllTraffic"}]
    clients.client("cloudwatch").put_metric_data(
        Namespace="/aws/sagemaker/Endpoints",
        MetricData=[
            {"MetricName": "CPUUtilization", "Dimensions": dimensions, "Timestamp": HOUR + timedelta(minutes=minute),
             "Value": 20.0}
            for minute in range(30)
        ],
    )  # fmt: skip
    for what, hours, more in (("slept", 1, {}), ("woke", 3, {"asleep_s": 7200})):
        moment = HOUR + timedelta(hours=hours)
        key = {"pk": addresses.key(AT.address)["pk"], "sk": f"EVENT#{ledger.iso(moment)}"}
        Ledger(LEDGER).apply(ledger.update(key, {"what": what, "at": ledger.iso(moment), **more}))


def swept(before: Due | None = None, known=(AT,)) -> Report:
    return serving_hours.told(Report(), before, known, LEDGER, now=NOW)


def month() -> dict:
    found = Accounts(LEDGER)
    totals = [found.month("iris", each) for each in {f"{UNTIL - timedelta(days=1):%Y-%m}", f"{HOUR:%Y-%m}"}]
    return {"entries": [each for one in totals for each in one["entries"]]}


def test_a_day_of_an_endpoint_is_booked_once(told, capsys):
    report = swept()
    assert report.hours.left == ()
    assert report.unread == ()
    served, slept = sorted(month()["entries"], key=lambda each: each["kind"], reverse=True)
    assert served["usage"]["duration_s"] == 1800
    assert served["usage"]["utilization"] == pytest.approx(0.1)
    assert slept["usage"]["duration_s"] == 7200
    (line,) = [json.loads(each) for each in capsys.readouterr().out.splitlines() if '"_aws"' in each]
    assert line["Project"] == serving_hours.PUBLISHED_AS
    assert line[publishing.SAVED] == [pytest.approx(slept["saved"]["carbon_g"]["value"])]
    swept()  # the report of the first was lost
    assert len(month()["entries"]) == 2
    assert capsys.readouterr().out == ""


def test_what_cannot_be_read_stays_due_and_is_told(told, monkeypatch):
    monkeypatch.setattr(serving_hours, "client", lambda _: Refusing())
    report = swept()
    assert report.hours.left == ("ebb-iris",)
    assert [each.what for each in report.unread] == ["hours of 1 endpoints"]
    assert month()["entries"] == []


def test_what_one_sweep_leaves_the_next_one_books(told, monkeypatch):
    monkeypatch.setattr(serving_hours, "MOST", 1)
    other = AT.model_copy(update={"address": "ebb-another", "endpoint_name": "ebb-another"})
    first = swept(known=(AT, other))
    assert first.hours.left == ("ebb-iris",)
    assert month()["entries"] == []
    assert swept(first.hours, known=(AT, other)).hours.left == ()
    assert len(month()["entries"]) == 2


def test_without_the_addresses_nothing_is_forgotten(account):
    before = Due(since=HOUR, until=UNTIL, left=("ebb-iris",))
    assert swept(before, known=None).hours == before


class Refusing:
    """A client that CloudWatch throttles."""

    def get_paginator(self, _: str) -> "Refusing":
        return self

    def paginate(self, **_: object) -> None:
        from botocore.exceptions import ClientError

        raise ClientError({"Error": {"Code": "Throttling"}}, "GetMetricData")
