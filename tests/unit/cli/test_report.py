"""`ebb report`: the page of a run on this machine, in the browser, and what is said where there is none."""

import json
import webbrowser
from pathlib import Path

import pytest

from ebb import names
from ebb_cli import problems

from .conftest import RUN_ID

PAGE = b"<!DOCTYPE html><title>page</title>"


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """What the browser was asked to show."""
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: shown.append(address) or True)
    return shown


@pytest.fixture
def left(target, put):
    """A run that ended and left its page."""
    put("succeeded")
    target.client("s3").put_object(Bucket="artifacts", Key=names.report_key(RUN_ID), Body=PAGE)
    return RUN_ID


def test_the_page_is_downloaded_and_opened(ebb, left, opened, home):
    said = ebb("report", "latest").stdout.strip()
    assert Path(said).read_bytes() == PAGE
    assert Path(said).parent == home / "reports"
    assert opened == [Path(said).as_uri()]


def test_a_program_gets_the_path_and_no_browser(ebb, left, opened, tmp_path):
    told = json.loads(ebb("report", left, "--json", "--path", str(tmp_path / "a" / "page.html")).stdout)
    assert Path(told["path"]).read_bytes() == PAGE
    assert (told["run_id"], told["origin"]) == (left, "written when the run ended")
    assert opened == []


def test_a_folder_gets_a_file_of_the_runs_name(ebb, left, opened, tmp_path):
    ebb("report", left, "--no-browser", "--path", str(tmp_path))
    assert (tmp_path / f"{left}.html").read_bytes() == PAGE
    assert opened == []


def test_who_has_no_browser_is_told_to_open_the_file(ebb, left, monkeypatch):
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    assert "open the file above" in ebb("report", left).stderr


def test_a_run_that_left_no_page_has_it_made_from_its_record(ebb, put, target, opened):
    put("failed", report_error="KeyError")
    record = {"run_id": RUN_ID, "project": "churn", "status": "failed", "error": {"message": "no rows left"}}
    target.client("s3").put_object(Bucket="artifacts", Key=names.record_key(RUN_ID), Body=json.dumps(record).encode())
    ended = ebb("report", RUN_ID)
    assert "no rows left" in Path(ended.stdout.strip()).read_text()
    assert "KeyError" in ended.stderr
    assert "made now from run.json" in ended.stderr


@pytest.mark.parametrize(
    ("status", "asked", "told", "exit_status"),
    [
        pytest.param("running", RUN_ID, "still running", problems.FAILURE, id="a run that goes on"),
        pytest.param("succeeded", "nobody-2026", "No run is called", problems.USAGE, id="a run that nobody knows"),
        pytest.param(
            "rejected", RUN_ID, "neither a report nor a record", problems.FAILURE, id="a run without a record"
        ),
    ],
)
def test_what_has_no_page_is_told_with_a_remedy(ebb, put, opened, status, asked, told, exit_status):
    put(status)
    ended = ebb("report", asked)
    assert ended.exit_code == exit_status
    assert told in ended.stderr
    assert "ebb " in ended.stderr.splitlines()[-1], "what to do instead"
    assert opened == []
