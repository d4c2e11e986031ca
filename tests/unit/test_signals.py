"""The signals behind one port: what each says, who fills in for whom, and what happens when one does not answer.

The HTTP ones are asked over the loopback; their answers are the examples of the providers' own documentation.
"""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from ebb import catalog, signals
from ebb.errors import SignalUnavailableError
from ebb.signals import Span, tables, web

NOW = datetime(2018, 1, 20, 12, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
# https://carbon-intensity.github.io/api-definitions/ : the documented answer, of two half hours
UK_ANSWER = {
    "data": [
        {"from": "2018-01-20T12:00Z", "to": "2018-01-20T12:30Z",
         "intensity": {"forecast": 266, "actual": 263, "index": "moderate"}},
        {"from": "2018-01-20T12:30Z", "to": "2018-01-20T13:00Z",
         "intensity": {"forecast": 250, "actual": None, "index": "moderate"}},
    ]
}  # fmt: skip
# https://portal.electricitymaps.com/developer-hub/api/reference : carbon-intensity/forecast
MAPS_ANSWER = {
    "zone": "GB",
    "forecast": [
        {"carbonIntensity": 326, "datetime": "2018-01-20T12:00:00.000Z"},
        {"carbonIntensity": 297, "datetime": "2018-01-20T13:00:00.000Z"},
        {"carbonIntensity": 194, "datetime": "2018-01-20T14:00:00.000Z"},
    ],
    "updatedAt": "2018-01-20T11:46:45.912Z",
}


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """A server on the loopback; the test says what it answers, and sees what it was asked."""
    seen = SimpleNamespace(status=200, body=b"", asked=[], url="")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.asked.append((self.path, dict(self.headers)))
            self.send_response(seen.status)
            self.send_header("Content-Length", str(len(seen.body)))
            self.end_headers()
            self.wfile.write(seen.body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        seen.url = f"http://127.0.0.1:{served.server_port}"
        yield seen
        served.shutdown()


def of(provider: Any, region: str = "eu-west-2", hours: float = 3) -> list[tuple[datetime, float]]:
    return [(span.begins, span.g_per_kwh) for span in provider.spans(region, NOW, NOW + HOUR * hours)]


def test_the_operator_of_great_britain_is_asked_for_the_48_hours_from_now_on(server):
    server.body = json.dumps(UK_ANSWER).encode()
    assert of(web.UnitedKingdom(server.url)) == [
        (datetime(2018, 1, 20, 12, 0, tzinfo=UTC), 266.0),
        (datetime(2018, 1, 20, 12, 30, tzinfo=UTC), 250.0),
    ]
    assert server.asked[0][0] == "/intensity/2018-01-20T12:10Z/fw48h"


def test_the_british_signal_is_not_asked_about_other_countries(server):
    with pytest.raises(SignalUnavailableError, match="eu-west-2 only"):
        of(web.UnitedKingdom(server.url), "us-east-1")
    assert server.asked == []


def test_electricity_maps_is_asked_by_the_region_of_aws_and_with_the_key(server):
    server.body = json.dumps(MAPS_ANSWER).encode()
    found = of(web.ElectricityMaps("a-key", server.url), "eu-west-2", hours=20)
    assert found[2] == (datetime(2018, 1, 20, 14, 0, tzinfo=UTC), 194.0)
    path, headers = server.asked[0]
    assert path == ("/v3/carbon-intensity/forecast?dataCenterProvider=aws&dataCenterRegion=eu-west-2&horizonHours=24")
    assert headers["auth-token"] == "a-key"


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, b'{"error": "bad key"}', "answered with 401"),
        (302, b"", "answered with 302"),
        (200, b"<html>", "no JSON"),
        (200, b'{"zone": "GB"}', "no forecast"),
        (200, b'{"forecast": [{"datetime": "2018-01-20T12:00:00Z"}]}', "no intensity"),
        (200, b'{"forecast": [{"datetime": "noon", "carbonIntensity": 3}]}', "no moment"),
        (200, b'{"forecast": [{"datetime": "2018-01-20T12:00:00", "carbonIntensity": 3}]}', "no time zone"),
        (200, b'{"forecast": [{"datetime": "2018-01-20T12:00:00Z", "carbonIntensity": -3}]}', "no intensity"),
        (200, b" " * 1_000_001, "too long"),
    ],
)
def test_an_answer_of_no_use_is_told_without_the_key(server, status: int, body: bytes, told: str):
    server.status, server.body = status, body
    with pytest.raises(SignalUnavailableError, match=told) as error:
        of(web.ElectricityMaps("a-secret-key", server.url))
    assert "a-secret-key" not in str(error.value)


def test_who_is_not_there_does_not_answer():
    with pytest.raises(SignalUnavailableError, match="did not answer"):
        of(web.UnitedKingdom("http://127.0.0.1:9"))


def test_the_yearly_table_says_the_same_of_every_hour():
    (span,) = tables.Yearly().spans("us-east-1", NOW, NOW + 5 * HOUR)
    assert (span.g_per_kwh, span.ends) == (379.069, NOW + 5 * HOUR)
    assert span.error == pytest.approx(0.15)


