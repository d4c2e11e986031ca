"""`ebb models`, `ebb invoke`, `ebb ticket`: what was made, and its answers, at once or once its endpoint is awake."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.markup import escape

from ebb import door, names
from ebb.client import Client, StillWaiting, Ticket
from ebb_cli import output, owned, payload
from ebb_cli.ledger import Ledger
from ebb_cli.problems import USAGE, WAITING, CommandError
from ebb_cli.target import Json, Target
from ebb_cli.upload import require_project
from ebb_jobs import infer

DEFAULT_WAIT_S = 900.0  # a machine takes minutes to start
SAID_EVERY_S = 20.0
# what any kind of endpoint takes; above, which one answers decides
# https://docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html
ALWAYS_TAKEN_BYTES = min(door.PAYLOAD_BYTES.values())
WaitS = Annotated[float, typer.Option("--wait-s", help="Seconds to wait while the endpoint wakes.")]


def models(target: Target, as_json: Json = False) -> None:
    """List the registered models, by project and version."""
    sagemaker = target.client("sagemaker")
    found = []
    for group in owned.package_groups(target):
        request = {"ModelPackageGroupName": group.name}
        for package in _pages(sagemaker, "list_model_packages", "ModelPackageSummaryList", **request):
            arn = package["ModelPackageArn"]
            described = sagemaker.describe_model_package(ModelPackageName=arn)
            found.append(
                {
                    "project": group.project,
                    "version": package.get("ModelPackageVersion"),
                    "status": package.get("ModelPackageStatus"),
                    "approval": described.get("ModelApprovalStatus"),
                    "description": described.get("ModelPackageDescription"),
                    "properties": described.get("CustomerMetadataProperties") or {},
                    "created_at": package["CreationTime"],
                    "arn": arn,
                }
            )
    if as_json:
        output.emit_json(found)
        return
    if not found:
        output.out().print("No models yet: ebb drop PATH --project NAME makes one.")
        return
    rows = [
        (
            item["project"], item["version"], item["approval"], _moment(item["created_at"]),
            escape(", ".join(f"{key}={value}" for key, value in sorted(item["properties"].items()))),
        )
        for item in found
    ]  # fmt: skip
    output.table("", ("project", "version", "approval", "made", "properties"), rows, right=("version",))


def invoke(
    target: Target,
    project: Annotated[str, typer.Argument(help="Project whose model answers.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE|FOLDER|-]...",
            help="Rows (.csv, .json, .jsonl), a text (.txt), pictures or a folder of them, an array (.npy), "
            "or - for stdin.",
        ),
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="A text to classify; may be repeated.")] = None,
    content_type: Annotated[
        str | None,
        typer.Option("--content-type", help="What files and stdin hold, whatever their names say."),
    ] = None,
    wait_s: WaitS = DEFAULT_WAIT_S,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Leave the request and print its ticket; ebb ticket has the answer.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask a project's model: rows, pictures or texts in, labels with probabilities or values out.

    One that sleeps is woken; exit status 5 when there is no answer yet.
    """
    require_project(project)
    typed = partial(_typed, target, project)
    stdin = [payload.of_stdin(typed, content_type)] if "-" in (files or ()) else []
    paths = [Path(file) for file in files or () if file != "-"]
    requests = stdin + (payload.of(paths, text or (), typed, content_type) if paths or text or not stdin else [])
    if no_wait:
        _leave(target, project, requests, as_json=as_json)
        return
    if len(requests) == 1:
        answer = call(target, project, requests[0].body, requests[0].content_type, wait_s)
    else:
        answer = {"predictions": [each for request in requests for each in _named(target, project, request, wait_s)]}
    _print(answer, as_json=as_json)


def ticket(
    target: Target,
    name: Annotated[str, typer.Argument(metavar="ADDRESS/ID", help="What ebb invoke --no-wait printed.")],
    wait_s: WaitS = 0.0,
    as_json: Json = False,
) -> None:
    """Fetch the answer to a request that was left; exit status 5 while there is none."""
    if name.count("/") != 1:
        raise CommandError(f"{name!r} is no ticket.", "It reads ADDRESS/ID.", status=USAGE)
    with _told(target, name):
        answer = _waited(runtime(target).ticket(name), wait_s)
    _print(_document(answer), as_json=as_json)


