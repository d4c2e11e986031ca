"""The front door and the delivery on moto: every race between a request and its endpoint, and none is lost in any.

SageMaker is played by `Endpoints`: what answers, what has no capacity, what is gone.
"""

import base64
import io
import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

import deliver_request
import front_door
from ebb import addresses, door, tickets
from ebb.addresses import Address, IdlePolicy
from ebb.aws import executions, inference
from ebb.aws.ledger import Ledger
from ebb.aws.tickets import Queue
from worked_run import ARTIFACTS, LEDGER, STACK

from .conftest import made

PETS = Address(address="ebb-pets", project="pets", kind="realtime", endpoint_name="ebb-pets--realtime")
PETS = PETS.model_copy(update={"component": "ebb-pets--g1", "policy": IdlePolicy(queue_for_s=600)})
ASYNC = PETS.model_copy(update={"kind": "async", "endpoint_name": "ebb-pets--async", "component": None})
NO_CAPACITY = "Inference Component has no capacity to process this request."


def refusal(code: str, message: str = "", status: int = 400, **more: Any) -> ClientError:
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}, **more}
    return ClientError(answer, "InvokeEndpoint")


class Endpoints:
    """What is behind the endpoints' names; each entry answers a payload, or raises."""

    def __init__(self) -> None:
        self.behind: dict[str, Callable[[bytes], bytes]] = {}
        self.asked: list[dict[str, Any]] = []
        self.handed: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def invoke_endpoint(self, **request: Any) -> dict[str, Any]:
        with self._lock:
            self.asked.append(request)
        name = request["EndpointName"]
        if name not in self.behind:
            raise refusal("ValidationError", f"Endpoint {name} of account 123456789012 not found.")
        body = self.behind[name](request["Body"])
        return {"Body": io.BytesIO(body), "ContentType": "image/x-any", "InvokedProductionVariant": "AllTraffic"}

    def invoke_endpoint_async(self, **request: Any) -> dict[str, Any]:
        if request["EndpointName"] not in self.behind:
            raise refusal("ValidationError", f"Endpoint {request['EndpointName']} of account 1 not found.")
        self.handed.append(request)
        number = len(self.handed)
        where = f"s3://{ARTIFACTS}/answers/ebb-pets/{number}"
        return {"InferenceId": str(number), "OutputLocation": f"{where}.out", "FailureLocation": f"{where}-error.out"}


class Street:
    """The front door, the queue behind it and the endpoints, with what callers and AWS do to them."""

    def __init__(self, account: Any, context: Any, endpoints: Endpoints) -> None:
        self.account, self.context, self.endpoints = account, context, endpoints
        self.sqs = made("sqs")
        self.book = Ledger(LEDGER)
        self.later: list[int] = []

    def serve(self, address: Address, *states: str) -> None:
        """Deploy an address, and lead it through the states up to the last one."""
        self.book.apply(addresses.put(address, now=datetime.now(UTC)))
        for state in states:
            self.change(address.address, state)

    def change(self, name: str, to: str, ago: timedelta = timedelta(0), **fields: Any) -> None:
        found, moment = self.book.address(name), datetime.now(UTC) - ago
        request = addresses.change(
            name, expected=found.state, generation=found.generation, to=to, now=moment, fields=fields
        )
        assert self.book.apply(request)

    def event(self, method: str, path: str, body: bytes, age: timedelta, headers: dict[str, str]) -> dict[str, Any]:
        moment = datetime.now(UTC) - age
        return {
            "rawPath": path,
            "headers": {"x-ebb-wait-s": "0", "x-ebb-content-type": "image/x-any", **headers},
            "requestContext": {
                "http": {"method": method},
                "requestId": str(uuid.uuid4()),
                "timeEpoch": int(moment.timestamp() * 1000),
            },
            "body": base64.b64encode(body).decode(),
            "isBase64Encoded": True,
        }

    def ask(
        self,
        body: bytes = b"?",
        to: str = "ebb-pets",
        *,
        age: timedelta = timedelta(0),
        what: str = "invocations",
        **more,
    ) -> SimpleNamespace:
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        return self._answer(self.event("POST", f"/addresses/{to}/{what}", body, age, headers))

    def look(self, path: str, *, age: timedelta = timedelta(0)) -> SimpleNamespace:
        return self._answer(self.event("GET", path, b"", age, {}))

    def _answer(self, event: dict[str, Any]) -> SimpleNamespace:
        answer = front_door.handler(event, self.context)
        body = base64.b64decode(answer["body"])
        told = json.loads(body) if answer["headers"]["content-type"] == "application/json" else None
        return SimpleNamespace(status=answer["statusCode"], headers=answer["headers"], body=body, told=told)

    def deliver(self, rounds: int = 1) -> int:
        """Do what Lambda's event source does, `rounds` times; return how many messages are left."""
        url = self.url("requests")
        for _ in range(rounds):
            found = self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
            records = [
                {"messageId": each["MessageId"], "receiptHandle": each["ReceiptHandle"], "body": each["Body"]}
                for each in found
            ]
            answer = deliver_request.handler({"Records": records}, self.context)
            failed = {each["itemIdentifier"] for each in answer["batchItemFailures"]}
            for record in records:
                if record["messageId"] in failed:  # its pause is over at once
                    again = {"QueueUrl": url, "ReceiptHandle": record["receiptHandle"], "VisibilityTimeout": 0}
                    self.sqs.change_message_visibility(**again)
                else:
                    self.sqs.delete_message(QueueUrl=url, ReceiptHandle=record["receiptHandle"])
        counted = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
        return int(counted["Attributes"]["ApproximateNumberOfMessages"])

    def url(self, name: str) -> str:
        return self.sqs.get_queue_url(QueueName=name)["QueueUrl"]

    def dead_letters(self) -> list[dict[str, Any]]:
        found = self.sqs.receive_message(QueueUrl=self.url("dead"), MaxNumberOfMessages=10).get("Messages", [])
        return [json.loads(each["Body"]) for each in found]

    def wakes(self) -> list[str]:
        return [each["name"] for each in self.account.executions()]

    def write(self, location: str, body: bytes, content_type: str = "text/csv") -> None:
        bucket, key = tickets.location(location)
        self.account.s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType=content_type)


