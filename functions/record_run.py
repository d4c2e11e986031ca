"""Lambda: write to the ledger what happened to a run, and word the notification. Ends runs, starts nothing."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import budgets, capacity, compilers, features, ledger, names, record, rightsizing, training_watch
from ebb.aws import clients, closing, storage
from ebb.aws.ledger import Ledger
from ebb.errors import AttemptOutdatedError, DropRejectedError, ObjectMissingError, ReportMissingError
from ebb.record import Compiled, Ended, ImagesBuilt, JobFailed, RecordRequest, Reused, Scored, StageFinished, Succeeded
from ebb.settings import RecordSettings
from ebb.telemetry import logger


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer with the notification's subject and message; nothing after a stage, a plan after a failed job."""
    told, settings = RecordRequest.validate_python(event), RecordSettings.from_env()
    book = Ledger(settings.ledger_table)
    match told:
        case StageFinished():
            _stage_finished(told, book, settings)
            return {}
        case JobFailed():
            return _job_failed(told, book)
        case Compiled():
            return _compiled(told, book)
        case ImagesBuilt():
            _images(told, book, told.builds, ledger.FINISHED)
            return {}
        case Succeeded():
            return _succeeded(told, book, settings)
        case Scored():
            return _scored(told, book, settings)
        case Ended():
            return _ended(told, book, settings)
        case Reused():
            status = "reused" if told.outcome == "reuse" else "superseded"
            return _close(told, book, settings, status, {"reuses": told.reuses, "reason": told.reason})


def _stage_finished(told: StageFinished, book: Ledger, settings: RecordSettings) -> None:
    stopped = book.stopped(told.run_id, told.job)
    try:
        report = storage.read_json(told.report_uri)
    except (ObjectMissingError, ValueError) as error:
        raise ReportMissingError(training_watch.nothing_left(stopped, told.report_uri)) from error
    rejection = record.rejection_in(report)
    run = book.run(told.run_id) or {}
    found = record.learned(told.stage, report)
    # The run learns first: a later attempt takes over what has finished, and needs what the run knows by it.
    current = not found or book.apply(ledger.change_run(told.run_id, told.attempt, found))
    status = (ledger.REJECTED if rejection else ledger.FINISHED) if current else ledger.FAILED
    fields = record.stage_fields(
        told.job,
        report,
        status=status,
        attempt=told.attempt,
        region=clients.region(),
        identity=run.get("identity"),
    )
    fields |= {"stopped": training_watch.kept(stopped)} if stopped else {}
    book.put_stage(told.run_id, told.stage, fields | {"artifacts": {"report": told.report_uri}})
    decisions = [training_watch.decision(stopped)] if stopped else []
    book.put_decisions(told.run_id, told.stage, [*decisions, *report.get("decisions", ())])
    if not current:
        raise AttemptOutdatedError(f"{told.run_id} has ended or a newer attempt runs")
    if rejection:
        raise DropRejectedError(rejection)
    if told.stage == names.FEATURES:
        _features(told, book, settings, run, report)


def _features(
    told: StageFinished, book: Ledger, settings: RecordSettings, run: dict[str, Any], report: dict[str, Any]
) -> None:
    """Let other projects find what was published: from now on, whatever becomes of the model."""
    process = book.stage(told.run_id, "process") or {}
    published = features.published(run, process, report, bucket=settings.artifact_bucket, now=told.now)
    book.apply(ledger.remember_features(told.project, int(run["generation"]), published.model_dump(mode="json")))


def _job_failed(told: JobFailed, book: Ledger) -> dict[str, Any]:
    """Answer with the next machine that is tried, if it was only that; the record says what was refused and when.

    A training job that we have stopped ourselves has not failed: the run goes on with what it has saved.
    """
    if book.stopped(told.run_id, record.job_in(told.cause) or {}):
        return {"next": "stopped", "plan": told.plan, "wait_s": 0}
    answer = capacity.after(told.plan, told.stage, told.error, told.cause, told.now)
    if answer["next"] != capacity.FAIL:
        _used_before_it_was_refused(told, book)
        what = capacity.decision(answer["plan"], told.stage, answer["wait_s"])
        place = capacity.DECISIONS_FROM + names.STAGES.index(told.stage)
        book.put_decisions(told.run_id, "plan", [what], first=place)
    return answer