def _leave(target: Target, project: str, requests: Sequence[payload.Request], *, as_json: bool) -> None:
    left = []
    for request in requests:
        _check_size(target, project, request.body)
        with _told(target, project):
            left.append(
                runtime(target).invoke_endpoint_later(
                    EndpointName=names.endpoint(target.stack, project),
                    Body=request.body,
                    ContentType=request.content_type,
                    Accept="application/json",
                )
            )
    if as_json:
        output.emit_json({"tickets": [each.name for each in left]})
        return
    for each in left:
        output.out().print(each.name, markup=False, soft_wrap=True)
        if why := _why(each.told):
            output.err().print(
                f"{why}: {output.command()} ticket {each.name} has the answer", style="dim", markup=False
            )


def _print(answer: Any, *, as_json: bool) -> None:
    if as_json or not isinstance(answer, dict) or "predictions" not in answer:  # a script may answer in its own words
        output.emit_json(answer)
    else:
        _print_predictions(answer["predictions"])


def _typed(target: Target, project: str, body: bytes) -> str:
    """Return the content type of a body without a telling name: for a model of texts, what looks like CSV is a text."""
    found = payload.sniff(body)
    if found in payload.GUESSED and _served_task(target, project) == infer.TEXTS:
        return payload.sniff_text(body)
    return found


def _served_task(target: Target, project: str) -> str | None:
    """Return the task of the model that a project serves, None where the ledger does not tell or may not be read."""
    try:
        book = Ledger(target)
        served = (book.project(project).get("served") or {}).get("run_id")
        run = book.run(served) if served else None
    except (BotoCoreError, ClientError, CommandError, KeyError):
        return None
    return run["task"] if run else None


def _named(target: Target, project: str, request: payload.Request, wait_s: float) -> list[dict[str, Any]]:
    """Return the predictions of one request of several, each with the file that it belongs to."""
    try:
        answer = call(target, project, request.body, request.content_type, wait_s)
    except CommandError as problem:
        raise CommandError(f"{request.name}: {problem.message}", problem.remedy, status=problem.status) from None
    if not isinstance(answer, dict) or "predictions" not in answer:
        return [{"file": request.name, "answer": answer}]
    return [{"file": request.name, **prediction} for prediction in answer["predictions"]]


def _print_predictions(predictions: list[dict[str, Any]]) -> None:
    rows = []
    for number, prediction in enumerate(predictions, 1):
        told = {name: value for name, value in prediction.items() if name != "file"}
        probabilities = ""
        if "label" in told:
            ranked = sorted((told.get("probabilities") or {}).items(), key=lambda pair: -pair[1])
            probabilities = ", ".join(f"{label} {value:.3f}" for label, value in ranked[:3])
            answer = str(told["label"])
        elif isinstance(told.get("value"), int | float):
            answer = output.number(told["value"], 5)
        else:  # what a script of the user's own answers
            answer = json.dumps(told)
        rows.append((escape(str(prediction.get("file", number))), escape(answer), escape(probabilities)))
    asked = "file" if predictions and "file" in predictions[0] else "row"
    output.table("", (asked, "prediction", "probabilities"), rows, right=("row",))


def call(target: Target, project: str, body: bytes, content_type: str, wait_s: float = DEFAULT_WAIT_S) -> Any:
    """Return a model's answer: a JSON document, or the text that a script of the user's own wrote."""
    _check_size(target, project, body)
    with _told(target, project):
        try:
            answer = runtime(target).invoke_endpoint(
                EndpointName=names.endpoint(target.stack, project),
                Body=body,
                ContentType=content_type,
                Accept="application/json",
                wait_s=0,  # then it is said what is waited for
            )
        except StillWaiting as waiting:
            answer = _waited(waiting.ticket, wait_s)
    return _document(answer)


@cache
def runtime(target: Target) -> Client:
    """Return what asks models, awake or asleep; on a stack without a front door, whoever is awake."""
    door_url = target.outputs.get("FrontDoorUrl")
    if door_url is None:
        output.err().print(
            f"The stack {target.stack} has no front door: deploy it anew to wake endpoints.", style="dim"
        )
        return cast(Client, _OnlyAwake(target.client("sagemaker-runtime")))
    return Client(target.stack, front_door=door_url, session=target.session, endpoint_url=target.endpoint_url)


