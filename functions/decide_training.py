"""Lambda: decide on the metric of a training job, whose alarm went off, whether it is stopped. Changes nothing."""

from typing import Any

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import ledger, names, training_rules, training_watch
from ebb.aws import clients, training
from ebb.aws.ledger import Ledger
from ebb.events import TrainingAsked
from ebb.settings import TrainingSettings
from ebb.spec_stop import StopSpec
from ebb.telemetry import logger


@logger.inject_lambda_context
@event_parser
def handler(asked: TrainingAsked, context: LambdaContext) -> dict[str, Any]:
    """Answer with stop, wait, leave or clear, and with every request that the state machine then sends."""
    settings = TrainingSettings.from_env()
    job, alarms = training.describe(asked.job), training.alarms_of(settings.stack, asked.job)
    run_id, _ = names.parse_job(asked.job)
    book = Ledger(settings.ledger_table)
    run = book.run(run_id) or {}
    stop = ((run.get("spec") or {}).get("train") or {}).get("stop")
    if job is None or job["TrainingJobStatus"] != training.IN_PROGRESS or not stop:
        return {"action": "clear", "reason": "the job has ended, never began, or is not watched", "alarms": alarms}
    spec, region = StopSpec.model_validate(stop), clients.region()
    resources = job["ResourceConfig"]
    rules = training_watch.rules_of(
        spec,
        instance_type=resources["InstanceType"],
        machines=resources["InstanceCount"],
        region=region,
        curve=book.project(run["project"]).get("curve"),
    )
    seen = training.observe(job, rules, watched=spec.metric_regex is not None, now=asked.now)
    verdict = training_rules.decide(seen, rules)
    logger.info("decided", extra={"job": asked.job, "action": verdict.action, "reason": verdict.reason})
    if verdict.action == training_rules.STOP:
        _, write = training_watch.note(
            verdict, job, run_id=run_id, execution=asked.execution, region=region, now=asked.now
        )
        action = ledger.as_action(settings.ledger_table, write)
        return {"action": "stop", "reason": verdict.reason, "note": action, "alarms": alarms}
    wait_s = training_watch.next_look_s(asked.alarm, verdict, rules)
    if wait_s is not None:
        return {"action": "wait", "reason": verdict.reason, "wait_s": training_rules.spaced(wait_s, seen.age_s)}
    return {"action": "leave", "reason": verdict.reason}
