"""Metrics in log lines, in the embedded metric format: extracted as CloudWatch does, whoever writes the log."""

import inspect
import json
import time
from typing import Any

import pytest
from ministack.services import cloudwatch_logs

from contract.support import allow
from contract.test_usage_metrics import summed
from ebb_local.gaps import embedded_metrics

NOW = 1_800_000_000.0


def line(at: float = NOW, dimensions: list[list[str]] | None = None, **members: Any) -> str:
    directive = {
        "Namespace": "Ebb",
        "Dimensions": [["Project"]] if dimensions is None else dimensions,
        "Metrics": [{"Name": "CarbonGrams", "Unit": "None"}],
    }
    told = {"Project": "iris", "CarbonGrams": 2.5, "_aws": {"Timestamp": at * 1000, "CloudWatchMetrics": [directive]}}
    return json.dumps(told | members)


def extracted(text: str, *, real_s: float = 0.0) -> list[tuple[str, dict[str, str], tuple[float, ...], float]]:
    found = embedded_metrics.extract(text, now_s=NOW, real_s=real_s)
    return [(each.name, each.dimensions, each.values, each.at) for each in found]


def test_ministack_has_the_function_that_is_wrapped():
    assert list(inspect.signature(cloudwatch_logs._append_log_events).parameters)[:2] == ["stream", "events"]


def test_a_line_becomes_one_datum_for_each_set_of_dimensions():
    sets = [["Project"], [], ["Project", "Kind"]]
    assert extracted(line(dimensions=sets, Kind="stage")) == [
        ("CarbonGrams", {"Project": "iris"}, (2.5,), NOW),
        ("CarbonGrams", {}, (2.5,), NOW),
        ("CarbonGrams", {"Project": "iris", "Kind": "stage"}, (2.5,), NOW),
    ]


def test_several_values_are_several_samples():
    assert extracted(line(CarbonGrams=[1, 2.0]))[0][2] == (1.0, 2.0)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("plain words", id="no JSON"),
        pytest.param('{"_aws": 3}', id="no metadata"),
        pytest.param(line(Project=7), id="a dimension that is no text"),
        pytest.param(line(CarbonGrams="2.5"), id="a value that is no number"),
        pytest.param(line(CarbonGrams=True), id="a truth value"),
        pytest.param(line(CarbonGrams=[1.0] * 101), id="more values than a member may hold"),
        pytest.param(line(at=NOW - 15 * 86_400), id="older than two weeks"),
        pytest.param(line(at=NOW + 3 * 3600), id="more than two hours ahead"),
    ],
)
def test_what_does_not_keep_to_the_form_is_a_log_line_only(text):
    assert extracted(text) == []


def test_what_a_process_stamps_with_the_real_clock_is_now():
    month = 30 * 86_400
    assert extracted(line(at=NOW - month - 2), real_s=NOW - month)[0][3] == NOW


def test_a_function_publishes_by_printing(cloud, function, name):
    source = f"def handler(event, context):\n    print({line(at=time.time(), Project=name)!r})"
    arn = function(source, allow("logs:*", "*"))
    cloud.client("lambda").invoke(FunctionName=arn)
    assert summed(cloud, "Ebb", "CarbonGrams", Project=name) == 2.5


def test_a_line_put_by_hand_is_extracted_too(cloud, name):
    logs = cloud.client("logs")
    logs.create_log_group(logGroupName=name)
    logs.create_log_stream(logGroupName=name, logStreamName="s")
    moment = time.time()
    logs.put_log_events(
        logGroupName=name,
        logStreamName="s",
        logEvents=[{"timestamp": int(moment * 1000), "message": line(at=moment, Project=name)}],
    )
    assert summed(cloud, "Ebb", "CarbonGrams", Project=name) == 2.5
