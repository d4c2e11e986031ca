"""Schedules and scheduled rules fire when they are due in virtual time, each occurrence once.

MiniStack looks every 10 seconds, counts a rate from the last look (so that each firing comes a little later), takes
every time zone for UTC, ignores the flexible window and forgets at a restart what has fired. Here an occurrence is a
moment: `rate` counts from StartDate or from when it was created or changed (the latter assumed), `cron` and `at` are
read in ScheduleExpressionTimezone, and a flexible window moves each occurrence by a share of the window that follows
from its name (on AWS by any). What fell into the time in which the server was down fires once when it is back.
Source: https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html,
.../managing-schedule-flexible-time-windows.html, https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-scheduled-rule-pattern.html
"""

import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ministack.core.responses import get_region, new_uuid, request_scope
from ministack.services import eventbridge, scheduler

from ebb_local import clock

_NEVER = float("inf")
_FIRED = "ebb_fired"
_logger = logging.getLogger("ebb.schedules")
Key = tuple[str, str, str]
_fired: dict[str, float] = {}  # schedule -> its last occurrence that has fired
_due: dict[str, tuple[tuple[Any, ...], float]] = {}  # schedule -> (what it follows from, next moment)


def install() -> None:
    """Replace both of MiniStack's tickers."""
    scheduler.start_scheduler = eventbridge.start_scheduler = lambda: None
    get_state, restore = scheduler.get_state, scheduler.load_persisted_state

    def restore_with_fired(data: dict) -> None:
        restore(data)
        _fired.update((data or {}).get(_FIRED, {}))

    scheduler.get_state = lambda: get_state() | {_FIRED: dict(_fired)}
    scheduler.load_persisted_state = restore_with_fired
    clock.when("schedules", lambda: min((due for *_, due in _enabled()), default=_NEVER), fire_due)


def fire_due() -> None:
    """Fire every schedule and scheduled rule that is due, in the order of their moments."""
    now_s = clock.now()
    ready = sorted((entry for entry in _enabled() if entry[-1] <= now_s), key=lambda entry: entry[-1])
    for kind, key, record, due in ready:
        _fired[_name(kind, key)] = _occurrence_before(kind, key, record, now_s)
        clock.note("schedule", key[2])
        with request_scope(key[0], key[1]):
            try:
                (_fire_schedule if kind == "schedule" else _fire_rule)(key, record, due)
            except Exception:
                _logger.exception("%s failed", key[2])


def _enabled() -> list[tuple[str, Key, dict[str, Any], float]]:
    found = []
    for kind, store in (("schedule", scheduler._schedules), ("rule", eventbridge._rules)):
        for key, record in list(store._data.items()):
            if record.get("State") == "ENABLED" and record.get("ScheduleExpression"):
                found.append((kind, key, record, _next(kind, key, record)))
    return found


def _name(kind: str, key: Key) -> str:
    return "/".join((kind, *key))


def _next(kind: str, key: Key, record: dict[str, Any]) -> float:
    """Return when it fires next, kept until the schedule or what has fired is another."""
    name = _name(kind, key)
    follows: tuple[Any, ...] = tuple(
        str(record.get(member))
        for member in ("ScheduleExpression", "ScheduleExpressionTimezone", "StartDate", "EndDate", "CreationDate",
                       "LastModificationDate", "CreationTime", "FlexibleTimeWindow")
    )  # fmt: skip
    follows = (*follows, _fired.get(name))
    known = _due.get(name)
    if known is None or known[0] != follows:
        after = max(_fired.get(name, 0.0), _began(record) - 1e-3)
        occurrence = occurrence_after(record, after)
        end = scheduler._to_epoch(record.get("EndDate"))
        over = end is not None and occurrence > end
        known = _due[name] = (follows, _NEVER if over else occurrence + _shift(record, occurrence))
    return known[1]


def _occurrence_before(kind: str, key: Key, record: dict[str, Any], now_s: float) -> float:
    """Return the last occurrence that is due by now; those before it are not made up for."""
    occurrence = occurrence_after(record, max(_fired.get(_name(kind, key), 0.0), _began(record) - 1e-3))
    while (later := occurrence_after(record, occurrence)) + _shift(record, later) <= now_s:
        occurrence = later
    return occurrence


