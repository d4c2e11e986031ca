"""Inference components: several models, each in copies, on the instances of one endpoint.

Instances follow the copies where ManagedInstanceScaling is on: they come before a copy does and go, some time after the
last copy left, down to MinInstanceCount. One process answers for all copies of a component; with 0 copies there is
none.
AWS emits no events for components, so there are none here.
Sources: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateInferenceComponent.html,
https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-zero-instances.html.
Assumed: creation with 0 copies is refused (reported in public); a component whose capacity is refused is Failed when it
has no copy left, and goes on with its copies when it has some; a Failed one can be given copies again.
"""

import threading
from typing import Any

from ministack.core.responses import request_scope

from ebb_local import authorization
from ebb_local.sagemaker import (
    capacity,
    fleets,
    images,
    listing,
    models,
    placement,
    roles,
    settings,
    state,
    tags,
    threads,
    variants,
)
from ebb_local.sagemaker.errors import HostingFailure, ServiceError, not_implemented, validation_exception
from ebb_local.sagemaker.hosting import INVOKE_TIMEOUT_S, Place, Server

_SUMMARY = ["CreationTime", "InferenceComponentArn", "InferenceComponentName", "EndpointArn", "EndpointName",
            "VariantName", "InferenceComponentStatus", "LastModifiedTime"]  # fmt: skip
_BUSY = ("Creating", "Updating", "Deleting")
_SCALE_IN_AFTER_S = 60.0
"""Assumed; AWS takes some minutes. `ScaleInPolicy.CooldownInMinutes` is kept to where it is given."""
_NOT_HERE = ("BaseInferenceComponentName", "InstanceType")
_NO_ROOM = (  # wording assumed
    "There are not enough hardware resources on the instances of this endpoint to create a copy of the inference "
    "component. Reduce the resource requirements of the component or allow more instances."
)

_admission = threading.Lock()
_placing = threading.Lock()


