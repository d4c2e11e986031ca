"""Endpoints: Create, Describe, List, Update (blue/green, with rollback), UpdateWeightsAndCapacities, Delete.

An update brings the new containers up beside the old ones, which answer until then; when the new ones fail, or an
alarm of the deployment goes off, the old ones stay and the endpoint is InService with a FailureReason. One process
answers for all instances of a variant; how many there are counts in metrics, in the queue and for placement.
Sources: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_UpdateEndpoint.html,
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_UpdateEndpointWeightsAndCapacities.html.
"""

import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

from ministack.core.responses import request_scope

from ebb_local import authorization
from ebb_local.sagemaker import (
    async_queue,
    capacity,
    components,
    deployments,
    endpoint_configs,
    events,
    fleets,
    listing,
    settings,
    state,
    tags,
    threads,
    variants,
)
from ebb_local.sagemaker.errors import HostingFailure, ServiceError, validation_exception
from ebb_local.sagemaker.hosting import INVOKE_TIMEOUT_S

_SUMMARY = ["EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus"]
_BUSY = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
_REAPER_EVERY_S = 1.0
_FROM_CONFIG = ("AsyncInferenceConfig", "DataCaptureConfig")

_admission = threading.Lock()
"""Held while a status is looked at and changed: of two updates at once one is refused."""


def create(request: dict[str, Any]) -> dict[str, Any]:
    """CreateEndpoint."""
    name = request["EndpointName"]
    arn = state.arn("endpoint", name)
    tags.require_tagging(arn, request)
    config = _configuration(request, "CreateEndpoint")
    _require_deployment(request.get("DeploymentConfig"), config)
    if name in state.endpoints:
        raise validation_exception(f'Cannot create already existing endpoint "{arn}".')
    moment = state.now()
    state.endpoints[name] = record = {
        "EndpointName": name,
        "EndpointArn": arn,
        "EndpointConfigName": request["EndpointConfigName"],
        "EndpointStatus": "Creating",
        "CreationTime": moment,
        "LastModifiedTime": moment,
        "LastDeploymentConfig": request.get("DeploymentConfig"),
        **_settings_of(config),
        "_variants": variants.snapshot(config),
    }
    tags.put(arn, request.get("Tags"))
    events.state_changed("Endpoint", arn, record)
    threads.start(f"endpoint-{name}", _bring_up, record)
    return {"EndpointArn": arn}


def update(request: dict[str, Any]) -> dict[str, Any]:
    """UpdateEndpoint."""
    record = variants.endpoint(request["EndpointName"])
    config = _configuration(request, "UpdateEndpoint")
    arn = record["EndpointArn"]
    _require_change_of_kind(record, config)
    deployment = request.get("DeploymentConfig")
    if request.get("RetainDeploymentConfig"):
        deployment = deployment or record.get("LastDeploymentConfig")
    _require_deployment(deployment, config)
    new = variants.snapshot(config)
    excluded = {entry["VariantPropertyType"] for entry in request.get("ExcludeRetainedVariantProperties") or []}
    if request.get("RetainAllVariantProperties"):
        new = variants.carry_on(new, record["_variants"], excluded)
    members = _settings_of(config) | {"EndpointConfigName": request["EndpointConfigName"], "_variants": new}
    if request.get("RetainAllVariantProperties") and "DataCaptureConfig" not in excluded:
        members["DataCaptureConfig"] = record.get("DataCaptureConfig")
    begin_update(record)
    events.state_changed("Endpoint", arn, record)
    threads.start(f"endpoint-{record['EndpointName']}", _replace, record, members, deployment)
    return {"EndpointArn": arn}


