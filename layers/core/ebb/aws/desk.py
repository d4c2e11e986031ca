"""Serve one request: ask its endpoint when that is awake, else keep the request, have it woken, and find the answer.

What both the front door and the delivery do. Each look at an address is a consistent read; between it and the call the
endpoint may have been put to sleep, deployed or moved to another kind, so whoever meets nobody looks again.
"""

from dataclasses import dataclass
from datetime import datetime

from ebb import addresses, door, tickets
from ebb.addresses import Address
from ebb.aws import executions, inference
from ebb.aws.ledger import Ledger
from ebb.aws.tickets import Box, Queue
from ebb.door import Meaning, Refusal, Reply, Step
from ebb.settings import DoorSettings
from ebb.telemetry import logger
from ebb.tickets import Ended, HandedOver, Waiting


@dataclass
class Request:
    """A request, and its payload when that does not lie in the box."""

    asked: Waiting
    body: bytes | None
    kept: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a request: answered, handed over, or (neither) it waits."""

    address: Address
    given: Reply | Refusal | HandedOver | None = None
    nobody: bool = False  # though the ledger says that the endpoint is awake


class Desk:
    """The ledger, the tickets and the endpoints of one stack."""

    def __init__(self, settings: DoorSettings):
        self.book = Ledger(settings.ledger_table)
        self.box = Box(settings.artifact_bucket)
        self.queue = Queue(settings.requests_queue_url, settings.dead_letter_queue_url)
        self._wake_machine = settings.wake_endpoint_arn
        self._stack = settings.stack

    def find(self, name: str) -> Address | None:
        """Return the address that a name means: its own, or that of the project of this name."""
        found = (self.book.address(each) for each in door.spellings(name, self._stack))
        return next((each for each in found if each), None)

    def keep(self, request: Request) -> None:
        """Keep a request until it is answered."""
        if not request.kept:
            self.box.keep(request.asked, request.body)
            request.kept = True

    def enqueue(self, request: Request) -> None:
        """Let a request be delivered as soon as its endpoint answers: from here on it is not lost."""
        self.keep(request)
        self.queue.send(request.asked)

    def ask(self, address: Address, request: Request, now: datetime, *, early: bool = False) -> Outcome:
        """Ask the endpoint behind an address, as often as the address changes under the request.

        One that is to fall asleep has its capacity until the write that allows the act. That write is refused once a
        request is noted, and noting it for this is refused after that write: so it is noted first, and asked if that
        was in time. With `early` one that wakes is asked too: it answers before the ledger knows. What either refuses
        waits, but for what its model has judged to be wrong (`door.is_judged`).
        Raises: door.Refused when there is no endpoint to ask.
        """
        for _ in range(door.LOOKS):
            step = door.step(address)
            leaves = step is Step.WAIT and address.state == addresses.FALLING_ASLEEP and address.acted_at is None
            wakes = step is Step.WAIT and address.state == addresses.WAKING and early
            if step is Step.WAIT and not (leaves or wakes):
                return Outcome(address)
            if leaves and not self.book.apply(addresses.want(address.address, now, before_act=True)):
                address = self._again(address)
                continue
            given = self._invoked(Step.INVOKE if leaves or wakes else step, address, request, now)
            if (leaves or wakes) and isinstance(given, Refusal) and not door.is_judged(given):
                logger.info("not up", extra={"address": address.address, "code": given.code, "reason": given.message})
                return Outcome(address)
            if not isinstance(given, Refusal) or door.meaning(given) is Meaning.TOLD:
                return Outcome(address, given)
            if door.meaning(given) is Meaning.BUSY:
                logger.info("busy", extra={"address": address.address, "code": given.code})
                return Outcome(address)
            again = self._again(address)
            if not door.moved(address, again):
                logger.warning("nobody there", extra={"address": address.address, "reason": given.message})
                return Outcome(address, nobody=True)
            address = again
        return Outcome(address)

    def _again(self, address: Address) -> Address:
        found = self.book.address(address.address)
        if found is None:
            raise door.unknown(address.address)
        return found

    def wake(self, outcome: Outcome, now: datetime) -> bool:
        """Note that a request waits, and see that its endpoint is being woken; return whether this started a wake.

        The execution is named after the state that it is to change, so of ten callers one starts it. Where the ledger
        is wrong (it says awake and nobody is there), the machine that wakes finds out and repairs it.
        """
        name = outcome.address.address
        noted = self.book.apply(addresses.want(name, now))
        address = self.book.address(name)
        if address is None or (noted and not tickets.wakes_now(address, now) and not _is_abandoned(address, now)):
            return False
        if not noted and (not outcome.nobody or door.moved(outcome.address, address)):
            return False  # awake by now: the delivery asks it
        execution = addresses.wake_execution(name, address.generation)
        told = {"address": name, "generation": address.generation}
        started = executions.ensure(self._wake_machine, execution, told)
        logger.info("wake", extra={"address": name, "execution": execution, "started": started})
        return started

    def note(self, address: Address, now: datetime) -> None:
        """Note, to the minute, that an endpoint was asked through the front door."""
        if not door.is_noted(address, now):
            self.book.apply(addresses.note_request(address.address, now))

    def found(self, asked: Waiting) -> tuple[Ended | None, HandedOver | None]:
        """Return how a ticket ended, recorded or not, and where else its answer may come to lie. Reads only."""
        if ended := self.box.ended(asked.address, asked.id):
            return ended, None
        handed = self.box.handed_over(asked)
        return (self.box.settled(handed, asked) if handed else None), handed

    def hurry(self, asked: Waiting, address: Address) -> bool:
        """Queue a request once more that its endpoint should have answered by now, a few times at most.

        Its message is out of sight: it waits for its next look, or the delivery that had it was killed. Whichever of
        two messages comes first answers the ticket, the other one finds it answered.
        """
        turn = tickets.overdue_turn(asked, address, self.book.now)
        if turn is None or not self.box.take_late_turn(asked, turn):
            return False
        self.queue.send(asked)
        logger.warning("overdue", extra={"ticket": asked.name, "turn": turn})
        return True

    def end(self, asked: Waiting, given: Reply | Refusal, now: datetime) -> None:
        """Record what an endpoint answered."""
        if isinstance(given, Refusal):
            self.box.end(asked.address, asked.id, tickets.failed(now, given.status, door.told(given)))
            return
        ended = Ended(state="answered", at=now, content_type=given.content_type, headers=given.headers)
        self.box.end(asked.address, asked.id, ended, given.body)

    def _payload(self, request: Request) -> bytes:
        if request.body is None:
            return self.box.payload(request.asked.address, request.asked.id)
        return request.body

    def _invoked(self, step: Step, address: Address, request: Request, now: datetime) -> Reply | Refusal | HandedOver:
        if step is Step.INVOKE:
            return inference.invoke(address, request.asked, self._payload(request))
        self.keep(request)
        given = inference.hand_over(
            address,
            request.asked,
            input_uri=self.box.payload_uri(request.asked),
            payload=self._payload(request) if address.origin == "foreign" else None,
            ttl_s=tickets.async_ttl_s(request.asked.deadline, now),
        )
        if isinstance(given, Refusal):
            return given
        handed = given.model_copy(update={"elsewhere": not self.box.holds(given.output_location)})
        self.box.note_handed_over(request.asked, handed)
        return handed


def _is_abandoned(address: Address, now: datetime) -> bool:
    """Return whether nobody works any more on an endpoint that wakes or falls asleep: whoever did was killed."""
    if not tickets.may_be_abandoned(address, now):
        return False
    return address.worked_by is None or not executions.is_running(address.worked_by)