def create(request: dict[str, Any]) -> dict[str, Any]:
    """CreateInferenceComponent."""
    name = request["InferenceComponentName"]
    arn = state.arn("inference-component", name)
    tags.require_tagging(arn, request)
    endpoint_arn = state.arn("endpoint", request["EndpointName"])
    authorization.authorize("sagemaker:CreateInferenceComponent", endpoint_arn)
    endpoint, entry = _place_for(request)
    specification, copies = _specification(request), (request.get("RuntimeConfig") or {}).get("CopyCount", 1)
    if copies < 1:  # wording assumed
        raise validation_exception(
            "CopyCount must be greater than or equal to 1 when an inference component is created."
        )
    model = _model(specification, endpoint)
    moment = state.now()
    record: state.Record = {
        "InferenceComponentName": name,
        "InferenceComponentArn": arn,
        "EndpointName": endpoint["EndpointName"],
        "EndpointArn": endpoint["EndpointArn"],
        "VariantName": variants.name(entry),
        "InferenceComponentStatus": "Creating",
        "CreationTime": moment,
        "LastModifiedTime": moment,
        "_specification": specification,
        "_model": model,
        "_desired": copies,
        "_current": 0,
    }
    with _admission:
        if name in state.inference_components:
            raise validation_exception(f'Cannot create already existing inference component "{arn}".')
        state.inference_components[name] = record
    tags.put(arn, request.get("Tags"))
    threads.start(f"component-{name}", _bring_up, record)
    return {"InferenceComponentArn": arn}


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeInferenceComponent."""
    record = find(request["InferenceComponentName"])
    specification = record["_specification"]
    container = models.container_of(record["_model"])
    image = container["Image"]
    deployed = {
        "DeployedImage": {
            "SpecifiedImage": image,
            "ResolvedImage": images.digest(image),
            "ResolutionTime": record["CreationTime"],
        },
        "ArtifactUrl": models.data_source(container)[0] or None,
        "Environment": (specification.get("Container") or {}).get("Environment"),
    }
    shown = {key: value for key, value in specification.items() if key != "Container"}
    return state.public(record) | {
        "Specification": shown | {"Container": {key: value for key, value in deployed.items() if value}},
        "RuntimeConfig": {"DesiredCopyCount": record["_desired"], "CurrentCopyCount": record["_current"]},
    }


def list_components(request: dict[str, Any]) -> dict[str, Any]:
    """ListInferenceComponents."""
    members = {"EndpointNameEquals": "EndpointName", "VariantNameEquals": "VariantName"}
    found = [
        record
        for record in state.inference_components.values()
        if all(request.get(asked, record[member]) == record[member] for asked, member in members.items())
    ]
    rows, more = listing.page(
        found, request, name="InferenceComponentName", status="InferenceComponentStatus", members=_SUMMARY
    )
    return {"InferenceComponents": rows, **more}


def update(request: dict[str, Any]) -> dict[str, Any]:
    """UpdateInferenceComponent: another model beside the one that answers, then in its place."""
    record = find(request["InferenceComponentName"])
    if request.get("DeploymentConfig"):
        raise not_implemented("UpdateInferenceComponent with DeploymentConfig")
    members: dict[str, Any] = {}
    if request.get("Specification") or request.get("Specifications"):
        specification = {**record["_specification"], **_specification(request, whole=False)}
        members["_specification"] = specification
        members["_model"] = _model(specification, variants.endpoint(record["EndpointName"]))
    if request.get("RuntimeConfig"):
        members["_desired"] = request["RuntimeConfig"]["CopyCount"]
    _begin_update(record)
    threads.start(f"component-{record['InferenceComponentName']}", _change, record, members)
    return {"InferenceComponentArn": record["InferenceComponentArn"]}


def update_runtime_config(request: dict[str, Any]) -> dict[str, Any]:
    """UpdateInferenceComponentRuntimeConfig: more copies, fewer, or none."""
    record = find(request["InferenceComponentName"])
    _begin_update(record)
    copies = request["DesiredRuntimeConfig"]["CopyCount"]
    threads.start(f"component-{record['InferenceComponentName']}", _change, record, {"_desired": copies})
    return {"InferenceComponentArn": record["InferenceComponentArn"]}


def delete(request: dict[str, Any]) -> dict[str, Any]:
    """DeleteInferenceComponent. It is gone when its process has ended."""
    record = find(request["InferenceComponentName"])
    with _admission:
        _require_idle(record)
        state.update(record, InferenceComponentStatus="Deleting", LastModifiedTime=state.now())
    threads.start(f"component-{record['InferenceComponentName']}", _remove, record)
    return {}


def find(name: str) -> state.Record:
    """Return a component's record, or raise as AWS does."""
    record = state.inference_components.get(name)
    if record is None:
        arn = state.arn("inference-component", name)
        raise validation_exception(f'Could not find inference component "{arn}".')
    return record


def of_endpoint(name: str) -> list[state.Record]:
    """Return the components of an endpoint, those that are being deleted included."""
    return [record for record in state.inference_components.values() if record["EndpointName"] == name]


def announce() -> None:
    """Say which components will answer again soon. Runs before the gateway listens."""
    for *_, record in state.everywhere(state.inference_components):
        if record["InferenceComponentStatus"] not in ("Failed", "Deleting") and record["_current"]:
            fleets.announce(record["InferenceComponentArn"])


def restore() -> None:
    """Bring back what was there when the server stopped; what was being changed is changed now."""
    for account, region, name, record in state.everywhere(state.inference_components):
        with request_scope(account, region):
            if record["InferenceComponentStatus"] == "Deleting":
                threads.start(f"component-{name}", _remove, record)
            elif record["InferenceComponentStatus"] != "Failed":
                threads.start(f"component-{name}", _bring_up, record, True)


def release_instances(endpoint: state.Record) -> None:
    """Let instances go that no copy has needed for a while. Called each minute."""
    for entry in endpoint["_variants"]:
        scaling = entry["variant"].get("ManagedInstanceScaling") or {}
        if not variants.hosts_components(entry) or scaling.get("Status", "DISABLED") != "ENABLED":
            continue
        with _placing:
            needed = _needed(endpoint, entry)
            if needed is not None:
                _release(entry, max(needed, scaling.get("MinInstanceCount", 1)), scaling.get("ScaleInPolicy") or {})


