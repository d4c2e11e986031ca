"""`ebb models`, `ebb endpoints`, `ebb invoke`: what was made, what is served, and its answers."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.markup import escape

from ebb import names
from ebb_cli import output, owned, payload
from ebb_cli.ledger import Ledger
from ebb_cli.problems import CommandError
from ebb_cli.target import Json, Target
from ebb_cli.upload import require_project
from ebb_jobs import infer

# Serverless endpoints take 4 MB and answer within 60 s.
# https://docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html
PAYLOAD_LIMIT_BYTES = 4 * 1024 * 1024


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


def endpoints(target: Target, as_json: Json = False) -> None:
    """List the endpoints, what they serve and on what."""
    sagemaker = target.client("sagemaker")
    found = []
    for item in owned.endpoints(target):
        endpoint = sagemaker.describe_endpoint(EndpointName=item.name)
        config = sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
        variant = config["ProductionVariants"][0]
        serverless = variant.get("ServerlessConfig")
        found.append(
            {
                "project": item.project,
                "endpoint_name": item.name,
                "status": endpoint["EndpointStatus"],
                "model": variant.get("ModelName"),
                "kind": "serverless" if serverless else "instance",
                "memory_mb": serverless.get("MemorySizeInMB") if serverless else None,
                "max_concurrency": serverless.get("MaxConcurrency") if serverless else None,
                "changed_at": endpoint["LastModifiedTime"],
                "failure_reason": endpoint.get("FailureReason"),
            }
        )
    if as_json:
        output.emit_json(found)
        return
    if not found:
        output.out().print("No endpoints yet: ebb drop PATH --project NAME ends in one.")
        return
    rows = [
        (
            item["project"], item["endpoint_name"], item["status"], item["kind"], item["memory_mb"], item["model"],
            _moment(item["changed_at"]),
        )
        for item in found
    ]  # fmt: skip
    columns = ("project", "endpoint", "status", "kind", "memory MB", "model", "changed")
    output.table("", columns, rows, right=("memory MB",))


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
    as_json: Json = False,
) -> None:
    """Ask a project's model: rows, pictures or texts in, labels with probabilities or values out."""
    require_project(project)
    typed = partial(_typed, target, project)
    stdin = [payload.of_stdin(typed, content_type)] if "-" in (files or ()) else []
    paths = [Path(file) for file in files or () if file != "-"]
    requests = stdin + (payload.of(paths, text or (), typed, content_type) if paths or text or not stdin else [])
    if len(requests) == 1:
        answer = call(target, project, requests[0].body, requests[0].content_type)
    else:
        answer = {"predictions": [each for request in requests for each in _named(target, project, request)]}
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


def _named(target: Target, project: str, request: payload.Request) -> list[dict[str, Any]]:
    """Return the predictions of one request of several, each with the file that it belongs to."""
    try:
        answer = call(target, project, request.body, request.content_type)
    except CommandError as problem:
        raise CommandError(f"{request.name}: {problem.message}", problem.remedy) from None
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


def call(target: Target, project: str, body: bytes, content_type: str) -> Any:
    """Return the answer of a project's endpoint: a JSON document, or the text that a script of the user's own wrote."""
    name = names.endpoint(target.stack, project)
    if len(body) > PAYLOAD_LIMIT_BYTES:
        raise CommandError(
            f"{output.size(len(body))} is more than a serverless endpoint takes, {output.size(PAYLOAD_LIMIT_BYTES)}.",
            "Send less at once: fewer rows, a smaller picture.",
        )
    try:
        answer = target.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=name, Body=body, ContentType=content_type, Accept="application/json"
        )
    except ClientError as problem:
        code = problem.response["Error"]["Code"]
        if code == "ModelError":
            raise _refused(problem) from None
        if code == "ValidationError" and "not found" in problem.response["Error"]["Message"].lower():
            raise CommandError(f"{project} has no endpoint {name}.", "ebb endpoints lists what is served.") from None
        raise
    told = answer["Body"].read()
    try:
        return json.loads(told)
    except ValueError:
        return told.decode(errors="replace")


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
