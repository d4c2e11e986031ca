"""Targets of rules and schedules: who may deliver, and where undelivered events go. Roles given to services."""

import json

import botocore.exceptions
import pytest
from ministack.services import eventbridge

from contract.support import allow, messages, queue_arn, wait_until

PASS = {"A": {"Type": "Pass", "End": True}}


@pytest.fixture
def rule(cloud, name):
    """Make a rule of the test's own events; returns (rule ARN, function that puts targets, function that sends)."""
    events = cloud.client("events")
    arn = events.put_rule(Name=name, EventPattern=json.dumps({"source": [name]}))["RuleArn"]

    def put_target(**target) -> None:
        events.put_targets(Rule=name, Targets=[{"Id": "only", **target}])

    def send(detail: dict) -> None:
        events.put_events(Entries=[{"Source": name, "DetailType": "test", "Detail": json.dumps(detail)}])

    return arn, put_target, send


def let_events_send(cloud, url: str, rule_arn: str) -> None:
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn(cloud, url),
        "Condition": {"ArnEquals": {"aws:SourceArn": rule_arn}},
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    cloud.client("sqs").set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})


def test_delivery_function_exists():
    assert callable(eventbridge._invoke_target)
    assert callable(eventbridge._dispatch_to_lambda)


def test_queue_receives_only_what_its_policy_allows(cloud, queue, rule):
    arn, put_target, send = rule
    put_target(Arn=queue_arn(cloud, queue))
    send({"n": 1})
    assert messages(cloud, queue, timeout_s=1) == []
    let_events_send(cloud, queue, "arn:aws:events:us-east-1:000000000000:rule/another")
    send({"n": 2})
    assert messages(cloud, queue, timeout_s=1) == []
    let_events_send(cloud, queue, arn)
    send({"n": 3})
    assert [json.loads(m["Body"])["detail"] for m in messages(cloud, queue)] == [{"n": 3}]


def test_undelivered_event_becomes_a_dead_letter(cloud, queue, rule):
    arn, put_target, send = rule
    let_events_send(cloud, queue, arn)
    missing = "arn:aws:lambda:us-east-1:000000000000:function:missing"
    put_target(Arn=missing, DeadLetterConfig={"Arn": queue_arn(cloud, queue)}, RetryPolicy={"MaximumRetryAttempts": 2})
    send({"n": 1})
    letter = messages(cloud, queue)[0]
    assert json.loads(letter["Body"])["detail"] == {"n": 1}
    assert letter["MessageAttributes"]["ERROR_CODE"]["StringValue"] == "NO_RESOURCE"
    assert letter["MessageAttributes"]["TARGET_ARN"]["StringValue"] == missing


def test_function_needs_a_permission_for_events(cloud, function, queue, rule):
    arn, put_target, send = rule
    let_events_send(cloud, queue, arn)
    called = function("def handler(event, context): return 1")
    put_target(Arn=called, DeadLetterConfig={"Arn": queue_arn(cloud, queue)})
    send({})
    assert messages(cloud, queue)[0]["MessageAttributes"]["ERROR_CODE"]["StringValue"] == "NO_PERMISSIONS"
    cloud.client("lambda").add_permission(
        FunctionName=called,
        StatementId="s",
        Action="lambda:InvokeFunction",
        Principal="events.amazonaws.com",
        SourceArn=arn,
    )
    send({})
    wait_until(lambda: cloud.calls(principal="events.amazonaws.com", resource=called, decision="Allow"))


def test_failing_function_is_called_again(cloud, function, queue, rule):
    arn, put_target, send = rule
    called = function(
        "def handler(event, context): raise ValueError('again')",
        allow("sqs:SendMessage", queue_arn(cloud, queue)),
        allow("logs:*"),
        DeadLetterConfig={"TargetArn": queue_arn(cloud, queue)},
    )
    cloud.client("lambda").add_permission(
        FunctionName=called,
        StatementId="s",
        Action="lambda:InvokeFunction",
        Principal="events.amazonaws.com",
        SourceArn=arn,
    )
    put_target(Arn=called)
    send({"n": 1})
    assert json.loads(messages(cloud, queue)[0]["Body"])["detail"] == {"n": 1}
    group = f"/aws/lambda/{called.rsplit(':', 1)[-1]}"
    lines = cloud.client("logs").filter_log_events(logGroupName=group, filterPattern="START")["events"]
    assert len(lines) == 3, "two retries"