@pytest.fixture
def endpoints(monkeypatch: pytest.MonkeyPatch) -> Endpoints:
    found = Endpoints()
    monkeypatch.setattr(inference, "_runtime", lambda: found)
    return found


@pytest.fixture
def street(account, context, endpoints, monkeypatch) -> Street:
    for name in ("requests", "dead"):
        made("sqs").create_queue(QueueName=name)
    monkeypatch.setenv("WAKE_ENDPOINT_ARN", account.machine_arn)
    monkeypatch.setenv("REQUESTS_QUEUE_URL", made("sqs").get_queue_url(QueueName="requests")["QueueUrl"])
    monkeypatch.setenv("REQUESTS_DEAD_LETTER_QUEUE_URL", made("sqs").get_queue_url(QueueName="dead")["QueueUrl"])
    monkeypatch.setenv("STACK_NAME", STACK.stack)
    found = Street(account, context, endpoints)
    pauses = Queue.look_again
    monkeypatch.setattr(
        Queue, "look_again", lambda self, receipt, s: (found.later.append(s), pauses(self, receipt, s))[1]
    )
    return found


def up(*names: str) -> dict[str, Callable[[bytes], bytes]]:
    return dict.fromkeys(names, lambda body: b"answer to " + body)


def test_an_endpoint_that_is_awake_answers_at_once_and_nothing_is_kept(street: Street):
    street.serve(PETS)
    street.endpoints.behind = up("ebb-pets--realtime")
    body = bytes(range(256))
    found = street.ask(body, accept="text/plain", x_amzn_sagemaker_inference_id="i1")
    assert (found.status, found.body) == (200, b"answer to " + body)
    assert found.headers["content-type"] == "image/x-any"
    assert found.headers["x-amzn-invoked-production-variant"] == "AllTraffic"
    (asked,) = street.endpoints.asked
    assert asked == {
        "EndpointName": "ebb-pets--realtime",
        "InferenceComponentName": "ebb-pets--g1",
        "Body": body,
        "ContentType": "image/x-any",
        "Accept": "text/plain",
        "InferenceId": "i1",
    }
    assert "Contents" not in street.account.s3.list_objects_v2(Bucket=ARTIFACTS)
    assert street.book.address("ebb-pets").last_request_at is not None
    assert not street.wakes()


def test_the_projects_name_is_as_good_as_the_address(street: Street):
    street.serve(PETS)
    street.endpoints.behind = up("ebb-pets--realtime")
    assert street.ask(to="pets").status == 200
    assert street.look("/addresses/pets").told["address"] == "ebb-pets"


def test_a_request_to_a_sleeping_endpoint_wakes_it_and_is_answered_once_it_is_awake(street: Street):
    street.serve(PETS, "falling-asleep", "asleep")
    ticket = street.ask(b"cat")
    assert (ticket.status, ticket.told["state"]) == (202, "waking")
    assert street.wakes() == ["wake-ebb-pets-g3"]
    told = json.loads(street.account.states.describe_execution(executionArn=_execution(street))["input"])
    assert told == {"address": "ebb-pets", "generation": 3}
    assert street.deliver() == 1, "it waits on"
    street.change("ebb-pets", "waking")
    assert street.deliver() == 1
    street.change("ebb-pets", "awake")
    street.endpoints.behind = up("ebb-pets--realtime")
    assert street.deliver() == 0
    answer = street.look(ticket.headers["location"])
    assert (answer.status, answer.body) == (200, b"answer to cat")
    assert answer.headers["x-amzn-invoked-production-variant"] == "AllTraffic"
    assert street.wakes() == ["wake-ebb-pets-g3"]
    assert street.later == [2, 2]


def _execution(street: Street) -> str:
    (execution,) = street.account.executions()
    return execution["executionArn"]


def test_the_front_door_starts_the_wake_itself_before_it_answers_and_asks_no_queue_to(street: Street, monkeypatch):
    """Ebb's own delay is that of its calls: the function that takes the request starts the execution."""
    street.serve(PETS, "falling-asleep", "asleep")
    order = []
    start, send = executions.ensure, Queue.send
    monkeypatch.setattr(executions, "ensure", lambda *given: (order.append("start"), start(*given))[1])
    monkeypatch.setattr(Queue, "send", lambda self, asked: (order.append("keep"), send(self, asked))[1])
    asked_at = datetime.now(UTC)
    assert street.ask(b"cat", age=timedelta(seconds=3)).status == 202
    assert order == ["keep", "start"], "kept first: what is woken for nobody is harmless, what is lost is not"
    assert street.wakes() == ["wake-ebb-pets-g3"]
    noted = street.book.address("ebb-pets").first_wanted_at
    assert asked_at - timedelta(seconds=4) < noted < asked_at - timedelta(seconds=2), (
        "when it came, not when it was noted"
    )


