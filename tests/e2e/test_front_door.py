"""The first request to a sleeping endpoint is not lost: ten callers, tickets, and requests through every change."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from ebb import client

from .conftest import CURIOUS, Cloud, Served, let_time_pass, wait_until

ROWS = json.dumps(Served.ROWS).encode()
EXPECTED = list(Served.LABELS)


@pytest.fixture
def birds(served_project: Served) -> Served:
    """A model behind a real-time endpoint, which sleeps when nobody asks."""
    served_project.move("realtime")
    return served_project


@pytest.fixture
def runtime(cloud: Cloud) -> client.Client:
    return client.Client(cloud.stack, session=cloud.session, endpoint_url=cloud.endpoint_url)


def fall_asleep(birds: Served) -> None:
    """Let time pass until nobody has asked for long enough."""
    done = birds.ebb("advance", "30m")
    assert done.returncode == 0, done.stderr
    assert birds.at["state"] == "asleep"


def wakes(cloud: Cloud, birds: Served) -> set[str]:
    found = cloud.client("stepfunctions").get_paginator("list_executions")
    pages = found.paginate(stateMachineArn=cloud.outputs["WakeEndpointStateMachineArn"])
    names = {each["name"] for page in pages for each in page["executions"]}
    return {name for name in names if name.startswith(f"wake-{birds.at['address']}-g")}


def ask(runtime: client.Client, birds: Served) -> list[str]:
    answer = runtime.invoke_endpoint(
        EndpointName=birds.project, Body=ROWS, ContentType="application/json", Accept="application/json", wait_s=120
    )
    assert answer["ContentType"] == "application/json"
    return [each["label"] for each in json.loads(answer["Body"].read())["predictions"]]


@pytest.mark.embedded_only
def test_ten_callers_at_once_wake_it_once_and_get_ten_answers(cloud: Cloud, birds: Served, runtime: client.Client):
    fall_asleep(birds)
    before, there = wakes(cloud, birds), birds.at
    with pytest.raises(ClientError, match="no capacity"):  # who asks AWS itself gets AWS's own answer
        cloud.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=there["endpoint_name"], InferenceComponentName=there["component"], Body=ROWS
        )
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: ask(runtime, birds), range(10)))
    assert answers == [EXPECTED] * 10
    assert len(wakes(cloud, birds) - before) == 1
    let_time_pass(cloud, birds, "awake")  # the ledger says so at its next look, which may be half a minute away
    assert ask(runtime, birds) == EXPECTED


@pytest.mark.embedded_only
def test_who_cannot_wait_takes_a_ticket(birds: Served, tmp_path: Path):
    fall_asleep(birds)
    (tmp_path / "birds.json").write_bytes(ROWS)
    (ticket,) = birds.ebb.json("invoke", birds.project, tmp_path / "birds.json", "--no-wait")["tickets"]
    early = birds.ebb("ticket", ticket)
    assert early.returncode in (0, 5), early.stderr
    answer = birds.ebb.json("ticket", ticket, "--wait-s", "120")
    assert [each["label"] for each in answer["predictions"]] == EXPECTED
    (again,) = birds.ebb.json("invoke", birds.project, tmp_path / "birds.json", "--no-wait")["tickets"]
    assert birds.ebb.json("ticket", again, "--wait-s", "60") == answer, "the front door asks what is awake itself"


@pytest.mark.embedded_only
def test_a_role_with_the_callers_policy_may_ask_and_one_without_may_not(cloud: Cloud, birds: Served):
    iam, sts, name = cloud.client("iam"), cloud.client("sts"), f"{cloud.stack}-caller"
    account = sts.get_caller_identity()["Account"]
    trust = {"Effect": "Allow", "Principal": {"AWS": account}, "Action": "sts:AssumeRole"}
    policy = {"RoleName": name, "PolicyArn": cloud.outputs["CallerPolicyArn"]}
    role = iam.create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )["Role"]
    try:
        keys = sts.assume_role(RoleArn=role["Arn"], RoleSessionName=CURIOUS)["Credentials"]
        session = boto3.Session(
            keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], region_name=cloud.session.region_name
        )
        door = cloud.outputs["FrontDoorUrl"]
        with pytest.raises(ClientError, match="AccessDenied"):
            ask(client.Client(front_door=door, session=session, endpoint_url=cloud.endpoint_url), birds)
        iam.attach_role_policy(**policy)
        try:
            found = client.Client(cloud.stack, session=session, endpoint_url=cloud.endpoint_url)
            assert ask(found, birds) == EXPECTED
        finally:
            iam.detach_role_policy(**policy)
    finally:
        iam.delete_role(RoleName=name)


@pytest.mark.embedded_only
def test_no_request_is_lost_while_it_wakes_and_becomes_another_kind(
    cloud: Cloud, birds: Served, runtime: client.Client
):
    """Somebody asks all the time: while it sleeps and wakes, and while it is deployed as another kind."""
    fall_asleep(birds)
    sent: list[int] = []
    over = threading.Event()

    def keep_asking(caller: int) -> list[list[str]]:
        answers = []
        while not over.is_set():
            sent.append(caller)
            answers.append(ask(runtime, birds))
            time.sleep(0.2)
        return answers

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(keep_asking, caller) for caller in range(3)]
        try:
            wait_until(lambda: birds.at["state"] == "awake", "woken by whoever asks")
            assert birds.ended(birds.start_move("serverless"))["status"] == "SUCCEEDED"
            time.sleep(2)  # and some more requests to what serves now
        finally:
            over.set()
    answers = [each for found in asking for each in found.result()]
    assert answers == [EXPECTED] * len(sent)
    assert len(sent) > 10
    assert birds.at["kind"] == "serverless"
    counted = cloud.client("sqs").get_queue_attributes(
        QueueUrl=cloud.outputs["RequestsDeadLetterQueueUrl"], AttributeNames=["ApproximateNumberOfMessages"]
    )
    assert counted["Attributes"]["ApproximateNumberOfMessages"] == "0"
