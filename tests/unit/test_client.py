"""The client against a server that plays the front door and SageMaker: what a boto3 caller sees, awake or asleep."""

import io
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from ebb import client, door

HOST = "abcdefghijklmnopqrstuvwxyz012345.lambda-url.eu-central-1.on.aws"
AWAKE = {"address": "ebb-pets", "kind": "realtime", "state": "awake", "endpoint_name": "ebb-pets--realtime"}
AWAKE |= {"component": "ebb-pets--g1", "variant": "AllTraffic"}
ASLEEP = AWAKE | {"state": "asleep"}
TICKET = {"ticket": "ebb-pets/t1", "state": "waking", "reason": "no call in 15 min", "deadline": "2026-11-23T13:00:00Z"}
NO_CAPACITY = "Inference Component has no capacity to process this request."
Answer = tuple[int, dict[str, str], bytes]


def told(status: int, document: dict[str, Any], **headers: str) -> Answer:
    return status, {"content-type": "application/json", **headers}, json.dumps(document).encode()


def answered(body: bytes, content_type: str = "text/csv") -> Answer:
    return 200, {"content-type": content_type, "x-amzn-invoked-production-variant": "AllTraffic"}, body


def refused(code: str, message: str, status: int = 400, **more: Any) -> Answer:
    return told(status, {"Message": message, **more}, **{"x-amzn-ErrorType": code})


