"""Lambda: bring each request that waits to its endpoint once that answers, and its answer to where its ticket points.

Looks at one message at a time. What has to wait stays in the queue, out of sight for a while; what is over its time, or
cannot be answered, ends as a failed ticket and in the dead-letter queue.
"""

from datetime import datetime
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import door, tickets
from ebb.addresses import AWAKE, Address
from ebb.aws.desk import Desk, Outcome, Request
from ebb.door import Refusal, Refused, Reply
from ebb.errors import MalformedEventError
from ebb.settings import DoorSettings
from ebb.telemetry import logger
from ebb.tickets import Ended, HandedOver, Message, Waiting

AFTER_FAULT_S = 30


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, list[dict[str, str]]]:
    """Answer with the messages that wait on; SQS delivers those again."""
    desk, waiting = Desk(DoorSettings.from_env()), []
    for record in event["Records"]:
        try:
            pause_s = _deliver(record["body"], desk)
        except Exception:  # the others must not wait for it; its deadline ends it at the latest
            logger.exception("not delivered", extra={"message_id": record["messageId"]})
            pause_s = AFTER_FAULT_S
        if pause_s is not None:
            desk.queue.look_again(record["receiptHandle"], pause_s)
            waiting.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": waiting}


def _deliver(body: str, desk: Desk) -> int | None:
    """Return after how many seconds to look again, None when there is nothing left to do."""
    try:
        message = tickets.message(body)
    except MalformedEventError as problem:
        logger.error("no ticket", extra={"reason": str(problem)})
        desk.queue.give_up(body)
        return None
    address = desk.book.address(message.address)
    if desk.box.ended(message.address, message.id):
        return None  # delivered before
    try:
        return _serve(message, address, desk)
    except Refused as refused:  # removed, or of a kind without an endpoint by now
        _give_up(message, tickets.failed(desk.book.now, refused.status, refused.error), desk)
        return None


def _serve(message: Message, address: Address | None, desk: Desk) -> int | None:
    now = desk.book.now
    if now >= message.deadline:
        _give_up(message, tickets.expired(message, now, address.reason if address else None), desk)
        return None
    asked = desk.box.waiting(message.address, message.id)
    if asked is None:
        raise Refused(410, "gone", f"the request {message.address}/{message.id} is gone", "Send it again.")
    if address is None:
        raise door.unknown(message.address)
    outcome = _asked(asked, address, desk, now)
    if outcome is None:
        return None
    if isinstance(outcome.given, Reply | Refusal):
        desk.end(asked, outcome.given, now)
        return None
    if outcome.address.state != AWAKE or outcome.nobody:
        desk.wake(outcome, now)
    elif isinstance(outcome.given, HandedOver) and outcome.given.elsewhere:
        return None  # its answer is written where Ebb does not read
    return tickets.next_look_s(now - asked.asked_at)


def _asked(asked: Waiting, address: Address, desk: Desk, now: datetime) -> Outcome | None:
    """Return what the endpoint made of a request; None when an asynchronous one has answered, which is recorded."""
    handed = desk.box.handed_over(asked)
    if handed is None or handed.endpoint_name != address.endpoint_name:  # replaced: what it held went with it
        return desk.ask(address, Request(asked, None, kept=True), now, early=True)
    if ended := desk.box.settled(handed, asked):
        desk.box.end(asked.address, asked.id, ended)
        return None
    return Outcome(address, handed)


def _give_up(message: Message, ended: Ended, desk: Desk) -> None:
    """Record why there will be no answer, and put the message where people are told of it."""
    desk.queue.give_up(message.model_dump_json())
    desk.box.end(message.address, message.id, ended)
    logger.error("given up", extra={"ticket": f"{message.address}/{message.id}", "reason": ended.error})