def test_the_caller_who_waits_gets_the_answer_itself(street: Street, monkeypatch):
    street.serve(PETS, "falling-asleep", "asleep")

    def meanwhile(_: float) -> None:
        if street.book.address("ebb-pets").state != "awake":
            street.change("ebb-pets", "waking")
            street.change("ebb-pets", "awake")
            street.endpoints.behind = up("ebb-pets--realtime")
        street.deliver()

    monkeypatch.setattr(front_door.time, "sleep", meanwhile)
    found = street.ask(b"cat", x_ebb_wait_s="20")
    assert (found.status, found.body) == (200, b"answer to cat")


def test_ten_callers_at_once_wake_it_once_and_get_ten_answers(street: Street):
    street.serve(PETS, "falling-asleep", "asleep")
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda number: street.ask(b"%d" % number), range(10)))
    assert street.wakes() == ["wake-ebb-pets-g3"]
    assert street.deliver(rounds=2) == 10
    assert street.wakes() == ["wake-ebb-pets-g3"], "neither does the delivery wake it again"
    street.change("ebb-pets", "waking")
    street.change("ebb-pets", "awake")
    street.endpoints.behind = up("ebb-pets--realtime")
    assert street.deliver(rounds=2) == 0
    answers = {street.look(each.headers["location"]).body for each in found}
    assert answers == {b"answer to %d" % number for number in range(10)}


def test_a_wake_that_died_is_started_anew(street: Street):
    """Killed before it could change anything: its name is taken for 90 days, and the endpoint would sleep on."""
    street.serve(PETS, "falling-asleep", "asleep")
    ticket = street.ask()
    street.account.states.stop_execution(executionArn=_execution(street))
    street.deliver()
    assert sorted(street.wakes()) == ["wake-ebb-pets-g3", "wake-ebb-pets-g3-r1"]
    assert street.look(ticket.headers["location"]).status == 202


@pytest.mark.parametrize("state", ["falling-asleep", "waking"])
@pytest.mark.parametrize(("alive", "wakes"), [(False, 1), (True, 0)], ids=["dead", "alive"])
def test_what_was_killed_at_work_on_an_endpoint_does_not_keep_its_requests_waiting(street: Street, state, alive, wakes):
    """Nobody else would go on with it, and each request ran into its deadline."""
    started = street.account.states.start_execution(stateMachineArn=street.account.machine_arn, name="worker")
    street.serve(PETS, "falling-asleep", "asleep")
    street.change("ebb-pets", state, worked_by=started["executionArn"])
    if not alive:
        street.account.states.stop_execution(executionArn=started["executionArn"])
    street.ask()
    assert street.wakes() == ["worker"], "what changed it a moment ago may still be about to go on"
    since = addresses.ledger.iso(datetime.now(UTC) - tickets.ABANDONED_AFTER)
    street.book.apply(addresses.ledger.update(addresses.key("ebb-pets"), {"changed_at": since}))
    street.deliver()
    street.ask()
    assert len(street.wakes()) == 1 + wakes


def test_what_waits_is_answered_as_soon_as_its_endpoint_answers_whatever_the_ledger_says_yet(street: Street):
    """The machine that wakes looks once a minute in the end; nobody waits for that."""
    street.serve(PETS, "falling-asleep", "asleep", "waking")
    ticket = street.ask(b"cat")
    assert not street.endpoints.asked, "the caller himself gets a ticket at once"
    street.endpoints.behind = {"ebb-pets--realtime": lambda _: (_ for _ in ()).throw(refusal("ValidationError", "?"))}
    assert street.deliver() == 1, "who is on the way up may refuse in any words"
    street.endpoints.behind = up("ebb-pets--realtime")
    assert street.deliver() == 0
    assert street.look(ticket.headers["location"]).body == b"answer to cat"
    assert not street.wakes()


def test_it_is_falling_asleep_while_it_is_asked(street: Street):
    """The request is noted, which calls the sleep off; nothing is started beside the machine that decides that."""
    street.serve(PETS, "falling-asleep")
    ticket = street.ask(b"cat")
    assert ticket.status == 202
    assert street.book.address("ebb-pets").wanted_at is not None
    assert not street.wakes()
    street.change("ebb-pets", "awake")
    street.endpoints.behind = up("ebb-pets--realtime")
    assert street.deliver() == 0
    assert street.look(ticket.headers["location"]).body == b"answer to cat"


def test_what_is_to_fall_asleep_answers_until_it_does_and_stays_awake_for_it(street: Street):
    """The decision is made again two and a half minutes later; nobody waits for that."""
    street.serve(PETS, "falling-asleep")
    noted = []

    def answer(body: bytes) -> bytes:
        noted.append(street.book.address("ebb-pets").wanted_at)
        return b"answer to " + body

    street.endpoints.behind = {"ebb-pets--realtime": answer}
    found = street.ask(b"cat")
    assert (found.status, found.body) == (200, b"answer to cat")
    assert noted[0] is not None, "noted before it was asked: the write that allows the act is refused from here on"
    assert not street.wakes()


TORN_DOWN = [
    pytest.param({"OriginalStatusCode": 0}, id="its container went"),
    pytest.param({}, id="its container said nothing"),
    pytest.param({"OriginalStatusCode": 503}, id="it is not ready"),
]


