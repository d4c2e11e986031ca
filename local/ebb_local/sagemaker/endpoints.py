"""Endpoints: Create, Describe, List, Update (blue/green, with rollback), Delete.

An update brings the new containers up beside the old ones, which answer until then; when the new ones fail, the
old ones stay and the endpoint is InService with a FailureReason.
Source: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_UpdateEndpoint.html
"""

import shutil
import threading
import time
from typing import Any

from ministack.core.responses import request_scope

from ebb_local import authorization
from ebb_local.sagemaker import endpoint_configs, events, images, listing, models, settings, state, tags, threads
from ebb_local.sagemaker.errors import ServiceError, not_implemented, validation_exception
from ebb_local.sagemaker.hosting import INVOKE_TIMEOUT_S, HostingFailure, Server

_SUMMARY = ["EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus"]
_BUSY = ("Creating", "Updating", "Deleting")
_REAPER_EVERY_S = 1.0

_serving: dict[str, dict[str, Server]] = {}
_serving_lock = threading.Lock()


def create(request: dict[str, Any]) -> dict[str, Any]:
    """CreateEndpoint."""
    name = request["EndpointName"]
    arn = state.arn("endpoint", name)
    tags.require_tagging(arn, request)
    config = _configuration(request, "CreateEndpoint")
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
        "_variants": _snapshot(config),
    }
    tags.put(arn, request.get("Tags"))
    events.state_changed("Endpoint", arn, record)
    threads.start(f"endpoint-{name}", _bring_up, record)
    return {"EndpointArn": arn}


def update(request: dict[str, Any]) -> dict[str, Any]:
    """UpdateEndpoint."""
    record = find(request["EndpointName"])
    config = _configuration(request, "UpdateEndpoint")
    arn = record["EndpointArn"]
    if record["EndpointStatus"] in _BUSY:
        raise validation_exception(f'Cannot update in-progress endpoint "{arn}".')
    if record["EndpointStatus"] != "InService":
        raise validation_exception(f'Cannot update endpoint "{arn}" in status {record["EndpointStatus"]}.')
    was_serverless = bool(record["_variants"][0]["variant"].get("ServerlessConfig"))
    if endpoint_configs.is_serverless(config) and not was_serverless:
        raise validation_exception(  # dg/serverless-endpoints; wording assumed
            f'Cannot update endpoint "{arn}" from instance-based to serverless: the change is not supported.'
        )
    state.update(record, EndpointStatus="Updating", LastModifiedTime=state.now(), FailureReason=None)
    events.state_changed("Endpoint", arn, record)
    threads.start(
        f"endpoint-{record['EndpointName']}", _replace, record, request["EndpointConfigName"], _snapshot(config)
    )
    return {"EndpointArn": arn}


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeEndpoint."""
    record = find(request["EndpointName"])
    described = state.public(record)
    if record["EndpointStatus"] != "Creating":
        described["ProductionVariants"] = [_variant_summary(entry) for entry in record["_variants"]]
    return described


def list_endpoints(request: dict[str, Any]) -> dict[str, Any]:
    """ListEndpoints."""
    rows, more = listing.page(
        state.endpoints.values(), request, name="EndpointName", status="EndpointStatus", members=_SUMMARY
    )
    return {"Endpoints": rows, **more}


def delete(request: dict[str, Any]) -> dict[str, Any]:
    """DeleteEndpoint. The container ends; the endpoint is gone when this answers (on AWS a little later)."""
    record = find(request["EndpointName"])
    arn = record["EndpointArn"]
    if record["EndpointStatus"] in _BUSY:
        raise validation_exception(f'Cannot update in-progress endpoint "{arn}".')
    state.update(record, EndpointStatus="Deleting", LastModifiedTime=state.now())
    events.state_changed("Endpoint", arn, record)
    with _serving_lock:
        servers = _serving.pop(arn, {})
    _close(servers)
    state.endpoints.pop(record["EndpointName"], None)
    tags.forget(arn)
    return {}


def find(name: str) -> state.Record:
    """Return an endpoint's record, or raise as AWS does."""
    record = state.endpoints.get(name)
    if record is None:
        raise validation_exception(f'Could not find endpoint "{state.arn("endpoint", name)}".')
    return record


def servers_of(name: str) -> dict[str, Server]:
    """Return the containers that answer for an endpoint, by variant; none when it is not in service."""
    with _serving_lock:
        return dict(_serving.get(state.arn("endpoint", name), {}))


