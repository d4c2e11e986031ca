"""Alarms look at exactly their metrics, period by period, also while nobody publishes; their changes are events.

MiniStack ignores dimensions and math, evaluates when a metric is put only, takes all periods as one, and leaves out
missing data, DatapointsToAlarm and the event. Evaluated every 5 s while nobody advances the clock (on AWS every minute
for periods of a minute and more), and on each minute that an advance passes; periods slide.
Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-evaluation.html,
.../alarms-and-missing-data.html, .../cloudwatch-and-eventbridge.html
"""

import json
import logging
from collections.abc import Iterator
from typing import Any

from ministack.core.responses import get_account_id, get_region, request_scope
from ministack.services import cloudwatch, eventbridge

from ebb_local import clock
from ebb_local.cloudwatch import alarms, store
from ebb_local.gaps import alarm_actions, queue_metrics

EVERY_S = 5.0
_AGAIN_EVERY_S = 60.0
_logger = logging.getLogger("ebb.cloudwatch")
_quiet: dict[str, tuple[Any, ...]] = {}  # alarm ARN -> what it would have to differ in to mean another state
_watched: dict[str, tuple[Any, list[store.Key]]] = {}  # alarm ARN -> (when it was configured, what it watches)
_acted: dict[str, float] = {}  # alarm ARN -> when its scaling actions ran last


def install() -> None:
    """Replace MiniStack's evaluation, and evaluate from time to time."""
    set_state = cloudwatch._set_alarm_state

    def set_metric_alarm_state(
        params: dict, data: dict, is_cbor: bool, is_json: bool = False
    ) -> tuple[int, dict[str, str], bytes]:
        alarm = cloudwatch._alarms.get(data.get("AlarmName") or cloudwatch._p(params, "AlarmName"))
        before = dict(alarm) if alarm else {}
        answer = set_state(params, data, is_cbor, is_json)
        if alarm and before["StateValue"] != alarm["StateValue"]:
            _quiet.pop(alarm["AlarmArn"], None)
            _tell(alarm, before)
        return answer

    cloudwatch._evaluate_alarm = evaluate
    cloudwatch._set_alarm_state = set_metric_alarm_state
    clock.every(60, "queue metrics", _publish)
    clock.every(60, "alarms", _evaluate_all, last=True)
    clock.in_real_time(EVERY_S, "alarms between the minutes", _publish_and_evaluate)


def evaluate(alarm: dict) -> None:
    """Give the alarm the state that its metrics mean now, and act when that is another one."""
    now_s = clock.now()
    if _is_quiet(alarm, now_s):
        return
    points = alarms.datapoints(alarm, now_s)
    judgement = alarms.judge(alarm, points)
    _remember(alarm, points)
    before = dict(alarm)
    if judgement.state == before["StateValue"]:
        _act_again(alarm, points, now_s)
        return
    moment = round(now_s, 3)
    alarm.update(
        StateValue=judgement.state,
        StateReason=judgement.reason,
        StateReasonData=json.dumps(alarms.reason_data(alarm, judgement, now_s)),
        StateUpdatedTimestamp=moment,
        StateTransitionedTimestamp=moment,
    )
    cloudwatch._record_history(
        alarm["AlarmName"],
        before["StateValue"],
        judgement.state,
        judgement.reason,
        reason_data=alarm["StateReasonData"],
    )
    _acted[alarm["AlarmArn"]] = now_s
    alarm_actions.values[alarm["AlarmArn"]] = next((point.value for point in points if point.value is not None), None)
    cloudwatch._dispatch_alarm_actions(alarm, before["StateValue"], judgement.state, judgement.reason)
    cloudwatch._evaluate_parent_alarms(alarm)
    _tell(alarm, before)


def evaluate_watching(namespace: str) -> None:
    """Evaluate the alarms of this account and Region that watch a metric of a namespace, now that one was put."""
    for alarm in list(cloudwatch._alarms.values()):
        if namespace in {query["MetricStat"]["Metric"]["Namespace"] for query in _stats(alarm)}:
            _guarded(alarm)


