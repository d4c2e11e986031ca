"""Functions: error names, their own interpreter, idle workers, asynchronous failures, event sources."""

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import botocore.exceptions
import pytest
from ministack.core import lambda_runtime
from ministack.services import sts

from contract.support import allow, messages, queue_arn, task, wait_until
from ebb_local import settings
from ebb_local.gaps import lambda_errors, lambda_starts, lambda_workers, sessions

FAILING = """
    class InvalidSpecError(Exception):
        pass

    def handler(event, context):
        raise InvalidSpecError("no such column")
"""
INVOKE = "arn:aws:states:::lambda:invoke"


def test_worker_script_still_has_the_reply_that_is_completed():
    assert lambda_runtime._PYTHON_WORKER_SCRIPT.count(lambda_errors._ERROR_REPLY) == 1


def test_exception_is_reported_by_its_name(cloud, function):
    reply = cloud.client("lambda").invoke(FunctionName=function(FAILING), Payload=b"{}")
    document = json.loads(reply["Payload"].read())
    assert reply["FunctionError"] == "Unhandled"
    assert document["errorType"] == "InvalidSpecError"
    assert document["errorMessage"] == "no such column"
    assert any("raise InvalidSpecError" in line for line in document["stackTrace"])


def test_state_machine_catches_exception_by_its_name(function, machine):
    arn = function(FAILING)
    catch = [{"ErrorEquals": ["InvalidSpecError"], "Next": "Rejected", "Output": "{% $states.errorOutput %}"}]
    rejected = {"Type": "Pass", "End": True, "Output": "{% $parse($states.input.Cause).errorMessage %}"}
    states = {"Ask": task(INVOKE, {"FunctionName": arn}, Catch=catch), "Rejected": rejected}
    assert machine(states, allow("lambda:InvokeFunction", arn)).run()["output"] == "no such column"


def test_functions_run_on_the_lambda_environment(cloud, function):
    arn = function("""
        import importlib.util, os, sys
        def handler(event, context):
            return {"python": sys.executable, "found": bool(importlib.util.find_spec("ministack")),
                    "home": os.environ["HOME"], "kept": "DOCKER_HOST" in os.environ}
    """)
    answer = json.loads(cloud.client("lambda").invoke(FunctionName=arn)["Payload"].read())
    assert answer["python"] == str(settings.environment_python("lambda"))
    assert not answer["found"], "what only the server has installed must be missing in a function"
    assert str(cloud.server.home) in answer["home"], "the user's ~/.aws must not be readable"


def test_idle_workers_beyond_the_limit_end(cloud, function):
    for _ in range(lambda_workers.KEPT_IDLE_WORKERS + 2):
        cloud.client("lambda").invoke(FunctionName=function("def handler(event, context): return 1"))

    def workers() -> int:
        return sum(cloud.control("Status")["LambdaWorkers"].values())

    wait_until(lambda: workers() <= lambda_workers.KEPT_IDLE_WORKERS)
    assert workers() > 0, "some stay warm"


@pytest.mark.parametrize(
    ("count", "idle_s", "ended"),
    [
        pytest.param(20, 1, 0, id="ten callers and their deliveries look every few seconds"),
        pytest.param(20, 11, 12, id="the burst is over"),
        pytest.param(40, 1, 8, id="a burst has its bounds too"),
        pytest.param(8, 11, 0, id="some stay warm"),
        pytest.param(8, 121, 8, id="for two minutes"),
    ],
)
def test_a_burst_keeps_its_workers_while_it_goes_on(monkeypatch, count, idle_s, ended):
    workers = [lambda_runtime.Worker("f", {}, b"") for _ in range(count)]
    for worker in workers:
        worker.last_used = lambda_runtime.time.time() - idle_s
    busy = lambda_runtime.Worker("f", {}, b"")
    busy.in_use, busy.last_used = True, 0.0
    monkeypatch.setattr(lambda_runtime, "_workers", {"f": [busy, *workers]})
    assert lambda_workers.reap() == ended
    assert len(lambda_runtime._workers["f"]) == 1 + count - ended


