"""Book entries of the footprint ledger, and publish what they add as metrics of CloudWatch, through the log.

A line in the embedded metric format for each project and booking, in the namespace `Ebb`, by the dimension `Project`,
at the moment of its latest entry. Four metrics, and none for what is nothing: each is billed for every hour in which it
is sent. Water is a fixed multiple of the energy (`ebb.carbon.water_l`) and has none.
"""

import json
from collections.abc import Iterable, Sequence

from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

from ebb.accounting import Entry
from ebb.aws.accounts import Accounts

NAMESPACE, DIMENSION = "Ebb", "Project"
ENERGY, CARBON, COST, SAVED = "EnergyKWh", "CarbonG", "CostUSD", "SavedCarbonG"
METRICS = (ENERGY, CARBON, COST, SAVED)


def book(ledger_table: str, entries: Iterable[Entry]) -> list[Entry]:
    """Write entries, publish those that did not stand already, and return them.

    Raises: LedgerUnavailableError.
    """
    written = Accounts(ledger_table).write_all(entries)
    publish(written)
    return written


def publish(entries: Iterable[Entry], *, project: str | None = None) -> None:
    """Print what entries add to the metrics, into the function's log, from where CloudWatch takes it.

    Under one name for all of them when `project` says so, else each under its own.
    Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    """
    projects: dict[str, list[Entry]] = {}
    for each in entries:
        projects.setdefault(project or each.project, []).append(each)
    for name, found in projects.items():
        if line := _line(name, found):
            print(line)


def _line(project: str, entries: Sequence[Entry]) -> str | None:
    values = {
        ENERGY: sum(each.footprint.energy_kwh.value for each in entries),
        CARBON: sum(each.footprint.carbon_g.value for each in entries),
        COST: sum(each.footprint.cost_usd.value for each in entries),
        SAVED: sum(each.saved["carbon_g"].value for each in entries),
    }
    told = {name: value for name, value in values.items() if value}
    if not told:
        return None
    metrics = AmazonCloudWatchEMFProvider(namespace=NAMESPACE)
    metrics.service = ""  # else a dimension of its own
    metrics.timestamp = round(max(each.at for each in entries).timestamp() * 1000)
    metrics.add_dimension(DIMENSION, project)
    for name, value in told.items():
        metrics.add_metric(name, MetricUnit.NoUnit, value)
    return json.dumps(metrics.serialize_metric_set())