def _stats(alarm: dict) -> list[dict]:
    return [query for query in alarms.queries_of(alarm) if "MetricStat" in query]


def _is_quiet(alarm: dict, now_s: float) -> bool:
    """Return whether nothing was published for this alarm before, and nothing since: then nothing can have changed."""
    return _quiet.get(alarm["AlarmArn"]) == (_key(alarm), False)


def _remember(alarm: dict, points: list[alarms.Point]) -> None:
    _quiet[alarm["AlarmArn"]] = (_key(alarm), any(point.value is not None for point in points))


def _key(alarm: dict) -> tuple[Any, ...]:
    changed = alarm["AlarmConfigurationUpdatedTimestamp"], alarm["StateValue"], alarm["StateUpdatedTimestamp"]
    known = _watched.get(alarm["AlarmArn"])
    if known is None or known[0] != changed[0]:
        known = _watched[alarm["AlarmArn"]] = (changed[0], alarms.watched(alarm))
    return (*changed, *(store.version(metric) for metric in known[1]))


def _state(alarm: dict, values: list[float | None]) -> tuple[str, str]:
    """Return state and reason of datapoints, newest first."""
    judgement = alarms.judge(alarm, [alarms.Point(0.0, value) for value in values])
    return judgement.state, judgement.reason


def _act_again(alarm: dict, points: list[alarms.Point], now_s: float) -> None:
    """Scaling actions are repeated each minute while the alarm stays in its state.

    Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/AlarmThatSendsEmail.html (Alarm actions)
    """
    if now_s - _acted.get(alarm["AlarmArn"], now_s - _AGAIN_EVERY_S) < _AGAIN_EVERY_S - 1:
        return
    _acted[alarm["AlarmArn"]] = now_s
    alarm_actions.values[alarm["AlarmArn"]] = next((point.value for point in points if point.value is not None), None)
    alarm_actions.scale(alarm)


def _tell(alarm: dict, before: dict) -> None:
    clock.note("alarm", f"{alarm['AlarmName']} {before['StateValue']} -> {alarm['StateValue']}")
    detail = {
        "alarmName": alarm["AlarmName"],
        "configuration": alarms.configuration(alarm),
        "previousState": _state_of(before),
        "state": _state_of(alarm),
    }
    entry = {
        "Source": "aws.cloudwatch",
        "DetailType": "CloudWatch Alarm State Change",
        "Detail": json.dumps(detail),
        "Resources": [f"arn:aws:cloudwatch:{get_region()}:{get_account_id()}:alarm:{alarm['AlarmName']}"],
    }
    eventbridge._put_events({"Entries": [entry]}, allow_aws_source=True)


def _state_of(alarm: dict) -> dict[str, Any]:
    data = {"reasonData": alarm["StateReasonData"]} if alarm.get("StateReasonData") else {}
    moment = alarms.moment_text(alarm["StateUpdatedTimestamp"])
    return {"value": alarm["StateValue"], "reason": alarm["StateReason"], **data, "timestamp": moment}


def _scopes() -> Iterator[None]:
    """Go through every account and Region that has alarms, each one being in scope in its turn."""
    for account, region in {(account, region) for account, region, _ in list(cloudwatch._alarms._data)}:
        with request_scope(account, region):
            yield


def _evaluate_all() -> None:
    for _ in _scopes():
        for alarm in list(cloudwatch._alarms.values()):
            _guarded(alarm)


def _publish() -> None:
    for _ in _scopes():
        queue_metrics.publish()


def _publish_and_evaluate() -> None:
    _publish()
    _evaluate_all()


def _guarded(alarm: dict) -> None:
    try:
        evaluate(alarm)
    except Exception:
        _logger.exception("could not evaluate alarm %s", alarm.get("AlarmName"))
