"""An alarm publishes to a topic only where CloudWatch may: the topic's policy, and its key's when it is encrypted.

MiniStack publishes without asking, which hides the usual mistake: an encrypted topic whose key CloudWatch cannot use.
Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Notify_Users_Alarm_Changes.html,
https://docs.aws.amazon.com/sns/latest/dg/sns-key-management.html
"""

import logging

from ministack.core.responses import get_account_id
from ministack.services import cloudwatch

from ebb_local import authorization

_SENDER = "cloudwatch.amazonaws.com"
_ACTIONS = ("AlarmActions", "OKActions", "InsufficientDataActions")
_logger = logging.getLogger("ebb.cloudwatch")


def install() -> None:
    """Leave out the topics that CloudWatch may not publish to when an alarm acts."""
    dispatch = cloudwatch._dispatch_alarm_actions

    def dispatch_allowed(alarm: dict, *state: str) -> None:
        allowed = {name: [arn for arn in alarm.get(name) or [] if _may_publish(arn, alarm)] for name in _ACTIONS}
        dispatch({**alarm, **allowed}, *state)

    cloudwatch._dispatch_alarm_actions = dispatch_allowed


def _may_publish(arn: str, alarm: dict) -> bool:
    if arn.split(":")[2] != "sns":
        return True
    context = {"aws:SourceArn": alarm.get("AlarmArn", ""), "aws:SourceAccount": get_account_id()}
    try:
        authorization.authorize("sns:Publish", arn, principal=_SENDER, context=context)
    except authorization.AccessDenied as denied:
        _logger.error("alarm %s cannot notify %s: %s", alarm.get("AlarmName"), arn, denied)
        return False
    return True
