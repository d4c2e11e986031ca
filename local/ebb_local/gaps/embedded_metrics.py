"""CloudWatch makes metrics of log lines in the embedded metric format, in any log group; MiniStack keeps the lines.

A line is a JSON object with `_aws.Timestamp` and `_aws.CloudWatchMetrics`: namespaces, sets of dimensions by the names
of members, and metrics by the names of members that hold a number or up to 100 of them. What does not keep to the form
is a log line like any other, as on AWS. Processes have the real clock: what they stamp with it is taken to be now.
Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

import json
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ministack.services import cloudwatch_logs

from ebb_local import clock
from ebb_local.cloudwatch import metrics, store
from ebb_local.gaps import alarm_evaluation

MOST_DIMENSIONS, MOST_METRICS, MOST_VALUES = 30, 100, 100
STAMPED_NOW_S = 60  # so near to the real clock a time was read from it
_logger = logging.getLogger("ebb.metrics")


@dataclass(frozen=True)
class Datum:
    """One metric of one line, with one of its sets of dimensions."""

    namespace: str
    name: str
    dimensions: dict[str, str]
    values: tuple[float, ...]
    unit: str
    at: float


def install() -> None:
    """Look at each line that is written to a log."""
    append = cloudwatch_logs._append_log_events

    def append_and_extract(stream: Any, events: list[dict[str, Any]], *arguments: Any, **keywords: Any) -> Any:
        result = append(stream, events, *arguments, **keywords)
        try:
            publish([str(event.get("message", "")) for event in events])
        except Exception:  # metrics are extracted beside the log, which stands whatever becomes of them
            _logger.exception("no metrics were made of a log")
        return result

    cloudwatch_logs._append_log_events = append_and_extract


def publish(lines: Iterable[str]) -> None:
    """Put the metrics of log lines, and look at the alarms that watch them."""
    now_s = clock.now()
    found = [datum for line in lines for datum in extract(line, now_s=now_s, real_s=clock.real_now())]
    for datum in found:
        for value in datum.values:
            sample = store.Sample.of(value)
            store.put(datum.namespace, datum.name, datum.dimensions, sample, at=datum.at, now_s=now_s, unit=datum.unit)
    for namespace in {datum.namespace for datum in found}:
        alarm_evaluation.evaluate_watching(namespace)


def extract(line: str, *, now_s: float, real_s: float) -> Iterator[Datum]:
    """Give what a log line publishes: nothing for a line of another kind. Times in seconds since the epoch."""
    if '"_aws"' not in line:
        return
    try:
        told = json.loads(line)
        meta = told["_aws"]
        stamped = float(meta["Timestamp"]) / 1000
        directives = list(meta["CloudWatchMetrics"])
    except (ValueError, TypeError, KeyError):
        return
    moment = now_s if abs(stamped - real_s) < STAMPED_NOW_S else stamped
    if not now_s - metrics.OLDEST_S <= moment <= now_s + metrics.NEWEST_S:
        return
    for directive in directives:
        yield from _of_directive(told, directive, moment)


def _of_directive(told: dict[str, Any], directive: Any, moment: float) -> Iterator[Datum]:
    if not isinstance(directive, dict) or not isinstance(directive.get("Namespace"), str):
        return
    sets = [_dimensions(told, names) for names in directive.get("Dimensions") or [[]]]
    for metric in (directive.get("Metrics") or [])[:MOST_METRICS]:
        values = _values(told.get(metric.get("Name")))
        for dimensions in sets:
            if values and dimensions is not None:
                unit = metric.get("Unit", "None")
                yield Datum(directive["Namespace"], metric["Name"], dimensions, values, unit, moment)


def _dimensions(told: dict[str, Any], names: Any) -> dict[str, str] | None:
    """Return a set of dimensions; None when the line does not hold all of them as text."""
    if not isinstance(names, list) or len(names) > MOST_DIMENSIONS:
        return None
    found = {str(name): told.get(name) for name in names}
    return {name: text for name, text in found.items() if isinstance(text, str)} if _all_text(found) else None


def _all_text(found: dict[str, Any]) -> bool:
    return all(isinstance(text, str) and text for text in found.values())


def _values(member: Any) -> tuple[float, ...]:
    each = member if isinstance(member, list) else [member]
    numbers = [value for value in each if isinstance(value, int | float) and not isinstance(value, bool)]
    good = len(numbers) == len(each) <= MOST_VALUES and all(math.isfinite(value) for value in numbers)
    return tuple(map(float, numbers)) if good else ()
