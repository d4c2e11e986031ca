"""`ebb destroy`: remove what runs brought into being, and on request the stack and the data that it keeps."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple

import typer
from botocore.exceptions import ClientError, WaiterError

from ebb import addresses, ledger, names
from ebb.requests import hosting
from ebb_cli import confirmation, output, owned
from ebb_cli.ledger import Ledger
from ebb_cli.problems import USAGE, CommandError
from ebb_cli.target import DEFAULT_STACK, EndpointUrl, Json, Profile, Region, Stack, Target, find

ENDPOINT_GONE_WITHIN_S = 600
OTHERS_DONE_WITHIN_S = 1200  # an endpoint is made in several minutes, and two are passed before one is put to sleep
KEY_DELETION_DAYS = 30  # the longest that KMS allows: until then the deletion can be cancelled
IN_LOGS = ("serverless", "async", "realtime")
TESTING = {"PENDING", "IN_PROGRESS", "STOPPING"}
LOAD_TEST_CHARS = 40
GONE = {
    "EntityNotFoundException",  # of Glue
    "ResourceNotFound",
    "ResourceNotFoundException",
    "NoSuchEntity",
    "NoSuchBucket",
}

# They start again what is stopped, or wake and put to sleep what is being deleted. By their names in the template.
RESTARTING = {"DeploymentStoppedRule", "ScalingEndedRule", "OnAlarmFunctionEndpointAlarm"}
SCALING = ("ScaleToZero", "WakeEndpoint")  # of whom the outputs name the machines
PASSES = 3  # what a call that was under way has made after all is found by the next one

Removal = tuple[str, str]


class Resource(NamedTuple):
    """A part of the stack: what it is, how it is called in the account and in the template."""

    kind: str
    name: str
    logical: str = ""


def destroy(
    with_stack: Annotated[bool, typer.Option("--with-stack", help="Delete the CloudFormation stack as well.")] = False,
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Delete the buckets, the ledger and the key that the stack keeps.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing (embedded cloud only).")] = False,
    profile: Profile = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    stack: Stack = DEFAULT_STACK,
    as_json: Json = False,
) -> None:
    """Remove endpoints, models, alarms and roles that runs made; with --with-stack the stack too."""
    target = find(profile=profile, endpoint_url=endpoint_url, region=region, stack=stack)
    output.err().print(f"target: {target.name}", style="dim", markup=False, soft_wrap=True)
    if delete_data and not with_stack:
        raise CommandError("--delete-data needs --with-stack: a stack without its buckets cannot run.", status=USAGE)
    what = "everything that runs made" + ", the stack" * with_stack + " AND ALL DATA" * delete_data
    confirmation.ask(target, what, command="destroy", answer=target.stack, called="the stack's name", yes=yes)
    outputs = dict(target.outputs)
    if with_stack:
        _refuse_sleeping_foreigners(target)
    removed = []
    for kind, name in remove(target, outputs, with_stack=with_stack, with_data=delete_data):
        removed.append({"kind": kind, "name": name})
        if not as_json:
            output.out().print(f"removed {kind:22} {name}", markup=False, soft_wrap=True)
    if as_json:
        output.emit_json(removed)
    elif not removed:
        output.out().print("There was nothing to remove.")
    if with_stack and not delete_data:
        output.err().print("The buckets, the ledger and the key are kept; --delete-data removes them.")


def _refuse_sleeping_foreigners(target: Target) -> None:
    """Without the stack nothing could wake an endpoint that somebody else made and Ebb put to sleep."""
    asleep = [at.address for at in Ledger(target).addresses() if at.origin != "ebb" and at.state != addresses.AWAKE]
    if asleep:
        raise CommandError(
            f"Ebb put these to sleep and did not make them: {', '.join(asleep)}. Without the stack nothing wakes them.",
            f"First: ebb wake {asleep[0]} --wait",
        )


def remove(target: Target, outputs: dict[str, str], *, with_stack: bool, with_data: bool) -> Iterator[Removal]:
    """Remove what was asked for, in an order in which nothing is born again, and yield each thing as it goes.

    First goes whoever makes, wakes or puts to sleep, and the addresses that they go by; then what they have made.
    """
    resources = _resources(target)
    in_stack = {each.name for each in resources}
    rules = [each.name for each in resources if each.kind == "AWS::Events::Rule" and each.logical in RESTARTING]
    groups = _endpoint_logs(target)
    _switch(target, rules, on=False)
    try:
        stopped = list(_executions(target, outputs))
        yield from stopped
        if with_stack:
            _refuse_sleeping_foreigners(target)  # one that was waited for may have fallen asleep
        yield from _addresses(target, outputs)
        for _ in range(PASSES):
            gone = 0
            for each in _made(target, outputs, in_stack):
                gone += 1
                yield each
            if not stopped or not gone:
                break
        yield from _log_groups(target, groups)
        if with_stack:
            yield from _stack(target)
    finally:
        _switch(target, rules, on=True)
    if not with_stack:
        return
    # A function that ran while the stack was deleted makes its log group anew.
    yield from _log_groups(target, _stack_logs(resources))
    if with_data:
        yield from _data(target, outputs)


def unserve(target: Target, outputs: dict[str, str], project: str) -> Iterator[Removal]:
    """Remove what serves one project, its address first, so that nothing wakes what is being deleted."""
    yield from _addresses(target, outputs, project)
    yield from _components(target, project)
    yield from _endpoints(target, outputs, project)
    yield from _alarms(target, set(), project)


def _made(target: Target, outputs: dict[str, str], in_stack: set[str]) -> Iterator[Removal]:
    """What runs, deployments and wakes have made."""
    yield from _load_tests(target)
    yield from _components(target)
    yield from _endpoints(target, outputs)
    yield from _packages(target)
    yield from _feature_groups(target)
    yield from _alarms(target, in_stack)
    yield from _spark_jobs(target)
    yield from _roles(target, in_stack)


def _switch(target: Target, rules: list[str], *, on: bool) -> None:
    """Let rules of the stack rest, or work again; with the stack they are gone."""
    events = target.client("events")
    for name in rules:
        _unless_gone(events.enable_rule if on else events.disable_rule, Name=name)


def _executions(target: Target, outputs: dict[str, str]) -> Iterator[Removal]:
    """Stop what runs, until a look finds nothing more: an event on its way has started another one.

    A deployment that is stopped here is not undone: what it has made is deleted, and its claim on the project given up.
    What wakes an endpoint that others made, or puts it to sleep, is let finish: nobody would carry that on.
    """
    states = target.client("stepfunctions")
    machines = sorted(each for each in outputs if each.endswith("StateMachineArn"))
    began = time.monotonic()
    deadline = began + ENDPOINT_GONE_WITHIN_S
    while found := [(name, each) for name in machines for each in _running(target, outputs[name])]:
        others = _others_at_work(target, found)
        if others and len(others) == len(found) and time.monotonic() > began + OTHERS_DONE_WITHIN_S:
            raise CommandError(
                f"Endpoints that Ebb did not make are still being woken or put to sleep: {', '.join(others.values())}.",
                "Call ebb destroy again in some minutes.",
            )
        for machine, item in found:
            if item["executionArn"] in others:
                continue
            states.stop_execution(executionArn=item["executionArn"], error="Cancelled", cause="ebb destroy")
            if machine.startswith("DeployModel") and (project := _asked_for(target, item["executionArn"], "project")):
                _forget_served(target, outputs, project)
            yield "running execution", item["name"]
        if len(others) < len(found) and time.monotonic() > deadline:
            raise CommandError("Executions are started again and again.", "Call ebb destroy again later.")
        time.sleep(target.poll_s)


def _others_at_work(target: Target, found: list[tuple[str, dict[str, Any]]]) -> dict[str, str]:
    """Return the executions, with their addresses, that have begun to change an endpoint that Ebb did not make.

    One beside an endpoint that is awake has not: it waits for the end of a window, for hours perhaps.
    """
    scaling = [item["executionArn"] for machine, item in found if machine.startswith(SCALING)]
    if not scaling:
        return {}
    others = {at.address for at in Ledger(target).addresses() if at.origin != "ebb" and at.state != addresses.AWAKE}
    about = {arn: _asked_for(target, arn, "address") for arn in scaling}
    return {arn: name for arn, name in about.items() if name in others}


def _running(target: Target, machine_arn: str) -> list[dict[str, Any]]:
    pages = target.client("stepfunctions").get_paginator("list_executions")
    return [
        item
        for page in pages.paginate(stateMachineArn=machine_arn, statusFilter="RUNNING")
        for item in page["executions"]
    ]


def _asked_for(target: Target, execution_arn: str, what: str) -> str | None:
    """Return whose an execution is; one that follows on another's end holds the input of that one as text."""
    given = json.loads(target.client("stepfunctions").describe_execution(executionArn=execution_arn)["input"])
    while what not in given and "detail" in given:
        given = json.loads(given["detail"].get("input") or "{}")
    return str(given[what]) if given.get(what) else None