def test_a_worker_sees_what_its_own_function_sees_and_nothing_of_another(cloud, function):
    source = """
        import os, sys
        sys.modules["left_behind"] = sys.modules.get("left_behind") or os.environ["NAME"]
        def handler(event, context):
            return {"name": os.environ["NAME"], "left": sys.modules["left_behind"], "pid": os.getpid(),
                    "folder": os.getcwd(), "root": os.environ["LAMBDA_TASK_ROOT"], "parent": os.getppid()}
    """

    def ask(arn: str) -> dict:
        return json.loads(cloud.client("lambda").invoke(FunctionName=arn)["Payload"].read())

    arns = [function(source, Environment={"Variables": {"NAME": name}}) for name in ("one", "two")]
    answers = [ask(arn) for arn in arns]
    assert [answer["name"] for answer in answers] == [answer["left"] for answer in answers] == ["one", "two"]
    assert len({answer["pid"] for answer in answers}) == 2, "each is a process of its own"
    assert all(answer["folder"] == answer["root"] for answer in answers)
    if lambda_starts.CAN_FORK:
        assert len({answer["parent"] for answer in answers} - {cloud.server.pid}) == 1, "both were forked"
    assert ask(arns[0])["pid"] == answers[0]["pid"], "the second call finds it warm"


@pytest.mark.parametrize(
    ("more", "files"),
    [
        pytest.param({"Environment": {"Variables": {"PYTHONUTF8": "1"}}}, {}, id="its own PYTHON variables"),
        pytest.param({}, {"boto3.py": "OWN = True"}, id="its own copy of what others import before it"),
    ],
)
def test_a_function_that_a_fork_would_serve_otherwise_starts_from_nothing(cloud, function, more, files):
    arn = function(
        """
        import os, sys
        def handler(event, context):
            import boto3
            return {"parent": os.getppid(), "own": getattr(boto3, "OWN", False)}
        """
        if files
        else """
        import os, sys
        def handler(event, context):
            return {"parent": os.getppid(), "own": sys.flags.utf8_mode == 1}
        """,
        files=files,
        **more,
    )
    answer = json.loads(cloud.client("lambda").invoke(FunctionName=arn)["Payload"].read())
    assert answer == {"parent": cloud.server.pid, "own": True}


def test_a_worker_that_ends_by_itself_is_followed_by_another(cloud, function):
    arn = function("""
        import os
        def handler(event, context):
            if event.get("end"):
                os._exit(3)
            return os.getpid()
    """)

    def ask(event: dict) -> dict:
        return cloud.client("lambda").invoke(FunctionName=arn, Payload=json.dumps(event).encode())

    before = json.loads(ask({})["Payload"].read())
    assert ask({"end": True})["FunctionError"] == "Unhandled"
    assert json.loads(ask({})["Payload"].read()) != before


def test_a_function_that_cannot_be_imported_says_why(cloud, function):
    reply = cloud.client("lambda").invoke(FunctionName=function("import ministack"))
    assert reply["FunctionError"] == "Unhandled"
    assert "No module named 'ministack'" in json.loads(reply["Payload"].read())["errorMessage"]


def test_a_worker_that_does_not_start_fails_its_own_call_and_no_other(cloud, function):
    """Its folder cannot be made: that is Lambda's own fault, and the worker that is busy goes on."""
    arn = function("""
        import time
        def handler(event, context):
            time.sleep(event.get("for_s", 0))
            return "done"
    """)
    scratch = cloud.server.home / "tmp"

    def ask(event: dict) -> tuple[str, str]:
        reply = cloud.client("lambda").invoke(FunctionName=arn, Payload=json.dumps(event).encode())
        return reply.get("FunctionError", ""), reply["Payload"].read().decode()

    ask({})
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(ask, {"for_s": 2})
        wait_until(lambda: any("function" in each for each in cloud.control("Status")["AtWork"]))
        elsewhere = scratch.rename(scratch.with_name("elsewhere"))
        try:
            failed, told = ask({})
        finally:
            elsewhere.rename(scratch)
        assert (failed, json.loads(told)["errorType"]) == ("Unhandled", lambda_errors.SERVICE_FAULT)
        assert busy.result() == ("", '"done"')
    assert ask({}) == ("", '"done"')


def test_a_worker_that_never_becomes_ready_is_ended(monkeypatch):
    monkeypatch.setattr(lambda_starts, "_READY_S", 0.2)
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    worker = lambda_runtime.Worker("stuck", {"FunctionName": "stuck", "Handler": "index.handler"}, b"")
    worker._proc = subprocess.Popen(["sleep", "60"], text=True, **pipes)
    with pytest.raises(TimeoutError, match="was not ready within"):
        lambda_starts._initialise(worker, Path("code"), {})
    assert worker._proc.wait(5) < 0


def test_sessions_are_issued_while_others_are_looked_through(monkeypatch):
    class Meddling(dict):
        """A session that is looked at while another thread issues one."""

        def get(self, *given):
            sts._sessions["meanwhile"] = {}
            return super().get(*given)

    monkeypatch.setattr(sts, "_sessions", {"expired": Meddling(Expiration=1.0), "lasting": {}})
    with pytest.raises(RuntimeError, match="changed size"):  # else the gap is closed and its module can go
        sts._evict_expired_sessions()
    sts._sessions.pop("meanwhile")
    sessions.forget_expired()
    assert set(sts._sessions) == {"lasting", "meanwhile"}


