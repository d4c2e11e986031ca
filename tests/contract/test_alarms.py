"""Alarms: exactly their metric, missing data, topics that may be notified, queues that are watched."""

import json
from datetime import datetime

import pytest
from ministack.services import cloudwatch

from contract.support import allow, key_with, messages, queue_arn, wait_until
from ebb_local.cloudwatch import alarms
from ebb_local.cloudwatch.wire import ServiceError
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
        "_evaluate_alarm",
        "_record_history",
        "_history_entries",
        "_evaluate_parent_alarms",
        "_set_alarm_state",
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


TABLES = """
3 of 3 | 0 - X - X | OK    | OK    | OK    | OK
3 of 3 | - - - - 0 | OK    | OK    | OK    | OK
3 of 3 | - - - - - | INSUFFICIENT_DATA | keeps | ALARM | OK
3 of 3 | 0 X X - X | ALARM | ALARM | ALARM | ALARM
3 of 3 | - - X - - | ALARM | keeps | ALARM | OK
2 of 3 | 0 - X - X | ALARM | ALARM | ALARM | ALARM
2 of 3 | 0 0 X 0 X | ALARM | ALARM | ALARM | ALARM
2 of 3 | 0 - X - - | OK    | OK    | ALARM | OK
2 of 3 | - - - - 0 | OK    | OK    | ALARM | OK
2 of 3 | - - - X - | ALARM | keeps | ALARM | OK
3 of 3 | - - - - X | keeps | keeps | ALARM | OK
"""


@pytest.mark.parametrize("row", TABLES.strip().splitlines())
def test_missing_data_as_the_tables_of_the_guide_say(row):
    """Oldest datapoint first; X breaches, 0 does not, - is missing.

    Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html; the last row
    is ours: a lone breach that is new does not change the state before the next datapoints could have come.
    """
    rule, points, *states = (part.strip() for part in row.split("|"))
    values = [{"X": 2.0, "0": 0.0, "-": None}[mark] for mark in reversed(points.split())]
    for treatment, expected in zip(("missing", "ignore", "breaching", "notBreaching"), states, strict=True):
        given = alarm(TreatMissingData=treatment, DatapointsToAlarm=int(rule[0]), StateValue="kept")
        assert alarm_evaluation._state(given, values)[0] == expected.replace("keeps", "kept"), treatment


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"Threshold": None}, "Threshold"),
        ({"Metrics": [{"Id": "a", "Expression": "b + 1"}], "MetricName": None}, "refers to b"),
        ({"Metrics": [{"Id": "a", "Expression": "SEARCH('x', 'Sum', 60)"}], "MetricName": None}, "SEARCH"),
        ({"Period": 45}, "Period"),
        ({"Period": 300, "EvaluationPeriods": 300}, "more than a day"),
        ({"DatapointsToAlarm": 4}, "DatapointsToAlarm"),
        ({"Statistic": "TM(2%:98%)"}, "TM"),
        ({"AlarmActions": ["a"] * 6}, "actions"),
        ({"TreatMissingData": "zero"}, "TreatMissingData"),
        ({"EvaluationWindow": {"SlidingWindow": {}}}, "EvaluationWindow"),
    ],
)
def test_alarm_is_refused(changes, text):
    with pytest.raises(ServiceError, match=text):
        alarms.record({**alarm(), **changes}, None)


@pytest.fixture
def changes_of(cloud, queue):
    """`changes_of(alarm name)` makes a rule for its events; returns a function that receives them."""
    events, made = cloud.client("events"), []
    statement = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage",
                 "Resource": queue_arn(cloud, queue)}  # fmt: skip
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    cloud.client("sqs").set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})

    def watch(alarm_name: str):
        pattern = {"source": ["aws.cloudwatch"], "detail-type": ["CloudWatch Alarm State Change"],
                   "detail": {"alarmName": [alarm_name], "state": {"value": ["ALARM"]}}}  # fmt: skip
        events.put_rule(Name=alarm_name, EventPattern=json.dumps(pattern))
        events.put_targets(Rule=alarm_name, Targets=[{"Id": "q", "Arn": queue_arn(cloud, queue)}])
        made.append(alarm_name)
        return lambda: [json.loads(message["Body"]) for message in messages(cloud, queue)]

    yield watch
    for each in made:
        events.remove_targets(Rule=each, Ids=["q"])
        events.delete_rule(Name=each)