def _release(entry: variants.Entry, target: int, policy: dict[str, Any]) -> None:
    moment = state.now()
    if entry["current"] <= target:
        entry["idle_since"] = None
        return
    since = entry.get("idle_since") or moment
    entry["idle_since"] = since
    wait_s = policy.get("CooldownInMinutes", _SCALE_IN_AFTER_S / 60) * 60
    if moment - since >= wait_s:
        step = policy.get("MaximumStepSize", entry["current"])
        count = max(target, entry["current"] - step)
        entry |= {"current": count, "desired": count, "idle_since": None if count == target else moment}


def _place_for(request: dict[str, Any]) -> tuple[state.Record, variants.Entry]:
    """Return the endpoint and the variant of a new component (wordings assumed)."""
    endpoint = variants.endpoint(request["EndpointName"])
    if endpoint["EndpointStatus"] != "InService":
        raise validation_exception(
            f'Cannot create an inference component on endpoint "{endpoint["EndpointArn"]}" in status '
            f"{endpoint['EndpointStatus']}."
        )
    if not request.get("VariantName"):
        raise validation_exception("VariantName is required to create an inference component.")
    entry = variants.find(endpoint, request["VariantName"])
    if entry is None:
        raise validation_exception(
            f'Could not find variant "{request["VariantName"]}" of endpoint "{endpoint["EndpointArn"]}".'
        )
    if not variants.hosts_components(entry):
        raise validation_exception(
            f"Variant {request['VariantName']} has a ModelName: it cannot host inference components."
        )
    return endpoint, entry


def _specification(request: dict[str, Any], *, whole: bool = True) -> dict[str, Any]:
    if request.get("Specifications"):
        raise not_implemented("An inference component with Specifications (instance pools)")
    specification = request.get("Specification") or {}
    for member in _NOT_HERE:
        if specification.get(member):
            raise not_implemented(f"An inference component with {member}")
    with_model, with_container = bool(specification.get("ModelName")), bool(specification.get("Container"))
    if with_model and with_container:
        raise validation_exception("Specify either ModelName or Container for an inference component, not both.")
    if whole and not (with_model or with_container):
        raise validation_exception("ModelName or Container is required for an inference component.")
    if whole and not specification.get("ComputeResourceRequirements"):
        raise validation_exception("ComputeResourceRequirements is required for an inference component.")
    return specification


def _model(specification: dict[str, Any], endpoint: state.Record) -> dict[str, Any]:
    """Return what the component serves: a model, or a container under the endpoint's own role."""
    if specification.get("ModelName"):
        return state.public(models.find(specification["ModelName"]))
    container, role_arn = specification["Container"], endpoint["_execution_role"]
    if not container.get("Image"):
        raise validation_exception("Image is required for the container of an inference component.")
    roles.require_role(role_arn)
    images.require_image(container["Image"], role_arn)
    primary = {"Image": container["Image"], "Environment": container.get("Environment") or {}}
    if container.get("ArtifactUrl"):
        primary["ModelDataUrl"] = container["ArtifactUrl"]
    return {"ExecutionRoleArn": role_arn, "PrimaryContainer": primary}


def _require_idle(record: state.Record) -> None:
    if record["InferenceComponentStatus"] in _BUSY:  # wording assumed
        raise validation_exception(
            f'Cannot update in-progress inference component "{record["InferenceComponentArn"]}".'
        )


def _begin_update(record: state.Record) -> None:
    with _admission:
        _require_idle(record)
        state.update(
            record, InferenceComponentStatus="Updating", LastModifiedTime=state.now(), FailureReason=None
        )  # fmt: skip


def _bring_up(record: state.Record, again: bool = False) -> None:
    try:
        if record["_desired"]:
            _make_room(record)
            fleets.put(record["InferenceComponentArn"], {record["InferenceComponentName"]: _start(record)})
    except (HostingFailure, ServiceError) as failure:
        _fail(record, str(failure))
    else:
        changes = (
            {} if again and record["InferenceComponentStatus"] == "InService" else {"LastModifiedTime": state.now()}
        )
        state.update(record, InferenceComponentStatus="InService", _current=record["_desired"], **changes)
    fleets.arrived(record["InferenceComponentArn"])


