"""Models: what an endpoint serves and under which role.

Sources of the texts: answers of CreateModel and DescribeModel in public issues (aws/sagemaker-python-sdk,
hashicorp/terraform-provider-aws).
"""

from typing import Any

from ministack.core.responses import get_region

from ebb_local.sagemaker import events, images, listing, registry, roles, state, tags
from ebb_local.sagemaker.errors import not_implemented, validation_exception
from ebb_local.sagemaker.storage import Bucket, Location

_SUMMARY = ["ModelName", "ModelArn", "CreationTime"]


def create(request: dict[str, Any]) -> dict[str, Any]:
    """CreateModel."""
    name = request["ModelName"]
    arn = state.arn("model", name)
    tags.require_tagging(arn, request)
    container, role_arn = container_of(request), request.get("ExecutionRoleArn")
    if not role_arn:
        raise not_implemented("A model without ExecutionRoleArn")
    roles.require_role(role_arn)
    if name in state.models:
        raise validation_exception(f'Cannot create already existing model "{arn}".')
    images.require_image(container["Image"], role_arn)
    _require_model_data(container, role_arn)
    state.models[name] = record = {
        **{key: value for key, value in request.items() if key != "Tags"},
        "ModelArn": arn,
        "CreationTime": state.now(),
        "EnableNetworkIsolation": request.get("EnableNetworkIsolation", False),
    }
    tags.put(arn, request.get("Tags"))
    events.state_changed("Model", arn, record)
    return {"ModelArn": arn}


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeModel."""
    return state.public(find(request["ModelName"]))


def list_models(request: dict[str, Any]) -> dict[str, Any]:
    """ListModels."""
    rows, more = listing.page(state.models.values(), request, name="ModelName", members=_SUMMARY)
    return {"Models": rows, **more}


def delete(request: dict[str, Any]) -> dict[str, Any]:
    """DeleteModel. Endpoints that serve it go on doing so."""
    record = find(request["ModelName"])
    del state.models[request["ModelName"]]
    events.state_changed("Model", record["ModelArn"], record)
    tags.forget(record["ModelArn"])
    return {}


def find(name: str) -> state.Record:
    """Return a model's record, or raise as AWS does."""
    record = state.models.get(name)
    if record is None:
        raise validation_exception(f'Could not find model "{state.arn("model", name)}".')
    return record


def container_of(model: dict[str, Any]) -> dict[str, Any]:
    """Return the one container of a model, what a model package says about it filled in."""
    containers = model.get("Containers") or [model.get("PrimaryContainer")]
    if len(containers) != 1 or containers[0] is None:
        raise not_implemented("A model that has not exactly one container (an inference pipeline)")
    container = containers[0]
    if container.get("Mode", "SingleModel") != "SingleModel":
        raise not_implemented("A model container with Mode MultiModel")
    if container.get("ModelPackageName"):
        packaged = registry.find(container["ModelPackageName"])["InferenceSpecification"]["Containers"][0]
        environment = {**packaged.get("Environment", {}), **container.get("Environment", {})}
        container = {**packaged, **container, "Environment": environment}
    if not container.get("Image"):
        raise validation_exception("You must provide an image for the primary container.")
    return container


def data_source(container: dict[str, Any]) -> tuple[str, bool]:
    """Return the URI of a container's model data and whether it is one tar.gz (otherwise it is a prefix)."""
    source = (container.get("ModelDataSource") or {}).get("S3DataSource")
    if source:
        return source["S3Uri"], source["CompressionType"] == "Gzip"
    return container.get("ModelDataUrl", ""), True


def _require_model_data(container: dict[str, Any], role_arn: str) -> None:
    uri, packed = data_source(container)
    if not uri:
        return
    bucket = Bucket(roles.credentials(role_arn, valid_s=300))
    if not (bucket.exists(Location.parse(uri)) if packed else bucket.holds_objects(uri)):
        raise validation_exception(
            f'Could not access model data at {uri}. Please ensure that the role "{role_arn}" exists and that its '
            'trust relationship policy allows the action "sts:AssumeRole" for the service principal '
            '"sagemaker.amazonaws.com". Also ensure that the role has "s3:GetObject" permissions and that the '
            f"object is located in {get_region()}."
        )
