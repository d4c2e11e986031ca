"""Lambda: choose the candidate to ship from what was measured. Reads the report and the ledger, changes no model."""

from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import comparison, compilers, deployment, names, selection, serving, serving_model, sharing, traffic
from ebb.aws import hosting, storage
from ebb.aws.ledger import Ledger
from ebb.errors import ObjectMissingError, ReportMissingError
from ebb.settings import StackSettings
from ebb.spec import PipelineSpec
from ebb.spec_serve import ServeSpec
from ebb.steps import SelectionRequested
from ebb.telemetry import logger


@logger.inject_lambda_context
@event_parser
def handler(asked: SelectionRequested, context: LambdaContext) -> dict[str, Any]:
    """Answer with the choice, its reasons, and the requests that register and deploy it."""
    stack, plan = StackSettings.for_selection(), asked.plan
    book = Ledger(stack.ledger_table)
    try:
        report = storage.read_json(plan["artifacts"]["compile_report"])
    except (ObjectMissingError, ValueError) as error:
        raise ReportMissingError(f"{plan['artifacts']['compile_report']} cannot be read") from error
    run, served = book.run(asked.run_id) or {}, book.project(asked.project).get("served")
    spec = PipelineSpec.model_validate(run["spec"])
    metric = report["metric"]
    picked = selection.select(report, spec.compress, spec.serve)
    verdict = selection.against_champion(
        picked.measured, metric, measured=report.get("champion"), served=served, force=bool(run.get("force"))
    )
    shipped = picked.shipped
    choice = _kind(asked, book, stack, spec.serve, shipped)
    payload = deployment.sample_payload(plan, report)
    compared = comparison.compare(report["original"], shipped, region=stack.region, memory_mb=spec.serve.memory_mb)
    book.put_decisions(
        asked.run_id,
        "select",
        [
            *selection.decisions(picked, metric, verdict),
            choice.decision(),
            *deployment.assumptions(shipped, spec.serve, choice.row),
        ],
    )
    return {
        "chosen": picked.name,
        "metric": metric,
        "reasons": list(picked.reasons),
        "floor": picked.floor,
        "candidates": selection.told(report, picked),
        "comparison": comparison.with_mistakes(compared, report, picked.name),
        "package_group": deployment.package_group(stack, asked.project),
        "package": deployment.package(
            stack, plan, task=run["task"], candidate=shipped, metric=metric, comparison=compared, payload=payload
        ),
        "compilation": compilers.compilation(plan, report, stack),
        "deploy": (
            deployment.deploy_input(plan, candidate=shipped, choice=choice, serve=spec.serve, payload=payload)
            if verdict.deploy
            else None
        ),
        "deploy_reason": verdict.reason,
    }


def _kind(
    asked: SelectionRequested, book: Ledger, stack: StackSettings, serve: ServeSpec, shipped: Mapping[str, Any]
) -> serving.Choice:
    """Return the kind of endpoint that the model gets; the traffic is that of the model before it."""
    name = names.endpoint(stack.stack, asked.project)
    address = book.address(name)
    return sharing.choose(
        stack.stack,
        sharing.others(book.every_address(), name),
        serve=serve,
        model=serving_model.Model.of(shipped),
        traffic=traffic.best(traffic.expected(serve.requests_per_day), hosting.measured_traffic(address, asked.now)),
        region=stack.region,
        current=hosting.current(address),
        now=asked.now,
        idle_after_s=address.idle_window_s if address else None,
    )
