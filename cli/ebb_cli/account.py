"""What an AWS account must have before a run can succeed in it. Each check returns (state, detail, remedy)."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from ebb import catalog
from ebb_cli.target import Target

Judged = tuple[str, str, str]

# What the command line itself calls; the stack's own roles are written in template.yaml.
NEEDED_ACTIONS = (
    "cloudformation:DescribeStacks", "s3:PutObject", "dynamodb:Query", "states:GetExecutionHistory",
    "states:StartExecution", "states:StopExecution", "sagemaker:InvokeEndpoint", "sagemaker:DescribeEndpoint",
    "logs:FilterLogEvents", "kms:GenerateDataKey", "kms:Decrypt",
)  # fmt: skip
# Services without which the template cannot be deployed; a Region opens with fewer of them.
SERVICES = ("sagemaker", "stepfunctions", "lambda", "events", "dynamodb", "ecr", "kms", "codebuild")
CONCURRENCY_WANTED = 10
QUOTAS_PAGE = "Ask for more under Service Quotas, Amazon SageMaker: "
BUILD_QUOTA = "Concurrently running builds for Linux/Medium environment"  # of the compute type in template.yaml


def region(target: Target) -> Judged:
    """Judge whether the Region has the services that the template uses."""
    missing = [name for name in SERVICES if target.region not in _regions(target, name)]
    if missing:
        return "fail", f"{target.region} has no {', '.join(missing)}", "Choose another --region."
    return "ok", f"{target.region} has all services", ""


def _regions(target: Target, service: str) -> list[str]:
    found: list[str] = []
    for partition in target.session.get_available_partitions():
        found += target.session.get_available_regions(service, partition_name=partition)
    return found


def images(target: Target) -> Judged:
    """Tell which images jobs and endpoints start from, and which of them the first run has to build."""
    told = []
    for kind in ("Jobs", "Serve"):
        uri, repository = target.outputs[f"{kind}ImageUri"], target.outputs[f"{kind}RepositoryUri"]
        name, _, tag = uri.rpartition(":")
        lacks = name == repository and not _has_tag(target, repository.partition("/")[2], tag)
        told.append(f"{uri} (the first run builds it)" if lacks else uri)
    return "ok", ", ".join(told), ""


def _has_tag(target: Target, repository: str, tag: str) -> bool:
    try:
        answer = target.client("ecr").describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])
    except ClientError as problem:
        if problem.response["Error"]["Code"] in {"ImageNotFoundException", "RepositoryNotFoundException"}:
            return False
        raise
    return bool(answer["imageDetails"])


def serverless_quota(target: Target) -> Judged:
    """Judge the applied concurrency of serverless endpoints: new accounts have reported 10 instead of 1000."""
    for name, value in _quotas(target, "sagemaker").items():
        if "serverless" in name.lower() and "total concurrency" in name.lower():
            state = "ok" if value >= CONCURRENCY_WANTED else "fail" if value < 1 else "warn"
            return state, f"{name}: {value:.0f}", QUOTAS_PAGE + f"{name!r}."
    return "warn", "the quota on serverless concurrency was not found", QUOTAS_PAGE + "serverless concurrency."


def job_quotas(target: Target) -> Judged:
    """Judge whether at least one catalogued instance type may be used for each kind of job."""
    quotas = _quotas(target, "sagemaker")
    types = [item.name for item in catalog.instances()]
    lacking, told = [], []
    for use in ("training job usage", "spot training job usage", "processing job usage"):
        usable = [name for name in types if quotas.get(f"{name} for {use}", 0) >= 1]
        if usable:
            told.append(f"{use}: {len(usable)} of {len(types)} types")
        else:
            lacking.append(f"{types[0]} for {use}")
    if lacking:
        return "fail", f"no instance type is allowed: {', '.join(lacking)}", QUOTAS_PAGE + ", ".join(lacking) + "."
    return "ok", ", ".join(told), ""


def build_quota(target: Target) -> Judged:
    """Judge whether CodeBuild may build the images: new accounts have been given no build at all. One is enough."""
    remedy = (
        f"Ask for at least 1 under Service Quotas, AWS CodeBuild: {BUILD_QUOTA!r}; "
        "or name ready images with JobsImageUri and ServeImageUri."
    )
    value = _quotas(target, "codebuild").get(BUILD_QUOTA)
    if value is None:
        return "warn", "the quota on CodeBuild's builds for Linux was not found", remedy
    return "ok" if value >= 1 else "fail", f"{BUILD_QUOTA}: {value:.0f}", remedy


def _quotas(target: Target, service: str) -> dict[str, float]:
    client = target.client("service-quotas")
    # Quotas that were never changed appear only among the defaults.
    values: dict[str, float] = {}
    for operation in ("list_aws_default_service_quotas", "list_service_quotas"):
        for page in client.get_paginator(operation).paginate(ServiceCode=service):
            values |= {item["QuotaName"]: item["Value"] for item in page["Quotas"]}
    return values


def permissions(target: Target) -> Judged:
    """Judge what the caller may do by asking IAM to simulate it; nothing is called."""
    caller = target.client("sts").get_caller_identity()["Arn"]
    if caller.endswith(":root"):
        return "warn", f"{caller} may do everything", "Use a role instead of the account's root."
    request: dict[str, Any] = {"PolicySourceArn": _role_of(caller), "ActionNames": list(NEEDED_ACTIONS)}
    answer = target.client("iam").simulate_principal_policy(**request)
    results = answer["EvaluationResults"]
    forbidden = [item["EvalActionName"] for item in results if item["EvalDecision"] == "explicitDeny"]
    if forbidden:
        return "fail", f"forbidden to {caller}: {', '.join(forbidden)}", "Ask the account's administrator about them."
    # A policy that names single resources does not allow an action on all of them, and may still be enough.
    unnamed = [item["EvalActionName"] for item in results if item["EvalDecision"] != "allowed"]
    if unnamed:
        detail = f"not allowed to {caller} on every resource: {', '.join(unnamed)}"
        return "warn", detail, f"Enough if they are allowed on the resources of the stack {target.stack}."
    return "ok", f"{caller} may do what the commands need", ""


def _role_of(caller: str) -> str:
    """Return the role behind an assumed-role session; IAM simulates roles and users, not sessions."""
    if ":assumed-role/" not in caller:
        return caller
    head, _, rest = caller.partition(":assumed-role/")
    return f"{head.replace(':sts:', ':iam:')}:role/{rest.split('/')[0]}"