def restore() -> None:
    """Serve again what was serving when the server stopped. The gateway has to answer first.

    Serverless containers stay asleep: the first request starts them, as after any rest.
    """
    shutil.rmtree(settings.current().endpoints, ignore_errors=True)
    for account, region, _, record in state.everywhere(state.endpoints):
        with request_scope(account, region):
            if record["EndpointStatus"] == "Deleting":
                state.endpoints.pop(record["EndpointName"], None)
            elif record["EndpointStatus"] != "Failed":
                threads.start(f"endpoint-{record['EndpointName']}", _bring_up, record, True)


def close_all() -> None:
    """End every serving container."""
    with _serving_lock:
        servers = [server for variants in _serving.values() for server in variants.values()]
        _serving.clear()
    for server in servers:
        server.close()


def watch_idle() -> None:
    """Let serverless containers rest when nobody calls. Runs as long as the server does, on the cloud's clock."""
    while True:
        time.sleep(_REAPER_EVERY_S)
        with _serving_lock:
            servers = [server for variants in _serving.values() for server in variants.values()]
        for server in servers:
            server.rest_if_idle()


def _configuration(request: dict[str, Any], action: str) -> state.Record:
    """Return the endpoint configuration that a request names; the action is authorized on it too.

    Source: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsagemaker.html
    """
    name = request["EndpointConfigName"]
    authorization.authorize(f"sagemaker:{action}", state.arn("endpoint-config", name))
    for member in ("DeploymentConfig", "RetainDeploymentConfig", "ExcludeRetainedVariantProperties"):
        if request.get(member):
            raise not_implemented(f"{action} with {member}")
    return endpoint_configs.find(name)


def _snapshot(config: state.Record) -> list[dict[str, Any]]:
    """Keep what is served, so that it can be started again after its configuration or model was deleted."""
    return [
        {"variant": variant, "model": state.public(models.find(variant["ModelName"]))}
        for variant in config["ProductionVariants"]
    ]


def _bring_up(record: state.Record, asleep: bool = False) -> None:
    arn = record["EndpointArn"]
    try:
        servers = _start(record["EndpointName"], record["_variants"], asleep)
    except (HostingFailure, ServiceError) as failure:
        state.update(record, EndpointStatus="Failed", FailureReason=str(failure)[:1024], LastModifiedTime=state.now())
    else:
        with _serving_lock:
            _serving[arn] = servers
        state.update(record, EndpointStatus="InService", LastModifiedTime=state.now())
    events.state_changed("Endpoint", arn, record)


def _replace(record: state.Record, config_name: str, variants: list[dict[str, Any]]) -> None:
    arn = record["EndpointArn"]
    try:
        servers = _start(record["EndpointName"], variants)
    except (HostingFailure, ServiceError) as failure:
        state.update(
            record, EndpointStatus="InService", FailureReason=str(failure)[:1024], LastModifiedTime=state.now()
        )
    else:
        with _serving_lock:
            old, _serving[arn] = _serving.get(arn, {}), servers
        state.update(record, EndpointStatus="InService", EndpointConfigName=config_name, _variants=variants,
                     LastModifiedTime=state.now())  # fmt: skip
        _close(old, drain_s=INVOKE_TIMEOUT_S)
    events.state_changed("Endpoint", arn, record)


def _start(name: str, variants: list[dict[str, Any]], asleep: bool = False) -> dict[str, Server]:
    servers: dict[str, Server] = {}
    try:
        for entry in variants:
            server = Server(name, entry["variant"], entry["model"])
            servers[entry["variant"]["VariantName"]] = server
            server.prepare()
            if not (asleep and server.serverless):
                server.start()
    except BaseException:
        _close(servers)
        raise
    return servers


def _close(servers: dict[str, Server], drain_s: float | None = None) -> None:
    for server in servers.values():
        server.close(drain_s)


def _variant_summary(entry: dict[str, Any]) -> dict[str, Any]:
    variant, weight = entry["variant"], entry["variant"].get("InitialVariantWeight", 1.0)
    image = models.container_of(entry["model"])["Image"]
    summary = {
        "VariantName": variant["VariantName"],
        "DeployedImages": [{"SpecifiedImage": image, "ResolvedImage": images.digest(image)}],
        "CurrentWeight": weight,
        "DesiredWeight": weight,
    }
    if variant.get("ServerlessConfig"):
        return summary | {"CurrentServerlessConfig": variant["ServerlessConfig"], "CurrentInstanceCount": 0}
    count = variant["InitialInstanceCount"]
    return summary | {"CurrentInstanceCount": count, "DesiredInstanceCount": count}
