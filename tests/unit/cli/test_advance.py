"""`ebb advance`: durations, slices, and what it says when the clock waits or is not the embedded cloud's."""

import json
from datetime import timedelta

import pytest

from ebb_cli import advance
from ebb_cli.problems import USAGE, CommandError
from ebb_cli.target import Target


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", timedelta(seconds=30)),
        ("15m", timedelta(minutes=15)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
        ("1.5 H", timedelta(minutes=90)),
    ],
)
def test_duration(text, expected):
    assert advance.parse(text) == expected


@pytest.mark.parametrize("text", ["", "2", "h", "-1h", "0s", "2 weeks", "400d"])
def test_duration_is_refused(text):
    with pytest.raises(CommandError) as refused:
        advance.parse(text)
    assert refused.value.status == USAGE


def test_the_clock_of_aws_is_left_alone():
    target = Target(None, None, False, "123456789012", "eu-central-1", "ebb")
    with pytest.raises(CommandError, match="Only the embedded cloud's clock"):
        advance.advance(target, "1h")


class Server:
    """Answers as the control endpoint does: so many seconds at a time."""

    def __init__(self, *, slice_s: float, waits: int = 0) -> None:
        self.now, self.slice_s, self.waits, self.asked = 1000.0, slice_s, waits, []

    def __call__(self, request: dict) -> dict:
        self.asked.append(request)
        began, waiting = self.now, self.waits > 0
        self.waits -= waiting
        self.now += 0 if waiting else min(self.slice_s, request["Seconds"])
        note = {"at": self.now, "kind": "alarm", "text": f"at {self.now:.0f}"}
        waits_for = "the clock waits for what works: job x" if waiting else ""
        return {"Began": began, "Now": self.now, "WaitsFor": waits_for, "Position": len(self.asked), "Notes": [note]}


def test_it_goes_on_until_all_is_advanced_and_loses_no_note():
    server = Server(slice_s=40)
    first, last, notes = advance._go(timedelta(seconds=100), server)
    assert (first, last) == (1000, 1100)
    assert [note["at"] for note in notes] == [1040, 1080, 1100]
    assert [request.get("After") for request in server.asked] == [None, 1, 2]


def test_it_waits_for_what_works_and_says_so(capsys):
    server = Server(slice_s=100, waits=2)
    assert advance._go(timedelta(seconds=100), server)[1] == 1100
    assert "job x" in capsys.readouterr().err


def test_it_gives_up_in_the_end(monkeypatch):
    monkeypatch.setattr(advance, "PATIENCE_S", -1)
    with pytest.raises(CommandError, match="no further: the clock waits for what works"):
        advance._go(timedelta(seconds=100), Server(slice_s=100, waits=5))


def test_document(monkeypatch, capsys):
    monkeypatch.setattr(advance, "_send", lambda target, request: Server(slice_s=100)(request))
    target = Target(None, "http://127.0.0.1:1", True, "000000000000", "us-east-1", "ebb")
    advance.advance(target, "60s", as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["advanced_s"] == 60
    assert document["happened"] == [{"at": "1970-01-01T00:17:40+00:00", "kind": "alarm", "text": "at 1060"}]