def _change(record: state.Record, members: dict[str, Any]) -> None:
    """Give a component another model, more copies or fewer; what it had stays when that fails."""
    arn, name = record["InferenceComponentArn"], record["InferenceComponentName"]
    before = {key: record[key] for key in (*members, "_desired")}
    state.update(record, **members)
    copies = record["_desired"]
    try:
        if copies > record["_current"] or "_specification" in members:
            _make_room(record)
        if not copies:
            fleets.close(fleets.remove(arn), INVOKE_TIMEOUT_S)
        elif not record["_current"] or "_model" in members:
            old = fleets.put(arn, {name: _start(record)})
            threads.start(f"old-{name}", fleets.close, old, INVOKE_TIMEOUT_S)
    except (HostingFailure, ServiceError) as failure:
        state.update(record, **before)
        _fail(record, str(failure))
    else:
        state.update(record, InferenceComponentStatus="InService", _current=copies, LastModifiedTime=state.now())


def _fail(record: state.Record, reason: str) -> None:
    """Keep the copies that run; without any the component has failed."""
    members: dict[str, Any] = {"InferenceComponentStatus": "InService"}
    if not record["_current"] or not fleets.of(record["InferenceComponentArn"]):
        members = {"InferenceComponentStatus": "Failed", "_current": 0}
    state.update(record, **members, FailureReason=reason[:1024], LastModifiedTime=state.now())


def _remove(record: state.Record) -> None:
    fleets.close(fleets.remove(record["InferenceComponentArn"]))
    state.inference_components.pop(record["InferenceComponentName"], None)
    tags.forget(record["InferenceComponentArn"])
    state.update(record, _current=0, _desired=0)


def _start(record: state.Record) -> Server:
    """Start the process of a component. Raises HostingFailure, leaving none."""
    name = record["InferenceComponentName"]
    base = settings.current().endpoints / record["EndpointName"]
    place = Place(name, "inference component", base, f"/aws/sagemaker/InferenceComponents/{name}",
                  record["VariantName"])  # fmt: skip
    server = Server(place, record["_model"])
    try:
        server.prepare()
        server.start()
    except BaseException:
        server.close()
        raise
    return server


def _make_room(record: state.Record) -> None:
    """Let the variant have the instances that all copies need. Raises HostingFailure where it may not, or cannot."""
    endpoint = variants.endpoint(record["EndpointName"])
    entry = variants.find(endpoint, record["VariantName"])
    assert entry is not None, "an update that removes the variant is refused"
    scaling = entry["variant"].get("ManagedInstanceScaling") or {}
    with _placing:
        most = entry["current"]
        if scaling.get("Status", "DISABLED") == "ENABLED":
            most = max(most, scaling.get("MaxInstanceCount", entry["variant"]["InitialInstanceCount"]))
        needed = _needed(endpoint, entry)
        if needed is None or needed > most:
            raise HostingFailure(_NO_ROOM)
        entry["idle_since"] = None
        entry["desired"] = max(entry["current"], needed)
    if needed > entry["current"]:
        try:
            capacity.provision(entry["variant"]["InstanceType"])
        except HostingFailure:
            entry["desired"] = entry["current"]
            raise
        with _placing:
            entry["current"] = max(entry["current"], needed)
            entry["desired"] = max(entry["desired"], entry["current"])


def _needed(endpoint: state.Record, entry: variants.Entry) -> int | None:
    """Return how many instances the copies of a variant's components need; None when one does not fit at all."""
    demands = [
        _demand(record)
        for record in of_endpoint(endpoint["EndpointName"])
        if record["VariantName"] == variants.name(entry) and record["InferenceComponentStatus"] != "Failed"
    ]
    return placement.instances_needed(demands, capacity.size(entry["variant"]["InstanceType"]))


def _demand(record: state.Record) -> placement.Demand:
    wanted = record["_specification"]["ComputeResourceRequirements"]
    strategy = (record["_specification"].get("SchedulingConfig") or {}).get("PlacementStrategy")
    return placement.Demand(
        name=record["InferenceComponentName"],
        copies=max(record["_current"], record["_desired"]),
        each=capacity.Size(
            cpus=wanted.get("NumberOfCpuCoresRequired", 0.0),
            memory_mb=wanted["MinMemoryRequiredInMb"],
            accelerators=wanted.get("NumberOfAcceleratorDevicesRequired", 0.0),
        ),
        spread=strategy == "SPREAD",
    )