def _load_tests(target: Target) -> Iterator[Removal]:
    """Stop what Inference Recommender tests, and wait for it: its role and the model are needed until it has ended.

    It takes its endpoints away itself. One that it should leave is named after its job, cut at 40 characters:
    https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateInferenceRecommendationsJob.html
    """
    sagemaker = target.client("sagemaker")
    running = [each.name for each in owned.load_tests(target) if each.summary["Status"] in TESTING]
    for name in running:
        with contextlib.suppress(ClientError):  # it has ended meanwhile
            sagemaker.stop_inference_recommendations_job(JobName=name)
    deadline = time.monotonic() + ENDPOINT_GONE_WITHIN_S
    for name in running:
        while sagemaker.describe_inference_recommendations_job(JobName=name)["Status"] in TESTING:
            if time.monotonic() > deadline:
                raise CommandError(f"The load test {name} is still being stopped.", "Call ebb destroy again later.")
            time.sleep(target.poll_s)
        yield "load test", name
        left = sagemaker.get_paginator("list_endpoints").paginate(NameContains=name[:LOAD_TEST_CHARS].rstrip("-"))
        for endpoint in [each["EndpointName"] for page in left for each in page["Endpoints"]]:
            if _at_rest(target, sagemaker.delete_endpoint, EndpointName=endpoint):
                yield "endpoint", endpoint


