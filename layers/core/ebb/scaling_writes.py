"""What a step of a sleep or a wake writes to the ledger, tells the owner and starts: request bodies. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ebb import addresses, ledger, names
from ebb.addresses import Address
from ebb.endpoint_world import Body
from ebb.requests import alarms
from ebb.scaling import Place


def change(
    at: Address,
    to: addresses.State,
    now: datetime,
    place: Place,
    fields: Mapping[str, Any],
    *,
    unless_wanted: bool = False,
) -> Body:
    """Return the write of a state, refused when the address is not in the generation that was judged any more."""
    request = addresses.change(
        at.address,
        expected=at.state,
        generation=at.generation,
        to=to,
        now=now,
        fields=fields,
        unless_wanted=unless_wanted,
    )
    return ledger.as_action(place.table, request)


def event(place: Place, at: Address, now: datetime, what: str, **more: Any) -> Body:
    """Return the write of what happened to an address: pk ADDRESS#<address>, sk EVENT#<time>.

    `what` is "slept", "woke", "sleep called off", "kept though idle", "capacity refused" or "could not be woken"; times
    are in seconds:
    `asleep_s`, and `took_s` from the decision until it slept, or from the first request until it answered;
    `called_after_s` from that request until AWS was asked for capacity, which is Ebb's own delay. `saved_usd`
    and `saved_kwh` are what being asleep saved, gross; `saves_usd_per_month` is net of watching.
    """
    fields = {
        "what": what,
        "at": ledger.iso(now),
        "address": at.address,
        "project": at.project,
        "kind": at.kind,
        "execution": place.execution,
        "generation": at.generation,
        "usd_per_hour": at.awake_usd_per_hour,
        **more,
    }
    key = {"pk": addresses.key(at.address)["pk"], "sk": f"EVENT#{ledger.iso(now)}"}
    return ledger.as_action(place.table, ledger.update(key, fields))


def wake_request(address: str, generation: int, reason: str) -> Body:
    """Return the execution that wakes an address: the same for all who ask at once."""
    given = {"address": address, "generation": generation}
    return {"name": addresses.wake_execution(address, generation)[:80], "input": given, "why": reason}


def notice(place: Place, subject: str, *lines: str) -> Body:
    """Return the message to the owner, a Publish."""
    # https://docs.aws.amazon.com/sns/latest/api/API_Publish.html: a subject of at most 100 ASCII characters
    return {"TopicArn": place.topic_arn, "Subject": f"Ebb: {subject}"[:100], "Message": "\n".join(lines)}


def alarm(at: Address, what: str) -> str:
    """Return the name of an endpoint's own alarm; `what` is one of `ebb.requests.alarms`."""
    return alarms.alarm_name(at.address, what)


def alarm_tags(at: Address, place: Place) -> list[Body]:
    """Return the tags of an alarm of Ebb's own; others' alarms keep the ones they have."""
    return names.tags(place.stack, at.project or at.address) if at.origin == "ebb" else []
