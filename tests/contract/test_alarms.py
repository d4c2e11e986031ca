"""Alarms: exactly their metric, missing data, topics that may be notified, queues that are watched."""

import json
import time

import pytest
from ministack.services import cloudwatch

from contract.support import allow, key_with, messages, queue_arn, wait_until
from ebb_local.gaps import alarm_evaluation


def alarm(**changes) -> dict:
    return {
        "AlarmName": "a",
        "Namespace": "n",
        "MetricName": "m",
        "Dimensions": {"Endpoint": "x"},
        "Statistic": "Sum",
        "Period": 60,
        "EvaluationPeriods": 3,
        "Threshold": 1,
        "ComparisonOperator": "GreaterThanThreshold",
        "StateValue": "INSUFFICIENT_DATA",
        **changes,
    }


@pytest.mark.parametrize(
    "name",
    [
        "_evaluate_all_alarms",
        "_dispatch_alarm_actions",
        "_record_history",
        "_calc_stats",
        "_stat_value",
        "_dims_key",
        "_dims_from_list",
        "_evaluate_parent_alarms",
        "record_metric",
    ],
)
def test_used_function_exists(name):
    assert callable(getattr(cloudwatch, name))


@pytest.mark.parametrize(
    ("values", "changes", "state"),
    [
        pytest.param([2, 2, 2], {}, "ALARM", id="all periods breach"),
        pytest.param([2, 2, 0], {}, "OK", id="one does not"),
        pytest.param([2, 0, 2], {"DatapointsToAlarm": 2}, "ALARM", id="two of three are enough"),
        pytest.param([None, None, None], {}, "INSUFFICIENT_DATA", id="nothing published"),
        pytest.param([None, None, None], {"TreatMissingData": "notBreaching"}, "OK", id="silence is well"),
        pytest.param([None, None, None], {"TreatMissingData": "breaching"}, "ALARM", id="silence is a breach"),
        pytest.param([None, None, None], {"TreatMissingData": "ignore", "StateValue": "ALARM"}, "ALARM", id="stays"),
    ],
)
def test_state_of_datapoints(values, changes, state):
    assert alarm_evaluation._state(alarm(**changes), values)[0] == state


def test_metric_of_other_dimensions_does_not_count(cloud, name):
    client = cloud.client("cloudwatch")
    watched = {
        "Namespace": name,
        "MetricName": "Errors",
        "Statistic": "Sum",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 0,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
    }
    for endpoint in ("one", "two"):
        client.put_metric_alarm(
            AlarmName=f"{name}-{endpoint}", **watched, Dimensions=[{"Name": "EndpointName", "Value": endpoint}]
        )
    data = {"MetricName": "Errors", "Dimensions": [{"Name": "EndpointName", "Value": "one"}], "Value": 1}
    client.put_metric_data(Namespace=name, MetricData=[data])

    def states() -> dict[str, str]:
        found = client.describe_alarms(AlarmNamePrefix=name)["MetricAlarms"]
        return {alarm["AlarmName"]: alarm["StateValue"] for alarm in found}

    wait_until(lambda: states() == {f"{name}-one": "ALARM", f"{name}-two": "OK"})


def test_messages_in_a_dead_letter_queue_raise_its_alarm(cloud, queue, name):
    events, client = cloud.client("events"), cloud.client("cloudwatch")
    seen = cloud.client("sqs").create_queue(QueueName=f"{name}-seen")["QueueUrl"]
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn(cloud, seen),
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    cloud.client("sqs").set_queue_attributes(QueueUrl=seen, Attributes={"Policy": policy})
    pattern = {"source": ["aws.cloudwatch"], "detail": {"alarmName": [name], "state": {"value": ["ALARM"]}}}
    events.put_rule(Name=name, EventPattern=json.dumps(pattern))
    events.put_targets(Rule=name, Targets=[{"Id": "q", "Arn": queue_arn(cloud, seen)}])
    client.put_metric_alarm(
        AlarmName=name,
        Namespace="AWS/SQS",
        MetricName="ApproximateNumberOfMessagesVisible",
        Statistic="Maximum",
        Dimensions=[{"Name": "QueueName", "Value": name}],
        Period=60,
        EvaluationPeriods=1,
        Threshold=0,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
    )
    cloud.client("sqs").send_message(QueueUrl=queue, MessageBody="poison")
    assert json.loads(messages(cloud, seen)[0]["Body"])["detail-type"] == "CloudWatch Alarm State Change"


@pytest.mark.parametrize("may_use_key", [True, False])
def test_alarm_notifies_an_encrypted_topic_only_with_its_key(cloud, queue, name, may_use_key):
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "cloudwatch.amazonaws.com"},
        "Action": ["kms:GenerateDataKey", "kms:Decrypt"],
        "Resource": "*",
    }
    key = key_with(cloud, *([statement] if may_use_key else []))
    sns, client = cloud.client("sns"), cloud.client("cloudwatch")
    topic = sns.create_topic(Name=name, Attributes={"KmsMasterKeyId": key})["TopicArn"]
    publish = {
        "Effect": "Allow",
        "Principal": {"Service": "cloudwatch.amazonaws.com"},
        "Action": "sns:Publish",
        "Resource": topic,
    }
    sns.set_topic_attributes(
        TopicArn=topic,
        AttributeName="Policy",
        AttributeValue=json.dumps({"Version": "2012-10-17", "Statement": [publish]}),
    )
    receive = allow("sqs:SendMessage", queue_arn(cloud, queue)) | {"Principal": {"Service": "sns.amazonaws.com"}}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [receive]})
    cloud.client("sqs").set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn(cloud, queue))
    client.put_metric_alarm(
        AlarmName=name,
        Namespace=name,
        MetricName="m",
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=0,
        ComparisonOperator="GreaterThanThreshold",
        AlarmActions=[topic],
    )
    client.put_metric_data(Namespace=name, MetricData=[{"MetricName": "m", "Value": 1, "Timestamp": time.time()}])
    decision = "Allow" if may_use_key else "ImplicitDeny"
    wait_until(lambda: cloud.calls(principal="cloudwatch.amazonaws.com", resource=key, decision=decision))
    assert bool(messages(cloud, queue, timeout_s=5 if may_use_key else 1)) is may_use_key
