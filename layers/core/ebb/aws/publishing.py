"""Book entries of the footprint ledger, and publish what they add as metrics of CloudWatch, through the log.

A line in the embedded metric format for each project and booking, in the namespace `Ebb`, by the dimension `Project`.
Four metrics, and none for what is nothing, for each is billed for every hour in which it is sent; water is a fixed
multiple of the energy (`ebb.carbon.water_l`) and has none.
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
    for line in lines(written):
        print(
            line
        )  # not the logger's form: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    return written


def lines(entries: Iterable[Entry]) -> list[str]:
    """Return what entries add to the metrics: a line for each project, at the moment of its latest entry."""
    projects: dict[str, list[Entry]] = {}
    for each in entries:
        projects.setdefault(each.project, []).append(each)
    return [line for project, found in projects.items() if (line := _line(project, found))]


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
