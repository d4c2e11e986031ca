"""Start, stop, restart: nothing is left running, nothing is lost, interrupted runs go on."""

import configparser
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ministack import app

from contract.support import Cloud, free_port, wait_until
from ebb_local import lifecycle, process_table, server
from ebb_local.settings import Home

DEFINITION = {
    "QueryLanguage": "JSONata",
    "StartAt": "Wait",
    "States": {
        "Wait": {"Type": "Wait", "Seconds": "{% $states.input.attempt = 1 ? 60 : 0 %}", "Next": "Done"},
        "Done": {"Type": "Pass", "End": True, "Output": {"attempt": "{% $states.input.attempt %}"}},
    },
}
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def test_ministack_saves_through_the_functions_that_are_called():
    assert callable(app.save_all)
    assert "s3" in app._build_persistence_save_dict() or app._state_map["s3"] == "s3"


def test_environment_holds_nothing_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAREAL")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    variables = server.environment(Home(tmp_path), 4747)
    assert not {"AWS_ACCESS_KEY_ID", "HTTPS_PROXY"} & variables.keys()
    assert variables["HOME"] == str(tmp_path / "tmp")


def test_profile_reaches_the_cloud(cloud: Cloud):
    aws = cloud.server.home / "aws"
    config = configparser.ConfigParser()
    config.read(aws / "config")
    assert config["profile ebb"]["endpoint_url"] == cloud.server.endpoint_url
    program = "import boto3; print(boto3.Session(profile_name='ebb').client('sts').get_caller_identity()['Account'])"
    variables = {
        "AWS_CONFIG_FILE": str(aws / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(aws / "credentials"),
        "PATH": os.environ["PATH"],
    }
    printed = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == cloud.server.account_id


def test_two_clouds_that_start_at_once_each_have_a_port(tmp_path: Path):
    """Both want the same one; each takes what it gets, and says which that is."""
    homes = [tmp_path / "one", tmp_path / "two"]
    try:
        with ThreadPoolExecutor(2) as both:
            started = list(both.map(lifecycle.start, homes))
        assert len({each.port for each in started}) == 2
        for server_, home in zip(started, homes, strict=True):
            assert lifecycle.running(home) == server_
            assert (server_.home, server_.endpoint_url) == (home, f"http://127.0.0.1:{server_.port}")
    finally:
        assert [lifecycle.stop(home) for home in homes] == [[], []]


def test_the_server_takes_its_port_before_anybody_else_can(monkeypatch):
    monkeypatch.setattr(server, "PREFERRED_PORT", free_port())
    with server.listen() as first, server.listen() as second:
        assert first.getsockname() == ("127.0.0.1", server.PREFERRED_PORT)
        assert second.getsockname()[1] not in (0, server.PREFERRED_PORT)
        with pytest.raises(SystemExit, match=f"{server.PREFERRED_PORT} cannot be had: Address already in use"):
            server.listen(server.PREFERRED_PORT)


def test_a_port_that_is_asked_for_and_taken_is_told(home: Path):
    with server.listen(free_port()) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(lifecycle.LifecycleError, match=f"127.0.0.1:{port} cannot be had"):
            lifecycle.start(home, port)
    assert lifecycle.running(home) is None


def test_starting_twice_is_one_server(cloud: Cloud):
    assert lifecycle.start(cloud.server.home) == cloud.server
    assert lifecycle.running(cloud.server.home) == cloud.server


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(signal.SIGTERM, id="stopped"),
        pytest.param(signal.SIGKILL, id="killed after a periodic save"),
    ],
)
def test_restart_restores_the_state_and_continues_runs(home: Path, ending: signal.Signals):
    first = Cloud(lifecycle.start(home, free_port()))
    first.client("s3").create_bucket(Bucket="kept")
    first.client("s3").put_object(Bucket="kept", Key="a", Body=b"bytes")
    role = first.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]["Arn"]
    states = first.client("stepfunctions")
    machine = states.create_state_machine(name="m", definition=json.dumps(DEFINITION), roleArn=role)["stateMachineArn"]
    states.start_execution(stateMachineArn=machine, name="run-1-a1", input='{"run_id": "run-1", "attempt": 1}')
    states.start_execution(stateMachineArn=machine, name="plain", input='{"attempt": 1}')
    if ending == signal.SIGKILL:
        saved = home / "state" / "stepfunctions.json"
        wait_until(lambda: saved.exists() and "plain" in saved.read_text(), timeout_s=30)
        os.kill(first.server.pid, signal.SIGKILL)
        wait_until(lambda: lifecycle.running(home) is None)
    else:
        assert lifecycle.stop(home) == []

    second = Cloud(lifecycle.start(home, free_port()))
    assert second.client("s3").get_object(Bucket="kept", Key="a")["Body"].read() == b"bytes"

    def statuses() -> dict[str, str]:
        listed = second.client("stepfunctions").list_executions(stateMachineArn=machine)["executions"]
        return {execution["name"]: execution["status"] for execution in listed}

    wait_until(lambda: statuses().get("run-1-a2") == "SUCCEEDED")
    assert statuses() == {"run-1-a1": "FAILED", "run-1-a2": "SUCCEEDED", "plain": "FAILED"}
    assert lifecycle.stop(home) == []
    third = Cloud(lifecycle.start(home, free_port()))
    time.sleep(1)
    names = third.client("stepfunctions").list_executions(stateMachineArn=machine)["executions"]
    assert len(names) == 3, "what was started again stays as it is"


@pytest.mark.parametrize("killed", [False, True], ids=["of a server that is well", "of a server that was killed"])
def test_stop_ends_every_child(home: Path, killed: bool):
    running = Cloud(lifecycle.start(home, free_port()))
    trust = json.dumps(TRUST).replace("states.", "lambda.")
    role = running.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("code.py", "import time\ndef handler(event, context): time.sleep(event['seconds'])")
    call = running.client("lambda")
    call.create_function(
        FunctionName="f",
        Role=role,
        Runtime="python3.13",
        Handler="code.handler",
        Timeout=60,
        Code={"ZipFile": packed.getvalue()},
    )
    wait_until(lambda: call.invoke(FunctionName="f", Payload='{"seconds": 0}')["StatusCode"] == 200)
    children = process_table.family(running.server.pid)
    assert children, "a warm worker"
    parents = {entry.pid: entry.parent for entry in process_table.entries()}
    at_work = {pid for pid in children if parents[pid] in children} or children  # the other one is who forked it
    if killed:  # a worker at work does not see that its server is gone
        call.invoke(FunctionName="f", Payload='{"seconds": 50}', InvocationType="Event")
        time.sleep(1)
        os.kill(running.server.pid, signal.SIGKILL)
        wait_until(lambda: lifecycle.running(home) is None)
        wait_until(lambda: not any(process_table.alive(pid) for pid in children - at_work))
    assert set(lifecycle.stop(home)) == (at_work if killed else set())
    for pid in {running.server.pid, *children}:
        wait_until(lambda pid=pid: not process_table.alive(pid))
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", running.server.port))
