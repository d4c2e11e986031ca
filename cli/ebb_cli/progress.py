"""Follow a run while it goes: the steps from the execution's history, the outcome from the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError
from rich.console import Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from ebb_cli import output
from ebb_cli.ledger import Ledger
from ebb_cli.problems import CommandError
from ebb_cli.target import Target

# The states that a person waits for, in the order of the machine; the bookkeeping between them is not shown.
STEPS = (
    "Identify dataset", "Plan pipeline", "Ensure roles", "Build images", "Process data", "Tune model",
    "Train model", "Compress model", "Compile model", "Select candidate", "Register model", "Deploy model",
    "Plan scoring", "Transform", "Record success",
)  # fmt: skip
STEP_OF_STAGE = {
    "images": "Build images",
    "process": "Process data", "train": "Train model", "compress": "Compress model", "compile": "Compile model",
}  # fmt: skip
STAGE_OF_STEP = {step: stage for stage, step in STEP_OF_STAGE.items()} | {"Tune model": "train"}  # one of the two
EXAMPLES = {"image-classification": "pictures", "text-classification": "texts"}
ENTERED, EXITED = "StateEntered", "StateExited"
ENDED_BADLY = {"ExecutionFailed", "ExecutionAborted", "ExecutionTimedOut"}
# An ended execution whose run is still open: on_run_ended closes it, through an event that may be late.
GRACE_S = 90.0
HEARTBEAT_S = 20.0


@dataclass(frozen=True)
class Step:
    """One step of a run: going on while `ended` is None; `failed` when the run ended in it."""

    name: str
    started: datetime
    ended: datetime | None = None
    failed: bool = False

    def seconds(self, now: datetime) -> float:
        """Return how long it took, or has taken until now."""
        return max(((self.ended or now) - self.started).total_seconds(), 0.0)


def steps(events: Iterable[dict[str, Any]], failed_stage: str | None = None) -> list[Step]:
    """Return the steps that a history tells of, each once, in the order in which they began.

    A state that is entered again (a retry, a Map) continues its step. What was open when the execution ended badly has
    failed. A state that was caught is left through its exit event like any other: that it failed is known to the
    ledger only, as `failed_stage`.
    """
    found: dict[str, Step] = {}
    for event in events:
        kind, moment = event["type"], event["timestamp"]
        if kind.endswith(ENTERED):
            name = event["stateEnteredEventDetails"]["name"]
            if name in STEPS:
                began = found[name].started if name in found else moment
                found[name] = Step(name, began)
        elif kind.endswith(EXITED):
            name = event["stateExitedEventDetails"]["name"]
            if name in found:
                found[name] = Step(name, found[name].started, moment)
        elif kind in ENDED_BADLY:
            for step in found.values():
                if step.ended is None:
                    found[step.name] = Step(step.name, step.started, moment, failed=True)
    return [
        replace(step, failed=True) if failed_stage and STAGE_OF_STEP.get(step.name) == failed_stage else step
        for step in found.values()
    ]


def summary(stage: dict[str, Any]) -> str:
    """Return what a stage's report says, in a few words; empty when there is nothing worth a line."""
    stopped = stage.get("stopped")
    return "; ".join(filter(None, [_reported(stage), _stop(stopped) if stopped else ""]))


def _stop(stopped: dict[str, Any]) -> str:
    """Return why a job was stopped from outside, and what that saved at most."""
    saved = stopped.get("saved") or {}
    usd = f", {output.number(saved['at_most_usd'], 4)} USD" if "at_most_usd" in saved else ""
    at_most = output.duration(saved.get("at_most_s"))
    return f"stopped ({stopped['rule']}): {stopped['reason']}; saved at most {at_most}{usd}"


def _reported(stage: dict[str, Any]) -> str:
    report = stage.get("report") or {}
    if builds := report.get("builds"):
        return ", ".join(str(each["image"]).rpartition("/")[2] for each in builds if each.get("image"))
    if rows := report.get("rows"):
        duplicates = f", {rows['duplicates']:,} duplicates removed" if rows.get("duplicates") else ""
        task = str(report.get("task") or "")
        examples = f"{rows.get('kept', 0):,} {EXAMPLES.get(task, 'rows')}"
        return f"{examples}{duplicates}; {task}, target {report.get('target', '')}"
    if candidates := report.get("candidates"):
        failed = sum(item.get("status") == "failed" for item in candidates)
        return _counted(len(candidates) - failed, "candidate") + (f", {failed} failed" if failed else "")
    if "files" in report:
        return f"{report.get('task', '')}, {_counted(report['files'], 'data file')}"
    if report.get("metric"):
        quality = output.number((report.get("quality") or {}).get("validation"), 4)
        after = f" after {_counted(report['epochs'], 'epoch')}" if report.get("epochs") else ", as exported"
        if tried := report.get("rungs"):
            after = f", {report.get('rung')} of {_counted(len(tried), 'recipe')} tried"
        return f"{report['metric']} {quality}{after}"
    return "served as it is" if report.get("as_is") else ""


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("s" if count != 1 else "")


