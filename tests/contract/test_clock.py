"""The clock: it can be put forward, what waits goes on, what is signed or granted stays in real time."""

import time
from datetime import UTC, datetime

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.httpsession
import pytest
from ministack.core import iam_evaluator, lambda_runtime, sigv4
from ministack.services import lambda_svc, scheduler, stepfunctions, sts

from contract.support import Cloud, allow, free_port, task
from ebb_local import clock, lifecycle

WAIT = {"W": {"Type": "Wait", "Seconds": "{% $states.input.s %}", "End": True}}


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (stepfunctions, "_scaled_sleep"),
        (stepfunctions, "_run_execution"),
        (stepfunctions, "_run_sub_machine"),
        (sigv4, "request_time_failure"),
        (sigv4, "presigned_request_is_expired"),
        (lambda_runtime, "workers_in_use"),
        (lambda_svc, "_iter_all_esms"),
        (lambda_svc, "_execute_function"),
        (scheduler, "start_scheduler"),
        (sts.time, "time"),
        (iam_evaluator.time, "time"),
    ],
)
def test_used_function_exists(module, name):
    assert callable(getattr(module, name))


def test_the_clock_of_a_module_under_test_is_real_and_cannot_be_advanced():
    assert clock.offset_s() == 0
    with pytest.raises(clock.ClockError):
        clock.advance(1)
    assert clock.wait(60, until=lambda: True)
    assert not clock.wait(0.01)


def test_a_wait_of_hours_ends_when_the_clock_is_advanced(cloud, machine):
    execution = machine(WAIT).start({"s": 7200})
    describe = cloud.client("stepfunctions").describe_execution
    cloud.advance(7100)
    assert describe(executionArn=execution)["status"] == "RUNNING"
    happened = cloud.advance(200)
    described = describe(executionArn=execution)
    assert described["status"] == "SUCCEEDED"
    assert 7200 <= (described["stopDate"] - described["startDate"]).total_seconds() < 7290
    assert any(execution.rsplit(":", 1)[-1] in note["text"] for note in happened)


def test_waits_one_after_the_other_each_take_their_time(cloud, machine):
    """A jump over both would end the second one too late."""
    states = {
        "A": {"Type": "Wait", "Seconds": 600, "Next": "B"},
        "B": {"Type": "Wait", "Seconds": 900, "Output": "{% $states.context.State.EnteredTime %}", "End": True},
    }
    begun = machine(states)
    execution = begun.start()
    cloud.advance(3600)
    described = cloud.client("stepfunctions").describe_execution(executionArn=execution)
    assert 1500 <= (described["stopDate"] - described["startDate"]).total_seconds() < 1600


@pytest.mark.parametrize("kind", ["Map", "Parallel"])
def test_branches_that_wait_are_advanced_over(cloud, machine, kind):
    branch = {"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 1800, "End": True}}}
    states = {
        "Map": {"B": {"Type": "Map", "Items": [1, 2, 3], "MaxConcurrency": 2, "ItemProcessor": branch, "End": True}},
        "Parallel": {"B": {"Type": "Parallel", "Branches": [branch, branch], "End": True}},
    }[kind]
    execution = machine(states).start()
    cloud.advance(2 * 3600)
    described = cloud.client("stepfunctions").describe_execution(executionArn=execution)
    assert described["status"] == "SUCCEEDED"
    expected_s = 3600 if kind == "Map" else 1800  # three items, two at a time
    assert expected_s <= (described["stopDate"] - described["startDate"]).total_seconds() < expected_s + 120


def test_a_nested_execution_that_waits_is_advanced_over(cloud, machine, role):
    child = machine(WAIT)
    nested = task("arn:aws:states:::states:startExecution.sync:2", {"StateMachineArn": child.arn, "Input": {"s": 3000}})
    parent = machine({"N": nested}, allow(["states:*", "events:*"]))
    execution = parent.start()
    cloud.advance(4000)
    assert cloud.client("stepfunctions").describe_execution(executionArn=execution)["status"] == "SUCCEEDED"


def test_time_out_of_a_machine_passes_in_virtual_time(cloud, machine):
    execution = machine(WAIT, TimeoutSeconds=1800).start({"s": 36_000})
    cloud.advance(1900)
    assert cloud.client("stepfunctions").describe_execution(executionArn=execution)["status"] == "TIMED_OUT"


def test_an_advance_waits_for_a_function_that_works(cloud, machine, function):
    slow = function("import time\ndef handler(event, context): time.sleep(1.5); return time.time()")
    states = {
        "F": task("arn:aws:states:::lambda:invoke", {"FunctionName": slow, "Payload": {}}, Next="W"),
        "W": {"Type": "Wait", "Seconds": 60, "End": True},
    }
    execution = machine(states, allow("lambda:InvokeFunction")).start()
    cloud.advance(600)
    described = cloud.client("stepfunctions").describe_execution(executionArn=execution)
    assert described["status"] == "SUCCEEDED"
    assert (described["stopDate"] - described["startDate"]).total_seconds() < 120, "nothing passed while it worked"


def test_a_day_without_anything_takes_seconds(cloud):
    began = time.monotonic()
    cloud.advance(86_400)
    assert time.monotonic() - began < 60


def test_sessions_and_presigned_urls_outlive_a_jump(cloud, role):
    given = role()
    session = cloud.client("sts").assume_role(RoleArn=given.arn, RoleSessionName="session", DurationSeconds=900)
    keys = session["Credentials"]
    assert (keys["Expiration"] - datetime.now(UTC)).total_seconds() < 901, "it ends in real time"
    cloud.advance(7200)
    own = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], region_name="us-east-1")
    assert given.name in cloud.client("sts", own).get_caller_identity()["Arn"]


def test_messages_become_visible_and_are_delivered_in_virtual_time(cloud, queue):
    sqs = cloud.client("sqs")
    sqs.send_message(QueueUrl=queue, MessageBody="later")
    assert sqs.receive_message(QueueUrl=queue, VisibilityTimeout=1800)["Messages"]
    assert "Messages" not in sqs.receive_message(QueueUrl=queue)
    cloud.advance(1810)
    assert sqs.receive_message(QueueUrl=queue)["Messages"][0]["Body"] == "later"


def test_time_goes_on_where_it_was_after_a_restart(home):
    first = Cloud(lifecycle.start(home, port=free_port()))
    first.advance(3 * 86_400)
    lifecycle.stop(home)
    again = Cloud(lifecycle.start(home, port=free_port()))
    assert 3 * 86_400 - 60 <= again.control("Status")["AheadSeconds"] < 3 * 86_400 + 60
    again.client("sqs").create_queue(QueueName="q")
    attributes = again.client("sqs").get_queue_attributes(
        QueueUrl=again.client("sqs").get_queue_url(QueueName="q")["QueueUrl"], AttributeNames=["CreatedTimestamp"]
    )
    assert int(attributes["Attributes"]["CreatedTimestamp"]) > time.time() + 3 * 86_400 - 60


def test_a_role_cannot_advance_the_clock(cloud, role):
    powerless = role(allow("s3:*"))
    request = botocore.awsrequest.AWSRequest(
        "POST", f"{cloud.server.endpoint_url}/", {"X-Amz-Target": "Ebb.Advance"}, b'{"Seconds": 60}'
    )
    botocore.auth.SigV4Auth(powerless.session.get_credentials(), "ebb", "us-east-1").add_auth(request)
    reply = botocore.httpsession.URLLib3Session().send(request.prepare())
    assert reply.status_code == 403