def _began(record: dict[str, Any]) -> float:
    """Return the moment from which a schedule counts."""
    start = scheduler._to_epoch(record.get("StartDate"))
    made = record.get("LastModificationDate") or record.get("CreationDate") or record.get("CreationTime")
    return float(start if start is not None else scheduler._to_epoch(made) or 0.0)


def occurrence_after(record: dict[str, Any], moment: float) -> float:
    """Return the first occurrence after a moment; infinity for none."""
    expression = record["ScheduleExpression"]
    zone = _zone(record.get("ScheduleExpressionTimezone"))
    if expression.startswith("at("):
        once = datetime.fromisoformat(expression[3:-1]).replace(tzinfo=zone).timestamp()
        # One in the past fires at once, and once.
        return max(once, _began(record)) if moment < max(once, _began(record)) else _NEVER
    interval = eventbridge._parse_rate_seconds(expression)
    if interval:
        began = _began(record)
        first = began if record.get("StartDate") is not None else began + interval
        return first if moment < first else first + ((moment - first) // interval + 1) * interval
    fields = eventbridge._parse_cron_fields(expression)
    if fields is None:
        return _NEVER
    # MiniStack finds the next matching minute of the wall; the zone then says which moment that is.
    wall = datetime.fromtimestamp(moment, zone).replace(tzinfo=UTC)
    while (found := eventbridge._cron_next_fire(fields, wall)) is not None:
        at = found.replace(tzinfo=zone).timestamp()
        if at > moment:
            return at
        wall = found + timedelta(seconds=1)
    return _NEVER


def _shift(record: dict[str, Any], occurrence: float) -> float:
    window = record.get("FlexibleTimeWindow") or {}
    if window.get("Mode") != "FLEXIBLE" or occurrence == _NEVER:
        return 0.0
    digest = hashlib.sha256(str(record.get("Arn")).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 * 60 * float(window.get("MaximumWindowInMinutes", 1))


def _zone(name: str | None) -> Any:
    try:
        return ZoneInfo(name) if name and name != "UTC" else UTC
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def _event(source: str, key: Key, record: dict[str, Any], due: float) -> dict[str, Any]:
    return {
        "EventId": new_uuid(),
        "Source": source,
        "DetailType": "Scheduled Event",
        "Detail": "{}",
        "EventBusName": record.get("EventBusName", "default"),
        "Time": due,
        "Resources": [record.get("Arn", "")],
        "Account": key[0],
        "Region": get_region(),
    }


def _fire_schedule(key: Key, record: dict[str, Any], due: float) -> None:
    target = record.get("Target") or {}
    if target.get("Arn"):
        event = _event("aws.scheduler", key, record, due)
        eventbridge._invoke_target(_filled_in(target, event, record, due), event, record)
    if occurrence_after(record, due) == _NEVER and record.get("ActionAfterCompletion") == "DELETE":
        scheduler._schedules._data.pop(key, None)


def _filled_in(target: dict[str, Any], event: dict[str, Any], record: dict[str, Any], due: float) -> dict[str, Any]:
    """Return a target with the context attributes in its input replaced.

    Source: https://docs.aws.amazon.com/scheduler/latest/UserGuide/managing-schedule-context-attributes.html
    """
    text = target.get("Input")
    if not text or "<aws.scheduler." not in text:
        return target
    moment = datetime.fromtimestamp(due, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    known = {"schedule-arn": record.get("Arn", ""), "scheduled-time": moment, "execution-id": event["EventId"],
             "attempt-number": "1"}  # fmt: skip
    for name, value in known.items():
        text = text.replace(f"<aws.scheduler.{name}>", value)
    return {**target, "Input": text}


def _fire_rule(key: Key, record: dict[str, Any], due: float) -> None:
    event = _event("aws.events", key, record, due)
    view = eventbridge._pattern_event_view(event)
    deliver: Callable[..., None] = eventbridge._invoke_target
    for target in eventbridge._targets._data.get(key, []):
        deliver(target, event, record, view)
