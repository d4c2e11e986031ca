"""Lambda: plan the scoring of what was dropped below score/. Reads the ledger and the drop, starts nothing."""

from typing import Any

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import events, ledger, names, scoring, sources
from ebb.aws import objects, storage
from ebb.aws.ledger import Ledger
from ebb.errors import AttemptOutdatedError, ObjectMissingError
from ebb.scoring import ToScore
from ebb.settings import StackSettings
from ebb.steps import ScoringRequested
from ebb.telemetry import logger


@logger.inject_lambda_context
@event_parser
def handler(asked: ScoringRequested, context: LambdaContext) -> dict[str, Any]:
    """Answer with the requests of the scoring: its model, its transform, and the deletion of that model."""
    stack = StackSettings.for_selection()
    book, drop = Ledger(stack.ledger_table), asked.drop
    try:
        marker = storage.head(drop.bucket, drop.key)
    except ObjectMissingError as error:
        raise objects.missing(drop.key) from error
    drop_id = marker.metadata.get("ebb-drop-id")
    if not book.apply(ledger.open_run(asked, execution_arn=asked.execution_arn, drop_id=drop_id, now=asked.now)):
        raise AttemptOutdatedError(f"{asked.run_id} has ended or a newer attempt runs")
    served = scoring.require_model(book.project(asked.project).get("served"), asked.project)
    found = _found(asked)
    sources.few_enough(len(found))
    form = scoring.form_of(found, folder=drop.key)
    run = book.run(served["run_id"]) or {}
    measured: list[dict[str, Any]] = run.get("candidates", [])
    candidate = next((each for each in measured if each["name"] == served["candidate"]), {})
    key = names.manifest_key(asked.run_id)
    storage.write_json(stack.artifact_bucket, key, [{"prefix": f"s3://{drop.bucket}/"}, *(each.key for each in found)])
    planned = scoring.build(
        stack,
        run_id=asked.run_id,
        attempt=asked.attempt,
        project=asked.project,
        served=served,
        candidate=candidate,
        form=form,
        manifest_uri=f"s3://{stack.artifact_bucket}/{key}",
        source=f"s3://{drop.bucket}/{drop.key.removesuffix(events.SUCCESS_MARKER)}",
    )
    if not book.apply(ledger.change_run(asked.run_id, asked.attempt, {"purpose": "score", **planned["told"]})):
        raise AttemptOutdatedError(f"{asked.run_id} has ended or a newer attempt runs")
    return planned


def _found(asked: ScoringRequested) -> list[ToScore]:
    """Return the objects of the drop: one, or those of the folder that its marker closes."""
    drop = asked.drop
    if drop.kind != "prefix":
        return [ToScore(drop.key, drop.size_bytes)]
    prefix = drop.key.removesuffix(events.SUCCESS_MARKER)
    listed = (each for each in storage.listed(drop.bucket, prefix) if not each.key.rpartition("/")[2].startswith("_"))
    return [ToScore(each.key, each.size_bytes) for each in listed]