def update_weights_and_capacities(request: dict[str, Any]) -> dict[str, Any]:
    """UpdateEndpointWeightsAndCapacities."""
    record = variants.endpoint(request["EndpointName"])
    for wanted in request["DesiredWeightsAndCapacities"]:
        _require_wanted(record, wanted)
    begin_update(record)
    events.state_changed("Endpoint", record["EndpointArn"], record)
    threads.start(
        f"endpoint-{record['EndpointName']}", _rescale, record, request["DesiredWeightsAndCapacities"]
    )  # fmt: skip
    return {"EndpointArn": record["EndpointArn"]}


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeEndpoint."""
    record = variants.endpoint(request["EndpointName"])
    described = state.public(record)
    if record["EndpointStatus"] != "Creating":
        described["ProductionVariants"] = [variants.summary(entry) for entry in record["_variants"]]
    pending = record.get("_pending")
    if pending:
        baking = [{"Status": pending["status"], "StartTime": pending["since"]}]
        described["PendingDeploymentSummary"] = {
            "EndpointConfigName": pending["EndpointConfigName"],
            "ProductionVariants": [variants.summary(entry, baking) for entry in pending["_variants"]],
            "StartTime": pending["since"],
        }
    return described


def list_endpoints(request: dict[str, Any]) -> dict[str, Any]:
    """ListEndpoints."""
    rows, more = listing.page(
        state.endpoints.values(), request, name="EndpointName", status="EndpointStatus", members=_SUMMARY
    )
    return {"Endpoints": rows, **more}


def delete(request: dict[str, Any]) -> dict[str, Any]:
    """DeleteEndpoint. The containers end; the endpoint is gone when this answers (on AWS a little later)."""
    record = variants.endpoint(request["EndpointName"])
    arn = record["EndpointArn"]
    if components.of_endpoint(record["EndpointName"]):  # wording assumed
        raise validation_exception(
            f'Cannot delete endpoint "{arn}" while it hosts inference components. Delete those first.'
        )
    with _admission:
        _require_idle(record)
        state.update(record, EndpointStatus="Deleting", LastModifiedTime=state.now())
    events.state_changed("Endpoint", arn, record)
    fleets.close(fleets.remove(arn))
    async_queue.forget(record["EndpointName"])
    state.endpoints.pop(record["EndpointName"], None)
    tags.forget(arn)
    return {}


def begin_update(record: state.Record) -> None:
    """Set an endpoint to Updating, or raise because something else is under way."""
    arn = record["EndpointArn"]
    with _admission:
        _require_idle(record)
        if record["EndpointStatus"] != "InService":
            raise validation_exception(f'Cannot update endpoint "{arn}" in status {record["EndpointStatus"]}.')
        state.update(record, EndpointStatus="Updating", LastModifiedTime=state.now(), FailureReason=None)


def announce() -> None:
    """Say which endpoints will answer again soon. Runs before the gateway listens."""
    for *_, record in state.everywhere(state.endpoints):
        record["_variants"] = [variants.completed(entry) for entry in record["_variants"]]
        if record["EndpointStatus"] not in ("Failed", "Deleting"):
            fleets.announce(record["EndpointArn"])


def restore() -> None:
    """Serve again what was serving when the server stopped. The gateway has to answer first.

    Serverless containers stay asleep: the first request starts them, as after any rest. An update that was under way
    is undone, except that capacity which was asked for comes.
    """
    shutil.rmtree(settings.current().endpoints, ignore_errors=True)
    for account, region, _, record in state.everywhere(state.endpoints):
        with request_scope(account, region):
            if record["EndpointStatus"] == "Deleting":
                state.endpoints.pop(record["EndpointName"], None)
            elif record["EndpointStatus"] != "Failed":
                state.update(record, _pending=None)
                threads.start(f"endpoint-{record['EndpointName']}", _bring_up, record, True)


def watch_idle() -> None:
    """Let serverless containers rest when nobody calls. Runs as long as the server does, on the cloud's clock."""
    while True:
        time.sleep(_REAPER_EVERY_S)
        for server in fleets.every():
            server.rest_if_idle()


def _require_idle(record: state.Record) -> None:
    if record["EndpointStatus"] in _BUSY:
        raise validation_exception(f'Cannot update in-progress endpoint "{record["EndpointArn"]}".')


def _configuration(request: dict[str, Any], action: str) -> state.Record:
    """Return the endpoint configuration that a request names; the action is authorized on it too.

    Source: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsagemaker.html
    """
    name = request["EndpointConfigName"]
    authorization.authorize(f"sagemaker:{action}", state.arn("endpoint-config", name))
    return endpoint_configs.find(name)


def _settings_of(config: state.Record) -> dict[str, Any]:
    """Return what an endpoint takes over from its configuration beside the variants. Capturing itself is not done."""
    capture = config.get("DataCaptureConfig")
    shown = None
    if capture:
        shown = {
            "EnableCapture": capture.get("EnableCapture", False),
            "CaptureStatus": "Started" if capture.get("EnableCapture") else "Stopped",
            "CurrentSamplingPercentage": capture["InitialSamplingPercentage"],
            "DestinationS3Uri": capture["DestinationS3Uri"],
            "KmsKeyId": capture.get("KmsKeyId", ""),
        }
    return {
        "AsyncInferenceConfig": config.get("AsyncInferenceConfig"),
        "DataCaptureConfig": shown,
        "_execution_role": config.get("ExecutionRoleArn"),
    }


