"""The front door: what a request means, what SageMaker's refusals mean, and how both are answered."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest

from ebb import door, tickets
from ebb.addresses import Address
from ebb.door import Meaning, Refusal, Refused, Reply, Step

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def event(method="POST", path="/addresses/ebb-pets/invocations", body: bytes = b"", **headers: str) -> dict:
    """A function URL's event, as AWS documents it; names of headers are given with underscores."""
    return {
        "version": "2.0",
        "rawPath": path,
        "headers": {name.replace("_", "-"): value for name, value in headers.items()},
        "requestContext": {
            "http": {"method": method, "path": path},
            "requestId": "e1506fd5-9e7b-434f-bd42-4f8fa224b599",
            "timeEpoch": int(NOW.timestamp() * 1000),
        },
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }


def address(kind="realtime", state="awake", **more) -> Address:
    return Address(address="ebb-pets", kind=kind, state=state, endpoint_name="ebb-pets--x", **more)


def test_bytes_come_through_as_they_were_sent():
    body = bytes(range(256))
    asked = door.asked(event(body=body, content_type="application/octet-stream", x_ebb_content_type="image/png"))
    assert (asked.body, asked.content_type) == (body, "image/png")


def test_a_text_that_lambda_did_not_encode_comes_through_too():
    plain = event(content_type="text/csv") | {"body": "a,ü\n", "isBase64Encoded": False}
    assert door.asked(plain).body == "a,ü\n".encode()


def test_what_the_caller_asks_of_the_model_is_carried_through():
    asked = door.asked(
        event(accept="application/json", X_Amzn_SageMaker_Target_Model="a.tar.gz", x_amzn_sagemaker_inference_id="i")
    )
    assert asked.accept == "application/json"
    assert asked.more == {"TargetModel": "a.tar.gz", "InferenceId": "i"}
    assert asked.now == NOW


def test_only_the_callers_own_id_makes_a_request_repeatable():
    assert not door.asked(event()).repeatable
    own = door.asked(event(x_ebb_request_id="mine-1"))
    assert (own.repeatable, own.ticket) == (True, "mine-1")