def idle_alarm(name: str, **changes) -> dict:
    return {
        "AlarmName": name, "Namespace": name, "MetricName": "Calls", "Statistic": "Sum", "Period": 300,
        "EvaluationPeriods": 3, "Threshold": 1, "ComparisonOperator": "LessThanThreshold",
        "TreatMissingData": "breaching", "Dimensions": [{"Name": "EndpointName", "Value": "one"}], **changes,
    }  # fmt: skip


def test_change_is_an_event_with_everything_that_aws_says(cloud, changes_of, name):
    client, received = cloud.client("cloudwatch"), changes_of(name)
    call = {"MetricName": "Calls", "Dimensions": [{"Name": "EndpointName", "Value": "one"}], "Value": 1}
    client.put_metric_data(Namespace=name, MetricData=[call])
    client.put_metric_alarm(**idle_alarm(name, AlarmDescription="Nobody calls"))
    wait_until(lambda: client.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"] == "OK")
    happened = cloud.advance(3600)
    event = received()[0]
    detail = event["detail"]
    assert event["resources"] == [f"arn:aws:cloudwatch:us-east-1:000000000000:alarm:{name}"]
    assert (detail["previousState"]["value"], detail["state"]["value"]) == ("OK", "ALARM")
    assert "no datapoints were received for 3 periods" in detail["state"]["reason"]
    data = json.loads(detail["state"]["reasonData"])
    assert {"version", "queryDate", "statistic", "period", "recentDatapoints", "threshold", "evaluatedDatapoints"} <= (
        data.keys()
    )
    assert json.loads(detail["previousState"]["reasonData"])["recentDatapoints"] == [1.0]
    assert detail["configuration"]["description"] == "Nobody calls"
    (watched,) = detail["configuration"]["metrics"]
    assert watched["metricStat"]["metric"]["dimensions"] == {"EndpointName": "one"}
    assert any(note["kind"] == "alarm" and name in note["text"] for note in happened)
    history = client.describe_alarm_history(AlarmName=name)["AlarmHistoryItems"]
    assert history[0]["HistorySummary"] == "Alarm updated from OK to ALARM"
    changed = client.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateTransitionedTimestamp"]
    called = json.loads(detail["previousState"]["reasonData"])["evaluatedDatapoints"][0]["timestamp"]
    passed_s = (changed - datetime.strptime(called, "%Y-%m-%dT%H:%M:%S.%f%z")).total_seconds()
    assert 1200 <= passed_s <= 1960, "three periods of five minutes, and two in which datapoints are still looked for"


def test_alarm_on_math(cloud, name):
    client = cloud.client("cloudwatch")
    stat = {"Metric": {"Namespace": name, "MetricName": "Errors"}, "Period": 60, "Stat": "Sum"}
    calls = {**stat, "Metric": {"Namespace": name, "MetricName": "Calls"}}
    queries = [
        {"Id": "errors", "MetricStat": stat, "ReturnData": False},
        {"Id": "calls", "MetricStat": calls, "ReturnData": False},
        {"Id": "share", "Expression": "FILL(errors, 0) / calls", "Label": "share of errors"},
    ]
    client.put_metric_alarm(
        AlarmName=name, Metrics=queries, EvaluationPeriods=1, Threshold=0.5,
        ComparisonOperator="GreaterThanThreshold", TreatMissingData="notBreaching",
    )  # fmt: skip
    state = lambda: client.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"]  # noqa: E731
    client.put_metric_data(Namespace=name, MetricData=[{"MetricName": "Calls", "Value": 10}])
    wait_until(lambda: state() == "OK")
    client.put_metric_data(Namespace=name, MetricData=[{"MetricName": "Errors", "Value": 8}])
    wait_until(lambda: state() == "ALARM")
    assert [each["Id"] for each in client.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["Metrics"]] == [
        "errors", "calls", "share"
    ]  # fmt: skip


def test_function_is_called_only_where_alarms_may(cloud, function, queue, name):
    client = cloud.client("cloudwatch")
    source = f"""
        import boto3, json
        def handler(event, context):
            boto3.client("sqs").send_message(QueueUrl={queue!r}, MessageBody=json.dumps(event))
    """
    called = function(source, allow("sqs:SendMessage", queue_arn(cloud, queue)))
    client.put_metric_alarm(**idle_alarm(name, AlarmActions=[called], TreatMissingData="ignore"))
    client.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="test")
    wait_until(lambda: cloud.calls(principal="lambda.alarms", resource=called, decision="ImplicitDeny"))
    cloud.client("lambda").add_permission(
        FunctionName=called, StatementId="s", Action="lambda:InvokeFunction",
        Principal="lambda.alarms.cloudwatch.amazonaws.com", SourceAccount="000000000000",
        SourceArn=f"arn:aws:cloudwatch:us-east-1:000000000000:alarm:{name}",
    )  # fmt: skip
    client.disable_alarm_actions(AlarmNames=[name])
    for state in ("OK", "ALARM"):
        client.set_alarm_state(AlarmName=name, StateValue=state, StateReason="test")
    assert messages(cloud, queue, timeout_s=0.5) == [], "actions are disabled"
    client.enable_alarm_actions(AlarmNames=[name])
    for state in ("OK", "ALARM"):
        client.set_alarm_state(AlarmName=name, StateValue=state, StateReason="test")
    event = json.loads(messages(cloud, queue)[0]["Body"])
    assert event["alarmArn"].endswith(name)
    assert event["alarmData"]["state"]["value"] == "ALARM"


