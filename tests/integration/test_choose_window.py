"""Choosing a window: what the function answers with the signals of a small account, and what the ledger keeps of it."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import choose_window
import plan_pipeline
from ebb import ledger, windows
from ebb.aws.accounts import Accounts
from ebb.errors import AttemptOutdatedError
from ebb.signals import web
from integration.conftest import made
from integration.test_run import RUN_ID, book, load
from worked_run import ARTIFACTS, LEDGER, REGION

__all__ = ["book"]

NOW = datetime(2026, 11, 23, 9, 35, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def stack(account, book, context, monkeypatch) -> Any:
    """A run that is planned; nobody is asked over HTTP."""
    for name, value in (
        ("LEDGER_TABLE", LEDGER), ("ARTIFACT_BUCKET", ARTIFACTS), ("ASK_UK_CARBON_API", "no"),
        ("ELECTRICITY_MAPS_SECRET_ARN", ""),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    plan_pipeline.handler(load("plan_pipeline"), context)
    return account


def put_forecast(account: Any, *values: float, **more: Any) -> None:
    begins = NOW.replace(minute=0)
    points = [{"from": ledger.iso(begins + HOUR * n), "g_per_kwh": value} for n, value in enumerate(values)]
    body = json.dumps({"source": "a test", "error": 0.05, "points": points} | more)
    account.s3.put_object(Bucket=ARTIFACTS, Key=f"carbon/{REGION}.json", Body=body.encode())


def ask(context: Any, now: datetime = NOW, *, within: float = 8, **more: Any) -> dict[str, Any]:
    window = {
        "stage": "train",
        "deadline": ledger.iso(NOW + HOUR * within),
        "signal": "average",
        "loads": [{"stage": "train", "duration_s": {"low": 600, "value": 1200, "high": 1800}, "energy_kwh": 0.2}],
    }
    given = {"run_id": RUN_ID, "attempt": 1, "project": "cancer", "window": window, "now": ledger.iso(now)}
    return choose_window.handler(given | more, context)


def decisions(book: Any) -> list[dict[str, Any]]:
    return [each for each in book.story(RUN_ID).decisions if each["what"] == "when train runs"]


def test_it_waits_for_the_window_of_the_forecast_file_and_the_record_tells_why(stack, book, context):
    put_forecast(stack, 400, 390, 380, 90, 300, 300, 300, 300, 300, 300)
    answer = ask(context)
    assert answer["action"] == "wait"
    assert answer["until"] == "2026-11-23T10:00:00Z", "at the next full hour it is looked at again"
    assert answer["first"]["grams"] == pytest.approx(0.2 * 400, rel=0.01)
    (told,) = decisions(book)
    assert told["chosen"] == "waits for 2026-11-23 12:00 UTC"
    assert told["reason"].endswith("forecast file (a test) decided")
    assert told["numbers"]["saved_g"] == pytest.approx(0.2 * (400 - 90), rel=0.01)
    assert told["alternatives"][0].startswith("now: 80 g")
    assert book.run(RUN_ID)["window"] | {"saved_g": 0} == {
        "stage": "train", "state": "waiting", "begins": "2026-11-23T12:00:00Z", "source": "forecast file (a test)",
        "saved_g": 0,
    }  # fmt: skip


def test_each_look_replaces_the_one_before_and_savings_count_from_the_first(stack, book, context):
    put_forecast(stack, 400, 390, 380, 90, 300, 300, 300, 300, 300, 300)
    first = ask(context)
    later = ask(context, datetime(2026, 11, 23, 12, 0, tzinfo=UTC), looks=first["looks"], first=first["first"])
    assert later["action"] == "run"
    assert "until" not in later
    (told,) = decisions(book)
    assert (told["chosen"], told["numbers"]["looks"]) == ("runs now", 2)
    assert told["numbers"]["saved_g"] == pytest.approx(62, rel=0.01)
    assert book.run(RUN_ID)["window"]["state"] == "begun"


def test_what_waiting_saved_is_entered_once_into_the_footprint_ledger_and_published(stack, context, capsys):
    put_forecast(stack, 400, 390, 380, 90, 300, 300, 300, 300, 300, 300)
    first = ask(context)
    accounts = Accounts(LEDGER)
    assert accounts.month("cancer", "2026-11")["entries"] == [], "nothing is saved by waiting alone"
    begin = {"now": datetime(2026, 11, 23, 12, 0, tzinfo=UTC), "looks": first["looks"], "first": first["first"]}
    for _ in range(2):
        ask(context, **begin)
    found = accounts.month("cancer", "2026-11")
    (entry,) = found["entries"]
    assert entry["id"] == f"waited#{RUN_ID}#1"
    # 0.2 kWh at 400 g/kWh, or a little less, against 0.2 kWh at 90: 62 g; 5 % of each either way
    assert entry["saved"]["carbon_g"]["value"] == pytest.approx(62, rel=0.01)
    assert entry["saved"]["carbon_g"]["low"] == pytest.approx(62 - 4.9, rel=0.02)
    assert found["total"]["saved_carbon_g"] == pytest.approx(62, rel=0.01)
    assert found["total"]["spent_carbon_g"] == 0, "the stage itself is booked when it has run"
    (line,) = [json.loads(each) for each in capsys.readouterr().out.splitlines() if '"SavedCarbonG"' in each]
    assert (line["Project"], line["SavedCarbonG"]) == ("cancer", [entry["saved"]["carbon_g"]["value"]])


def test_without_any_forecast_the_yearly_table_decides_and_nothing_waits(stack, book, context):
    answer = ask(context)
    assert answer["action"] == "run"
    (told,) = decisions(book)
    assert told["reason"] == "no later window before the deadline emits less; yearly table decided"
    assert "forecast file: there is no such file" in told["alternatives"]


def test_a_forecast_of_another_signal_is_not_taken(stack, book, context):
    put_forecast(stack, 400, 90, 90, signal="marginal")
    assert ask(context)["action"] == "run"
    assert any("marginal" in each for each in decisions(book)[0]["alternatives"])


def test_a_broken_file_fails_no_run(stack, book, context):
    stack.s3.put_object(Bucket=ARTIFACTS, Key=f"carbon/{REGION}.json", Body=b"{not json")
    assert ask(context)["action"] == "run"


def test_a_run_that_is_no_longer_this_attempt_is_refused(stack, context):
    with pytest.raises(AttemptOutdatedError):
        ask(context, attempt=7)


def test_the_key_of_electricity_maps_comes_from_secrets_manager(stack, context, monkeypatch):
    secret = made("secretsmanager").create_secret(Name="maps", SecretString="the-key\n")["ARN"]
    monkeypatch.setenv("ELECTRICITY_MAPS_SECRET_ARN", secret)
    seen = []

    def get(pool: Any, url: str, headers: Any) -> Any:
        seen.append((url, headers))
        hours = [NOW.replace(minute=0) + HOUR * n for n in range(12)]
        return {
            "forecast": [
                {"datetime": ledger.iso(hour), "carbonIntensity": 100 if n == 3 else 400}
                for n, hour in enumerate(hours)
            ]
        }

    monkeypatch.setattr(web, "_get", get)
    answer = ask(context)
    assert answer["action"] == "wait"
    assert seen[0][1] == {"auth-token": "the-key"}
    assert f"dataCenterRegion={REGION}" in seen[0][0]


def test_without_the_key_the_next_signal_decides_and_the_record_says_why(stack, book, context, monkeypatch):
    monkeypatch.setenv("ELECTRICITY_MAPS_SECRET_ARN", "arn:aws:secretsmanager:us-east-1:000000000000:secret:gone")
    assert ask(context)["action"] == "run"
    told = decisions(book)[0]["alternatives"]
    assert "Electricity Maps: its key could not be read (ResourceNotFoundException)" in told


def test_the_plan_of_a_spec_with_a_deadline_names_the_stage_that_waits(stack, book, context):
    given = load("plan_pipeline")
    given["identified"]["spec"]["carbon"]["deadline"] = 12 * 3600
    plan = plan_pipeline.handler(given, context)
    assert plan["window"]["stage"] == max(
        plan["predicted"], key=lambda name: plan["predicted"][name]["carbon_g"]["value"]
    )
    assert windows.read(plan["window"]).loads
    (told,) = [each for each in plan["decisions"] if each["what"] == "what waits for a low-carbon window"]
    assert told["chosen"].startswith(plan["window"]["stage"])
    assert "window" not in plan_pipeline.handler(load("plan_pipeline"), context)
