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


@pytest.mark.parametrize("error", [cancelled("None", "ValidationError"), cancelled("None", "TransactionConflict")])
def test_what_cannot_be_written_is_an_error_not_silence(accounts, monkeypatch, error):
    refusing(accounts, monkeypatch, 99, error)
    with pytest.raises(LedgerUnavailableError):
        accounts.write(hour_of())