class _OnlyAwake:
    """SageMaker Runtime as it is: nobody wakes what sleeps."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def invoke_endpoint(self, *, wait_s: float = 0, **request: Any) -> Any:
        return self._client.invoke_endpoint(**request)

    def address(self, name: str) -> dict[str, Any]:
        return {"address": name, "kind": "serverless"}


def _check_size(target: Target, project: str, body: bytes) -> None:
    """Refuse what the endpoint would refuse, before it is sent."""
    if len(body) <= ALWAYS_TAKEN_BYTES:
        return
    with _told(target, project):
        kind = runtime(target).address(names.endpoint(target.stack, project))["kind"]
    most = door.PAYLOAD_BYTES.get(kind, door.DEFAULT_PAYLOAD_BYTES)
    if len(body) > most:
        raise CommandError(
            f"{output.size(len(body))} is more than a {kind} endpoint takes, {output.size(most)}.",
            "Send less at once: fewer rows, a smaller picture. Or score it as a file: ebb score.",
        )


def _waited(left: Ticket, wait_s: float) -> Any:
    """Return a ticket's answer, and tell meanwhile why there is none yet."""
    console = output.err()
    if not console.is_terminal:
        told = _Said(console.print)
        return left.answer(wait_s, on_wait=told)
    with console.status(escape(_why(left.told) or f"{left.name}: waiting")) as status:
        return left.answer(wait_s, on_wait=lambda told: status.update(escape(_why(told) or left.name)))


class _Said:
    """One line at first and one now and then, for a log."""

    def __init__(self, say: Callable[..., None]) -> None:
        self._say, self._at = say, -SAID_EVERY_S

    def __call__(self, told: dict[str, Any]) -> None:
        if time.monotonic() - self._at >= SAID_EVERY_S:
            self._at = time.monotonic()
            self._say(_why(told), style="dim", markup=False, soft_wrap=True)


def _why(told: dict[str, Any]) -> str:
    """Return what a person reads while a ticket has no answer: what is going on, and why the endpoint slept."""
    address = told.get("address") or str(told.get("ticket", "")).partition("/")[0]
    state = told.get("endpoint_state")
    if not address:
        return ""
    if state is None:
        return f"{address}: the request waits for its turn"
    doing = {"failed": "could not be woken and is tried again"}.get(state, "is waking")
    reason = f"; it slept: {told['reason']}" if told.get("reason") and state != "failed" else ""
    reason = f": {told['reason']}" if told.get("reason") and state == "failed" else reason
    return f"{address} {doing}{reason}"


def _document(answer: Any) -> Any:
    told = answer["Body"].read()
    try:
        return json.loads(told)
    except ValueError:
        return told.decode(errors="replace")


@contextmanager
def _told(target: Target, project: str) -> Iterator[None]:
    """Turn what is refused into a line and a remedy."""
    try:
        yield
    except StillWaiting as waiting:
        name = waiting.ticket.name
        message = f"There is no answer yet: {_why(waiting.ticket.told) or name}."
        remedy = f"The request is kept: {output.command()} ticket {name} --wait-s 600 has its answer."
        raise CommandError(message, remedy, status=WAITING) from None
    except ClientError as problem:
        code, message = problem.response["Error"]["Code"], problem.response["Error"]["Message"]
        if code == "ModelError":
            raise _refused(problem) from None
        if code == "ValidationError" and "not found" in message.lower():
            raise CommandError(f"{project} has no endpoint.", "ebb endpoints lists what is served.") from None
        if code in {"expired", "batch-only", "unknown-ticket", "payload-too-large", "gone"}:
            remedy = str(problem.response.get("Remedy") or "")
            raise CommandError(message.removesuffix(remedy).rstrip(), remedy) from None
        raise


def _refused(problem: ClientError) -> CommandError:
    """The container's own words: which field is wrong and what to send instead."""
    text = str(problem.response.get("OriginalMessage") or problem.response["Error"]["Message"])
    try:
        told = json.loads(text)
        error = told.get("error", told)
        fields = error if isinstance(error, dict) else {"message": error, "remedy": told.get("remedy", "")}
        return CommandError(f"The model refused this request: {fields['message']}", str(fields.get("remedy") or ""))
    except (ValueError, KeyError, AttributeError):
        return CommandError(f"The model refused this request: {text}")


def _pages(client: Any, operation: str, key: str, **request: Any) -> list[dict[str, Any]]:
    return [item for page in client.get_paginator(operation).paginate(**request) for item in page[key]]


def _moment(value: Any) -> str:
    return output.moment(value.isoformat()) if value else "-"
