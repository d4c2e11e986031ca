"""Signals that are asked for over HTTP: Electricity Maps, and the open API of Great Britain's system operator.

urllib3 comes with botocore. Each is asked once, within seconds: a run that cannot learn the hour takes the next signal.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import urllib3

from ebb import catalog
from ebb.errors import SignalUnavailableError
from ebb.signals import HOUR, Span, hourly, intensity, moment

ELECTRICITY_MAPS, UK = "Electricity Maps", "UK Carbon Intensity API"
ELECTRICITY_MAPS_URL = "https://api.electricitymaps.com"
UK_URL = "https://api.carbonintensity.org.uk"
HORIZONS_H = (6, 24, 48, 72)  # that Electricity Maps knows
LARGEST_ANSWER = 1_000_000
_TIMEOUT = urllib3.Timeout(connect=3, read=5)
_RETRIES = urllib3.Retry(total=1, redirect=0, status=0, backoff_factor=0.2)


class ElectricityMaps:
    """The forecast of Electricity Maps for the grid of an AWS Region.

    Source: https://portal.electricitymaps.com/developer-hub/api/reference (carbon-intensity/forecast).
    """

    name = ELECTRICITY_MAPS

    def __init__(self, key: str, url: str = ELECTRICITY_MAPS_URL, pool: urllib3.PoolManager | None = None):
        self._key, self._url, self._pool = key, url, pool or urllib3.PoolManager()

    def spans(self, region: str, now: datetime, until: datetime) -> Sequence[Span]:
        """Return the forecast's hours. Raises: SignalUnavailableError."""
        hours = (until - now) / HOUR
        horizon = next((known for known in HORIZONS_H if known >= hours), HORIZONS_H[-1])
        asked = {"dataCenterProvider": "aws", "dataCenterRegion": region, "horizonHours": horizon}
        answer = _get(
            self._pool, f"{self._url}/v3/carbon-intensity/forecast?{urlencode(asked)}", {"auth-token": self._key}
        )
        points = _list(answer, "forecast")
        read = [(moment(each.get("datetime")), intensity(each.get("carbonIntensity"))) for each in points]
        timed = [(begin, begin + HOUR, value) for begin, value in read]
        return hourly(timed, source=self.name, error=catalog.signal_error(self.name), now=now)


class UnitedKingdom:
    """The operator's forecast for Great Britain, 48 hours ahead, for the Region that lies there. Needs no key.

    Source: https://carbon-intensity.github.io/api-definitions/ (intensity/{from}/fw48h); data CC BY 4.0, NESO.
    """

    name = UK

    def __init__(self, url: str = UK_URL, pool: urllib3.PoolManager | None = None):
        self._url, self._pool = url, pool or urllib3.PoolManager()

    def spans(self, region: str, now: datetime, until: datetime) -> Sequence[Span]:
        """Return the forecast's half hours. Raises: SignalUnavailableError, of other Regions at once."""
        if region != "eu-west-2":
            raise SignalUnavailableError(f"it is for eu-west-2 only, and this is {region}")
        begin = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ")
        answer = _get(self._pool, f"{self._url}/intensity/{begin}/fw48h", {})
        timed = []
        for each in _list(answer, "data"):
            told = each.get("intensity")
            value = told.get("forecast") if isinstance(told, Mapping) else None
            timed.append((moment(each.get("from")), moment(each.get("to")), intensity(value)))
        return hourly(timed, source=self.name, error=catalog.signal_error(self.name), now=now)


def _get(pool: urllib3.PoolManager, url: str, headers: Mapping[str, str]) -> Any:
    """Return the JSON at a URL. Raises: SignalUnavailableError; never tells a header, which may hold a key."""
    try:
        answer = pool.request(
            "GET", url, headers={"Accept": "application/json", **headers}, timeout=_TIMEOUT, retries=_RETRIES,
            preload_content=False,
        )  # fmt: skip
        body = answer.read(LARGEST_ANSWER + 1)
        answer.release_conn()
    except urllib3.exceptions.HTTPError as error:
        raise SignalUnavailableError(f"it did not answer ({type(error).__name__})") from error
    if answer.status != 200:
        raise SignalUnavailableError(f"it answered with {answer.status}")
    if len(body) > LARGEST_ANSWER:
        raise SignalUnavailableError("its answer is too long")
    try:
        return json.loads(body)
    except ValueError as error:
        raise SignalUnavailableError("its answer is no JSON") from error


def _list(answer: Any, name: str) -> list[Mapping[str, Any]]:
    found = answer.get(name) if isinstance(answer, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise SignalUnavailableError(f"its answer has no {name}")
    return found