def _compiled(told: Compiled, book: Ledger) -> dict[str, Any]:
    """Answer with what the registry entry gains by it; a job that was never made took nothing."""
    if told.job:
        status = ledger.FINISHED if compilers.ended_well(told.job) else ledger.FAILED
        fields = compilers.stage_fields(told.job, status=status, attempt=told.attempt, region=clients.region())
        book.put_stage(told.run_id, names.NEO, fields)
    book.put_decisions(told.run_id, names.NEO, [compilers.outcome(told.job, told.error, told.cause)])
    return compilers.beside(told.job)


def _used_before_it_was_refused(told: JobFailed, book: Ledger) -> None:
    """Count what an interrupted spot job trained before it waited in vain; the next machine's comes beside it."""
    job = record.job_in(told.cause)
    if job is None or not record.has_run(job):
        return
    identity = (book.run(told.run_id) or {}).get("identity")
    fields = record.stage_fields(
        job, {}, status=ledger.FAILED, attempt=told.attempt, region=clients.region(), identity=identity
    )
    book.put_stage(told.run_id, told.stage, fields)


def _images(told: ImagesBuilt | Ended, book: Ledger, builds: list[dict[str, Any]], status: str) -> None:
    """Record builds. Of those that ran beside a failed one, which ended them, nothing is known and nothing counted."""
    fields = record.images_fields(builds, status=status, attempt=told.attempt, region=clients.region())
    book.put_stage(told.run_id, "images", fields)


def _succeeded(told: Succeeded, book: Ledger, settings: RecordSettings) -> dict[str, str]:
    deployed = bool((told.deployment or {}).get("deployed"))
    fields = record.success_fields(told)
    what = {
        "what": "deployment",
        "chosen": "deployed" if deployed else "kept in the registry",
        "reason": fields["deploy_reason"],
        "numbers": {"generation": told.plan["generation"]},
        "alternatives": [],
    }
    book.put_decisions(told.run_id, "deploy", [what])
    message = _close(told, book, settings, "succeeded", fields)
    # After the run itself: only a run that succeeded may be found by its identity or serve as another's base.
    run = book.run(told.run_id) or {}
    generation = int(told.plan["generation"])
    if (told.plan.get("admission") or {}).get("outcome") != budgets.SHRINK:  # less than what was asked for
        book.apply(ledger.remember_identity(run["identity"], told.run_id, told.now))
    if run["spec"]["data"]["mode"] == "replace":
        book.forget_replaced(told.project, generation)
    story = book.story(told.run_id)
    spec = budgets.as_run(run["spec"], told.plan)
    measured = rightsizing.remembered(told.run_id, story.stages if story else (), told.plan.get("data"), spec)
    if measured:
        book.apply(ledger.remember_measured(told.project, generation, measured))
    curve = training_watch.remembered(run["spec"], story.stages if story else ())
    if curve:
        book.apply(ledger.remember_curve(told.project, generation, curve))
    served = record.served_fields(told)
    if served:
        book.apply(ledger.remember_served(told.project, generation, served))
    return message


def _scored(told: Scored, book: Ledger, settings: RecordSettings) -> dict[str, str]:
    fields = record.stage_fields(
        told.transform, {}, status=ledger.FINISHED, attempt=told.attempt, region=clients.region(), identity=None
    )
    book.put_stage(told.run_id, "score", fields)
    return _close(told, book, settings, "succeeded", told.plan["told"])


def _ended(told: Ended, book: Ledger, settings: RecordSettings) -> dict[str, str]:
    job = record.job_in(told.cause)
    if job and told.stage in (*names.STAGES, names.FEATURES, "score"):
        run = book.run(told.run_id) or {}
        fields = record.stage_fields(
            job,
            {},
            status=ledger.FAILED,
            attempt=told.attempt,
            region=clients.region(),
            identity=run.get("identity"),
        )
        book.put_stage(told.run_id, told.stage, fields)
    build = record.build_in(told.cause)
    if build and told.stage == "images":
        _images(told, book, [build], ledger.FAILED)
    return _close(told, book, settings, told.action, {"error": record.what_went_wrong(told)})


def _close(
    told: Succeeded | Scored | Ended | Reused,
    book: Ledger,
    settings: RecordSettings,
    status: str,
    fields: dict[str, Any],
) -> dict[str, str]:
    run = closing.close(
        book,
        settings.artifact_bucket,
        run_id=told.run_id,
        attempt=told.attempt,
        project=told.project,
        status=status,
        now=told.now,
        fields=fields,
    )
    if run is None:
        raise AttemptOutdatedError(f"{told.run_id} has ended otherwise or a newer attempt runs")
    logger.info("run ended", extra={"run_id": told.run_id, "status": status})
    return record.notification(told.run_id, told.project, status, run, region=clients.region())
