"""`ebb demo`, run by `make demo`: the whole loop on real data, from an empty machine to a model that answers."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ebb import addresses
from ebb.report import view
from ebb_cli import (
    advance,
    cloud,
    demo_data,
    deploy,
    drop,
    endpoints,
    output,
    payload,
    pictures,
    progress,
    report,
    serving,
    show,
)
from ebb_cli.demo_data import DemoData
from ebb_cli.ledger import Ledger
from ebb_cli.problems import EXIT_OF_STATUS, CommandError
from ebb_cli.target import Target, home

ROWS_PER_CALL = 500
SHOWN = 5
DIGIT_COLUMNS, DIGIT_GAP = 20, 3
SLEEPS_WITHIN = timedelta(hours=1)  # on the embedded cloud's clock: the first window and the looks around it
DIGIT_MARGIN = 1 / 7
"""A digit is drawn within the middle 20 of its 28 pixels."""


def demo(
    data: Annotated[
        str, typer.Option("--data", help=f"Data that ships inside a package: {', '.join(demo_data.NAMES)}.")
    ] = demo_data.DEFAULT,
) -> None:
    """Show everything: deploy, drop real data, train, shrink, serve, ask the model, count what it took."""
    seconds: dict[str, float] = {}
    began = time.monotonic()
    with _step("1  The embedded cloud, and the stack deployed to it", "cloud and stack", seconds):
        target, _ = cloud.bring_up()
    with _step("2  Real data", "data", seconds):
        found = _fetch(data)
        _say(f"{found.description}\nfrom {found.source}, {found.licence}")
    project = f"demo-{data}"[:20].rstrip("-")
    with _step(f"3  ebb drop {found.drop.name} --project {project} --wait", "run", seconds):
        ledger, begun = drop.begin(target, found.drop, project)
        run = progress.follow(target, ledger, begun["run_id"])
        run = _served(ledger, run)
    with _step(f"4  ebb invoke {project}: what no stage has seen", "answers", seconds):
        (_ask_pictures if found.held_out.is_dir() else _ask_rows)(target, project, found)
    with _step("5  An endpoint with an instance falls asleep, and wakes with its first request", "sleep", seconds):
        _sleep_and_wake(target, ledger, project, found)
    output.out().rule("[bold]6  What came out", align="left")
    show.print_run(run)
    record = _keep_record(target, run)
    page, _ = report.download(target, run)
    seconds["everything"] = round(time.monotonic() - began, 1)
    spent = [(name, output.duration(value)) for name, value in seconds.items()]
    output.table("\nSeconds", ("step", "took"), spent, right=("took",))
    _say(f"\nthe run's record: {record}")
    ebb, example = output.command(), found.held_out
    if example.is_dir():
        example = min(example.iterdir())
    _say(
        f"\nTry next:\n  {ebb} why {run['run_id']}\n  {ebb} show latest\n  {ebb} idle --dry-run\n"
        f"  {ebb} invoke {project} {example}\n"
        f"  {ebb} drop YOUR_DATA --project mine --wait\n  {ebb} down"
    )
    _say(f"\n{view.saved(run)}\nthe report: {page}")


def _fetch(name: str) -> DemoData:
    try:
        return demo_data.fetch(name, home() / "demo")
    except demo_data.DemoDataError as problem:
        remedy = "Is the Python package index reachable? ebb drop takes any data of your own."
        raise CommandError(str(problem), remedy) from None


def _say(text: str) -> None:
    output.out().print(text, markup=False, soft_wrap=True)


@contextmanager
def _step(title: str, name: str, seconds: dict[str, float]) -> Iterator[None]:
    output.out().rule(f"[bold]{escape(title)}", align="left")
    began = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - began, 1)


def _served(ledger: Ledger, run: dict[str, Any]) -> dict[str, Any]:
    """Return the run whose model is served; end the demo when there is none."""
    if run["status"] == "reused":
        _say(f"The same bytes as before: no job was started, {run['reuses']} is reused.")
        return show.require(ledger, run["reuses"])
    if code := EXIT_OF_STATUS.get(run["status"], 1):
        show.print_run(run)
        raise typer.Exit(code)
    return run


def _ask_rows(target: Target, project: str, data: DemoData) -> None:
    """Send the held-out rows, show a few answers beside the truth, and judge all of them."""
    with data.held_out.open(newline="") as file:
        header, *rows = file.read().splitlines()
    predictions: list[dict[str, Any]] = []
    for start in range(0, len(rows), ROWS_PER_CALL):
        body = "\n".join([header, *rows[start : start + ROWS_PER_CALL]]) + "\n"
        predictions += serving.call(target, project, body.encode(), "text/csv")["predictions"]
    cells = [row for row, _ in zip(csv.reader(rows), range(SHOWN), strict=False)]
    shown = [
        (", ".join(row[:4]) + (", ..." if len(row) > 4 else ""), told(prediction), real)
        for row, prediction, real in zip(cells, predictions, data.answers, strict=False)
    ]
    output.table("", (f"held-out row ({', '.join(header.split(',')[:4])}, ...)", "prediction", "truth"), shown)
    _say(f"{len(predictions)} held-out rows: {score(predictions, data.answers)}")


def _ask_pictures(target: Target, project: str, data: DemoData) -> None:
    """Send the held-out pictures one by one, draw a few above their answers, and judge all of them."""
    files = sorted(data.held_out.iterdir())
    predictions = []
    for file in files:
        request = payload.of_file(file)
        predictions += serving.call(target, project, request.body, request.content_type)["predictions"]
    room = max(1, (output.out().width + DIGIT_GAP) // (DIGIT_COLUMNS + DIGIT_GAP))
    chosen = worth_showing(predictions, data.answers, min(SHOWN, room))
    drawn = [pictures.lines(files[i].read_bytes(), width=DIGIT_COLUMNS, margin=DIGIT_MARGIN) for i in chosen]
    captions = [
        told(predictions[i]) + ("" if is_right(predictions[i], data.answers[i]) else f", is {data.answers[i]}")
        for i in chosen
    ]
    _say("\n" + pictures.side_by_side(drawn, captions, gap=" " * DIGIT_GAP) + "\n")
    _say(f"{len(predictions)} held-out pictures: {score(predictions, data.answers)}")


def _sleep_and_wake(target: Target, ledger: Ledger, project: str, data: DemoData) -> None:
    """Move the model to an asynchronous endpoint, let an hour without calls pass, and ask again: then move it back.

    The hour passes on the embedded cloud's clock: `ebb advance` does the same. The address stays what it is.
    """
    _move(target, project, "async")
    _say("moved from serverless, where nothing can sleep, to an asynchronous endpoint with an instance; same address")
    happened = advance.quietly(target, SLEEPS_WITHIN)
    at = endpoints.known(ledger, target, project)
    if at.state != addresses.ASLEEP:
        raise CommandError(f"{at.address} is {at.state} after an hour without a call.", "ebb idle --dry-run says why.")
    kinds = [note["kind"] for note in happened]
    _say(f"an hour later: {kinds.count('schedule')} schedules fired, {kinds.count('alarm')} alarms changed")
    cost = f", and costs nothing instead of {at.awake_usd_per_hour:.3g} USD an hour" if at.awake_usd_per_hour else ""
    _say(f"{at.address} is asleep{cost}: {at.reason}")
    asked = time.monotonic()
    example = min(data.held_out.iterdir()) if data.held_out.is_dir() else None
    request = payload.of_file(example) if example else payload.Request(_first_row(data.held_out), "text/csv")
    answer = serving.call(target, project, request.body, request.content_type)
    took = output.duration(time.monotonic() - asked)
    answered = told(answer["predictions"][0])
    _say(f"the first request woke it and was answered after {took}, on AWS after minutes: {answered}")
    _move(target, project, "serverless")
    _say("moved back to serverless")


def _move(target: Target, project: str, kind: str) -> None:
    """Deploy as another kind; the minutes in which the new endpoint is watched pass on the embedded cloud's clock."""
    execution = deploy.start(target, project, kind, reason="the demo shows it")
    states = target.client("stepfunctions")
    while states.describe_execution(executionArn=execution)["status"] == "RUNNING":
        advance.quietly(target, timedelta(minutes=1))
    deploy.follow(target, execution)


