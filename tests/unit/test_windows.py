"""When a run's costliest stage waits: hand-made forecasts, and the moment that each of them leads to."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ebb import signals, spec, windows
from ebb.carbon import Band
from ebb.errors import InvalidSpecError
from ebb.identity import run_identity
from ebb.signals import Forecast, Span

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def forecast(*values: float, error: float = 0.05, begins: datetime = NOW) -> Forecast:
    """One value for each hour."""
    return Forecast(
        tuple(Span(begins + HOUR * n, begins + HOUR * (n + 1), value, error, "test") for n, value in enumerate(values))
    )


def asked(hours: float = 1.0, *, within: float = 8, most: float | None = None, kwh: float = 0.5) -> windows.Asked:
    seconds = hours * 3600
    load = windows.Load("train", Band(seconds / 2, seconds, (most or hours) * 3600), kwh)
    return windows.Asked((load,), NOW + HOUR * within)


def test_the_grams_of_a_window_are_energy_times_the_mean_intensity_while_it_runs():
    # 0.5 kWh over two hours of 100 and 300 g/kWh: 0.5 * 200 = 100 g
    found = windows.grams(forecast(100, 300, 900), NOW, asked(2).loads)
    assert found.grams == pytest.approx(100)
    assert found.error == pytest.approx(0.05)


def test_a_stage_that_follows_is_counted_where_it_runs():
    loads = (windows.Load("train", Band.exact(3600), 1.0), windows.Load("compress", Band.exact(1800), 0.2))
    # an hour of 100 g/kWh with 1 kWh, half an hour of 400 g/kWh with 0.2 kWh: 100 + 80 g
    assert windows.grams(forecast(100, 400), NOW, loads).grams == pytest.approx(180)


def test_the_run_waits_for_the_hour_that_emits_least():
    found = windows.decide(forecast(400, 380, 100, 300, 400, 400, 400, 400), asked(), NOW)
    assert found.action == windows.WAIT
    assert found.best.begins == NOW + 2 * HOUR
    assert found.until == NOW + HOUR, "it is looked at again after an hour"
    assert "emits 75% less than now" in found.reason


def test_a_long_stage_takes_the_best_stretch_and_not_the_best_hour():
    # the hour of 50 stands between two of 700: the mean of (300, 300) is less than that of (50, 700)
    found = windows.decide(forecast(600, 600, 50, 700, 300, 300, 600, 600, 600), asked(2), NOW)
    assert found.best.begins == NOW + 4 * HOUR


@pytest.mark.parametrize(
    ("values", "within", "most", "why"),
    [
        pytest.param((100, 200, 300, 400), 4, 1, "no later window", id="now is best"),
        pytest.param((400, 100, 100, 100), 1, 1, "deadline leaves no time", id="the deadline leaves no time"),
        pytest.param((400, 100, 100, 100), 4, 4, "deadline leaves no time", id="it may take all the time there is"),
        pytest.param((400, 100, 100, 100), -5, 1, "deadline leaves no time", id="the deadline has passed"),
        pytest.param((400, 397, 397, 397), 4, 1, "not worth waiting", id="less than a hundredth is gained"),
    ],
)
def test_it_runs_now_when(values: tuple[float, ...], within: float, most: float, why: str):
    found = windows.decide(forecast(*values), asked(within=within, most=most), NOW)
    assert (found.action, found.until) == (windows.RUN, None)
    assert why in found.reason


def test_no_window_begins_after_the_latest_beginning():
    # the best hour is the sixth; taking three at most and a deadline after seven leave the fourth
    values = (400, 390, 380, 300, 370, 10, 10, 10, 10)
    found = windows.decide(forecast(*values), asked(within=7, most=3), NOW)
    assert found.best.begins == NOW + 3 * HOUR
    every = windows.windows(forecast(*values), asked(within=7, most=3), NOW)
    assert max(each.begins for each in every) == NOW + 4 * HOUR == asked(within=7, most=3).latest


def test_a_look_later_decides_anew_and_a_wait_that_turned_out_wrong_ends():
    first = windows.decide(forecast(400, 390, 100, 300, 300), asked(), NOW)
    assert first.action == windows.WAIT
    again = windows.Asked(asked().loads, asked().deadline, 1)
    later = windows.decide(forecast(380, 381, 385, 390, 390, begins=first.until), again, first.until)
    assert later.action == windows.RUN, "what was expected does not come"
    small = windows.decide(forecast(380, 378, 385, 390, 390, begins=first.until), again, first.until)
    assert small.action == windows.WAIT, "a wait that has begun goes on for any gain"


def test_waiting_ends_at_the_window_and_never_after_it():
    at, values = NOW, [400, 390, 380, 100, 300, 300, 300, 300, 300]
    looks = 0
    while True:
        found = windows.decide(forecast(*values, begins=NOW), windows.Asked(asked().loads, asked().deadline, looks), at)
        if found.action == windows.RUN:
            break
        assert at < found.until <= asked().latest
        at, looks = found.until, looks + 1
    assert at == NOW + 3 * HOUR


def test_however_often_it_is_looked_at_there_is_an_end():
    patient = windows.Asked(asked().loads, asked().deadline, windows.MOST_LOOKS)
    assert windows.decide(forecast(400, 390, 100, 300), patient, NOW).action == windows.RUN


@pytest.mark.parametrize(
    ("minutes", "looked"),
    [pytest.param(20, 60, id="the next full hour"), pytest.param(57, 120, id="the one after, when that comes at once")],
)
def test_it_is_looked_at_again_at_the_boundaries_of_the_forecast(minutes: int, looked: int):
    now = NOW + timedelta(minutes=minutes)
    values = (400, 400, 400, 400, 100, 400, 400, 400, 400)
    assert windows.decide(forecast(*values), asked(), now).until == NOW + timedelta(minutes=looked)


def test_a_wait_that_has_begun_ends_at_its_window_and_not_minutes_before():
    now, values = NOW + timedelta(minutes=58), (400, 100, 400, 400, 400, 400, 400, 400)
    again = windows.Asked(asked().loads, asked().deadline, 1)
    assert windows.decide(forecast(*values), again, now).until == NOW + HOUR
    assert windows.decide(forecast(*values), asked(), now).action == windows.RUN, "a wait of two minutes is not begun"


def test_what_the_forecast_does_not_hold_is_no_window():
    found = windows.decide(forecast(400, 300), asked(hours=1.5, within=40), NOW)
    assert found.action == windows.RUN
    assert found.best.begins == NOW
    assert windows.decide(forecast(400), asked(hours=3, within=40), NOW).now is None


PREDICTED: dict[str, Any] = {
    stage: {
        "duration_s": {"low": s / 2, "value": s, "high": s * 2},
        "energy_kwh": {"low": 0, "value": s / 36e3, "high": 1},
        "carbon_g": {"low": 0, "value": g, "high": 100},
    }
    for stage, s, g in (("process", 60.0, 0.1), ("train", 900.0, 5.0), ("compress", 600.0, 3.0), ("compile", 60.0, 0.2))
}


def test_the_costliest_stage_waits_and_what_follows_it_is_held_with_it():
    found = windows.planned(PREDICTED, created=NOW, within=timedelta(hours=12), signal="average")
    assert found["stage"] == "train"
    assert [each["stage"] for each in found["loads"]] == ["train", "compress", "compile"]
    assert found["deadline"] == "2026-11-23T22:00:00Z"
    assert windows.read(found).latest == NOW + timedelta(hours=12) - timedelta(seconds=2 * (900 + 600 + 60))


def test_stages_that_are_done_already_wait_for_nothing():
    left = {stage: PREDICTED[stage] for stage in ("compress", "compile")}
    found = windows.planned(left, created=NOW, within=timedelta(hours=12), signal="average")
    assert found["stage"] == "compress"
    assert windows.planned({}, created=NOW, within=timedelta(hours=12), signal="average") is None
    assert windows.planned(PREDICTED, created=NOW, within=None, signal="average") is None


def test_the_record_tells_what_was_judged_and_what_was_not_chosen():
    what = windows.planned(PREDICTED, created=NOW, within=timedelta(hours=12), signal="average")
    known = forecast(400, 380, 100, 300, 350, 400, 400, 400, 400, 400, 400, 400, 400)
    given = windows.read(what)
    told = windows.record(windows.decide(known, given, NOW), given, known, "train", None)
    assert told["chosen"] == "waits for 2026-11-23 12:00 UTC"
    assert told["what"] == "when train runs"
    assert told["numbers"]["saved_g"] == pytest.approx(
        told["numbers"]["grams_at_the_first_look"] - told["numbers"]["grams"], abs=1e-3
    )
    assert told["numbers"]["saved_g"] > 0
    assert any(each.startswith("now: ") for each in told["alternatives"])
    assert any(each.startswith("2026-11-23 13:00 UTC: ") for each in told["alternatives"])
    assert told["reason"].endswith("test decided")


def test_savings_are_told_of_the_first_look_not_of_the_last():
    known = forecast(100, 390, 390, begins=NOW + 2 * HOUR)
    given = windows.Asked(asked().loads, asked().deadline, 2)
    told = windows.record(
        windows.decide(known, given, NOW + 2 * HOUR), given, known, "train", {"grams": 200.0, "at": "x"}
    )
    # 0.5 kWh * 100 g/kWh = 50 g now, against 200 g at the first look
    assert told["numbers"]["saved_g"] == pytest.approx(150)
    assert told["numbers"]["looks"] == 3


def test_the_mean_of_a_time_that_is_not_all_known_is_refused():
    with pytest.raises(ValueError, match="nothing is known"):
        signals.mean(forecast(100).spans, NOW, NOW + 2 * HOUR)


@pytest.mark.parametrize("text", ["20m", "15d", "12", "soon"])
def test_a_deadline_of_no_use_is_refused_with_what_to_write(text: str):
    with pytest.raises(InvalidSpecError) as refused:
        spec.parse(f"carbon: {{deadline: {text}}}".encode(), file="pipeline.yaml")
    assert "carbon.deadline" in str(refused.value)


def test_until_when_a_model_is_wanted_makes_no_other_work_of_it():
    def identity(deadline: float | None) -> str:
        asked = spec.PipelineSpec.model_validate({"carbon": {"deadline": deadline}}).resolved()
        return run_identity("cancer", asked, "hash", ["a"])

    assert identity(None) == identity(3600) == identity(7200)


def test_every_hour_of_the_longest_deadline_can_be_looked_at():
    assert timedelta(days=14) / HOUR < windows.MOST_LOOKS