def _act(street: Street, **fields: Any) -> None:
    """Write what allows an endpoint's capacity to go, as the machine does that puts it to sleep."""
    at = street.book.address("ebb-pets")
    moment = {"acted_at": addresses.ledger.iso(datetime.now(UTC))}
    request = addresses.change(
        "ebb-pets", expected="falling-asleep", generation=at.generation, to="falling-asleep", now=datetime.now(UTC),
        fields=moment, unless_wanted=True,
    )  # fmt: skip
    assert street.book.apply(request)


def test_what_comes_after_the_act_is_not_asked_of_an_endpoint_that_goes(street: Street):
    """Its container may be torn down with the request in it; from the act on nothing holds that up."""
    street.serve(PETS, "falling-asleep")
    _act(street)
    street.endpoints.behind = up("ebb-pets--realtime")
    ticket = street.ask(b"cat")
    assert (ticket.status, street.endpoints.asked) == (202, [])
    assert street.book.address("ebb-pets").wanted_at is not None, "it is woken at once when it is asleep"
    street.change("ebb-pets", "asleep")
    assert street.book.address("ebb-pets").acted_at is None


def test_an_act_between_the_look_and_the_note_is_seen_by_the_note(street: Street, monkeypatch):
    street.serve(PETS, "falling-asleep")
    street.endpoints.behind = up("ebb-pets--realtime")
    want, acted = addresses.want, []

    def wanted(*given: Any, **more: Any) -> Any:
        if not acted:
            acted.append(_act(street))
        return want(*given, **more)

    monkeypatch.setattr(addresses, "want", wanted)
    ticket = street.ask(b"cat")
    assert (ticket.status, street.endpoints.asked) == (202, [])
    assert street.book.address("ebb-pets").wanted_at is not None


def test_who_is_called_off_between_the_look_and_the_note_is_asked(street: Street, monkeypatch):
    street.serve(PETS, "falling-asleep")
    street.endpoints.behind = up("ebb-pets--realtime")
    want, off = addresses.want, []

    def wanted(*given: Any, **more: Any) -> Any:
        if not off:
            off.append(street.change("ebb-pets", "awake"))
        return want(*given, **more)

    monkeypatch.setattr(addresses, "want", wanted)
    assert street.ask(b"cat").body == b"answer to cat"


@pytest.mark.parametrize("said", TORN_DOWN)
def test_a_request_is_not_lost_with_the_container_of_an_endpoint_that_goes(street: Street, said):
    """Somebody else may scale it in, or delete it, while it is noted as falling asleep."""
    street.serve(PETS, "falling-asleep")
    problem = refusal("ModelError", "Received server error (0) from primary", 424, **said)
    street.endpoints.behind = {"ebb-pets--realtime": _raising(problem)}
    ticket = street.ask(b"cat")
    assert ticket.status == 202
    street.change("ebb-pets", "awake")
    street.endpoints.behind = up("ebb-pets--realtime")
    assert street.deliver() == 0
    assert street.look(ticket.headers["location"]).body == b"answer to cat"


@pytest.mark.parametrize("said", TORN_DOWN)
def test_a_model_that_is_still_loading_ends_no_ticket(street: Street, said):
    street.serve(PETS, "falling-asleep", "asleep", "waking")
    ticket = street.ask(b"cat")
    problem = refusal("ModelError", "Received server error (503) from primary", 424, **said)
    street.endpoints.behind = {"ebb-pets--realtime": _raising(problem)}
    assert street.deliver() == 1
    street.endpoints.behind = up("ebb-pets--realtime")
    assert street.deliver() == 0
    assert street.look(ticket.headers["location"]).body == b"answer to cat"


@pytest.mark.parametrize("states", [("falling-asleep",), ("falling-asleep", "asleep", "waking")], ids=["goes", "comes"])
def test_a_request_that_is_wrong_is_told_so_by_a_model_that_goes_or_comes(street: Street, states):
    street.serve(PETS, *states)
    said = {"OriginalStatusCode": 415, "OriginalMessage": "no such type"}
    street.endpoints.behind = {"ebb-pets--realtime": _raising(refusal("ModelError", "Received 415", 424, **said))}
    found = street.ask()
    if found.status == 202:  # while it comes the delivery asks
        assert street.deliver() == 0
        found = street.look(found.headers["location"])
    assert (found.status, found.told["OriginalMessage"]) == (424, "no such type")


def test_a_model_that_always_fails_is_not_asked_for_ever(street: Street):
    """Awake its word is its word; and a wake that does not end does not outlast the request's deadline."""
    street.serve(PETS, "falling-asleep", "asleep", "waking")
    said = {"OriginalStatusCode": 500, "OriginalMessage": "always"}
    street.endpoints.behind = {"ebb-pets--realtime": _raising(refusal("ModelError", "Received 500", 424, **said))}
    late = street.ask(age=timedelta(minutes=11))
    assert street.deliver() == 0
    assert street.look(late.headers["location"]).told["state"] == "expired"
    ticket = street.ask()
    assert street.deliver() == 1
    street.change("ebb-pets", "awake")
    assert street.deliver() == 0
    assert street.look(ticket.headers["location"]).told["OriginalMessage"] == "always"


def test_it_fell_asleep_all_the_same_and_the_delivery_wakes_it(street: Street):
    street.serve(PETS, "falling-asleep")
    street.ask()
    street.change("ebb-pets", "asleep")
    assert street.deliver() == 1
    assert street.wakes() == ["wake-ebb-pets-g3"]


