"""`ebb cancel` and `ebb retry`: stop a run, or go on from the stage at which it failed."""

from __future__ import annotations

import json

from botocore.exceptions import ClientError
from rich.markup import escape

from ebb import names
from ebb_cli import output, progress, show
from ebb_cli.ledger import Ledger
from ebb_cli.problems import CommandError
from ebb_cli.show import Run, Wait
from ebb_cli.target import Json, Target

RETRIED = {"failed", "cancelled"}


def cancel(target: Target, run: Run, wait: Wait = False, as_json: Json = False) -> None:
    """Stop a run and the job that it is in. With --wait, exit status 0 says that it is cancelled."""
    ledger = Ledger(target)
    run_id = ledger.resolve(run)
    document = show.require(ledger, run_id)
    if document["status"] != "running":
        raise CommandError(f"{run_id} is not running: it has {document['status']}.", "There is nothing to cancel.")
    target.client("stepfunctions").stop_execution(
        executionArn=document["execution_arn"], error="Cancelled", cause="ebb cancel"
    )
    if wait:
        document = progress.follow(target, ledger, run_id)
        if document["status"] != "cancelled":
            raise CommandError(f"{run_id} had ended before it could be stopped: {document['status']}.")
    if as_json:
        output.emit_json(document)
    elif wait:
        show.print_run(document)
    else:
        output.out().print(f"{escape(run_id)} is being stopped; ebb show {run_id} tells when it is cancelled")


def retry(target: Target, run: Run, wait: Wait = False, as_json: Json = False) -> None:
    """Run a failed or cancelled run again, repeating no stage that finished."""
    ledger = Ledger(target)
    run_id = ledger.resolve(run)
    document = show.require(ledger, run_id)
    if document["status"] == "running":
        raise CommandError(f"{run_id} is running.", "ebb cancel stops it.")
    if document["status"] not in RETRIED:
        raise CommandError(
            f"{run_id} has {document['status']}: only a failed or cancelled run is retried.",
            "ebb drop PATH --force runs the same bytes again.",
        )
    states = target.client("stepfunctions")
    given = json.loads(states.describe_execution(executionArn=document["execution_arn"])["input"])
    attempt = int(document["attempt"]) + 1
    machine = "ScoreDataStateMachineArn" if document.get("purpose") == "score" else "RunPipelineStateMachineArn"
    try:
        states.start_execution(
            stateMachineArn=target.outputs[machine],
            name=names.execution(run_id, attempt),
            input=json.dumps({**given, "attempt": attempt}),
        )
    except ClientError as problem:
        if problem.response["Error"]["Code"] != "ExecutionAlreadyExists":
            raise
        raise CommandError(f"Attempt {attempt} of {run_id} has already been started.", f"ebb show {run_id}") from None
    output.err().print(f"attempt {attempt} of {escape(run_id)} has begun", soft_wrap=True)
    if wait:
        show.finish(progress.follow(target, ledger, run_id, attempt=attempt), as_json=as_json)
    elif as_json:
        output.emit_json({"run_id": run_id, "attempt": attempt, "status": "running"})
