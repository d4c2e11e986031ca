"""Lambda: answer whoever asks a model, awake or not. Asks endpoints, keeps what must wait, has them woken.

Changes no endpoint itself. A request is refused, answered, or kept and queued before anything is said about it.
"""

import time
from collections.abc import Callable
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import door
from ebb.addresses import AWAKE, Address
from ebb.aws.desk import Desk, Outcome, Request
from ebb.aws.tickets import UPLOAD_EXPIRES_S
from ebb.door import Asked, Refusal, Refused, Reply
from ebb.errors import EbbError
from ebb.settings import DoorSettings
from ebb.telemetry import logger
from ebb.tickets import HandedOver, Waiting

FIRST_LOOK_S, LONGEST_LOOK_S = 0.1, 1.0
PENDING = 202


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer one request to the function's URL."""
    try:
        asked = door.asked(event)
        return _ROUTES[asked.what](asked, Desk(DoorSettings.from_env()))
    except Refused as refused:
        return door.of_refused(refused)
    except Exception:  # else Lambda would answer 502 without a word
        logger.exception("the front door failed")
        return door.of_fault(context.aws_request_id)


def _address(asked: Asked, desk: Desk) -> dict[str, Any]:
    return door.of_address(_found(asked, desk))


def _upload(asked: Asked, desk: Desk) -> dict[str, Any]:
    address = _found(asked, desk)
    door.step(address)  # refuses what has no endpoint
    url = desk.box.upload_url(address.address, asked.ticket, asked.content_type)
    return door.of_upload(asked, url, {"content-type": asked.content_type}, UPLOAD_EXPIRES_S)


def _ticket(asked: Asked, desk: Desk) -> dict[str, Any]:
    ticket = desk.box.waiting(asked.address, asked.ticket)
    if ticket is None:
        remedy = "Tickets are forgotten some days after they end."
        raise Refused(404, "unknown-ticket", f"there is no ticket {asked.address}/{asked.ticket}", remedy)
    return _waited(asked, desk, ticket)


def _invocation(asked: Asked, desk: Desk) -> dict[str, Any]:
    address = _found(asked, desk)
    request = _request(asked, desk, address)
    if asked.repeatable:
        if before := desk.box.waiting(address.address, asked.ticket):
            return _again(asked, desk, before)
        desk.keep(request)
    outcome = desk.ask(address, request, asked.now)
    match outcome.given:
        case Reply() | Refusal() as given:
            return _told(asked, desk, request, outcome.address, given)
        case HandedOver():
            return _handed_over(asked, desk, request, outcome)
    desk.enqueue(request)
    desk.wake(outcome, asked.now)
    return _waited(asked, desk, request.asked)


def _again(asked: Asked, desk: Desk, before: Waiting) -> dict[str, Any]:
    """Answer a repeat. The first may have ended between keeping the request and queueing it, so it is queued again."""
    door.check_repeat(asked, before)
    if desk.found(before)[0] is None:
        desk.queue.send(before)
    return _waited(asked, desk, before)


def _told(asked: Asked, desk: Desk, request: Request, address: Address, given: Reply | Refusal) -> dict[str, Any]:
    large = isinstance(given, Reply) and len(given.body) > door.INLINE_BYTES
    try:
        if large:
            desk.keep(request)
        if large or asked.repeatable:
            desk.end(request.asked, given, asked.now)
        desk.note(address, asked.now)
    except EbbError:
        if large:
            raise
        logger.exception("an answer was given and not noted")
    if large:
        return _standing(asked, desk, request.asked)
    return door.of_reply(given, address.address) if isinstance(given, Reply) else door.of_refusal(given)


def _handed_over(asked: Asked, desk: Desk, request: Request, outcome: Outcome) -> dict[str, Any]:
    """Wait for what an asynchronous endpoint writes; for a caller who waits no longer it is delivered to a ticket."""
    now = desk.book.address(request.asked.address)  # it may have begun to fall asleep while it was asked
    if now is not None and now.state != AWAKE:
        desk.wake(outcome, asked.now)
    else:
        desk.note(outcome.address, asked.now)
    answer = _waited(asked, desk, request.asked)
    if answer["statusCode"] == PENDING:
        desk.enqueue(request)
    return answer


def _waited(asked: Asked, desk: Desk, ticket: Waiting) -> dict[str, Any]:
    """Return the answer to a ticket as soon as there is one, or that there is none once the caller has waited."""
    until, pause_s = time.monotonic() + asked.wait_s, FIRST_LOOK_S
    while True:
        answer, left_s = _standing(asked, desk, ticket), until - time.monotonic()
        if answer["statusCode"] != PENDING or left_s <= 0:
            return answer
        time.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 1.5, LONGEST_LOOK_S)


def _standing(asked: Asked, desk: Desk, ticket: Waiting) -> dict[str, Any]:
    ended, handed = desk.found(ticket)
    if ended and ended.body_uri:
        if (ended.size_bytes or 0) > door.INLINE_BYTES:
            return door.of_large_answer(ticket.name, ended, desk.box.download_url(ended))
        return door.of_reply(Reply(desk.box.body(ended), ended.content_type, ended.headers), ticket.address)
    address = None if ended else desk.book.address(ticket.address)
    if address and not handed:
        desk.hurry(ticket, address)
    return door.of_ticket(ticket, ended, address, asked.now, handed=handed)


def _found(asked: Asked, desk: Desk) -> Address:
    found = desk.find(asked.address)
    if found is None:
        raise door.unknown(asked.address)
    return found


def _request(asked: Asked, desk: Desk, address: Address) -> Request:
    door.step(address)  # refuses what has no endpoint
    size = desk.box.payload_size(address.address, asked.ticket) if asked.uploaded else len(asked.body)
    if size is None:
        remedy = "POST /addresses/<address>/uploads says where to put it."
        raise Refused(404, "nothing-uploaded", f"nothing has been uploaded as {asked.ticket}", remedy)
    door.check_size(address, size)
    return Request(door.waiting(asked, address, size_bytes=size), None if asked.uploaded else asked.body)


_ROUTES: dict[str, Callable[[Asked, Desk], dict[str, Any]]] = {
    "addresses": _address,
    "invocations": _invocation,
    "tickets": _ticket,
    "uploads": _upload,
}