def test_a_profile_is_the_yearly_mean_times_the_hour_of_the_day(monkeypatch):
    factors = tuple(0.5 if hour < 12 else 1.5 for hour in range(24))
    monkeypatch.setattr(catalog, "hours_of_day", lambda region: factors)
    found = of(tables.Profile(), "us-east-1", hours=12)
    assert found[0] == (NOW.replace(minute=0), pytest.approx(379.069 * 1.5))
    assert found[-1] == (datetime(2018, 1, 21, 0, tzinfo=UTC), pytest.approx(379.069 * 0.5))


def test_an_operators_own_profile_is_taken_before_the_catalogs():
    found = of(tables.Profile({"factors": [2] * 12 + [6] * 12}), "us-east-1", hours=12)
    assert found[0][1] == pytest.approx(379.069 * 1.5), "their mean counts as 1"
    with pytest.raises(SignalUnavailableError, match="not 24 numbers"):
        of(tables.Profile({"factors": [1] * 12}), "us-east-1")


def test_a_region_without_a_profile_is_told():
    with pytest.raises(SignalUnavailableError, match="no profile of xx-nowhere-1"):
        of(tables.Profile(), "xx-nowhere-1")


def test_every_profile_of_the_catalog_has_24_hours_around_one_and_a_source():
    for region in catalog.grid_regions():
        factors = catalog.hours_of_day(region)
        if factors is not None:
            assert len(factors) == 24
            assert sum(factors) / 24 == pytest.approx(1, abs=0.005)


FILE = {
    "source": "our own",
    "error": 0.1,
    "points": [
        {"from": "2018-01-20T12:00:00Z", "g_per_kwh": 300},
        {"from": "2018-01-20T13:00:00Z", "g_per_kwh": 100},
        {"from": "2018-01-20T14:00:00Z", "to": "2018-01-20T16:00:00Z", "g_per_kwh": 200},
    ],
}


def test_a_forecast_file_is_read_point_by_point():
    spans = tables.ForecastFile(FILE).spans("any", NOW, NOW + 4 * HOUR)
    assert [(each.begins.hour, each.ends.hour, each.g_per_kwh, each.error) for each in spans] == [
        (12, 13, 300.0, 0.1), (13, 14, 100.0, 0.1), (14, 16, 200.0, 0.1),
    ]  # fmt: skip
    assert spans[0].source == "forecast file (our own)"


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (None, "no such file"),
        ({"points": []}, "no points"),
        ({"points": [{"g_per_kwh": 3}]}, "from and g_per_kwh"),
        ({**FILE, "signal": "marginal"}, "of the marginal signal"),
        ({**FILE, "error": 2}, "is no error"),
    ],
)
def test_a_file_of_no_use_says_why(document: Any, told: str):
    with pytest.raises(SignalUnavailableError, match=told):
        tables.ForecastFile(document).spans("any", NOW, NOW + HOUR)


def test_the_first_that_answers_decides_and_the_record_says_why_others_did_not(server):
    server.status = 503
    asked = (web.UnitedKingdom(server.url), tables.ForecastFile(FILE), tables.Profile(), tables.Yearly())
    found = signals.gather(asked, "eu-west-3", NOW, NOW + 2 * HOUR)
    assert found.source == "forecast file (our own)"
    assert found.tried == (
        {"signal": "UK Carbon Intensity API", "outcome": "it is for eu-west-2 only, and this is eu-west-3"},
        {"signal": "forecast file", "outcome": "decided"},
    )
    assert found.spans[0].begins == NOW, "from now on, not from the hour's begin"


def test_what_lies_beyond_a_forecast_is_filled_in_at_its_level():
    found = signals.gather((tables.ForecastFile(FILE), tables.Yearly()), "us-east-1", NOW, NOW + 10 * HOUR)
    # 50 minutes of 300, an hour of 100, two of 200: (250 + 100 + 400) / (50/60 + 3) = 195.65
    beyond = found.spans[-1]
    assert beyond.begins == datetime(2018, 1, 20, 16, tzinfo=UTC)
    assert beyond.g_per_kwh == pytest.approx(195.652, abs=0.01)
    assert (beyond.ends, beyond.source) == (NOW + 10 * HOUR, tables.YEARLY)
    assert found.tried[-1]["outcome"] == "fills in what lies beyond"


def test_a_forecast_that_has_a_gap_ends_there():
    points = [FILE["points"][0], FILE["points"][2]]
    points[0] = {**points[0], "to": "2018-01-20T13:00:00Z"}
    spans = signals.whole(
        tables.ForecastFile({**FILE, "points": points}).spans("any", NOW, NOW + 4 * HOUR), NOW, NOW + 4 * HOUR
    )
    assert [each.ends.hour for each in spans] == [13]


def test_a_forecast_of_other_times_is_none():
    with pytest.raises(SignalUnavailableError, match="nothing of the present hour"):
        signals.whole([Span(NOW + HOUR, NOW + 2 * HOUR, 1, 0, "x")], NOW, NOW + 4 * HOUR)
    with pytest.raises(SignalUnavailableError, match="no signal says"):
        signals.gather((tables.ForecastFile(None),), "us-east-1", NOW, NOW + HOUR)


def test_the_stated_error_grows_with_the_time_ahead():
    error = catalog.signal_error("Electricity Maps")
    assert error(0) == pytest.approx(0.05)
    assert error(24) == pytest.approx(0.24)
    assert error(6) == pytest.approx(0.05 + 0.19 * 0.5)