def test_asynchronous_failure_is_retried_and_becomes_a_dead_letter(cloud, function, queue):
    arn = function(
        FAILING,
        allow("sqs:SendMessage", queue_arn(cloud, queue)),
        DeadLetterConfig={"TargetArn": queue_arn(cloud, queue)},
    )
    cloud.client("lambda").invoke(FunctionName=arn, InvocationType="Event", Payload=b'{"drop": 1}')
    letters = messages(cloud, queue)
    assert json.loads(letters[0]["Body"]) == {"drop": 1}
    assert letters[0]["MessageAttributes"]["ErrorMessage"]["StringValue"] == "no such column"


def test_dead_letter_needs_the_permission_of_the_function(cloud, function, queue):
    arn = function(FAILING, DeadLetterConfig={"TargetArn": queue_arn(cloud, queue)})
    cloud.client("lambda").invoke(FunctionName=arn, InvocationType="Event", Payload=b"{}")
    wait_until(lambda: cloud.calls(action="sqs:SendMessage", resource=queue_arn(cloud, queue), decision="ImplicitDeny"))
    assert messages(cloud, queue, timeout_s=1) == []


def test_event_source_needs_the_permissions_of_the_function(cloud, function, queue):
    reading = allow(["sqs:ReceiveMessage", "sqs:DeleteMessage"], queue_arn(cloud, queue))
    arn = function("def handler(event, context): return 1", reading)
    with pytest.raises(botocore.exceptions.ClientError, match="GetQueueAttributes on SQS"):
        cloud.client("lambda").create_event_source_mapping(FunctionName=arn, EventSourceArn=queue_arn(cloud, queue))


def test_event_source_delivers_when_allowed(cloud, function, queue):
    source = queue_arn(cloud, queue)
    arn = function(
        "def handler(event, context): return 1",
        allow(["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"], source),
    )
    cloud.client("lambda").create_event_source_mapping(FunctionName=arn, EventSourceArn=source)
    cloud.client("sqs").send_message(QueueUrl=queue, MessageBody="one")

    def left() -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = cloud.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
        return sum(int(count) for count in counts.values())

    wait_until(lambda: left() == 0)
    assert cloud.calls(action="sqs:ReceiveMessage", resource=source, decision="Allow")


def test_what_an_event_source_was_throttled_for_is_delivered_as_soon_as_there_is_room(cloud, function, queue):
    """Not when the visibility timeout of the queue is over, minutes later."""
    source, sqs, functions = queue_arn(cloud, queue), cloud.client("sqs"), cloud.client("lambda")
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "600"})
    arn = function(
        """
        import time
        def handler(event, context): time.sleep(event.get("for_s", 0))
        """,
        allow(["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"], source),
    )
    functions.put_function_concurrency(FunctionName=arn, ReservedConcurrentExecutions=1)
    functions.create_event_source_mapping(FunctionName=arn, EventSourceArn=source)
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(lambda: functions.invoke(FunctionName=arn, Payload=b'{"for_s": 2}'))
        wait_until(lambda: any("function" in each for each in cloud.control("Status")["AtWork"]))
        began = time.monotonic()
        sqs.send_message(QueueUrl=queue, MessageBody="one")
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]

        def left() -> int:
            counts = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
            return sum(int(count) for count in counts.values())

        wait_until(lambda: left() == 0)
        assert time.monotonic() - began > 0.5, "it was throttled first"
        assert "FunctionError" not in busy.result()


def test_log_is_written_as_the_role_of_the_function(cloud, function):
    group = "/aws/lambda/logging"
    cloud.client("logs").create_log_group(logGroupName=group)
    source = "def handler(event, context): print('hello')"
    writing = ["logs:CreateLogStream", "logs:PutLogEvents"]
    streams = f"*{group}:log-stream:"
    for permissions, lines in (
        ([], 0),
        ([allow(writing[0], streams), allow(writing[1], f"{streams}*")], 0),  # a stream has a name
        ([allow(writing, f"{streams}*/[$LATEST]*")], 1),
    ):
        arn = function(source, *permissions, LoggingConfig={"LogGroup": group})
        cloud.client("lambda").invoke(FunctionName=arn)
        events = cloud.client("logs").filter_log_events(logGroupName=group, filterPattern="hello")["events"]
        assert len(events) == lines