def test_it_fell_asleep_between_the_look_and_the_call(street: Street):
    street.serve(PETS)

    def asleep_now(_: bytes) -> bytes:
        street.change("ebb-pets", "falling-asleep")
        street.change("ebb-pets", "asleep")
        raise refusal("ValidationError", NO_CAPACITY)

    street.endpoints.behind = {"ebb-pets--realtime": asleep_now}
    assert street.ask().status == 202
    assert street.wakes() == ["wake-ebb-pets-g3"]


def test_it_was_deployed_anew_between_the_look_and_the_call(street: Street):
    street.serve(PETS)

    def replaced(_: bytes) -> bytes:
        street.endpoints.behind = up("ebb-pets--realtime-2")
        street.serve(PETS.model_copy(update={"endpoint_name": "ebb-pets--realtime-2", "component": "ebb-pets--g2"}))
        raise refusal("ValidationError", "Inference Component ebb-pets--g1 not found.")

    street.endpoints.behind = {"ebb-pets--realtime": replaced}
    found = street.ask(b"cat")
    assert (found.status, found.body) == (200, b"answer to cat")
    assert street.endpoints.asked[-1]["InferenceComponentName"] == "ebb-pets--g2"
    assert not street.wakes()


def test_it_became_asynchronous_between_the_look_and_the_call(street: Street):
    street.serve(PETS)

    def moved(_: bytes) -> bytes:
        street.endpoints.behind = up("ebb-pets--async")
        street.serve(ASYNC)
        raise refusal("ValidationError", "Endpoint ebb-pets--realtime of account 1 not found.")

    street.endpoints.behind = {"ebb-pets--realtime": moved}
    ticket = street.ask(b"cat")
    assert ticket.status == 202
    (handed,) = street.endpoints.handed
    bucket, key = tickets.location(handed["InputLocation"])
    assert street.account.s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"cat"


def test_it_became_a_kind_that_only_scores_files_while_a_request_waited(street: Street):
    street.serve(PETS, "falling-asleep", "asleep")
    ticket = street.ask()
    street.serve(PETS.model_copy(update={"kind": "batch", "endpoint_name": None, "component": None}))
    assert street.deliver() == 0
    answer = street.look(ticket.headers["location"])
    assert (answer.status, answer.told["state"], answer.told["code"]) == (409, "failed", "batch-only")
    assert [each["address"] for each in street.dead_letters()] == ["ebb-pets"]


def test_the_ledger_says_awake_and_nobody_is_there(street: Street):
    """Somebody scaled it in by hand, or the alarm path did: it is woken, and the request waits for it."""
    street.serve(PETS)
    street.endpoints.behind = {"ebb-pets--realtime": _raising(refusal("ValidationError", NO_CAPACITY))}
    assert street.ask(b"cat").status == 202
    assert street.wakes() == ["wake-ebb-pets-g1"]
    street.endpoints.behind = up("ebb-pets--realtime")
    assert street.deliver() == 0


def _raising(problem: Exception) -> Callable[[bytes], bytes]:
    def answer(_: bytes) -> bytes:
        raise problem

    return answer


@pytest.mark.parametrize(
    "problem",
    [
        refusal("ThrottlingException", "Rate exceeded", 429),
        refusal("ServiceUnavailable", "", 503),
        refusal("ModelNotReadyException", "loading", 429),
        EndpointConnectionError(endpoint_url="https://runtime.sagemaker"),
    ],
    ids=["throttled", "unavailable", "cold", "no connection"],
)
def test_who_finds_it_busy_waits_for_a_turn_and_wakes_nobody(street: Street, problem: Exception):
    street.serve(PETS)
    street.endpoints.behind = {"ebb-pets--realtime": _raising(problem)}
    ticket = street.ask(b"cat")
    assert (ticket.status, ticket.told["state"]) == (202, "queued")
    assert street.deliver() == 1
    assert not street.wakes()
    street.endpoints.behind = up("ebb-pets--realtime")
    assert street.deliver() == 0
    assert street.look(ticket.headers["location"]).body == b"answer to cat"


def test_each_model_has_its_own_share_of_the_queue_and_one_that_is_not_awake_takes_up_no_delivery(street: Street):
    """SQS's fair queues tell tenants by their group: whoever is slow or has many waiting holds up nobody else.

    A message whose endpoint is not awake is given back at once: no delivery waits for it, or asks anybody.
    """
    dogs = PETS.model_copy(update={"address": "ebb-dogs", "endpoint_name": "ebb-dogs--realtime"})
    street.serve(PETS, "falling-asleep", "asleep")
    street.serve(dogs)
    street.endpoints.behind = {"ebb-dogs--realtime": _raising(refusal("ThrottlingException", "Rate exceeded", 429))}
    for number in range(3):
        street.ask(b"cat %d" % number)
    street.ask(b"dog", to="ebb-dogs")
    received = street.sqs.receive_message(
        QueueUrl=street.url("requests"), MaxNumberOfMessages=10, VisibilityTimeout=0,
        MessageSystemAttributeNames=["MessageGroupId"],
    )["Messages"]  # fmt: skip
    groups = sorted(each["Attributes"]["MessageGroupId"] for each in received)
    assert groups == ["ebb-dogs", "ebb-pets", "ebb-pets", "ebb-pets"]
    street.endpoints.asked.clear()
    assert street.deliver() == 4
    assert [each["EndpointName"] for each in street.endpoints.asked] == ["ebb-dogs--realtime"]
    assert street.later == [tickets.FIRST_PAUSE_S] * 4


