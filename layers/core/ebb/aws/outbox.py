"""Put decisions on the account's default EventBridge bus. What it does not take comes again: the stream keeps it."""

from collections.abc import Iterable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ebb import decision_events
from ebb.aws import clients
from ebb.errors import EventsUnavailableError


def put(entries: Iterable[decision_events.Entry], client: Any = None) -> int:
    """Put every entry and return how many; some may have been put when it raises, and are put again by the next try.

    Raises: EventsUnavailableError when EventBridge refused one, or could not be asked.
    """
    events, count = client or clients.client("events"), 0
    for batch in decision_events.batches(entries):
        try:
            answer = events.put_events(Entries=batch)
        except (BotoCoreError, ClientError) as error:
            raise EventsUnavailableError(f"PutEvents: {type(error).__name__}") from error
        refused = [each for each in answer["Entries"] if "ErrorCode" in each]
        if refused:
            codes = ", ".join(sorted({str(each["ErrorCode"]) for each in refused}))
            raise EventsUnavailableError(f"PutEvents refused {len(refused)} of {len(batch)} events: {codes}")
        count += len(batch)
    return count
