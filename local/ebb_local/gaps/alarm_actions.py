"""What an alarm does when it changes its state: a topic, a function, a scaling policy; each only where it may.

MiniStack publishes to topics without asking, which hides the usual mistake (an encrypted topic whose key CloudWatch
cannot use), and does nothing else. Other actions are refused in the log by name.
Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Notify_Users_Alarm_Changes.html,
https://docs.aws.amazon.com/sns/latest/dg/sns-key-management.html,
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-actions-Lambda.html
"""

import json
import logging
from collections.abc import Callable
from typing import Any

from ministack.core.responses import get_account_id, get_region, new_uuid
from ministack.services import cloudwatch, lambda_svc, sns

from ebb_local import authorization, clock
from ebb_local.cloudwatch import alarms

_SENDER = "cloudwatch.amazonaws.com"
_CALLER = "lambda.alarms.cloudwatch.amazonaws.com"
_ACTIONS = {"ALARM": "AlarmActions", "OK": "OKActions", "INSUFFICIENT_DATA": "InsufficientDataActions"}
_logger = logging.getLogger("ebb.cloudwatch")

values: dict[str, float | None] = {}
"""The newest value of each alarm's metric, by the alarm's ARN: what a step scaling policy measures the breach with."""
_scalers: list[Callable[[str, dict[str, Any], float | None], None]] = []


def install() -> None:
    """Replace what MiniStack does when an alarm changes."""
    cloudwatch._dispatch_alarm_actions = dispatch


def on_scaling(scaler: Callable[[str, dict[str, Any], float | None], None]) -> None:
    """Register who carries out scaling policies: `scaler(policy ARN, alarm, value)`."""
    _scalers[:] = [scaler]


def dispatch(alarm: dict, old_state: str, new_state: str, reason: str) -> None:
    """Carry out the actions of the state that an alarm has reached."""
    for arn in _of_state(alarm):
        context = {"aws:SourceArn": alarm.get("AlarmArn", ""), "aws:SourceAccount": get_account_id()}
        try:
            _carry_out(arn, alarm, old_state, new_state, reason, context)
        except authorization.AccessDenied as denied:
            _logger.error("alarm %s cannot use %s: %s", alarm.get("AlarmName"), arn, denied)
        except Exception:
            _logger.exception("alarm %s: %s failed", alarm.get("AlarmName"), arn)


def scale(alarm: dict) -> None:
    """Carry out the scaling policies of the state that an alarm stays in."""
    for arn in _of_state(alarm):
        if ":autoscaling:" in arn:
            for scaler in _scalers:
                scaler(arn, alarm, values.get(alarm["AlarmArn"]))


def _of_state(alarm: dict) -> list[str]:
    return list(alarm.get(_ACTIONS[alarm["StateValue"]]) or []) if alarm.get("ActionsEnabled", True) else []


def _carry_out(arn: str, alarm: dict, old: str, new: str, reason: str, context: dict[str, Any]) -> None:
    service = arn.split(":")[2]
    if service == "sns":
        authorization.authorize("sns:Publish", arn, principal=_SENDER, context=context)
        subject = f'{new}: "{alarm.get("AlarmName", "")}" in {get_region()}'[:100]
        sns._fanout(arn, new_uuid(), json.dumps(_notification(alarm, old, new, reason)), subject)
    elif service == "lambda":
        authorization.authorize("lambda:InvokeFunction", arn, principal=_CALLER, context=context)
        func, config, _ = lambda_svc._get_func_record_for_ref(arn)
        if not func or not config:
            raise LookupError(f"{arn} does not exist")
        record = lambda_svc._execution_record_for_config(func, config)
        lambda_svc.invoke_async_with_retry(record, _invocation(alarm, old))
    elif service == "autoscaling":
        for scaler in _scalers:
            scaler(arn, alarm, values.get(alarm["AlarmArn"]))
    else:
        _logger.error("the embedded cloud knows no alarm action of %s: %s", service, arn)
    clock.stir()


def _notification(alarm: dict, old: str, new: str, reason: str) -> dict[str, Any]:
    """Return the message that a topic gets."""
    trigger: dict[str, Any] = {
        "Period": alarm.get("Period"),
        "EvaluationPeriods": alarm.get("EvaluationPeriods"),
        "DatapointsToAlarm": alarm.get("DatapointsToAlarm"),
        "ComparisonOperator": alarm.get("ComparisonOperator"),
        "Threshold": alarm.get("Threshold"),
        "TreatMissingData": alarm.get("TreatMissingData"),
    }
    if alarm.get("Metrics"):
        trigger["Metrics"] = alarm["Metrics"]
    else:
        extended = alarm.get("ExtendedStatistic")
        trigger |= {
            "MetricName": alarm.get("MetricName"),
            "Namespace": alarm.get("Namespace"),
            "StatisticType": "ExtendedStatistic" if extended else "Statistic",
            "Statistic": extended or str(alarm.get("Statistic", "")).upper(),
            "Unit": alarm.get("Unit"),
            "Dimensions": [{"name": each["Name"], "value": each["Value"]} for each in alarm.get("Dimensions") or []],
        }
    moment = alarm.get("StateUpdatedTimestamp", clock.now())
    configured = alarm.get("AlarmConfigurationUpdatedTimestamp", moment)
    return {
        "AlarmName": alarm.get("AlarmName"),
        "AlarmDescription": alarm.get("AlarmDescription"),
        "AWSAccountId": get_account_id(),
        "AlarmConfigurationUpdatedTimestamp": alarms.moment_text(configured),
        "NewStateValue": new,
        "NewStateReason": reason,
        "StateChangeTime": alarms.moment_text(moment),
        "Region": get_region(),
        "AlarmArn": alarm.get("AlarmArn"),
        "OldStateValue": old,
        **{name: alarm.get(name) or [] for name in ("OKActions", "AlarmActions", "InsufficientDataActions")},
        "Trigger": trigger,
    }


def _invocation(alarm: dict, old: str) -> dict[str, Any]:
    """Return the event that a function gets."""
    data = {"reasonData": alarm["StateReasonData"]} if alarm.get("StateReasonData") else {}
    moment = alarms.moment_text(alarm.get("StateUpdatedTimestamp", clock.now()))
    return {
        "source": "aws.cloudwatch",
        "alarmArn": alarm["AlarmArn"],
        "accountId": get_account_id(),
        "time": moment,
        "region": get_region(),
        "alarmData": {
            "alarmName": alarm["AlarmName"],
            "state": {"value": alarm["StateValue"], "reason": alarm["StateReason"], **data, "timestamp": moment},
            "previousState": {"value": old},
            "configuration": alarms.configuration(alarm),
        },
    }