def _components(target: Target, project: str | None = None) -> Iterator[Removal]:
    """An endpoint can only go once nothing lives on it."""
    sagemaker, deleted = target.client("sagemaker"), []
    for component in _of(owned.components(target), project):
        yield from _scalable(target, f"inference-component/{component.name}", "inference-component:DesiredCopyCount")
        if _at_rest(target, sagemaker.delete_inference_component, InferenceComponentName=component.name):
            deleted.append(component.name)
    deadline = time.monotonic() + ENDPOINT_GONE_WITHIN_S
    for name in deleted:
        while _unless_gone(sagemaker.describe_inference_component, InferenceComponentName=name):
            if time.monotonic() > deadline:
                raise CommandError(f"Component {name} is still being deleted.", "Call ebb destroy again later.")
            time.sleep(target.poll_s)
        yield "inference component", name


def _scalable(target: Target, resource: str, dimension: str) -> Iterator[Removal]:
    """A scalable target goes with its policies; it would outlive what it scales."""
    scaling = target.client("application-autoscaling")
    found = scaling.describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[resource], ScalableDimension=f"sagemaker:{dimension}"
    )["ScalableTargets"]
    for each in found:
        what = {name: each[name] for name in ("ServiceNamespace", "ResourceId", "ScalableDimension")}
        scaling.deregister_scalable_target(**what)
        yield "scalable target", each["ResourceId"]


def _of(found: list[owned.Owned], project: str | None) -> list[owned.Owned]:
    """Return what belongs to a project; all of it without one."""
    return [each for each in found if project in (None, each.project)]


def _addresses(target: Target, outputs: dict[str, str], project: str | None = None) -> Iterator[Removal]:
    """Of endpoints that Ebb did not make it keeps what it knows: from that they are woken."""
    for at in Ledger(target).addresses():
        if at.origin != "ebb" or project not in (None, at.project):
            continue
        key = {name: {"S": value} for name, value in addresses.key(at.address).items()}
        target.client("dynamodb").delete_item(TableName=outputs["LedgerTableName"], Key=key)
        _forget_served(target, outputs, str(at.project))
        yield "address", at.address


def _endpoints(target: Target, outputs: dict[str, str], project: str | None = None) -> Iterator[Removal]:
    sagemaker = target.client("sagemaker")
    deleted = []
    configs = set()  # in use, whatever their tags
    for endpoint in _of(owned.endpoints(target), project):
        configs.add(_config_of(target, endpoint.name))
        variant = f"endpoint/{endpoint.name}/variant/{hosting.VARIANT}"
        yield from _scalable(target, variant, "variant:DesiredInstanceCount")
        if _at_rest(target, sagemaker.delete_endpoint, EndpointName=endpoint.name):
            deleted.append((endpoint.name, endpoint.project))
    deadline = time.monotonic() + ENDPOINT_GONE_WITHIN_S
    for name, served in deleted:
        while _unless_gone(sagemaker.describe_endpoint, EndpointName=name):
            if time.monotonic() > deadline:
                raise CommandError(f"Endpoint {name} is still being deleted.", "Call ebb destroy again later.")
            time.sleep(target.poll_s)
        if served != "shared":  # it serves several
            _forget_served(target, outputs, served)
        yield "endpoint", name
    listing = ("list_endpoint_configs", "EndpointConfigs", "EndpointConfigName", "EndpointConfigArn")
    for config in owned.in_sagemaker(target, *listing, also=configs):
        if config.name not in configs and project not in (None, config.project):
            continue
        if _unless_gone(sagemaker.delete_endpoint_config, EndpointConfigName=config.name):
            yield "endpoint configuration", config.name
    for model in _of(owned.in_sagemaker(target, "list_models", "Models", "ModelName", "ModelArn"), project):
        if _unless_gone(sagemaker.delete_model, ModelName=model.name):
            yield "model", model.name


