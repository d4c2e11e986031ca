"""Lambda: how a run's curated rows are registered in the Data Catalog. Reads their schema, changes no table."""

from typing import Any

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import tables
from ebb.aws import storage
from ebb.aws.ledger import Ledger
from ebb.errors import ObjectMissingError, ReportMissingError
from ebb.settings import CatalogSettings
from ebb.steps import TableRequested
from ebb.telemetry import logger


@logger.inject_lambda_context
@event_parser
def handler(asked: TableRequested, context: LambdaContext) -> dict[str, Any]:
    """Answer with the requests that register the rows, None for data that are no table."""
    settings = CatalogSettings.from_env()
    place = f"{asked.curated_uri.rstrip('/')}/schema.json"
    try:
        schema = storage.read_json(place)
    except (ObjectMissingError, ValueError) as error:
        raise ReportMissingError(f"the data are curated and {place} cannot be read") from error
    requests = tables.requests(
        schema,
        database=settings.database,
        project=asked.project,
        run_id=asked.run_id,
        attempt=asked.attempt,
        generation=asked.generation,
        curated_uri=asked.curated_uri,
        manifest_uri=asked.manifest_uri,
    )
    Ledger(settings.ledger_table).put_decisions(asked.run_id, "catalog", [tables.decision(schema, requests)])
    return {"table": requests}
