"""`ebb cost`: measured units times the price table, and savings net of it."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ebb import control_plane
from ebb.addresses import Address
from ebb_cli import cost
from ebb_cli.cost import Read, Usage
from ebb_cli.problems import CommandError

UNTIL = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
BEGIN = UNTIL - timedelta(days=365 / 12)  # a month


class Answers:
    """The services that the bill asks, with little in them."""

    def __init__(self, **pages: Any):
        self.pages = pages

    def client(self, service: str) -> "Answers":
        return self

    def get_paginator(self, operation: str) -> Any:
        found = self.pages.get(operation, {"MetricDataResults": [], "StackResourceSummaries": []})

        class Pages:
            def paginate(self, **_: Any) -> list[dict[str, Any]]:
                return [found]

        return Pages()

    def __getattr__(self, operation: str) -> Any:
        return lambda **_: self.pages[operation]


RESOURCES = [
    ("AWS::Lambda::Function", "SweepAccountFunction", "ebb-sweep"),
    ("AWS::Lambda::Function", "DecideScalingFunction", "ebb-decide"),
    ("AWS::StepFunctions::StateMachine", "SweepAccountStateMachine", "arn:sweep"),
    ("AWS::DynamoDB::Table", "LedgerTable", "ledger"),
    ("AWS::SQS::Queue", "UploadsQueue", "https://sqs/0/uploads"),
    ("AWS::KMS::Key", "DataKey", "key"),
    ("AWS::CloudWatch::Alarm", "UploadsDeadLetterAlarm", "other-alarm"),
]


@pytest.fixture
def used(monkeypatch) -> Usage:
    pages = {
        "list_stack_resources": {
            "StackResourceSummaries": [
                {"ResourceType": kind, "LogicalResourceId": name, "PhysicalResourceId": physical}
                for kind, name, physical in RESOURCES
            ]
        },
        "describe_alarms": {"MetricAlarms": [{}, {}]},
        "get_execution_history": {"events": [{"type": "ExecutionStarted"}, {"type": "TaskStateEntered"}]},
        "list_executions": {"executions": [{"executionArn": "e"}]},
        "describe_table": {"Table": {"TableSizeBytes": 10**9}},
        "get_function_configuration": {"MemorySize": 1024},
        "describe_images": {"imageDetails": []},
    }
    target = Answers(**pages)
    target.stack = "ebb"
    found = Usage(target, BEGIN, UNTIL)
    sums = {
        ("Invocations", "ebb-sweep"): 2_920,
        ("Duration", "ebb-sweep"): 2_920_000,
        ("ExecutionsStarted", "arn:sweep"): 2_920,
        ("Invocations", "ebb-decide"): 100,
        ("Duration", "ebb-decide"): 50_000,
        ("NumberOfEmptyReceives", "uploads"): 657_000,
        ("ConsumedReadCapacityUnits", "ledger"): 8_000,
    }

    def fetch(reads: Any) -> None:
        for read in reads:
            found._sums[read] = sums.get((read.metric, read.dimensions[0][1]), 0.0)

    monkeypatch.setattr(found, "fetch", fetch)
    return found


def by_price(lines: Any) -> dict[str, float]:
    usd: dict[str, float] = {}
    for line in lines:
        usd[line.price] = usd.get(line.price, 0.0) + line.usd
    return usd


def test_a_month_of_sweeps_by_hand(used):
    """2,920 sweeps of a second at 1 GB, two transitions each; a key, three alarms, a polled queue."""
    usd = by_price(cost.bill(used))
    assert usd["lambda_request"] == pytest.approx(3_020 * 2e-7)
    assert usd["lambda_gb_second"] == pytest.approx(2_970 * 1.33334e-5)
    assert usd["states_transition"] == pytest.approx(2_920 * 2 * 2.5e-5)
    assert usd["kms_key"] == pytest.approx(1.0)
    assert usd["cloudwatch_alarm"] == pytest.approx(0.30)
    assert usd["sqs_request"] == pytest.approx(657_000 * 4e-7)
    assert usd["dynamodb_storage"] == pytest.approx(0.25)
    assert usd["cloudwatch_metric_read"] == pytest.approx(100 * 3 * 1e-5)


def test_each_item_says_how_it_is_known_and_where_its_price_comes_from(used):
    document = cost.as_document(list(cost.bill(used)), [], BEGIN, UNTIL)
    assert document["items"]
    for item in document["items"]:
        assert item["how"] in ("measured", "counted", "assumed")
        assert item["source"].startswith("https://aws.amazon.com/")
    assert document["total_usd"] == pytest.approx(sum(item["usd"] for item in document["items"]))
    assert document["per_month_usd"] == pytest.approx(document["total_usd"], rel=1e-3)
    assert json.dumps(document, default=str)


def test_what_stands_is_told_by_the_month_and_use_is_not_extrapolated_from_less_than_a_day(used, capsys):
    lines = list(cost.bill(used))
    month = cost.as_document(lines, [], BEGIN, UNTIL)
    assert month["standing_usd_per_month"] == pytest.approx(month["standing_usd"], rel=1e-3)
    assert month["standing_usd"] + month["used_usd"] == pytest.approx(month["total_usd"])
    assert month["standing_usd"] > 1.3, "a key and three alarms"
    assert month["used_usd"] > 0.14, "the sweeps' transitions"
    hour = cost.as_document(lines, [], UNTIL - timedelta(hours=1), UNTIL)
    assert hour["per_month_usd"] is None
    cost.show(hour)
    assert "at this rate" not in capsys.readouterr().out
    cost.show(month)
    assert "at this rate" in capsys.readouterr().out


def test_rows_that_round_to_nothing_are_added_up_by_service(capsys):
    lines = [
        control_plane.Line("Lambda", "a: requests", "lambda_request", 10),
        control_plane.Line("Lambda", "b: requests", "lambda_request", 24),
        control_plane.Line("Lambda", "c: requests", "lambda_request", 1_000),
        control_plane.Line("S3", "d: reads", "s3_read", 1),
    ]
    document = cost.as_document(lines, [], BEGIN, UNTIL)
    assert len(document["items"]) == 4, "all of them in the document"
    cost.show(document)
    told = capsys.readouterr().out
    assert "0.00000 " not in told
    assert "a: requests" not in told
    others = [line.split() for line in told.splitlines() if "others" in line]
    assert [row[:3] for row in others] == [["Lambda", "2", "others"], ["S3", "1", "others"]]
    assert "0.00001" in others[0], "34 requests at 0.0000002 USD"


def test_savings_are_shown_net_of_ebb_itself(used):
    lines = list(cost.bill(used))
    saved = [{"address": "ebb-wine", "hours_asleep": 500.0, "times_asleep": 20, "usd": 57.5}]
    document = cost.as_document(lines, saved, BEGIN, UNTIL)
    assert document["net_saved_usd"] == pytest.approx(57.5 - control_plane.total_usd(lines))


def test_what_sleeps_still_has_saved_until_now(monkeypatch):
    woke = {"what": "woke", "saved_usd": 2.5, "asleep_s": 36_000}
    monkeypatch.setattr(cost, "_events", lambda *_: iter([{"what": "slept"}, woke, {"what": "slept"}]))
    at = Address(
        address="ebb-wine",
        kind="async",
        state="asleep",
        asleep_since=UNTIL - timedelta(hours=4),
        awake_usd_per_hour=0.115,
    )
    (found,) = cost.savings(None, [at], BEGIN, UNTIL)
    assert found["usd"] == pytest.approx(2.5 + 4 * 0.115)
    assert found["hours_asleep"] == pytest.approx(14)
    assert found["times_asleep"] == 2


@pytest.mark.parametrize(("text", "span"), [("12h", timedelta(hours=12)), ("30d", timedelta(days=30))])
def test_a_span_is_read_as_it_is_written(text, span):
    assert cost._span(text) == span


@pytest.mark.parametrize("text", ["", "0d", "3 weeks", "9999d", "-1d"])
def test_another_span_is_refused_with_an_example(text):
    with pytest.raises(CommandError) as raised:
        cost._span(text)
    assert "30d" in raised.value.remedy


def test_metrics_are_asked_for_together(monkeypatch):
    asked = []

    class Counting(Answers):
        def get_paginator(self, operation: str) -> Any:
            if operation == "get_metric_data":
                asked.append(operation)
            return super().get_paginator(operation)

    found = Usage(Counting(), BEGIN, UNTIL)
    found.fetch([Read("AWS/Lambda", "Invocations", (("FunctionName", f"f{number}"),)) for number in range(501)])
    assert len(asked) == 2, "500 metrics in a call"
