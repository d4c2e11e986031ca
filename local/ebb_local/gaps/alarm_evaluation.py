"""Alarms look at exactly their metric, period by period, also while nobody publishes; their changes are events.

MiniStack ignores dimensions, evaluates when a metric is put only, takes all periods as one, and leaves out missing
data, DatapointsToAlarm and the event. Periods slide back from now instead of starting on the minute (assumed).
Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-evaluation.html,
.../alarms-and-missing-data.html, .../cloudwatch-and-eventbridge.html
"""

import json
import logging
import operator
import threading
import time
from datetime import UTC, datetime

from ministack.core.responses import get_account_id, get_region, request_scope
from ministack.services import cloudwatch, eventbridge

from ebb_local.gaps import queue_metrics

EVERY_S = 5.0
_COMPARE = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "GreaterThanThreshold": operator.gt,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
_logger = logging.getLogger("ebb.cloudwatch")


def install() -> None:
    """Replace MiniStack's evaluation, and evaluate from time to time."""
    cloudwatch._evaluate_alarm = evaluate
    threading.Thread(target=_evaluate_forever, name="ebb-alarms", daemon=True).start()


def evaluate(alarm: dict) -> None:
    """Give the alarm the state that its metric has now, and act when that is another one."""
    if not alarm.get("MetricName") or alarm.get("ComparisonOperator") not in _COMPARE:
        return
    new_state, reason = _state(alarm, _datapoints(alarm, time.time()))
    old_state = alarm["StateValue"]
    if new_state == old_state:
        return
    alarm.update(StateValue=new_state, StateReason=reason, StateUpdatedTimestamp=int(time.time()))
    cloudwatch._record_history(alarm["AlarmName"], old_state, new_state, reason)
    cloudwatch._dispatch_alarm_actions(alarm, old_state, new_state, reason)
    cloudwatch._evaluate_parent_alarms(alarm)
    _put_event(alarm, old_state)


def _datapoints(alarm: dict, now_s: float) -> list[float | None]:
    """Return the statistic of each evaluation period, newest first; None where nothing was published."""
    dimensions = alarm.get("Dimensions") or {}
    if isinstance(dimensions, list):
        dimensions = cloudwatch._dims_from_list(dimensions)
    key = (alarm["Namespace"], alarm["MetricName"], cloudwatch._dims_key(dimensions))
    points = list(cloudwatch._metrics.get(key) or [])
    statistic = alarm.get("ExtendedStatistic") or alarm.get("Statistic") or "Average"
    values: list[float | None] = []
    for index in range(alarm["EvaluationPeriods"]):
        end_s = now_s - index * alarm["Period"]
        inside = [point for point in points if end_s - alarm["Period"] < point["Timestamp"] <= end_s]
        values.append(cloudwatch._stat_value(cloudwatch._calc_stats(inside), statistic, inside) if inside else None)
    return values


def _state(alarm: dict, values: list[float | None]) -> tuple[str, str]:
    missing = alarm.get("TreatMissingData") or "missing"
    breaches = _COMPARE[alarm["ComparisonOperator"]]
    known = [breaches(value, alarm["Threshold"]) for value in values if value is not None]
    needed = alarm.get("DatapointsToAlarm") or alarm["EvaluationPeriods"]
    absent = len(values) - len(known)
    if not known and missing == "ignore":
        return alarm["StateValue"], ""
    if not known and missing == "missing":
        return "INSUFFICIENT_DATA", f"Insufficient Data: {absent} datapoints were unknown."
    breaching = sum(known) + (absent if missing == "breaching" else 0)
    shown = [round(value, 4) for value in values if value is not None]
    threshold = f"the threshold ({alarm['Threshold']}), {alarm['ComparisonOperator']}"
    state = "ALARM" if breaching >= needed else "OK"
    return state, f"Threshold Crossed: {breaching} of the last {len(values)} datapoints {shown} crossed {threshold}."


def _put_event(alarm: dict, old_state: str) -> None:
    detail = {
        "alarmName": alarm["AlarmName"],
        "state": {
            "value": alarm["StateValue"],
            "reason": alarm["StateReason"],
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000+0000"),
        },
        "previousState": {"value": old_state},
        "configuration": {"description": alarm.get("AlarmDescription") or ""},
    }
    entry = {
        "Source": "aws.cloudwatch",
        "DetailType": "CloudWatch Alarm State Change",
        "Detail": json.dumps(detail),
        "Resources": [f"arn:aws:cloudwatch:{get_region()}:{get_account_id()}:alarm:{alarm['AlarmName']}"],
    }
    eventbridge._put_events({"Entries": [entry]}, allow_aws_source=True)


def _evaluate_forever() -> None:
    while True:
        time.sleep(EVERY_S)
        try:
            scopes = {(account, region) for account, region, _ in list(cloudwatch._alarms._data)}
            for account, region in scopes:
                with request_scope(account, region):
                    queue_metrics.publish()
                    cloudwatch._evaluate_all_alarms()
        except Exception:
            _logger.exception("could not evaluate alarms")
