"""Asynchronous invocations: the function's own role delivers its failures, in the shape of their destination.

MiniStack retries, but puts failures into any queue or topic without asking, and sends the OnFailure record to
dead-letter queues, which on AWS receive the plain event with the error in message attributes. EventBridge calls
functions asynchronously, so its deliveries are retried here as well.

Retries come after 1 and 2 seconds instead of 1 and 2 minutes.
Source: https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html,
.../invocation-async-retain-records.html
"""

import json
import logging

from ministack.services import eventbridge, lambda_svc, sns, sqs

from ebb_local import authorization

_ACTIONS = {"sqs": "sqs:SendMessage", "sns": "sns:Publish", "lambda": "lambda:InvokeFunction"}
_logger = logging.getLogger("ebb.lambda")


def install() -> None:
    """Wrap the delivery of failures, and EventBridge's call of a function."""
    route = lambda_svc._route_async_failure

    def route_as_role(target_arn: str, func_name: str, event: dict, result: dict) -> None:
        config = lambda_svc._functions.get(func_name, {}).get("config", {})
        try:
            with authorization.acting_as(authorization.role_session(config.get("Role", ""), func_name)):
                authorization.authorize(_ACTIONS[target_arn.split(":")[2]], target_arn)
                if (config.get("DeadLetterConfig") or {}).get("TargetArn") == target_arn:
                    _send_dead_letter(target_arn, event, result)
                else:
                    route(target_arn, func_name, event, result)
        except authorization.AccessDenied as denied:
            _logger.error("the failed event of function %s is lost: %s", func_name, denied)

    def dispatch_with_retries(arn: str, payload: str) -> None:
        func, config, name = lambda_svc._get_func_record_for_ref(arn)
        if not func or not config:
            _logger.warning("EventBridge: function %s does not exist", name)
            return
        lambda_svc.invoke_async_with_retry(lambda_svc._execution_record_for_config(func, config), json.loads(payload))

    lambda_svc._route_async_failure = route_as_role
    eventbridge._dispatch_to_lambda = dispatch_with_retries


def _send_dead_letter(target_arn: str, event: dict, result: dict) -> None:
    raw = result.get("body")
    body: dict = raw if isinstance(raw, dict) else {}
    attributes = {
        "RequestID": body.get("requestId") or "unknown",
        "ErrorCode": "200",
        "ErrorMessage": body.get("errorMessage") or "unknown",
    }
    if target_arn.split(":")[2] == "sns":
        sns.publish_internal(target_arn, json.dumps(event), "")
        return
    queue = sqs._queue_by_arn(target_arn)
    if queue is None:
        _logger.error("the dead-letter queue %s does not exist", target_arn)
        return
    named = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
    url = sqs._queue_url(target_arn.rsplit(":", 1)[-1])
    sqs._act_send_message({"QueueUrl": url, "MessageBody": json.dumps(event), "MessageAttributes": named}, url)