def test_what_the_model_refuses_is_passed_on_and_not_queued(street: Street):
    street.serve(PETS)
    said = {"OriginalStatusCode": 415, "OriginalMessage": '{"error": "no such type"}', "LogStreamArn": "arn:l"}
    street.endpoints.behind = {"ebb-pets--realtime": _raising(refusal("ModelError", "Received 415", 424, **said))}
    found = street.ask()
    assert found.status == 424
    assert found.told["code"] == "ModelError"
    assert {name: found.told[name] for name in said} == said
    assert street.deliver() == 0


def test_what_the_model_refuses_after_waking_ends_the_ticket_with_its_words(street: Street):
    street.serve(PETS, "falling-asleep", "asleep")
    ticket = street.ask()
    street.change("ebb-pets", "awake")
    said = {"OriginalStatusCode": 415, "OriginalMessage": "no such type"}
    street.endpoints.behind = {"ebb-pets--realtime": _raising(refusal("ModelError", "Received 415", 424, **said))}
    assert street.deliver() == 0
    found = street.look(ticket.headers["location"])
    assert (found.status, found.told["state"], found.told["OriginalMessage"]) == (424, "failed", "no such type")
    assert not street.dead_letters(), "the caller was answered"


def test_a_wake_that_failed_is_tried_again_after_a_while_and_not_before(street: Street):
    street.serve(PETS, "falling-asleep", "asleep")
    street.ask()
    street.change("ebb-pets", "waking")
    street.change("ebb-pets", "failed", reason="no capacity for ml.m5.large")
    assert street.deliver() == 1
    assert street.wakes() == ["wake-ebb-pets-g3"]
    ago = addresses.ledger.iso(datetime.now(UTC) - timedelta(minutes=6))
    street.change("ebb-pets", "failed", changed_at=ago)
    assert street.deliver() == 1
    assert sorted(street.wakes()) == ["wake-ebb-pets-g3", "wake-ebb-pets-g6"]


def test_a_request_over_its_time_ends_as_a_failed_ticket_and_somebody_is_told(street: Street):
    street.serve(PETS, "falling-asleep", "asleep")
    ticket = street.ask(age=timedelta(minutes=11))
    street.change("ebb-pets", "waking")
    street.change("ebb-pets", "failed", reason="no capacity for ml.m5.large")
    assert street.deliver() == 0
    found = street.look(ticket.headers["location"])
    assert (found.status, found.told["state"], found.told["code"]) == (504, "expired", "expired")
    assert "no capacity for ml.m5.large" in found.told["message"]
    (letter,) = street.dead_letters()
    assert f"{letter['address']}/{letter['id']}" == ticket.told["ticket"]


def test_a_poisoned_message_is_put_aside_and_holds_nobody_back(street: Street):
    street.serve(PETS, "falling-asleep", "asleep")
    street.ask(b"cat")
    street.sqs.send_message(QueueUrl=street.url("requests"), MessageBody='{"no": "ticket"}')
    street.change("ebb-pets", "awake")
    street.endpoints.behind = up("ebb-pets--realtime")
    assert street.deliver() == 0
    assert street.dead_letters() == [{"no": "ticket"}]


def test_a_request_that_is_gone_ends_its_ticket(street: Street):
    street.serve(PETS, "falling-asleep", "asleep")
    ticket = street.ask().told["ticket"]
    address, _, number = ticket.partition("/")
    street.account.s3.delete_object(Bucket=ARTIFACTS, Key=tickets.waiting_key(address, number))
    assert street.deliver() == 0
    assert len(street.dead_letters()) == 1


def test_an_address_that_was_removed_ends_its_tickets(street: Street):
    street.serve(PETS, "falling-asleep", "asleep")
    ticket = street.ask()
    street.account.table.delete_item(Key=addresses.key("ebb-pets"))
    assert street.deliver() == 0
    found = street.look(ticket.headers["location"])
    assert (found.status, found.told["code"]) == (404, "unknown-address")
    assert len(street.dead_letters()) == 1


def test_a_fault_on_the_way_leaves_the_message_where_it_is(street: Street, monkeypatch):
    street.serve(PETS, "falling-asleep", "asleep")
    street.ask()
    monkeypatch.setenv("LEDGER_TABLE", "gone")
    assert street.deliver() == 1
    assert street.later == [deliver_request.AFTER_FAULT_S]


def test_a_message_that_comes_twice_is_answered_once(street: Street):
    street.serve(PETS, "falling-asleep", "asleep")
    ticket = street.ask(b"cat")
    copied = street.sqs.receive_message(QueueUrl=street.url("requests"), VisibilityTimeout=0)["Messages"][0]["Body"]
    street.sqs.send_message(QueueUrl=street.url("requests"), MessageBody=copied)
    street.change("ebb-pets", "awake")
    street.endpoints.behind = up("ebb-pets--realtime")
    assert street.deliver(rounds=2) == 0
    assert len(street.endpoints.asked) == 1
    assert street.look(ticket.headers["location"]).body == b"answer to cat"


def test_a_repeat_under_the_callers_own_id_is_the_same_request(street: Street):
    street.serve(PETS, "falling-asleep", "asleep")
    first, again = (street.ask(b"cat", x_ebb_request_id="mine") for _ in range(2))
    assert first.told["ticket"] == again.told["ticket"] == "ebb-pets/mine"
    other = street.ask(b"dog", x_ebb_request_id="mine")
    assert (other.status, other.told["code"]) == (409, "request-id-reused")
    street.change("ebb-pets", "awake")
    street.endpoints.behind = up("ebb-pets--realtime")
    assert street.deliver(rounds=3) == 0
    assert street.ask(b"cat", x_ebb_request_id="mine").body == b"answer to cat"
    assert len(street.endpoints.asked) == 1