def _config_of(target: Target, endpoint: str) -> str:
    found: list[str] = []
    sagemaker = target.client("sagemaker")
    _unless_gone(
        lambda **name: found.append(sagemaker.describe_endpoint(**name)["EndpointConfigName"]), EndpointName=endpoint
    )
    return found[0] if found else ""


def _forget_served(target: Target, outputs: dict[str, str], project: str) -> None:
    """Let the ledger know, or the same drop would go on to be called done, by an endpoint that is gone."""
    request = ledger.forget_served(project)
    key = {name: {"S": value} for name, value in request.pop("Key").items()}
    target.client("dynamodb").update_item(TableName=outputs["LedgerTableName"], Key=key, **request)


def _packages(target: Target) -> Iterator[Removal]:
    sagemaker = target.client("sagemaker")
    for group in (item.name for item in owned.package_groups(target)):
        pages = sagemaker.get_paginator("list_model_packages").paginate(ModelPackageGroupName=group)
        for package in [item for page in pages for item in page["ModelPackageSummaryList"]]:
            sagemaker.delete_model_package(ModelPackageName=package["ModelPackageArn"])
            yield "model package", package["ModelPackageArn"].rsplit(":", 1)[1]
        sagemaker.delete_model_package_group(ModelPackageGroupName=group)
        yield "model package group", group


def _feature_groups(target: Target) -> Iterator[Removal]:
    """Remove feature groups and their tables; the files lie in the artifact bucket and stay or go with it.

    The database is the account's: groups that are not Ebb's have their tables there too.
    """
    sagemaker, glue = target.client("sagemaker"), target.client("glue")
    for group in (item.name for item in owned.feature_groups(target)):
        described = sagemaker.describe_feature_group(FeatureGroupName=group)
        table = described.get("OfflineStoreConfig", {}).get("DataCatalogConfig")
        if table and _unless_gone(glue.delete_table, DatabaseName=table["Database"], Name=table["TableName"]):
            yield "table", f"{table['Database']}.{table['TableName']}"
        sagemaker.delete_feature_group(FeatureGroupName=group)
        yield "feature group", group


def _resources(target: Target) -> list[Resource]:
    """Return everything that the stack itself holds."""
    pages = target.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=target.stack)
    listed = [item for page in pages for item in page["StackResourceSummaries"]]
    return [
        Resource(item["ResourceType"], item.get("PhysicalResourceId", ""), item["LogicalResourceId"]) for item in listed
    ]


def _endpoint_logs(target: Target) -> list[str]:
    """Return the log groups of the stack's endpoints and components, also of those that are gone again."""
    projects = {run["project"] for run in Ledger(target).runs()}
    endpoints = {item.name for item in owned.endpoints(target)}
    endpoints |= {names.endpoint_of_kind(target.stack, p, kind) for p in projects for kind in IN_LOGS}
    found = {f"/aws/sagemaker/Endpoints/{name}" for name in endpoints}
    shared = names.shared_endpoint(target.stack, "")
    prefixes = [f"Endpoints/{shared}", *(f"InferenceComponents/{target.stack}-{p}--" for p in projects)]
    pages = target.client("logs").get_paginator("describe_log_groups")
    for prefix in prefixes:
        for page in pages.paginate(logGroupNamePrefix=f"/aws/sagemaker/{prefix}"):
            found |= {each["logGroupName"] for each in page["logGroups"]}
    return sorted(found)


def _stack_logs(resources: list[Resource]) -> list[str]:
    own = [each.name for each in resources if each.kind == "AWS::Logs::LogGroup"]
    return sorted({*own, *(f"/aws/lambda/{each.name}" for each in resources if each.kind == "AWS::Lambda::Function")})


