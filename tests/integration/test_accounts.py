"""Entries and totals in a table of DynamoDB: nothing is counted twice, nothing is lost."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from botocore.exceptions import ClientError

from ebb import accounting
from ebb.aws.accounts import Accounts
from ebb.carbon import Band
from ebb.errors import LedgerUnavailableError
from ebb.footprint import Footprint
from worked_run import LEDGER

AT = datetime(2026, 11, 23, 9, tzinfo=UTC)


def hour_of(project: str = "iris", hour: int = 9, month: int = 11) -> accounting.Entry:
    one = Footprint(Band(0.5, 1.0, 2.0), Band.exact(100.0), Band.exact(0.25), Band.exact(3.0))
    moment = AT.replace(hour=hour, month=month)
    return accounting.serving_entry(project=project, endpoint="ebb-iris", hour=moment, spent=one, usage={})


@pytest.fixture
def accounts(account):
    return Accounts(LEDGER)


def test_an_entry_and_its_total_are_written_together(accounts):
    assert accounts.write(hour_of())
    month = accounts.month("iris", "2026-11")
    assert [each["sk"] for each in month["entries"]] == ["serving#ebb-iris#2026-11-23T09"]
    assert month["total"]["spent_carbon_g"] == 100
    assert (month["total"]["spent_energy_kwh_low"], month["total"]["spent_energy_kwh_high"]) == (0.5, 2)


def test_a_repeat_is_no_error_and_counts_nothing(accounts):
    assert [accounts.write(hour_of()) for _ in range(3)] == [True, False, False]
    assert accounts.month("iris", "2026-11")["total"]["entries"] == 1


def test_entries_that_come_at_once_are_all_counted(accounts):
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda hour: accounts.write(hour_of(hour=hour % 12)), range(24)))
    assert sum(written) == 12
    assert accounts.month("iris", "2026-11")["total"]["spent_carbon_g"] == 1200


def test_entries_of_several_months_are_counted_in_their_own(accounts):
    entries = [hour_of(hour=hour, month=month) for hour in range(24) for month in (10, 11)]
    assert len(accounts.write_all(entries)) == 48
    for month in ("2026-10", "2026-11"):
        assert accounts.month("iris", month)["total"]["spent_carbon_g"] == 2400


def test_a_day_is_one_transaction_and_one_count_of_its_total(accounts, monkeypatch):
    calls = refusing(accounts, monkeypatch, 0, cancelled())
    accounts.write_all(hour_of(hour=hour) for hour in range(24))
    assert len(calls) == 1


def test_of_entries_that_stand_in_part_only_the_others_are_written_and_counted(accounts):
    accounts.write(hour_of(hour=3))
    accounts.write(hour_of(hour=5))
    written = accounts.write_all(hour_of(hour=hour) for hour in range(6))
    assert [each.at.hour for each in written] == [0, 1, 2, 4]
    assert accounts.month("iris", "2026-11")["total"]["spent_energy_kwh"] == 6


def test_an_entry_that_is_given_twice_is_written_once(accounts):
    assert len(accounts.write_all([hour_of(), hour_of()])) == 1


def test_more_than_a_transaction_holds_is_written_in_several(accounts):
    entries = [
        accounting.serving_entry(project="iris", endpoint=f"e{number}", hour=AT, spent=hour_of().footprint, usage={})
        for number in range(150)
    ]
    assert len(accounts.write_all(entries)) == 150
    assert accounts.month("iris", "2026-11")["total"]["entries"] == 150


def test_months_of_all_projects_or_of_one_are_read_from_a_month_on(accounts):
    for each in (hour_of(), hour_of("wine"), hour_of(month=10)):
        accounts.write(each)
    assert [each["project"] for each in accounts.months(since="2026-11")] == ["iris", "wine"]
    assert [each["at"][:7] for each in accounts.months("iris")] == ["2026-10", "2026-11"]


def test_a_month_without_entries_is_empty(accounts):
    assert accounts.month("nobody", "2026-11") == {"entries": [], "total": {}}


def cancelled(*reasons: str) -> ClientError:
    answer = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": [{"Code": r} for r in reasons]}
    return ClientError(answer, "TransactWriteItems")


def refusing(accounts, monkeypatch, times: int, error: ClientError) -> list[int]:
    client = accounts._table.meta.client
    send, calls = client.transact_write_items, []

    def answer(**request):
        calls.append(1)
        if len(calls) <= times:
            raise error
        return send(**request)

    monkeypatch.setattr(client, "transact_write_items", answer)
    monkeypatch.setattr("ebb.aws.accounts.FIRST_PAUSE_S", 0)
    return calls


def test_a_transaction_that_met_another_one_is_sent_again(accounts, monkeypatch):
    calls = refusing(accounts, monkeypatch, 2, cancelled("None", "TransactionConflict"))
    assert accounts.write(hour_of())
    assert len(calls) == 3
    assert accounts.month("iris", "2026-11")["total"]["entries"] == 1


@pytest.mark.parametrize(
    "error", [cancelled("None", "ValidationError"), cancelled("None", "TransactionConflict"), cancelled()]
)
def test_what_cannot_be_written_is_an_error_not_silence(accounts, monkeypatch, error):
    refusing(accounts, monkeypatch, 99, error)
    with pytest.raises(LedgerUnavailableError):
        accounts.write(hour_of())