def test_state_machine_is_started_as_the_role_of_the_target(cloud, machine, role, rule):
    _, put_target, send = rule
    started = machine(PASS)
    executions = cloud.client("stepfunctions").list_executions
    powerless = role(trust="events.amazonaws.com")
    put_target(Arn=started.arn, RoleArn=powerless.arn)
    send({})
    wait_until(lambda: cloud.calls(principal=powerless.name, action="states:StartExecution", decision="ImplicitDeny"))
    assert executions(stateMachineArn=started.arn)["executions"] == []
    put_target(
        Arn=started.arn, RoleArn=role(allow("states:StartExecution", started.arn), trust="events.amazonaws.com").arn
    )
    send({})
    wait_until(lambda: executions(stateMachineArn=started.arn)["executions"])


def test_schedule_acts_as_its_role(cloud, queue, role, name):
    target = queue_arn(cloud, queue)
    sender = role(allow("sqs:SendMessage", target), trust="scheduler.amazonaws.com")
    cloud.client("scheduler").create_schedule(
        Name=name,
        ScheduleExpression="at(2020-01-01T00:00:00)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": target, "RoleArn": sender.arn, "Input": '{"due": true}'},
    )
    assert json.loads(messages(cloud, queue)[0]["Body"]) == {"due": True}
    assert cloud.calls(principal=sender.name, action="sqs:SendMessage", decision="Allow")


# ---- PassRole


def test_giving_a_role_away_needs_pass_role(cloud, role):
    given = role()
    creating = allow("states:CreateStateMachine")
    request = {"name": "passed", "definition": json.dumps({"StartAt": "A", "States": PASS}), "roleArn": given.arn}
    without = cloud.client("stepfunctions", role(creating).session)
    with pytest.raises(botocore.exceptions.ClientError, match=f"iam:PassRole on resource: {given.arn}"):
        without.create_state_machine(**request)
    elsewhere = allow("iam:PassRole", given.arn, StringEquals={"iam:PassedToService": "lambda.amazonaws.com"})
    with pytest.raises(botocore.exceptions.ClientError, match="iam:PassRole"):
        cloud.client("stepfunctions", role(creating, elsewhere).session).create_state_machine(**request)
    here = allow("iam:PassRole", given.arn, StringEquals={"iam:PassedToService": "states.amazonaws.com"})
    cloud.client("stepfunctions", role(creating, here).session).create_state_machine(**request)


def test_trust_may_be_limited_to_the_account(cloud, name):
    definition = json.dumps({"StartAt": "A", "States": PASS})
    for account, accepted in (("000000000000", True), ("111111111111", False)):
        trust = {
            "Effect": "Allow",
            "Principal": {"Service": "states.amazonaws.com"},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"aws:SourceAccount": account}},
        }
        arn = cloud.client("iam").create_role(
            RoleName=f"{name}-{account}",
            AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
        )["Role"]["Arn"]
        create = cloud.client("stepfunctions").create_state_machine
        if accepted:
            create(name=name, definition=definition, roleArn=arn)
        else:
            with pytest.raises(botocore.exceptions.ClientError, match="authorized to assume"):
                create(name=f"{name}-refused", definition=definition, roleArn=arn)


def test_role_must_trust_the_service(cloud, role):
    other = role(trust="glue.amazonaws.com").arn
    states, functions = cloud.client("stepfunctions"), cloud.client("lambda")
    definition = json.dumps({"StartAt": "A", "States": PASS})
    with pytest.raises(botocore.exceptions.ClientError, match=r"states\.amazonaws\.com.*is authorized to assume"):
        states.create_state_machine(name="untrusted", definition=definition, roleArn=other)
    with pytest.raises(botocore.exceptions.ClientError, match="cannot be assumed by Lambda"):
        functions.create_function(
            FunctionName="untrusted",
            Role=other,
            Runtime="python3.13",
            Handler="a.b",
            Code={"ZipFile": b"PK\5\6" + b"\0" * 18},
        )
