"""Lambda: turn an identified drop into the plan of its run, and set its budget aside. Starts nothing."""

from dataclasses import replace
from typing import Any

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import budgets, identity, ledger, plan, sizing
from ebb.aws import admitting, registry
from ebb.aws.budgets import Budgets
from ebb.aws.ledger import Ledger
from ebb.errors import AttemptOutdatedError
from ebb.plan_facts import Champion, RunFacts
from ebb.settings import StackSettings
from ebb.spec import PipelineSpec
from ebb.steps import PlanRequested
from ebb.telemetry import logger


@logger.inject_lambda_context
@event_parser
def handler(asked: PlanRequested, context: LambdaContext) -> dict[str, Any]:
    """Answer with the plan: every request body that the state machine will send, or until when the run waits."""
    stack = StackSettings.for_planning()
    book = Ledger(stack.ledger_table)
    found, project = asked.identified, book.project(asked.project)
    facts = RunFacts(
        run_id=asked.run_id,
        attempt=asked.attempt,
        project=asked.project,
        spec=PipelineSpec.model_validate(found.spec),
        sources=found.sources,
        data=sizing.Data(
            size_bytes=found.size_bytes,
            form=found.format,
            compressed=found.compressed,
            task=found.task,
            content=found.content,
            example_count=found.example_count,
            unpacked_bytes=found.unpacked_bytes,
        ),
        manifest_uri=found.manifest_uri,
        sources_uri=found.sources_uri,
        generation=book.generation(asked.project, asked.run_id),
        finished=_finished(book, asked.run_id, found.identity),
        champion=_champion(project),
        features=found.features,
        pretrained=found.pretrained,
        measured=project.get("measured") or {},
        jobs=_jobs(book, asked.run_id),
        curve=project.get("curve"),
    )
    built = admitting.admit(facts, lambda each: _plan(each, stack), book, Budgets(stack.ledger_table), now=asked.now)
    if built["admission"]["outcome"] == budgets.WAIT:
        return built
    versions = {
        "jobs": identity.jobs_hash(stack.jobs_uri),
        "jobs_image": stack.jobs_image_uri,
        "serve_image": stack.serve_image_uri,
    }
    if not book.apply(ledger.change_run(asked.run_id, asked.attempt, {"versions": versions})):
        raise AttemptOutdatedError(f"{asked.run_id} has ended or a newer attempt runs")
    book.put_decisions(asked.run_id, "plan", built["decisions"])
    return built


def _plan(facts: RunFacts, stack: StackSettings) -> dict[str, Any]:
    """Return the plan of a run, with the builds of those images that the registry does not hold."""
    lacking = registry.missing(plan.images_of(facts, stack), account=stack.account_id, region=stack.region)
    return plan.build(replace(facts, missing_images=lacking), stack)


def _finished(book: Ledger, run_id: str, wanted: str) -> dict[str, int]:
    """Return the stages that need no repeating: finished by the same spec, job code and bytes."""
    story = book.story(run_id)
    return {
        stage["stage"]: stage["attempt"]
        for stage in (story.stages if story else ())
        if stage["status"] == ledger.FINISHED and stage.get("identity") == wanted
    }


def _jobs(book: Ledger, run_id: str) -> dict[str, str]:
    """Return the names of the jobs that finished stages."""
    story = book.story(run_id)
    return {
        stage["stage"]: stage["job_name"]
        for stage in (story.stages if story else ())
        if stage["status"] == ledger.FINISHED and stage.get("job_name")
    }


def _champion(project: dict[str, Any]) -> Champion | None:
    served = project.get("served")
    if not served or not served.get("quality"):  # one that is served as it is has no evaluation
        return None
    return Champion(
        served["run_id"], served["metric"], served["quality"], served["bundle_uri"], served.get("original_uri")
    )
