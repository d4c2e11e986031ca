"""What services are billed by is published as AWS publishes it, so that `ebb cost` reads the same on both clouds."""

import inspect
import json
import time
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from ministack.services import dynamodb, lambda_svc, sns, sqs, stepfunctions


def summed(cloud: Any, namespace: str, metric: str, **dimensions: str) -> float:
    # the cloud's own time: tests before this one may have put its clock forward
    listed = cloud.client("cloudwatch").list_metrics(Namespace=namespace)
    now = parsedate_to_datetime(listed["ResponseMetadata"]["HTTPHeaders"]["date"])
    found = cloud.client("cloudwatch").get_metric_data(
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(minutes=5),
        MetricDataQueries=[
            {
                "Id": "m",
                "MetricStat": {
                    "Metric": {
                        "Namespace": namespace,
                        "MetricName": metric,
                        "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
                    },
                    "Period": 3600,
                    "Stat": "Sum",
                },
            }
        ],
    )
    return sum(found["MetricDataResults"][0]["Values"])


def finished(cloud: Any, machine_arn: str) -> None:
    client = cloud.client("stepfunctions")
    started = client.start_execution(stateMachineArn=machine_arn, input=json.dumps({}))["executionArn"]
    deadline = time.monotonic() + 20
    while client.describe_execution(executionArn=started)["status"] == "RUNNING":
        if time.monotonic() > deadline:
            pytest.fail("the execution does not end")
        time.sleep(0.1)
    assert client.describe_execution(executionArn=started)["status"] == "SUCCEEDED"


def test_ministack_has_the_functions_that_are_wrapped():
    for module, names in (
        (stepfunctions, ["_run_execution"]),
        (dynamodb, ["_get_item", "_query", "_scan", "_put_item", "_update_item", "_delete_item"]),
        (sns, ["_publish", "_p"]),
        (sqs, ["_act_send_message", "_act_receive_message", "_act_delete_message", "_receive_messages_for_esm"]),
    ):
        assert all(callable(getattr(module, name)) for name in names), module.__name__
    assert {"SendMessage", "ReceiveMessage", "DeleteMessage"} <= set(sqs._HANDLERS)


def test_ministack_publishes_the_calls_of_functions_where_it_is_replaced():
    parameters = list(inspect.signature(lambda_svc._emit_lambda_metrics).parameters)
    assert parameters == ["function_name", "duration_ms", "error", "throttle"]
    assert list(inspect.signature(lambda_svc._execute_function_warm).parameters)[:3] == ["func", "event", "request_id"]


def test_a_function_is_counted_once_whoever_calls_it(cloud, function, machine):
    arn = function("def handler(event, context):\n    return {}")
    name = arn.rpartition(":")[2]
    cloud.client("lambda").invoke(FunctionName=arn)
    made = machine(
        {
            "Call": {
                "Type": "Task",
                "Resource": "arn:aws:states:::lambda:invoke",
                "Arguments": {"FunctionName": arn},
                "End": True,
            }
        },
        {"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": arn},
    )
    finished(cloud, made.arn)
    assert summed(cloud, "AWS/Lambda", "Invocations", FunctionName=name) == 2
    assert 0 < summed(cloud, "AWS/Lambda", "Duration", FunctionName=name) < 60_000


def test_messages_are_counted_by_queue(cloud, queue):
    client, name = cloud.client("sqs"), queue.rpartition("/")[2]
    for number in range(3):
        client.send_message(QueueUrl=queue, MessageBody=str(number))
    (message,) = client.receive_message(QueueUrl=queue, MaxNumberOfMessages=1)["Messages"]
    client.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    counts = [
        summed(cloud, "AWS/SQS", f"NumberOfMessages{what}", QueueName=name) for what in ("Sent", "Received", "Deleted")
    ]
    assert counts == [3, 1, 1]


def test_units_of_a_table_follow_the_size_of_what_is_read_and_written(cloud, name):
    client = cloud.client("dynamodb")
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
    )
    client.put_item(TableName=name, Item={"pk": {"S": "a"}, "text": {"S": "x" * 5000}})
    written = summed(cloud, "AWS/DynamoDB", "ConsumedWriteCapacityUnits", TableName=name)
    assert 5 <= written <= 6, "a unit for each KB"
    client.get_item(TableName=name, Key={"pk": {"S": "a"}})
    assert summed(cloud, "AWS/DynamoDB", "ConsumedReadCapacityUnits", TableName=name) == 1, "two units, half as dear"
    client.get_item(TableName=name, Key={"pk": {"S": "a"}}, ConsistentRead=True)
    assert summed(cloud, "AWS/DynamoDB", "ConsumedReadCapacityUnits", TableName=name) == 3


def test_executions_and_notices_are_counted(cloud, machine, name):
    topic = cloud.client("sns").create_topic(Name=name)["TopicArn"]
    cloud.client("sns").publish(TopicArn=topic, Message="hello")
    assert summed(cloud, "AWS/SNS", "NumberOfMessagesPublished", TopicName=name) == 1
    made = machine({"Done": {"Type": "Succeed"}})
    finished(cloud, made.arn)
    assert summed(cloud, "AWS/States", "ExecutionsStarted", StateMachineArn=made.arn) == 1