def _alarms(target: Target, in_stack: set[str], project: str | None = None) -> Iterator[Removal]:
    cloudwatch = target.client("cloudwatch")
    found = [name for name in owned.alarms(target, project) if name not in in_stack]
    for start in range(0, len(found), 100):  # DeleteAlarms takes 100
        cloudwatch.delete_alarms(AlarmNames=found[start : start + 100])
    yield from (("alarm", name) for name in found)


def _spark_jobs(target: Target) -> Iterator[Removal]:
    """The tables that they wrote go with the stack, whose database names them."""
    for name in owned.spark_jobs(target):
        target.client("glue").delete_job(JobName=name)
        yield "Glue job", name


def _roles(target: Target, in_stack: set[str]) -> Iterator[Removal]:
    iam = target.client("iam")
    pages = iam.get_paginator("list_roles").paginate(PathPrefix=names.role_path(target.stack))
    for role in [item["RoleName"] for page in pages for item in page["Roles"] if item["RoleName"] not in in_stack]:
        for page in iam.get_paginator("list_role_policies").paginate(RoleName=role):
            for policy in page["PolicyNames"]:
                iam.delete_role_policy(RoleName=role, PolicyName=policy)
        for page in iam.get_paginator("list_attached_role_policies").paginate(RoleName=role):
            for attached in page["AttachedPolicies"]:
                iam.detach_role_policy(RoleName=role, PolicyArn=attached["PolicyArn"])
        iam.delete_role(RoleName=role)
        yield "role", role


def _log_groups(target: Target, groups: list[str]) -> Iterator[Removal]:
    logs = target.client("logs")
    for name in groups:
        if _unless_gone(logs.delete_log_group, logGroupName=name):
            yield "log group", name


def _stack(target: Target) -> Iterator[Removal]:
    cloudformation = target.client("cloudformation")
    cloudformation.delete_stack(StackName=target.stack)
    try:
        waiter = cloudformation.get_waiter("stack_delete_complete")
        waiter.wait(StackName=target.stack, WaiterConfig={"Delay": 1 if target.embedded else 10, "MaxAttempts": 360})
    except WaiterError as problem:
        answer: Any = problem.last_response
        described = (answer.get("Stacks") or [{}])[0]
        raise CommandError(
            f"The stack {target.stack!r} could not be deleted: {described.get('StackStatusReason') or problem}",
            f"aws cloudformation describe-stack-events --stack-name {target.stack} says which resource is in the way.",
        ) from None
    yield "stack", target.stack


def _data(target: Target, outputs: dict[str, str]) -> Iterator[Removal]:
    """What the template keeps when its stack goes: buckets and table, and the key at last, which encrypts them."""
    for name in (outputs["LandingBucketName"], outputs["ArtifactBucketName"]):
        if _unless_gone(_empty_and_delete, target=target, bucket=name):
            yield "bucket", name
    dynamodb, table = target.client("dynamodb"), outputs["LedgerTableName"]
    if _unless_gone(dynamodb.update_table, TableName=table, DeletionProtectionEnabled=False):
        dynamodb.get_waiter("table_exists").wait(TableName=table)
        dynamodb.delete_table(TableName=table)
        yield "table", table
    key = outputs["DataKeyArn"].rpartition("/")[2]
    target.client("kms").schedule_key_deletion(KeyId=key, PendingWindowInDays=KEY_DELETION_DAYS)
    yield f"key (in {KEY_DELETION_DAYS} days)", key


def _empty_and_delete(target: Target, bucket: str) -> None:
    s3 = target.client("s3")
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        objects = [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in found]
        if objects:
            answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
            if answer.get("Errors"):
                first = answer["Errors"][0]
                raise CommandError(f"{bucket}/{first['Key']} was not deleted: {first['Code']}: {first['Message']}")
    s3.delete_bucket(Bucket=bucket)


def _at_rest(target: Target, call: Callable[..., object], **request: object) -> bool:
    """Call once what it is about does not change any more; False when it is not there."""
    deadline = time.monotonic() + ENDPOINT_GONE_WITHIN_S
    while True:
        try:
            return _unless_gone(call, **request)
        except ClientError as problem:
            if "in-progress" not in problem.response["Error"]["Message"] or time.monotonic() > deadline:
                raise
        time.sleep(target.poll_s)


def _unless_gone(call: Callable[..., object], **request: object) -> bool:
    """Call; False when what it is about is not there (any more)."""
    try:
        call(**request)
    except ClientError as problem:
        error = problem.response["Error"]
        # SageMaker says "Could not find ..." under the code ValidationException.
        if error["Code"] in GONE or "could not find" in error["Message"].lower():
            return False
        raise
    return True
