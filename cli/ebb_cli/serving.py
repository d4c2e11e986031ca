"""`ebb models`, `ebb endpoints`, `ebb invoke`: what was made, what is served, and its answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from botocore.exceptions import ClientError
from rich.markup import escape

from ebb import names
from ebb_cli import output, owned
from ebb_cli.problems import USAGE, CommandError
from ebb_cli.target import Json, Target
from ebb_cli.upload import require_project

CONTENT_TYPES = {".csv": "text/csv", ".json": "application/json", ".jsonl": "application/jsonlines"}
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
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="Rows as .csv, .json or .jsonl; - is stdin.")],
    as_json: Json = False,
) -> None:
    """Ask a project's model: raw rows in, labels with probabilities or values out."""
    require_project(project)
    body, content_type = _payload(file)
    answer = call(target, project, body, content_type)
    if as_json:
        output.emit_json(answer)
        return
    rows = []
    for number, prediction in enumerate(answer["predictions"], 1):
        if "label" in prediction:
            ranked = sorted((prediction.get("probabilities") or {}).items(), key=lambda pair: -pair[1])
            told = ", ".join(f"{label} {value:.3f}" for label, value in ranked[:3])
            rows.append((number, prediction["label"], told))
        else:
            rows.append((number, output.number(prediction["value"], 5), ""))
    output.table("", ("row", "prediction", "probabilities"), rows, right=("row",))


def call(target: Target, project: str, body: bytes, content_type: str) -> dict[str, Any]:
    """Return the answer of a project's endpoint."""
    name = names.endpoint(target.stack, project)
    if len(body) > PAYLOAD_LIMIT_BYTES:
        raise CommandError(
            f"{output.size(len(body))} is more than a serverless endpoint takes, {output.size(PAYLOAD_LIMIT_BYTES)}.",
            "Send fewer rows at once.",
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
    return json.loads(answer["Body"].read())


def _refused(problem: ClientError) -> CommandError:
    """The container's own words: which field is wrong and what to send instead."""
    text = str(problem.response.get("OriginalMessage") or problem.response["Error"]["Message"])
    try:
        told = json.loads(text)
        error = told.get("error", told)
        fields = error if isinstance(error, dict) else {"message": error, "remedy": told.get("remedy", "")}
        return CommandError(f"The model refused these rows: {fields['message']}", str(fields.get("remedy") or ""))
    except (ValueError, KeyError, AttributeError):
        return CommandError(f"The model refused these rows: {text}")


def _payload(file: str) -> tuple[bytes, str]:
    if file == "-":
        body = sys.stdin.buffer.read()
        return body, sniff(body)
    path = Path(file)
    if not path.is_file():
        raise CommandError(f"{path} is no file.", "Give a file of rows, or - for stdin.", status=USAGE)
    body = path.read_bytes()
    return body, CONTENT_TYPES.get(path.suffix.lower()) or sniff(body)


def sniff(body: bytes) -> str:
    """Return the content type of rows without a file name: JSON, JSON Lines, or else CSV."""
    text = body.lstrip()
    if text.startswith(b"["):
        return "application/json"
    if text.startswith(b"{"):
        try:
            json.loads(text)
        except ValueError:
            return "application/jsonlines"
        return "application/json"
    return "text/csv"


def _pages(client: Any, operation: str, key: str, **request: Any) -> list[dict[str, Any]]:
    return [item for page in client.get_paginator(operation).paginate(**request) for item in page[key]]


def _moment(value: Any) -> str:
    return output.moment(value.isoformat()) if value else "-"