def wait_for_drop(target: Target, ledger: Ledger, drop_id: str, *, within_s: float) -> dict[str, Any]:
    """Return the run that a drop started, once the pipeline has opened it."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if run := ledger.of_drop(drop_id):
            return run
        time.sleep(target.poll_s)
    raise CommandError(
        f"No run began within {output.duration(within_s)} of the upload.",
        "It may still come (ebb runs). If not, the uploads' dead-letter queue says why: "
        f"{target.outputs.get('UploadsDeadLetterQueueUrl', '')}",
    )


def follow(target: Target, ledger: Ledger, run_id: str, *, attempt: int = 1) -> dict[str, Any]:
    """Show a run on stderr until it has ended; return its document.

    `attempt` is the one waited for: the ledger may still tell of the one before for a moment.
    """
    console = output.err()
    view: _Live | _Lines = _Live(console) if console.is_terminal else _Lines(console)
    ended_at: float | None = None
    with view:
        while True:
            run = ledger.run(run_id)
            current = run if run and (run.get("attempt") or 1) >= attempt else None
            history = _history(target, current["execution_arn"]) if current and current.get("execution_arn") else []
            # The embedded cloud's clock may be ahead of this machine's.
            view.show(steps(history, ((current or {}).get("error") or {}).get("stage")), current, ledger.now)
            if current and current["status"] != "running":
                return current
            if history and history[-1]["type"].startswith("Execution") and history[-1]["type"] != "ExecutionStarted":
                ended_at = ended_at or time.monotonic()
                if time.monotonic() - ended_at > GRACE_S:
                    raise CommandError(
                        f"The execution of {run_id} has ended, but the ledger still calls it running.",
                        "The function on_run_ended closes it: see its log.",
                    )
            time.sleep(target.poll_s)


def _history(target: Target, execution_arn: str) -> list[dict[str, Any]]:
    pages = target.client("stepfunctions").get_paginator("get_execution_history")
    request = {"executionArn": execution_arn, "includeExecutionData": False}
    try:
        return [event for page in pages.paginate(**request) for event in page["events"]]
    except ClientError as problem:
        if problem.response["Error"]["Code"] == "ExecutionDoesNotExist":
            return []  # begun a moment ago, or forgotten after 90 days: the ledger tells the outcome
        raise


def _remark(run: dict[str, Any] | None, step: str) -> str:
    stage = _recorded(run, step)
    return summary(stage) if stage else ""


def _recorded(run: dict[str, Any] | None, step: str) -> dict[str, Any] | None:
    """Return the stage of a step as the ledger holds it; None for a step that is no stage, or not recorded yet."""
    found = (item for item in (run or {}).get("stages", ()) if item["stage"] == STAGE_OF_STEP.get(step))
    return next(found, None)


class _Live:
    """Steps redrawn in place, for a terminal."""

    def __init__(self, console: Any) -> None:
        self._live = Live(console=console, refresh_per_second=8, transient=False)
        self._spinner = Spinner("dots")

    def __enter__(self) -> _Live:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, found: list[Step], run: dict[str, Any] | None, now: datetime) -> None:
        lines: list[Any] = []
        for step in found:
            text = f"{step.name:18}{output.duration(step.seconds(now)):>12}   {_remark(run, step.name)}"
            if step.ended is None:
                lines.append(Spinner("dots", text=Text(text, style="cyan")))
            else:
                lines.append(Text(("✗ " if step.failed else "✓ ") + text, style="red" if step.failed else ""))
        if not found:
            lines.append(Spinner("dots", text="waiting for the first step"))
        self._live.update(Group(*lines))


class _Lines:
    """One line when a step ends, and one now and then while it goes on, for a log."""

    def __init__(self, console: Any) -> None:
        self._say: Callable[..., None] = console.print
        self._told: set[str] = set()
        self._last_said = time.monotonic()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, found: list[Step], run: dict[str, Any] | None, now: datetime) -> None:
        for step in found:
            remark = _remark(run, step.name)
            running = run is not None and run["status"] == "running"
            late = running and step.name in STAGE_OF_STEP and _recorded(run, step.name) is None
            if step.ended is None or (late and not step.failed):
                # Its remark comes from the ledger a moment after the state has ended: wait for it.
                if step.ended is None and time.monotonic() - self._last_said > HEARTBEAT_S:
                    self._last_said = time.monotonic()
                    self._say(f"… {step.name:18}{output.duration(step.seconds(now)):>12}", markup=False)
                continue
            if step.name not in self._told:
                self._told.add(step.name)
                self._last_said = time.monotonic()
                mark = "✗" if step.failed else "✓"
                text = f"{mark} {step.name:18}{output.duration(step.seconds(now)):>12}   {remark}"
                self._say(text.rstrip(), markup=False, soft_wrap=True)