def _require_deployment(deployment: dict[str, Any] | None, config: state.Record) -> None:
    deployments.require_valid(
        deployment,
        serverless=endpoint_configs.is_serverless(config),
        components=endpoint_configs.hosts_components(config),
    )


def _require_change_of_kind(record: state.Record, config: state.Record) -> None:
    """Raise for a change that AWS does not make in place (dg/serverless-endpoints; wording and the rest assumed)."""
    arn, first = record["EndpointArn"], record["_variants"][0]
    if endpoint_configs.is_serverless(config) and not variants.serverless(first):
        raise validation_exception(
            f'Cannot update endpoint "{arn}" from instance-based to serverless: the change is not supported.'
        )
    if bool(config.get("AsyncInferenceConfig")) != bool(record.get("AsyncInferenceConfig")):
        raise validation_exception(
            f'Cannot update endpoint "{arn}" between asynchronous and other inference: the change is not supported.'
        )
    if endpoint_configs.hosts_components(config) != variants.hosts_components(first):
        raise validation_exception(
            f'Cannot update endpoint "{arn}" between variants with models and variants with inference components.'
        )
    names = {variant["VariantName"] for variant in config["ProductionVariants"]}
    for component in components.of_endpoint(record["EndpointName"]):
        if component["VariantName"] not in names:
            raise validation_exception(
                f"Cannot remove variant {component['VariantName']}: it hosts inference component "
                f"{component['InferenceComponentName']}."
            )


def _require_wanted(record: state.Record, wanted: dict[str, Any]) -> None:
    """Raise for a weight or a capacity that AWS does not take (wording assumed)."""
    name, entry = wanted["VariantName"], variants.find(record, wanted["VariantName"])
    if entry is None:
        raise validation_exception(f'Could not find variant "{name}" of endpoint "{record["EndpointArn"]}".')
    count, concurrency = wanted.get("DesiredInstanceCount"), wanted.get("ServerlessUpdateConfig")
    if variants.hosts_components(entry):
        raise validation_exception(f"The capacity of variant {name} follows its inference components.")
    if variants.serverless(entry):
        if count is not None:
            raise validation_exception(f"DesiredInstanceCount is not supported for serverless variant {name}.")
        endpoint_configs.require_serverless_config(
            name, {**entry["variant"]["ServerlessConfig"], **(concurrency or {})}
        )
    elif concurrency:
        raise validation_exception(f"ServerlessUpdateConfig is not supported for variant {name} on instances.")
    if count == 0 and not record.get("AsyncInferenceConfig"):  # dg/async-inference-autoscale: only these reach zero
        raise validation_exception(f"DesiredInstanceCount of variant {name} must be greater than or equal to 1.")


def _bring_up(record: state.Record, again: bool = False) -> None:
    """Start what a new endpoint serves; `again`: its instances were there before the server was started anew."""
    arn = record["EndpointArn"]
    try:
        for entry in record["_variants"]:
            if not again and not variants.serverless(entry):
                capacity.provision(entry["variant"]["InstanceType"])
            entry["current"] = entry["desired"]
        servers = fleets.start_variants(record["EndpointName"], record["_variants"], asleep=again)
    except (HostingFailure, ServiceError) as failure:
        fleets.arrived(arn)
        for entry in record["_variants"]:
            entry["current"] = 0
        state.update(record, EndpointStatus="Failed", FailureReason=str(failure)[:1024], LastModifiedTime=state.now())
    else:
        fleets.put(arn, servers)
        changes = {} if again and record["EndpointStatus"] == "InService" else {"LastModifiedTime": state.now()}
        unchanged = again and not changes
        state.update(record, EndpointStatus="InService", **changes)
        async_queue.pump(record["EndpointName"])
        if unchanged:
            return
    events.state_changed("Endpoint", arn, record)


