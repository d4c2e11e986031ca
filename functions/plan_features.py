"""Lambda: turn a run's columns into a feature group and the job that fills it. Reads schema.json, creates nothing."""

from typing import Any

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import names, requests
from ebb.aws import storage
from ebb.aws.ledger import Ledger
from ebb.errors import ObjectMissingError, ReportMissingError
from ebb.settings import FeatureSettings, StackSettings
from ebb.steps import FeaturesRequested
from ebb.telemetry import logger
from ebb_jobs import feature_names


@logger.inject_lambda_context
@event_parser
def handler(asked: FeaturesRequested, context: LambdaContext) -> dict[str, Any]:
    """Answer with both requests; with `publish: false` and the reason where the rows are no features of a table."""
    stack, settings = StackSettings.for_features(), FeatureSettings.from_env()
    place = asked.plan["artifacts"]["curated"] + "schema.json"
    try:
        schema = storage.read_json(place)
    except (ObjectMissingError, ValueError) as error:
        raise ReportMissingError(f"{place} cannot be read") from error
    why_not = feature_names.refusal(schema)
    if why_not:
        told = {"what": "features registered", "chosen": "none", "reason": why_not, "numbers": {}, "alternatives": []}
        Ledger(stack.ledger_table).put_decisions(asked.run_id, names.FEATURES, [told])
        return {"publish": False, "reason": why_not}
    group = requests.create_feature_group(
        stack,
        asked.project,
        digest=feature_names.digest(schema),
        definitions=feature_names.definitions(schema),
        target=schema["target"]["name"],
    )
    job = requests.publish_features(
        stack, asked.plan, group["FeatureGroupName"], now=asked.now, retention_days=settings.retention_days
    )
    return {"publish": True, "group": group, "request": job}
