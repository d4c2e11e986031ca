"""Services publish what they are billed by, which `ebb cost` reads; MiniStack publishes a function's own callers only.

    AWS/Lambda    Invocations, Duration, Errors              FunctionName: by whomever it was called
    AWS/States    ExecutionsStarted                          StateMachineArn
    AWS/SQS       NumberOfMessagesSent, Received, Deleted    QueueName
    AWS/DynamoDB  ConsumedReadCapacityUnits, Write           TableName (and GlobalSecondaryIndexName)
    AWS/SNS       NumberOfMessagesPublished                  TopicName

Units of the table are reckoned from the size of what is sent and answered, as JSON, which is a little more than AWS's
own form. How often Lambda polls an empty queue is not published: here it is not as often as on AWS.
Source: https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html,
https://docs.aws.amazon.com/step-functions/latest/dg/procedure-cw-metrics.html,
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html,
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/metrics-dimensions.html,
https://docs.aws.amazon.com/sns/latest/dg/sns-monitoring-using-cloudwatch.html
"""

import functools
import json
import math
import time
from collections.abc import Callable
from typing import Any

from ministack.services import cloudwatch, dynamodb, lambda_svc, sns, sqs, stepfunctions

READ_UNIT_BYTES, WRITE_UNIT_BYTES = 4096, 1024
_READS = ("_get_item", "_query", "_scan")
_WRITES = ("_put_item", "_update_item", "_delete_item")


def install() -> None:
    """Publish after each call that AWS would bill."""
    lambda_svc._execute_function_warm = _counting_calls(lambda_svc._execute_function_warm)
    lambda_svc._emit_lambda_metrics = _emit_throttles
    stepfunctions._run_execution = _counting_executions(stepfunctions._run_execution)
    for name in _READS + _WRITES:
        setattr(dynamodb, name, _counting_units(getattr(dynamodb, name), writes=name in _WRITES))
    sns._publish = _counting_notices(sns._publish)
    _count_messages()


def _counting_calls(execute: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def counted(func: dict[str, Any], event: Any, request_id: str) -> dict[str, Any]:
        began = time.perf_counter()  # the real clock: an advance of the virtual one is no work
        result = execute(func, event, request_id)
        milliseconds = (time.perf_counter() - began) * 1000
        dimensions = {"FunctionName": (func.get("config") or func).get("FunctionName", "")}
        cloudwatch.record_metric("AWS/Lambda", "Invocations", 1, "Count", dimensions)
        cloudwatch.record_metric("AWS/Lambda", "Errors", int(bool(result.get("error"))), "Count", dimensions)
        cloudwatch.record_metric("AWS/Lambda", "Duration", milliseconds, "Milliseconds", dimensions)
        return result

    return counted


def _emit_throttles(function_name: str, duration_ms: float, error: bool, throttle: bool) -> None:
    """MiniStack counts here what is called through Invoke; all but the refusals has been counted above."""
    count = int(bool(throttle))
    cloudwatch.record_metric("AWS/Lambda", "Throttles", count, "Count", {"FunctionName": function_name})


def _counting_executions(run: Callable[[str], Any]) -> Callable[[str], Any]:
    def counted(execution_arn: str) -> Any:
        execution = stepfunctions._executions.get(execution_arn) or {}
        if machine := execution.get("stateMachineArn"):
            cloudwatch.record_metric("AWS/States", "ExecutionsStarted", 1, "Count", {"StateMachineArn": machine})
        return run(execution_arn)

    return counted


def _counting_units(call: Callable[..., Any], *, writes: bool) -> Callable[..., Any]:
    @functools.wraps(call)
    def counted(data: dict[str, Any], *arguments: Any, **keywords: Any) -> Any:
        reply = call(data, *arguments, **keywords)
        if reply[0] < 400:
            _count_units(data, reply[2], writes=writes)
        return reply

    return counted


def _count_units(data: dict[str, Any], answer: bytes, *, writes: bool) -> None:
    if writes:
        metric = "ConsumedWriteCapacityUnits"
        units: float = math.ceil(max(len(json.dumps(data, default=str)), 1) / WRITE_UNIT_BYTES)
    else:
        metric = "ConsumedReadCapacityUnits"
        units = math.ceil(max(len(answer), 1) / READ_UNIT_BYTES) * (1 if data.get("ConsistentRead") else 0.5)
    dimensions = {"TableName": str(data.get("TableName", "")).rpartition("/")[2]}
    dimensions |= {"GlobalSecondaryIndexName": data["IndexName"]} if data.get("IndexName") else {}
    cloudwatch.record_metric("AWS/DynamoDB", metric, units, "Count", dimensions)


def _counting_notices(publish: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    def counted(params: dict[str, Any]) -> Any:
        reply = publish(params)
        topic = sns._p(params, "TopicArn")
        if topic and reply[0] < 400:
            name = topic.rpartition(":")[2]
            cloudwatch.record_metric("AWS/SNS", "NumberOfMessagesPublished", 1, "Count", {"TopicName": name})
        return reply

    return counted


def _count_messages() -> None:
    """Count what is sent, received and deleted, by callers and by the functions that queues feed."""
    send, receive_for_function, delete_for_function = (
        sqs._act_send_message,
        sqs._receive_messages_for_esm,
        sqs._delete_messages_for_esm,
    )
    receive, delete = sqs._act_receive_message, sqs._act_delete_message

    def sent(data: dict, url: str) -> dict:
        result = send(data, url)
        _messages("Sent", url or data.get("QueueUrl", ""), 1)
        return result

    async def received(data: dict, url: str) -> dict:
        result = await receive(data, url)
        _messages("Received", url or data.get("QueueUrl", ""), len(result.get("Messages") or ()))
        return result

    def deleted(data: dict, url: str) -> dict:
        result = delete(data, url)
        _messages("Deleted", url or data.get("QueueUrl", ""), 1)
        return result

    def received_for_function(queue_url: str, max_number: int) -> list[dict]:
        found = receive_for_function(queue_url, max_number)
        _messages("Received", queue_url, len(found))
        return found

    def deleted_for_function(queue_url: str, receipt_handles: set[str]) -> None:
        delete_for_function(queue_url, receipt_handles)
        _messages("Deleted", queue_url, len(receipt_handles))

    sqs._act_send_message = sqs._HANDLERS["SendMessage"] = sent
    sqs._HANDLERS["ReceiveMessage"], sqs._HANDLERS["DeleteMessage"] = received, deleted
    sqs._receive_messages_for_esm, sqs._delete_messages_for_esm = received_for_function, deleted_for_function


def _messages(what: str, url: str, count: int) -> None:
    if count and url:
        name = url.rstrip("/").rpartition("/")[2]
        cloudwatch.record_metric("AWS/SQS", f"NumberOfMessages{what}", count, "Count", {"QueueName": name})