class Cloud:
    """A server; `plan` holds what each route answers, in order, the last one again and again."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.plan: dict[str, list[Answer | Callable[[], Answer]]] = {}
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                what = "direct" if self.path.startswith("/endpoints/") else self.path.split("?")[0]
                cloud.seen.append((self.command, what, headers, body))
                planned = cloud.plan[what]
                found = planned.pop(0) if len(planned) > 1 else planned[0]
                if callable(found):
                    self.close_connection = True
                    return
                status, more, answer = found
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = _serve

            def log_message(self, *_: Any) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def count(self, what: str) -> int:
        return sum(each[1] == what for each in self.seen)

    def last(self, what: str) -> tuple[str, str, dict[str, str], bytes]:
        return [each for each in self.seen if each[1] == what][-1]


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    found = Cloud()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def runtime(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> client.Client:
    monkeypatch.setattr(client.time, "sleep", lambda _: None)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("EBB_FRONT_DOOR", raising=False)
    session = boto3.Session("test", "test", region_name="eu-central-1")
    return client.Client(front_door=f"https://{HOST}/", session=session, endpoint_url=cloud.url)


LOOK, ASK, UPLOAD, FETCH = "/addresses/pets", "/addresses/ebb-pets/invocations", "/addresses/ebb-pets/uploads", "/s3"
WAITING = "/tickets/ebb-pets/t1"


def ask(runtime: client.Client, body: Any = b"1,2", **more: Any) -> dict[str, Any]:
    return runtime.invoke_endpoint(EndpointName="pets", Body=body, ContentType="text/csv", Accept="text/csv", **more)


def test_what_is_awake_is_asked_directly_after_one_look(cloud: Cloud, runtime: client.Client):
    cloud.plan = {LOOK: [told(200, AWAKE)], "direct": [answered(b"cat")]}
    for _ in range(3):
        found = ask(runtime)
        assert found["Body"].read() == b"cat"
        assert (found["ContentType"], found["InvokedProductionVariant"]) == ("text/csv", "AllTraffic")
    assert (cloud.count(LOOK), cloud.count("direct")) == (1, 3)
    assert cloud.last("direct")[2]["x-amzn-sagemaker-inference-component"] == "ebb-pets--g1"


def test_what_sleeps_is_asked_through_the_front_door_and_answers_as_boto3_does(cloud: Cloud, runtime: client.Client):
    cloud.plan = {LOOK: [told(200, ASLEEP)], ASK: [told(202, TICKET)]}
    cloud.plan[WAITING] = [told(202, TICKET), answered(b"\x00\xff", "image/png")]
    found = ask(runtime, CustomAttributes="a=b")
    assert found["Body"].read() == b"\x00\xff"
    assert (found["ContentType"], found["InvokedProductionVariant"]) == ("image/png", "AllTraffic")
    assert found["ResponseMetadata"]["HTTPStatusCode"] == 200
    _, _, headers, body = cloud.last(ASK)
    assert body == b"1,2"
    assert headers["content-type"] == "application/octet-stream", "the one type that Lambda leaves as it is"
    assert headers["x-ebb-content-type"] == headers["x-ebb-accept"] == "text/csv"
    assert headers["x-amzn-sagemaker-custom-attributes"] == "a=b"
    assert headers["host"] == HOST
    assert "/eu-central-1/lambda/aws4_request" in headers["authorization"]
    assert cloud.count("direct") == 0


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(refused("ValidationError", NO_CAPACITY), id="it sleeps by now"),
        pytest.param(refused("ValidationError", "Endpoint a of account 1 not found."), id="another kind by now"),
        pytest.param(refused("AccessDeniedException", "not authorized", 403), id="not allowed to ask it directly"),
    ],
)
def test_who_is_not_answered_directly_goes_to_the_front_door(cloud: Cloud, runtime: client.Client, refusal: Answer):
    cloud.plan = {LOOK: [told(200, AWAKE)], "direct": [refusal], ASK: [answered(b"cat")]}
    assert ask(runtime)["Body"].read() == b"cat"
    assert (cloud.count("direct"), cloud.count(ASK)) == (1, 1)


def test_who_may_not_ask_directly_does_not_try_again(cloud: Cloud, runtime: client.Client):
    denied = refused("AccessDeniedException", "not authorized", 403)
    cloud.plan = {LOOK: [told(200, AWAKE)], "direct": [denied], ASK: [answered(b"cat")]}
    for _ in range(3):
        ask(runtime)
    assert (cloud.count("direct"), cloud.count(ASK)) == (1, 3)


@pytest.mark.parametrize("asleep", [False, True])
def test_a_model_error_is_boto3s_own_exception_with_the_models_words(
    cloud: Cloud, runtime: client.Client, asleep: bool
):
    said = {"OriginalStatusCode": 415, "OriginalMessage": "no such type", "LogStreamArn": "arn:l"}
    cloud.plan = {LOOK: [told(200, ASLEEP if asleep else AWAKE)]}
    cloud.plan["direct"] = [refused("ModelError", "Received 415", 424, **said)]
    cloud.plan[ASK] = [told(424, {"code": "ModelError", "message": "Received 415", "remedy": "", **said})]
    with pytest.raises(runtime.exceptions.ModelError) as problem:
        ask(runtime)
    assert problem.value.response["Error"]["Code"] == "ModelError"
    assert problem.value.response["Error"]["Message"] == "Received 415"
    assert {name: problem.value.response[name] for name in said} == said
    assert problem.value.operation_name == "InvokeEndpoint"


def test_a_name_that_ebb_does_not_know_is_sagemakers_own_affair(cloud: Cloud, runtime: client.Client):
    cloud.plan = {LOOK: [told(404, {"code": "unknown-address", "message": "?", "remedy": "?"})]}
    cloud.plan["direct"] = [answered(b"cat"), refused("ValidationError", "Endpoint pets of account 1 not found.")]
    assert ask(runtime)["Body"].read() == b"cat"
    with pytest.raises(ClientError, match="ValidationError"):
        ask(runtime)


def test_who_waits_no_longer_has_a_ticket(cloud: Cloud, runtime: client.Client):
    cloud.plan = {LOOK: [told(200, ASLEEP)], ASK: [told(202, TICKET)], WAITING: [told(202, TICKET)]}
    with pytest.raises(client.StillWaiting) as waiting:
        ask(runtime, wait_s=0)
    assert waiting.value.ticket.name == "ebb-pets/t1"
    assert waiting.value.ticket.told["reason"] == "no call in 15 min"
    assert isinstance(waiting.value, ClientError), "who catches boto3's errors catches this one"
    cloud.plan[WAITING] = [answered(b"cat")]
    assert runtime.ticket("ebb-pets/t1").answer(0)["Body"].read() == b"cat"


def test_the_last_look_is_made_when_the_time_is_over_however_slow_the_one_before(cloud: Cloud, runtime: client.Client):
    cloud.plan = {WAITING: [told(202, TICKET), answered(b"cat")]}
    slowly = lambda _: threading.Event().wait(0.1)  # noqa: E731
    assert runtime.ticket("ebb-pets/t1").answer(0.05, on_wait=slowly)["Body"].read() == b"cat"


def test_a_ticket_tells_whoever_waits_where_it_stands(cloud: Cloud, runtime: client.Client):
    cloud.plan = {LOOK: [told(200, ASLEEP)], ASK: [told(202, TICKET)]}
    cloud.plan[WAITING] = [told(202, TICKET), told(202, TICKET | {"state": "queued"}), answered(b"cat")]
    ticket = runtime.invoke_endpoint_later(EndpointName="pets", Body=b"1")
    states: list[str] = []
    assert ticket.answer(on_wait=lambda now: states.append(now["state"]))["Body"].read() == b"cat"
    assert states == ["waking", "queued"]


def test_a_ticket_that_was_answered_at_once_has_its_answer(cloud: Cloud, runtime: client.Client):
    cloud.plan = {LOOK: [told(200, AWAKE)], ASK: [answered(b"cat")]}
    ticket = runtime.invoke_endpoint_later(EndpointName="pets", Body=b"1")
    assert ticket.answer(0)["Body"].read() == b"cat"


def test_a_ticket_that_expired_says_why(cloud: Cloud, runtime: client.Client):
    expired = {"code": "expired", "message": "no capacity for ml.m5.large", "remedy": "Send it again."}
    cloud.plan = {LOOK: [told(200, ASLEEP)], ASK: [told(202, TICKET)], WAITING: [told(504, expired)]}
    with pytest.raises(ClientError) as problem:
        ask(runtime)
    assert problem.value.response["Error"] == {
        "Code": "expired",
        "Message": "no capacity for ml.m5.large. Send it again.",
    }
    assert problem.value.response["Remedy"] == "Send it again."


def test_what_got_lost_on_the_way_is_sent_again_as_the_same_request(cloud: Cloud, runtime: client.Client):
    dropped: Callable[[], Answer] = lambda: answered(b"")  # noqa: E731 - the server hangs up instead
    broken = told(500, {"code": "internal", "message": "?", "remedy": "?"})
    cloud.plan = {LOOK: [told(200, ASLEEP)], ASK: [dropped, broken, answered(b"cat")]}
    assert ask(runtime)["Body"].read() == b"cat"
    numbers = {headers["x-ebb-request-id"] for _, what, headers, _ in cloud.seen if what == ASK}
    assert (cloud.count(ASK), len(numbers)) == (3, 1)


def test_a_large_payload_is_uploaded_and_a_large_answer_fetched(cloud: Cloud, runtime: client.Client):
    large = bytes(client.INLINE_BYTES + 1)
    where = {"upload": "u", "method": "PUT", "url": f"{cloud.url}/s3", "headers": {"content-type": "text/csv"}}
    fetch = told(303, {"url": f"{cloud.url}/s3"}, **{"x-ebb-content-type": "image/png"})
    cloud.plan = {LOOK: [told(200, ASLEEP)], UPLOAD: [told(200, where)], ASK: [fetch]}
    cloud.plan[FETCH] = [(200, {}, b""), (200, {"content-type": "binary/octet-stream"}, large)]
    found = ask(runtime, io.BytesIO(large))
    assert found["Body"].read() == large
    assert found["ContentType"] == "image/png"
    put = next(each for each in cloud.seen if each[:2] == ("PUT", FETCH))
    assert (put[3], put[2]["content-type"]) == (large, "text/csv")
    assert "authorization" not in put[2], "the URL itself is the permission"
    _, _, headers, body = cloud.last(ASK)
    assert (body, headers["x-ebb-upload"]) == (b"", headers["x-ebb-request-id"])


def test_an_asynchronous_endpoint_that_is_awake_is_waited_for_a_moment(cloud: Cloud, runtime: client.Client):
    cloud.plan = {LOOK: [told(200, AWAKE | {"kind": "async"})], ASK: [answered(b"cat")]}
    ask(runtime)
    assert cloud.last(ASK)[2]["x-ebb-wait-s"] == "3"
    ask(runtime, wait_s=1)
    assert cloud.last(ASK)[2]["x-ebb-wait-s"] == "1"


def test_who_may_not_use_the_front_door_is_told_what_it_takes(cloud: Cloud, runtime: client.Client):
    cloud.plan = {LOOK: [told(403, {"Message": "Forbidden"})]}
    with pytest.raises(ClientError, match="InvokeFunctionUrl") as problem:
        ask(runtime)
    assert problem.value.response["Error"]["Code"] == "AccessDeniedException"


@pytest.mark.parametrize("body", [b"1,2", "1,2", bytearray(b"1,2"), io.BytesIO(b"1,2")])
def test_whatever_boto3_takes_as_a_body_is_taken(cloud: Cloud, runtime: client.Client, body: Any):
    cloud.plan = {LOOK: [told(200, ASLEEP)], ASK: [answered(b"cat")]}
    ask(runtime, body)
    assert cloud.last(ASK)[3] == b"1,2"


def test_everything_else_is_boto3s_client(runtime: client.Client):
    assert runtime.meta.service_model.service_name == "sagemaker-runtime"
    assert runtime.can_paginate("invoke_endpoint") is False


def test_without_a_front_door_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("EBB_FRONT_DOOR", raising=False)
    found = client.Client("mine", session=boto3.Session("test", "test", region_name="eu-central-1"))
    stacks = {"Stacks": [{"Outputs": [{"OutputKey": "Other", "OutputValue": "x"}]}]}

    class Formation:
        def describe_stacks(self, **asked: str) -> dict[str, Any]:
            assert asked == {"StackName": "mine"}
            return stacks

    monkeypatch.setattr(found, "_client", lambda _: Formation())
    with pytest.raises(client.FrontDoorNotFoundError, match="mine"):
        found.invoke_endpoint(EndpointName="pets")
    stacks["Stacks"][0]["Outputs"].append({"OutputKey": "FrontDoorUrl", "OutputValue": f"https://{HOST}/"})
    assert found._front_door == f"https://{HOST}"


def test_on_aws_the_front_door_is_where_its_name_says(monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_LAMBDA", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    session = boto3.Session("test", "test", region_name="eu-central-1")
    found = client.Client(front_door=f"https://{HOST}", session=session)
    assert found._instead is None
    assert found._signed("GET", "/addresses/pets", b"", {}).url == f"https://{HOST}/addresses/pets"


def test_it_means_by_asleep_what_the_front_door_means():
    assert client._NOBODY_THERE == door._NOBODY_THERE
    assert client._BUSY < door._BUSY
    assert client.INLINE_BYTES == door.INLINE_BYTES
    assert {header: name for name, header in client._HEADERS.items()} == door.PARAMETERS


def test_the_file_works_alone(tmp_path: Path):
    shutil.copy(client.__file__, tmp_path / "ebb_client.py")
    code = (
        "import sys; sys.path.insert(0, '.'); import ebb_client; print([n for n in sys.modules if n.startswith('ebb')])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['ebb_client']", done.stderr