def _replace(record: state.Record, members: dict[str, Any], deployment: dict[str, Any] | None) -> None:
    """Serve what the new configuration says, or what was served before."""
    arn, new = record["EndpointArn"], members["_variants"]
    servers: fleets.Servers = {}
    state.update(record, _pending={**members, "status": "Creating", "since": state.now()})
    try:
        _provision(new, record["_variants"])
        servers = fleets.start_variants(record["EndpointName"], new)

        def shift(share: float) -> None:
            fleets.shift(arn, servers, share)
            state.update(record, _pending=record["_pending"] | {"status": "Baking"})
            async_queue.pump(record["EndpointName"])

        deployments.bake(deployment, sum(entry["current"] for entry in new), shift)
    except (HostingFailure, ServiceError) as failure:
        _roll_back(record, servers, str(failure)[:1024])
    else:
        old = fleets.put(arn, servers)
        state.update(record, EndpointStatus="InService", LastModifiedTime=state.now(), _pending=None,
                     LastDeploymentConfig=deployment or record.get("LastDeploymentConfig"), **members)  # fmt: skip
        async_queue.pump(record["EndpointName"])
        threads.start(f"old-{record['EndpointName']}", fleets.close, old, INVOKE_TIMEOUT_S)
    events.state_changed("Endpoint", arn, record)


def _roll_back(record: state.Record, servers: fleets.Servers, reason: str) -> None:
    """Let the old fleet answer alone again. A fleet that never took a request needs no rolling back."""
    arn = record["EndpointArn"]
    fleets.unshift(arn)
    if record["_pending"]["status"] == "Baking":
        state.update(record, EndpointStatus="RollingBack", LastModifiedTime=state.now())
        events.state_changed("Endpoint", arn, record)
    fleets.close(servers)
    state.update(
        record, EndpointStatus="InService", FailureReason=reason, LastModifiedTime=state.now(), _pending=None
    )  # fmt: skip
    async_queue.pump(record["EndpointName"])


def _provision(new: list[variants.Entry], old: list[variants.Entry]) -> None:
    """Wait for the instances of a new fleet; variants of inference components keep theirs where the type stays."""
    kept = {variants.name(entry): entry for entry in old}
    for entry in new:
        before = kept.get(variants.name(entry))
        if variants.serverless(entry):
            continue
        if variants.hosts_components(entry) and before is not None:
            same = before["variant"]["InstanceType"] == entry["variant"]["InstanceType"]
            entry |= {"current": before["current"], "desired": before["desired"]}
            if same or not before["current"]:
                continue
        if entry["desired"]:
            capacity.provision(entry["variant"]["InstanceType"])


def _rescale(record: state.Record, wanted: list[dict[str, Any]]) -> None:
    arn, reason = record["EndpointArn"], None
    try:
        for each in wanted:
            entry = variants.find(record, each["VariantName"])
            assert entry is not None, "checked when it was asked for"
            if each.get("DesiredWeight") is not None:
                entry["weight"] = each["DesiredWeight"]
            if each.get("ServerlessUpdateConfig"):
                _set_concurrency(record, entry, each["ServerlessUpdateConfig"])
            if each.get("DesiredInstanceCount") is not None:
                _set_instances(record, entry, each["DesiredInstanceCount"])
    except (HostingFailure, ServiceError) as failure:
        reason = str(failure)[:1024]
    state.update(record, EndpointStatus="InService", FailureReason=reason, LastModifiedTime=state.now())
    async_queue.pump(record["EndpointName"])
    events.state_changed("Endpoint", arn, record)


def _set_instances(record: state.Record, entry: variants.Entry, count: int) -> None:
    """Let a variant have so many instances; where none are to be had it keeps those that it has."""
    before, arn, name = entry["current"], record["EndpointArn"], variants.name(entry)
    entry["desired"] = count
    state.update(record)
    try:
        if count > before:
            capacity.provision(entry["variant"]["InstanceType"])
        if not before and count:
            entry["current"] = count
            _change_servers(arn, lambda servers: servers | fleets.start_variants(record["EndpointName"], [entry]))
    except (HostingFailure, ServiceError):
        entry |= {"current": before, "desired": before}
        raise
    entry["current"] = count
    state.update(record)
    if before and not count:
        _change_servers(arn, lambda servers: {unit: each for unit, each in servers.items() if unit != name})


def _set_concurrency(record: state.Record, entry: variants.Entry, changes: dict[str, int]) -> None:
    serverless = {**entry["variant"]["ServerlessConfig"], **changes}
    entry["variant"] = {**entry["variant"], "ServerlessConfig": serverless}
    for server in fleets.of(record["EndpointArn"]).values():
        server.serverless = serverless


def _change_servers(arn: str, change: Callable[[fleets.Servers], fleets.Servers]) -> None:
    """Put others in service; what is no longer among them ends in the background, once it has answered."""
    old = fleets.of(arn)
    new = change(old)
    fleets.put(arn, new)
    gone = {unit: server for unit, server in old.items() if unit not in new}
    if gone:
        threads.start("drained", fleets.close, gone, INVOKE_TIMEOUT_S)