def test_a_repeat_of_what_was_answered_at_once_gets_the_same_answer(street: Street):
    street.serve(PETS)
    street.endpoints.behind = up("ebb-pets--realtime")
    first, again = (street.ask(b"cat", x_ebb_request_id="mine") for _ in range(2))
    assert first.body == again.body == b"answer to cat"
    assert len(street.endpoints.asked) == 1


def test_a_repeat_after_the_first_died_between_keeping_and_queueing_is_delivered(street: Street, monkeypatch):
    street.serve(PETS, "falling-asleep", "asleep")
    with monkeypatch.context() as broken:
        broken.setattr(Queue, "send", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
        found = street.ask(b"cat", x_ebb_request_id="mine")
    assert (found.status, found.told["code"]) == (500, "internal")
    assert street.ask(b"cat", x_ebb_request_id="mine").status == 202
    street.change("ebb-pets", "awake")
    street.endpoints.behind = up("ebb-pets--realtime")
    assert street.deliver() == 0
    assert street.look("/tickets/ebb-pets/mine").body == b"answer to cat"


def test_an_asynchronous_endpoint_has_the_request_in_its_own_queue_and_is_woken_at_once(street: Street):
    street.serve(ASYNC, "falling-asleep", "asleep")
    street.endpoints.behind = up("ebb-pets--async")
    ticket = street.ask(b"cat")
    (handed,) = street.endpoints.handed
    assert 590 <= handed["RequestTTLSeconds"] <= 600
    assert handed["ContentType"] == "image/x-any"
    assert ticket.told["output_location"] == f"s3://{ARTIFACTS}/answers/ebb-pets/1.out"
    assert street.wakes() == ["wake-ebb-pets-g3"]
    assert street.deliver() == 1, "watched until it is answered"
    assert len(street.endpoints.handed) == 1
    street.write(ticket.told["output_location"], b"a,b\n")
    found = street.look(ticket.headers["location"])
    assert (found.status, found.body, found.headers["content-type"]) == (200, b"a,b\n", "text/csv")
    assert street.deliver() == 0
    assert street.look(ticket.headers["location"]).body == b"a,b\n"


def test_what_an_asynchronous_model_could_not_answer_is_a_failed_ticket(street: Street):
    street.serve(ASYNC)
    street.endpoints.behind = up("ebb-pets--async")
    ticket = street.ask(b"cat")
    street.write(ticket.told["failure_location"], b"Received server error (500) from primary")
    found = street.look(ticket.headers["location"])
    assert (found.status, found.told["code"]) == (424, "ModelError")
    assert "(500)" in found.told["OriginalMessage"]
    assert street.deliver() == 0


def test_an_asynchronous_endpoint_that_was_replaced_took_its_queue_with_it(street: Street):
    street.serve(ASYNC)
    street.endpoints.behind = up("ebb-pets--async")
    ticket = street.ask(b"cat")
    street.serve(PETS)
    street.endpoints.behind = up("ebb-pets--realtime")
    assert street.deliver() == 0
    assert street.look(ticket.headers["location"]).body == b"answer to cat"


def test_it_begins_to_fall_asleep_while_its_queue_takes_the_request(street: Street, monkeypatch):
    street.serve(ASYNC)
    street.endpoints.behind = up("ebb-pets--async")
    take = street.endpoints.invoke_endpoint_async

    def taken(**request: Any) -> dict[str, Any]:
        street.change("ebb-pets", "falling-asleep")
        street.change("ebb-pets", "asleep")
        return take(**request)

    monkeypatch.setattr(street.endpoints, "invoke_endpoint_async", taken)
    assert street.ask().status == 202
    assert street.wakes() == ["wake-ebb-pets-g3"]


def test_an_endpoint_of_somebody_else_gets_the_payload_with_the_request_and_answers_where_it_writes(street: Street):
    theirs = Address(address="theirs", origin="foreign", kind="async", endpoint_name="theirs")
    street.serve(theirs)
    street.endpoints.behind = up("theirs")
    elsewhere = {"OutputLocation": "s3://theirs/1.out", "FailureLocation": "s3://theirs/1-error.out"}
    street.endpoints.invoke_endpoint_async = lambda **asked: (street.endpoints.handed.append(asked), elsewhere)[1]
    ticket = street.ask(b"cat", to="theirs")
    assert street.endpoints.handed[0]["Body"] == b"cat"
    assert ticket.told["output_location"] == "s3://theirs/1.out"
    assert street.deliver() == 0


def test_a_payload_that_lambda_does_not_take_is_uploaded_first(street: Street):
    street.serve(PETS)
    street.endpoints.behind = up("ebb-pets--realtime")
    where = street.ask(what="uploads", x_ebb_request_id="big").told
    assert where["method"] == "PUT"
    assert "/requests/ebb-pets/big" in where["url"]
    assert "X-Amz-Signature" in where["url"], "with its key, the bucket takes nothing that is signed otherwise"
    assert street.ask(b"", x_ebb_upload="big").told["code"] == "nothing-uploaded"
    street.account.s3.put_object(Bucket=ARTIFACTS, Key="requests/ebb-pets/big", Body=b"large cat")
    assert street.ask(b"", x_ebb_upload="big").body == b"answer to large cat"


def test_an_answer_that_lambda_does_not_give_is_fetched_where_it_lies(street: Street):
    street.serve(PETS)
    large = bytes(door.INLINE_BYTES + 1)
    street.endpoints.behind = {"ebb-pets--realtime": lambda _: large}
    found = street.ask()
    assert found.status == 303
    assert found.headers["location"] == found.told["url"]
    assert ".out" in found.told["url"]
    assert "X-Amz-Signature" in found.told["url"]
    address, _, number = found.told["ticket"].partition("/")
    kept = street.account.s3.get_object(Bucket=ARTIFACTS, Key=tickets.body_key(address, number))
    assert (kept["ContentLength"], kept["ContentType"]) == (len(large), "image/x-any")


def test_too_large_a_payload_says_how_large_it_may_be(street: Street):
    street.serve(PETS.model_copy(update={"kind": "serverless"}))
    found = street.ask(bytes(4 * 1024**2 + 1))
    assert (found.status, found.told["code"]) == (413, "payload-too-large")
    assert "async" in found.told["remedy"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/addresses/ebb-cats", 404, "unknown-address"),
        ("/tickets/ebb-pets/none", 404, "unknown-ticket"),
        ("/", 404, "no-such-route"),
    ],
)
def test_what_is_not_there_is_told_so(street: Street, path: str, status: int, code: str):
    street.serve(PETS)
    found = street.look(path)
    assert (found.status, found.told["code"]) == (status, code)
    assert found.told["remedy"]