@pytest.mark.parametrize(
    ("made", "status", "code"),
    [
        pytest.param(event(path="/"), 404, "no-such-route", id="no route"),
        pytest.param(event("GET"), 405, "method-not-allowed", id="a payload needs POST"),
        pytest.param(event("GET", "/addresses/a_b"), 404, "unknown-address", id="no endpoint has such a name"),
        pytest.param(event(x_ebb_request_id="a/../b"), 400, "invalid-request-id", id="an id that would be a path"),
        pytest.param(event(x_ebb_wait_s="soon"), 400, "invalid-wait", id="no number"),
        pytest.param(event(x_ebb_wait_s="-1"), 400, "invalid-wait", id="less than nothing"),
        pytest.param(event(x_ebb_wait_s="nan"), 400, "invalid-wait", id="not a number"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_a_remedy(made, status, code):
    with pytest.raises(Refused) as refused:
        door.asked(made)
    assert (refused.value.status, refused.value.error["code"]) == (status, code)
    assert refused.value.error["remedy"]


@pytest.mark.parametrize(("given", "waits_s"), [(None, 25), ("0", 0), ("3.5", 3.5), ("600", 60)])
def test_a_caller_waits_as_long_as_asked_for_up_to_a_minute(given, waits_s):
    headers = {} if given is None else {"x_ebb_wait_s": given}
    assert door.asked(event(**headers)).wait_s == waits_s


@pytest.mark.parametrize(
    ("where", "step"),
    [
        pytest.param(address(), Step.INVOKE, id="awake"),
        pytest.param(address("serverless"), Step.INVOKE, id="serverless never sleeps"),
        pytest.param(address(state="falling-asleep"), Step.WAIT, id="falling asleep: it may be gone in a moment"),
        pytest.param(address(state="asleep"), Step.WAIT, id="asleep"),
        pytest.param(address(state="waking"), Step.WAIT, id="waking"),
        pytest.param(address(state="failed"), Step.WAIT, id="waking failed"),
        pytest.param(address("async"), Step.HAND_OVER, id="asynchronous, awake"),
        pytest.param(address("async", "asleep"), Step.HAND_OVER, id="asynchronous: SageMaker queues while it sleeps"),
    ],
)
def test_what_to_do_given_where_the_endpoint_is(where, step):
    assert door.step(where) is step


def test_a_model_that_only_scores_files_says_how_to_ask_it():
    with pytest.raises(Refused) as refused:
        door.step(Address(address="ebb-pets", kind="batch"))
    assert refused.value.status == 409
    assert "score/" in refused.value.error["remedy"]


def _validation(text: str) -> Refusal:
    return Refusal(400, "ValidationError", text)


@pytest.mark.parametrize(
    ("refusal", "meaning"),
    [
        pytest.param(_validation("Endpoint ebb-a of account 123 not found."), Meaning.NOBODY_THERE, id="deleted"),
        pytest.param(
            _validation("Endpoint ebb-a of account 1 is not in service."), Meaning.NOBODY_THERE, id="not ready"
        ),
        pytest.param(
            _validation(
                "Inference Component has no capacity to process this request. ApplicationAutoScaling may be in-"
                "progress (if configured) or try to increase the capacity by invoking "
                "UpdateInferenceComponentRuntimeConfig API."
            ),
            Meaning.NOBODY_THERE,
            id="no copy",
        ),
        pytest.param(_validation("Variant b of endpoint ebb-a not found."), Meaning.TOLD, id="his own mistake"),
        pytest.param(_validation("Value at 'body' failed to satisfy constraint"), Meaning.TOLD, id="too large"),
        pytest.param(Refusal(424, "ModelError", "Endpoint x of account y not found."), Meaning.TOLD, id="the model"),
        pytest.param(Refusal(429, "ThrottlingException", "Rate exceeded"), Meaning.BUSY, id="throttled"),
        pytest.param(Refusal(429, "ModelNotReadyException", "loading"), Meaning.BUSY, id="a serverless cold start"),
        pytest.param(Refusal(503, "ServiceUnavailable", ""), Meaning.BUSY, id="AWS has trouble"),
        pytest.param(Refusal(503, "NoAnswer", ""), Meaning.BUSY, id="nobody picked up"),
        pytest.param(Refusal(403, "AccessDeniedException", ""), Meaning.TOLD, id="denied"),
    ],
)
def test_what_a_refusal_means(refusal, meaning):
    assert door.meaning(refusal) is meaning


@pytest.mark.parametrize(
    ("kind", "size", "fits"),
    [
        ("serverless", 4 * 1024**2, True),
        ("serverless", 4 * 1024**2 + 1, False),
        ("realtime", 6 * 1024**2, True),
        ("realtime", 6 * 1024**2 + 1, False),
        ("async", 1024**3, True),
        ("async", 1024**3 + 1, False),
    ],
)
def test_each_kind_takes_what_sagemaker_takes(kind, size, fits):
    if fits:
        door.check_size(address(kind), size)
        return
    with pytest.raises(Refused) as refused:
        door.check_size(address(kind), size)
    assert refused.value.status == 413
    assert refused.value.error["remedy"]


def test_a_model_error_is_passed_on_as_it_is():
    more = {"OriginalStatusCode": 415, "OriginalMessage": '{"error": "no such type"}'}
    answer = door.of_refusal(Refusal(424, "ModelError", 'Received client error (415) from primary with "..."', more))
    told = json.loads(base64.b64decode(answer["body"]))
    assert answer["statusCode"] == 424
    assert told["code"] == "ModelError"
    assert (told["OriginalStatusCode"], told["OriginalMessage"]) == (415, '{"error": "no such type"}')


def test_an_answer_leaves_byte_for_byte():
    body = bytes(range(256))
    answer = door.of_reply(Reply(body, "image/png", {"x-amzn-invoked-production-variant": "AllTraffic"}), "ebb-pets")
    assert base64.b64decode(answer["body"]) == body
    assert answer["isBase64Encoded"]
    assert answer["headers"]["content-type"] == "image/png"
    assert answer["headers"]["x-amzn-invoked-production-variant"] == "AllTraffic"


def test_a_ticket_says_why_its_endpoint_slept():
    where = address(state="waking", reason="no call in 15 min", changed_at=NOW)
    asked = door.waiting(door.asked(event(body=b"x")), where, size_bytes=1)
    answer = door.of_ticket(asked, None, where, NOW)
    told = json.loads(base64.b64decode(answer["body"]))
    assert answer["statusCode"] == 202
    assert answer["headers"]["location"] == f"/tickets/{told['ticket']}"
    assert (told["state"], told["endpoint_state"], told["reason"]) == ("waking", "waking", "no call in 15 min")
    assert told["deadline"] == "2026-11-23T13:00:00+00:00"


def test_a_repeat_brings_the_same_payload():
    first = door.asked(event(body=b"a", x_ebb_request_id="mine"))
    before = door.waiting(first, address(), size_bytes=1)
    door.check_repeat(first, before)
    with pytest.raises(Refused) as refused:
        door.check_repeat(door.asked(event(body=b"b", x_ebb_request_id="mine")), before)
    assert refused.value.status == 409


def test_an_address_that_changed_under_a_request_is_asked_again():
    before = address(generation=3)
    assert not door.moved(before, before.model_copy(update={"last_request_at": NOW}))
    assert door.moved(before, before.model_copy(update={"generation": 4}))
    assert door.moved(before, before.model_copy(update={"component": "ebb-pets--g2"}))
    assert door.moved(before, None)


def test_a_call_is_noted_once_a_minute():
    assert not door.is_noted(address(), NOW)
    assert door.is_noted(address(last_request_at=NOW - timedelta(seconds=59)), NOW)
    assert not door.is_noted(address(last_request_at=NOW - timedelta(seconds=60)), NOW)


def test_a_name_may_be_that_of_a_project():
    assert door.spellings("pets", "ebb") == ["pets", "ebb-pets"]
    assert door.spellings("Foreign-Endpoint", "ebb") == ["Foreign-Endpoint"]


def test_what_expired_without_a_record_is_told_so():
    where = address(state="failed", reason="no capacity")
    asked = door.waiting(door.asked(event(body=b"x")), where, size_bytes=1)
    late = asked.deadline + tickets.RECORDED_WITHIN + timedelta(seconds=1)
    answer = door.of_ticket(asked, None, where, late)
    assert answer["statusCode"] == 504
    assert "no capacity" in json.loads(base64.b64decode(answer["body"]))["message"]
