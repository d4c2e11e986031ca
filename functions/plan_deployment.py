"""Lambda: plan how a model comes to its address. Reads ledger, endpoint, alarms and calls; changes nothing."""

from typing import Any

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import names, recommendation, rollout, serving_kinds, serving_model, sharing, traffic
from ebb.addresses import Address
from ebb.aws import hosting
from ebb.aws.ledger import Ledger
from ebb.recommendation import LoadTest
from ebb.rollout import Seen, Wanted
from ebb.settings import StackSettings
from ebb.spec import PipelineSpec
from ebb.steps import DeploymentRequested
from ebb.telemetry import logger


@logger.inject_lambda_context
@event_parser
def handler(asked: DeploymentRequested, context: LambdaContext) -> dict[str, Any]:
    """Answer with everything that `deploy_model` sends, or with why it has to wait or has nothing to do.

    The answer may also ask for a load test first (`ebb.recommendation`), and hold the note of what became of one.
    """
    stack = StackSettings.for_selection()
    book = Ledger(stack.ledger_table)
    project, address = book.project(asked.project), book.address(names.endpoint(stack.stack, asked.project))
    model = asked.model or _served(book, project)
    if model is None:
        return {"action": "none", "reason": f"the project {asked.project} serves no model yet"}
    held = rollout.hold(project, address, generation=model.generation, execution=asked.execution, now=asked.now)
    if held:
        # who waits is asked again: only then it is known what is deployed, and the note is written once
        test = asked.recommendation if held["action"] == "none" else None
        return held | _note(stack, asked, model, test, None)
    spec = PipelineSpec.model_validate((book.run(model.run_id) or {})["spec"])
    serve = spec.serve
    tested = asked.recommendation or (
        recommendation.read(book.recommendation(model.run_id)) if serve.recommender else None
    )
    wanted = _wanted(asked, model, spec, tested, book, stack, address)
    if asked.model is None and rollout.already(wanted, address):
        return {"action": "none", "reason": f"it is served as {wanted.kind} already: {wanted.reason}"}
    answer = _ask(stack, asked, model, wanted) if serve.recommender and tested is None else None
    if isinstance(answer, dict):
        return answer
    seen = _seen(stack, asked, wanted, address)
    plan = rollout.build(stack, wanted, seen, project, execution=asked.execution, now=asked.now)
    return plan | _note(stack, asked, model, answer or asked.recommendation, wanted.row)


def _seen(stack: StackSettings, asked: DeploymentRequested, wanted: Wanted, address: Address | None) -> Seen:
    """Return what is there before the deployment."""
    name = names.endpoint(stack.stack, asked.project)
    alarms, ringing = hosting.address_alarms(name)
    return Seen(
        address=address,
        endpoint=hosting.endpoint(rollout.endpoint_name(stack, wanted)),
        superseded=hosting.endpoint(address.endpoint_name if address else name),
        alarms=alarms,
        ringing=ringing,
        calls_last_hour=hosting.calls_last_hour(address, asked.now),
    )


def _ask(
    stack: StackSettings, asked: DeploymentRequested, model: rollout.Model, wanted: Wanted
) -> dict[str, Any] | LoadTest | None:
    """Return the plan of a load test, or why there is none; None for a move, which has no package to test."""
    if asked.package_arn is None:
        return None
    return recommendation.ask(
        stack,
        project=asked.project,
        run_id=model.run_id,
        attempt=model.attempt,
        package_arn=asked.package_arn,
        payload=model.sample_payload,
        serve=wanted.serve,
        row=wanted.row,
    )


def _note(
    stack: StackSettings,
    asked: DeploymentRequested,
    model: rollout.Model,
    test: LoadTest | None,
    row: serving_kinds.Row | None,
) -> dict[str, Any]:
    """Return the write of what became of a load test, where there is something new."""
    return {"note": recommendation.note(stack, model.run_id, test, row, now=asked.now)} if test else {}


def _served(book: Ledger, project: dict[str, Any]) -> rollout.Model | None:
    """Return the model that a project serves, as the ledger remembers it."""
    served = project.get("served")
    run = book.run(served["run_id"]) if served else None
    return rollout.served_model(served, run, int(project["served_generation"])) if served and run else None


def _wanted(
    asked: DeploymentRequested,
    model: rollout.Model,
    spec: PipelineSpec,
    tested: LoadTest | None,
    book: Ledger,
    stack: StackSettings,
    address: Address | None,
) -> Wanted:
    seen = hosting.measured_traffic(address, asked.now)
    serve = spec.serve
    choice = sharing.choose(
        stack.stack,
        sharing.others(book.every_address(), names.endpoint(stack.stack, asked.project)),
        serve=serve,
        model=recommendation.applied(serving_model.Model.of(model.candidate), tested),
        traffic=traffic.best(traffic.expected(serve.requests_per_day), seen),
        region=stack.region,
        current=hosting.current(address),
        now=asked.now,
        asked=asked.kind,
        idle_after_s=address.idle_window_s if address else None,
    )
    return rollout.wanted(asked.project, model, choice, serve, retrain=spec.retrain, reason=asked.reason)
