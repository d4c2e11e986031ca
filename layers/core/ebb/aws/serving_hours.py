"""Read what Ebb's own endpoints took, and book it: a metric and the sleeps of each, once a day.

What could not be read or written stays due, and is tried by the next sweep.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from boto3.dynamodb.conditions import Key
from botocore.exceptions import BotoCoreError, ClientError

from ebb import addresses, ledger, serving_hours
from ebb.accounting import Entry
from ebb.addresses import Address
from ebb.aws import publishing
from ebb.aws.accounts import Accounts
from ebb.aws.clients import client, region, table
from ebb.errors import LedgerUnavailableError, MetricsUnavailableError
from ebb.serving_hours import Due, Hour
from ebb.sweep import Report, Unread

# Per sweep, of which there are four an hour: the sweep has more to do. The others follow with the next ones.
MOST = 200
METRICS_PER_CALL = 500  # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html
THREADS = 16
PERIOD_S = 3600
# All endpoints share these metrics: one a day and project would cost more than all else that is done for an endpoint.
PUBLISHED_AS = "(endpoints)"


def told(
    report: Report, before: Due | None, known: Sequence[Address] | None, ledger_table: str, *, now: datetime
) -> Report:
    """Book what is due by now, and return the report with what is left; nothing while the addresses are not known."""
    if known is None:
        return report.model_copy(update={"hours": before})
    due, unread = book(serving_hours.due(before, known, now), known, ledger_table)
    return report.model_copy(update={"hours": due, "unread": (*report.unread, *unread)})


def book(due: Due, known: Iterable[Address], ledger_table: str) -> tuple[Due, list[Unread]]:
    """Book the hours of as many addresses as a sweep may; return what is still due, and what could not be done."""
    there = {at.address: at for at in known}
    taken = [there[name] for name in due.left[:MOST] if name in there]
    later = due.left[MOST:]
    if not taken:
        return due.model_copy(update={"left": later}), []
    try:
        hours = _hours(taken, due)
    except MetricsUnavailableError as error:
        return due, [Unread(what=f"hours of {len(taken)} endpoints", error=str(error))]
    accounts, where = Accounts(ledger_table), region()

    def one(at: Address) -> list[Entry] | Unread:
        try:
            events = _events(at, due, ledger_table)
            return accounts.write_all(serving_hours.entries(at, hours[at.address], events, due, region=where))
        except LedgerUnavailableError as error:
            return Unread(what=f"hours of {at.address}", error=str(error))

    with ThreadPoolExecutor(THREADS) as pool:
        written = list(pool.map(one, taken))
    booked = [each for entries in written if isinstance(entries, list) for each in entries]
    publishing.publish(booked, project=PUBLISHED_AS)
    failed = [(at.address, told) for at, told in zip(taken, written, strict=True) if isinstance(told, Unread)]
    left = (*later, *(name for name, _ in failed))
    return due.model_copy(update={"left": left}), [told for _, told in failed]


def _hours(known: Sequence[Address], due: Due) -> dict[str, list[Hour]]:
    """Return the hours of each address.

    Raises: MetricsUnavailableError when CloudWatch did not tell all of them.
    """
    queries = [query for number, at in enumerate(known) for query in _queries(number, at)]
    found: dict[str, dict[Any, float]] = {}
    try:
        for first in range(0, len(queries), METRICS_PER_CALL):
            asked = queries[first : first + METRICS_PER_CALL]
            pages = client("cloudwatch").get_paginator("get_metric_data").paginate(
                MetricDataQueries=asked, StartTime=due.since, EndTime=due.until
            )  # fmt: skip
            complete: dict[str, bool] = {}
            for each in (result for page in pages for result in page["MetricDataResults"]):
                found.setdefault(each["Id"], {}).update(zip(each["Timestamps"], each["Values"], strict=True))
                complete[each["Id"]] = each["StatusCode"] == "Complete"  # PartialData: the rest is on a later page
            if not all(complete.get(each["Id"]) for each in asked):
                raise MetricsUnavailableError("GetMetricData: not complete")
    except (ClientError, BotoCoreError) as error:
        raise MetricsUnavailableError(f"GetMetricData: {_code(error)}") from error
    return {
        at.address: [
            Hour(moment, samples, found[f"value{number}"].get(moment, 0.0))
            for moment, samples in sorted(found[f"count{number}"].items())
        ]
        for number, at in enumerate(known)
    }


def _queries(number: int, at: Address) -> list[dict[str, Any]]:
    series = serving_hours.series(at)
    where = [{"Name": name, "Value": value} for name, value in series.dimensions.items()]
    metric = {"Namespace": series.namespace, "MetricName": series.metric, "Dimensions": where}
    return [
        {"Id": f"{name}{number}", "MetricStat": {"Metric": metric, "Period": PERIOD_S, "Stat": statistic}}
        for name, statistic in (("count", "SampleCount"), ("value", series.statistic))
    ]


def _events(at: Address, due: Due, ledger_table: str) -> list[dict[str, Any]]:
    """Return what happened to an address since the first of the hours, oldest first; of one that never sleeps nothing.

    Raises: LedgerUnavailableError.
    """
    if at.kind not in addresses.SLEEPABLE:
        return []
    begun = Key("sk").between(f"EVENT#{ledger.iso(due.since)}", "EVENT$")  # the sign after #
    request: dict[str, Any] = {"KeyConditionExpression": Key("pk").eq(addresses.key(at.address)["pk"]) & begun}
    found: list[dict[str, Any]] = []
    while True:
        try:
            page = table(ledger_table).query(**request)
        except (ClientError, BotoCoreError) as error:
            raise LedgerUnavailableError(f"Query: {_code(error)}") from error
        found += ledger.from_item(page["Items"])
        if "LastEvaluatedKey" not in page:
            return found
        request["ExclusiveStartKey"] = page["LastEvaluatedKey"]


def _code(error: Exception) -> str:
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__