def test_a_fault_of_ebb_says_under_which_id_it_is_logged(street: Street, monkeypatch):
    monkeypatch.setenv("LEDGER_TABLE", "gone")
    found = street.ask()
    assert (found.status, found.told["code"]) == (500, "internal")
    assert street.context.aws_request_id in found.told["message"]


@pytest.mark.parametrize("hidden_s", [540, 60], ids=["its delivery was killed", "it waits for its next look"])
def test_what_is_out_of_sight_while_its_endpoint_is_awake_is_queued_again_for_who_asks_for_it(street: Street, hidden_s):
    street.serve(PETS, "falling-asleep", "asleep")
    ticket = street.ask(b"cat", age=timedelta(minutes=2))
    where = ticket.headers["location"]
    street.sqs.receive_message(QueueUrl=street.url("requests"), VisibilityTimeout=hidden_s)
    street.change("ebb-pets", "waking", ago=timedelta(minutes=1))
    assert (street.look(where).status, street.deliver()) == (202, 0), "not before it is awake"
    street.change("ebb-pets", "awake", ago=tickets.OVERDUE_AFTER + timedelta(seconds=2))
    street.endpoints.behind = up("ebb-pets--realtime")
    assert [street.look(where).status for _ in range(3)] == [202] * 3
    assert len(street.sqs.receive_message(QueueUrl=street.url("requests"), MaxNumberOfMessages=10, VisibilityTimeout=0)
               ["Messages"]) == 1, "once a minute"  # fmt: skip
    street.deliver()
    assert (street.look(where).status, street.look(where).body) == (200, b"answer to cat")
    assert len(street.endpoints.asked) == 1


def test_what_is_on_its_way_is_not_queued_again(street: Street):
    street.serve(PETS, "falling-asleep", "asleep")
    ticket = street.ask(b"cat", age=timedelta(minutes=2))
    street.sqs.receive_message(QueueUrl=street.url("requests"), VisibilityTimeout=60)
    street.change("ebb-pets", "waking")
    street.change("ebb-pets", "awake")
    assert street.look(ticket.headers["location"]).status == 202
    assert "Messages" not in street.sqs.receive_message(QueueUrl=street.url("requests"))


def test_looking_at_a_ticket_changes_nothing(street: Street):
    street.serve(ASYNC, "falling-asleep", "asleep")
    street.endpoints.behind = up("ebb-pets--async")
    ticket = street.ask(b"cat")
    street.write(ticket.told["output_location"], b"answer")
    before = {each["Key"] for each in street.account.s3.list_objects_v2(Bucket=ARTIFACTS)["Contents"]}
    item = street.account.item(**addresses.key("ebb-pets"))
    street.look(ticket.headers["location"])
    assert {each["Key"] for each in street.account.s3.list_objects_v2(Bucket=ARTIFACTS)["Contents"]} == before
    assert street.account.item(**addresses.key("ebb-pets")) == item


def test_no_request_is_lost_while_an_endpoint_falls_asleep_and_wakes_time_and_again(street: Street):
    """Requests come in every state; each state is left while requests are on their way."""
    street.serve(PETS)
    street.endpoints.behind = up("ebb-pets--realtime")
    found: list[SimpleNamespace] = []

    def ask(count: int) -> None:
        with ThreadPoolExecutor(4) as pool:
            numbers = range(len(found), len(found) + count)
            found.extend(pool.map(lambda number: street.ask(b"%d" % number), numbers))

    for state in ("falling-asleep", "asleep", "waking", "awake", "falling-asleep", "awake") * 2:
        ask(4)
        street.change("ebb-pets", state)
        street.endpoints.behind = up("ebb-pets--realtime") if state in ("awake", "falling-asleep") else {}
        street.deliver(rounds=2)
    street.deliver(rounds=10)
    answers = [each.body if each.status == 200 else street.look(each.headers["location"]).body for each in found]
    assert answers == [b"answer to %d" % number for number in range(len(found))]
    assert len(found) == 48
    assert street.deliver() == 0
    assert not street.dead_letters()
