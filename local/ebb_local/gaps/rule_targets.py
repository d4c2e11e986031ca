"""EventBridge delivers a rule's or schedule's event only where it may, and a failed delivery is a dead letter.

With a RoleArn the target is called as that role, which must trust EventBridge; without one the target's own policy
must allow `events.amazonaws.com` (for an encrypted queue or topic its key's policy as well). MiniStack delivers
without asking. AWS retries neither a refused delivery nor one to a target that does not exist: it goes to the
DeadLetterConfig queue at once, whose policy must allow EventBridge too. Nothing here fails for another reason, so
a target's RetryPolicy has nothing to do (calls of functions are retried by Lambda).
Source: https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html, .../eb-use-resource-based.html,
.../eb-rule-retry-policy.html
"""

import json
import logging
from typing import Any

from ministack.core.responses import get_account_id
from ministack.services import eventbridge, lambda_svc, sns, sqs, stepfunctions

from ebb_local import authorization

_ACTIONS = {
    "lambda": "lambda:InvokeFunction",
    "sqs": "sqs:SendMessage",
    "sns": "sns:Publish",
    "states": "states:StartExecution",
    "events": "events:PutEvents",
}
_ROLE_ONLY = {"states"}  # these services keep no policy of their own for EventBridge
_logger = logging.getLogger("ebb.events")


class DeliveryError(Exception):
    """The event cannot be delivered: `code` is what the dead letter says."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def install() -> None:
    """Wrap the one function through which rules and schedules call their targets."""
    deliver = eventbridge._invoke_target

    def deliver_checked(target: dict, event: dict, rule: dict, view: Any = None) -> None:
        arn = target.get("Arn", "")
        sender = "scheduler.amazonaws.com" if event.get("Source") == "aws.scheduler" else "events.amazonaws.com"
        try:
            principal = _principal(target, sender)
            context = {"aws:SourceArn": rule.get("Arn", ""), "aws:SourceAccount": get_account_id()}
            _require_existing(arn)
            authorization.authorize(_ACTIONS[arn.split(":")[2]], arn, principal=principal, context=context)
        except authorization.AccessDenied as denied:
            _dead_letter(target, event, rule, view, sender, DeliveryError("NO_PERMISSIONS", str(denied)))
        except DeliveryError as failed:
            _dead_letter(target, event, rule, view, sender, failed)
        else:
            with authorization.acting_as(principal):
                deliver(target, event, rule, view)

    eventbridge._invoke_target = deliver_checked


def _principal(target: dict, sender: str) -> str:
    role, service = target.get("RoleArn"), target.get("Arn", "").split(":")[2]
    if not role:
        if service in _ROLE_ONLY:
            raise DeliveryError("NO_PERMISSIONS", f"A target of service {service} needs a RoleArn")
        return sender
    if not authorization.role_trusts(role, sender):
        raise DeliveryError("NO_PERMISSIONS", f"{sender} is not authorized to assume role {role}")
    return authorization.role_session(role, sender.split(".")[0])


def _require_existing(arn: str) -> None:
    service = arn.split(":")[2]
    exists = {
        "lambda": lambda: lambda_svc._get_func_record_for_ref(arn)[0],
        "sqs": lambda: sqs._queue_by_arn(arn),
        "sns": lambda: sns._topics.get(arn),
        "states": lambda: stepfunctions._resolve_state_machine_arn(arn),
    }.get(service, lambda: True)
    if not exists():
        raise DeliveryError("NO_RESOURCE", f"{arn} does not exist")


def _dead_letter(target: dict, event: dict, rule: dict, view: Any, sender: str, failed: DeliveryError) -> None:
    queue_arn = (target.get("DeadLetterConfig") or {}).get("Arn")
    _logger.error("%s cannot deliver to %s: %s", rule.get("Arn"), target.get("Arn"), failed)
    if not queue_arn:
        return
    try:
        context = {"aws:SourceArn": rule.get("Arn", ""), "aws:SourceAccount": get_account_id()}
        # A schedule sends its dead letters as its role, a rule as EventBridge.
        as_role = sender.startswith("scheduler") and target.get("RoleArn")
        principal = authorization.role_session(target["RoleArn"], "scheduler") if as_role else sender
        authorization.authorize("sqs:SendMessage", queue_arn, principal=principal, context=context)
    except authorization.AccessDenied as denied:
        _logger.error("the event is lost: %s", denied)
        return
    attributes = {
        "RULE_ARN": rule.get("Arn", ""),
        "TARGET_ARN": target.get("Arn", ""),
        "ERROR_CODE": failed.code,
        "ERROR_MESSAGE": str(failed),
    }
    view = view or eventbridge._pattern_event_view(event)
    url = sqs._queue_url(queue_arn.rsplit(":", 1)[-1])
    with authorization.acting_as(sender):
        sqs._act_send_message(
            {
                "QueueUrl": url,
                "MessageBody": target.get("Input") or json.dumps(view.event_with_detail()),
                "MessageAttributes": {
                    name: {"DataType": "String", "StringValue": value} for name, value in attributes.items() if value
                },
            },
            url,
        )
