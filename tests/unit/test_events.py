"""What an uploaded object asks for, told from the payloads that AWS sends."""

import json
import re
from datetime import UTC, datetime

import pytest

from ebb import events, names
from ebb.errors import MalformedEventError
from ebb.events import Ignored, RunRequested
from worked_run import load


def created(key: str, **changes) -> events.ObjectCreated:
    event = load("s3_object_created")
    event["detail"]["object"] |= {"key": key} | changes
    return events.object_created(json.dumps(event))


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        pytest.param("cancer/data/breast cancer.csv", "object", id="a file is a complete drop"),
        pytest.param("cancer/data/shots.zip", "object", id="a zip"),
        pytest.param("cancer/data/shots.tar.gz", "object", id="a tar.gz"),
        pytest.param("cancer/data/train.py", "object", id="a script that needs no data"),
        pytest.param("cancer/data/table.xlsx", "object", id="an unknown type too: its run is rejected and says why"),
        pytest.param("cancer/data/november/_SUCCESS", "prefix", id="a marker closes a folder"),
        pytest.param("cancer/pipeline.yaml", "spec", id="a spec"),
    ],
)
def test_a_key_that_asks_for_a_run(key, kind):
    asked = events.interpret(created(key))
    assert isinstance(asked, RunRequested)
    assert asked.drop.kind == kind
    assert asked.project == "cancer"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        pytest.param("notes.txt", "not below a project", id="at the top"),
        pytest.param("cancer/notes.txt", "neither", id="beside the data"),
        pytest.param("cancer/data/november/part-1.csv", "_SUCCESS", id="part of a folder"),
        pytest.param("cancer/data/shots/cat/001.png", "_SUCCESS", id="a picture in its class's folder"),
        pytest.param("cancer/code/train.py", "neither", id="a script beside the data"),
        pytest.param("cancer/data/november/2026/_SUCCESS", "_SUCCESS", id="a marker too deep"),
        pytest.param("cancer/data/", "folder marker", id="a folder that a console made"),
        pytest.param("cancer/data/.hidden.csv", "neither", id="a hidden file"),
        pytest.param("cancer/data/_SUCCESS", "neither", id="a marker without a folder"),
        pytest.param("My_Project/data/a.csv", "no project name", id="a name that no endpoint could have"),
        pytest.param(f"{'a' * 21}/data/a.csv", "no project name", id="a name too long for job names"),
    ],
)
def test_a_key_that_asks_for_nothing_says_why(key, reason):
    ignored = events.interpret(created(key))
    assert isinstance(ignored, Ignored)
    assert reason in ignored.reason


def test_the_run_is_named_after_the_event():
    one, same = events.interpret(created("cancer/data/a.csv")), events.interpret(created("cancer/data/a.csv"))
    later = events.interpret(created("cancer/data/a.csv", sequencer="0067419F6B2C5A1E34"))
    assert one.run_id == same.run_id
    assert one.run_id != later.run_id
    # Ten digits: at six, one in 16 million pairs of uploads within a second would have shared a name.
    assert re.fullmatch("cancer-20261123093000-[0-9a-f]{10}", one.run_id)
    assert names.created_at(one.run_id) == datetime(2026, 11, 23, 9, 30, tzinfo=UTC)


def test_names_stay_within_what_sagemaker_takes():
    run = names.run_id("a" * 20, "bucket", "key", "0A", datetime(2026, 1, 1, tzinfo=UTC))
    assert len(names.job(run, 999, "compress")) <= 63
    assert names.parse_execution(names.execution(run, 12)) == (run, 12)
    assert names.project_of("my-shop-2-20261123093000-3f9a1c") == "my-shop-2"


@pytest.mark.parametrize("text", ["nonsense", "cancer-2026-3f9a1c", "cancer-20261123093000-3f9a1c-x"])
def test_a_name_that_is_not_ours_is_refused(text):
    with pytest.raises(ValueError, match="not"):
        names.parse_execution(text)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("not json", id="no JSON"),
        pytest.param("[]", id="a list"),
        pytest.param('{"detail-type": "Object Created", "detail": 7}', id="no detail"),
        pytest.param(json.dumps(load("s3_object_created") | {"source": "my.app"}), id="another source"),
    ],
)
def test_a_message_that_is_no_event_is_malformed(body):
    with pytest.raises(MalformedEventError):
        events.object_created(body)


def test_sequencers_are_compared_as_hexadecimal_numbers():
    short, long_ = events.sortable_sequencer("FF"), events.sortable_sequencer("0100")
    assert short < long_
    assert events.sortable_sequencer("00ff") == short


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(1795426200000, id="milliseconds, as Step Functions passes them on"),
        pytest.param(1795426200.0, id="seconds"),
        pytest.param("2026-11-23T09:30:00Z", id="ISO text"),
        pytest.param("2026-11-23T09:30:00.000+00:00", id="ISO text with an offset"),
        pytest.param("2026-11-23T09:30:00", id="ISO text without a zone is UTC"),
    ],
)
def test_a_time_is_read_however_it_is_spelled(value):
    assert events.timestamp(value) == datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