def _first_row(file: Path) -> bytes:
    """Return a table's header and its first row."""
    with file.open("rb") as lines:
        return lines.readline() + lines.readline()


def worth_showing(predictions: Sequence[dict[str, Any]], truth: Sequence[str], count: int) -> list[int]:
    """Return which examples to show, in their order: spread over all, and one wrong answer if there is any."""
    spread = [(2 * i + 1) * len(truth) // (2 * count) for i in range(count)]
    pairs = enumerate(zip(predictions, truth, strict=True))
    wrong = [i for i, (prediction, real) in pairs if not is_right(prediction, real)]
    if wrong and not set(wrong) & set(spread):
        nearest = min(range(count), key=lambda position: abs(spread[position] - wrong[0]))
        spread[nearest] = wrong[0]
    return spread


def is_right(prediction: dict[str, Any], real: Any) -> bool:
    """Return whether a predicted label is the true one, however the two are typed."""
    return str(prediction["label"]) == str(real)


def told(prediction: dict[str, Any]) -> str:
    """Return one prediction in words: a label with its probability, or a value."""
    if "label" not in prediction:
        return output.number(prediction["value"], 4)
    probability = (prediction.get("probabilities") or {}).get(str(prediction["label"]))
    return str(prediction["label"]) + (f" ({probability:.0%})" if probability is not None else "")


def score(predictions: Sequence[dict[str, Any]], truth: Sequence[Any]) -> str:
    """Return how good predictions are against the truth: accuracy for labels, root mean square error for values.

    Raises: ValueError when there is not one prediction for each row.
    """
    pairs = list(zip(predictions, truth, strict=True))
    if "label" in predictions[0]:
        right = sum(is_right(prediction, real) for prediction, real in pairs)
        return f"{right / len(pairs):.2%} are right"
    error = math.sqrt(sum((float(prediction["value"]) - float(real)) ** 2 for prediction, real in pairs) / len(pairs))
    return f"root mean square error {output.number(error, 4)}"


def _keep_record(target: Target, run: dict[str, Any]) -> Path:
    """Copy the run's record next to the demo's data, where people can open it."""
    bucket, _, key = run["record_uri"].removeprefix("s3://").partition("/")
    body = target.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    path = home() / "demo" / f"{run['run_id']}.json"
    path.write_text(json.dumps(json.loads(body), indent=2) + "\n")
    return path
