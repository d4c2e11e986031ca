"""Addresses in the ledger: who may change a state, and who comes too late."""

from datetime import UTC, datetime, timedelta

import pytest

from ebb import addresses
from ebb.addresses import Address, IdlePolicy
from ebb.aws.ledger import Ledger
from worked_run import LEDGER

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PETS = Address(address="ebb-pets", project="pets", kind="async", endpoint_name="ebb-pets-async")


@pytest.fixture
def book(account) -> Ledger:
    ledger = Ledger(LEDGER)
    ledger.apply(addresses.put(PETS, now=NOW))
    return ledger


def _change(book: Ledger, expected, to, **more) -> bool:
    generation = book.address("ebb-pets").generation
    return book.apply(addresses.change("ebb-pets", expected=expected, generation=generation, to=to, now=NOW, **more))


def test_deploying_makes_an_address_awake_and_counts(book: Ledger):
    found = book.address("ebb-pets")
    assert (found.state, found.generation, found.endpoint_name) == ("awake", 1, "ebb-pets-async")


def test_of_two_that_put_it_to_sleep_one_is_refused(book: Ledger):
    request = addresses.change("ebb-pets", expected="awake", generation=1, to="falling-asleep", now=NOW)
    assert book.apply(request)
    assert not book.apply(request)


def test_a_request_that_meets_it_falling_asleep_keeps_it_from_sleeping(book: Ledger):
    assert _change(book, "awake", "falling-asleep")
    assert book.apply(addresses.want("ebb-pets", NOW))
    assert not _change(book, "falling-asleep", "asleep", unless_wanted=True)
    assert _change(book, "falling-asleep", "awake")
    assert book.address("ebb-pets").wanted_at is None


def test_nobody_waits_for_an_endpoint_that_is_awake(book: Ledger):
    assert not book.apply(addresses.want("ebb-pets", NOW))
    assert not book.apply(addresses.want("ebb-unknown", NOW))


def test_deploying_anew_forgets_what_was_there_before(book: Ledger):
    _change(book, "awake", "falling-asleep", fields={"snapshot": {"uri": "s3://b/k", "sha256": "0"}})
    anew = PETS.model_copy(update={"kind": "serverless", "policy": IdlePolicy(idle_after_s=900)})
    assert book.apply(addresses.put(anew, now=NOW + timedelta(hours=1)))
    found = book.address("ebb-pets")
    assert (found.kind, found.state, found.snapshot, found.policy.idle_after_s) == ("serverless", "awake", None, 900)
    assert found.generation == 3


@pytest.mark.parametrize("to", ["waking", "awake"])
def test_whatever_wakes_it_makes_it_forget_when_it_was_to_be_woken(book: Ledger, to):
    assert _change(book, "awake", "falling-asleep", fields={"prewake_at": NOW + timedelta(days=3)})
    assert _change(book, "falling-asleep", "asleep")
    assert book.address("ebb-pets").prewake_at == NOW + timedelta(days=3)
    assert _change(book, "asleep", to)
    assert book.address("ebb-pets").prewake_at is None


def test_executions_of_long_names_that_begin_alike_are_two():
    one, other = (f"{'a-customers-endpoint-with-a-name-of-many-words-and-more'}-{last}" for last in "ab")
    for name in (
        lambda at: addresses.sleep_execution(at, 9_999, NOW),
        lambda at: addresses.prewake_execution(at, 9_999),
        lambda at: addresses.wake_execution(at, 9_999),
    ):
        assert name(one) != name(other)
        assert max(len(name(at)) for at in (one, other, "x" * 63)) <= 76, "room for the names of repeats"