def test_alarms_are_described_in_pages(cloud, name):
    client = cloud.client("cloudwatch")
    for number in range(3):
        client.put_metric_alarm(**idle_alarm(f"{name}-{number}", TreatMissingData="ignore"))
    first = client.describe_alarms(AlarmNamePrefix=name, MaxRecords=2)
    second = client.describe_alarms(AlarmNamePrefix=name, MaxRecords=2, NextToken=first["NextToken"])
    names = [alarm["AlarmName"] for page in (first, second) for alarm in page["MetricAlarms"]]
    assert names == [f"{name}-{number}" for number in range(3)]
    assert "NextToken" not in second


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
    client.put_metric_data(Namespace=name, MetricData=[{"MetricName": "m", "Value": 1}])
    decision = "Allow" if may_use_key else "ImplicitDeny"
    wait_until(lambda: cloud.calls(principal="cloudwatch.amazonaws.com", resource=key, decision=decision))
    assert bool(messages(cloud, queue, timeout_s=5 if may_use_key else 1)) is may_use_key


@pytest.mark.parametrize("math", [True, False])
def test_alarm_of_a_template_is_judged_as_any_other(cloud, name, math):
    metric = {"Namespace": name, "MetricName": "m"}
    stat = {"Id": "m", "MetricStat": {"Metric": metric, "Period": "60", "Stat": "Sum"}, "ReturnData": False}
    watched = {"Metrics": [stat, {"Id": "e", "Expression": "m * 2"}]} if math else {
        **metric, "Statistic": "Sum", "Period": 60}  # fmt: skip
    properties = {"AlarmName": name, "EvaluationPeriods": 1, "Threshold": 1, "TreatMissingData": "notBreaching",
                  "ComparisonOperator": "GreaterThanThreshold", **watched}  # fmt: skip
    template = {"Resources": {"Alarm": {"Type": "AWS::CloudWatch::Alarm", "Properties": properties}}}
    cloud.client("cloudformation").create_stack(StackName=name, TemplateBody=json.dumps(template))
    client = cloud.client("cloudwatch")
    wait_until(lambda: client.describe_alarms(AlarmNames=[name])["MetricAlarms"])
    client.put_metric_data(Namespace=name, MetricData=[{"MetricName": "m", "Value": 2}])
    wait_until(lambda: client.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"] == "ALARM")
