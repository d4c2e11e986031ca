"""What is scaled: how many instances or copies SageMaker has of it, and how that number is changed.

Every change is one of SageMaker's own actions, carried out as the service-linked role.
Source: https://docs.aws.amazon.com/autoscaling/application/userguide/services-that-can-integrate-sagemaker.html
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ministack.core.responses import get_account_id, new_uuid
from ministack.services import iam

from ebb_local import authorization
from ebb_local.sagemaker import service as sagemaker
from ebb_local.sagemaker.errors import ServiceError as SageMakerError
from ebb_local.scaling import state
from ebb_local.scaling.state import COMPONENT, VARIANT, Record, ServiceError

_SERVICE = "sagemaker.application-autoscaling.amazonaws.com"
_ROLE = "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
_IDS = {
    VARIANT: re.compile(r"endpoint/(?P<endpoint>[^/]+)/variant/(?P<variant>[^/]+)"),
    COMPONENT: re.compile(r"inference-component/(?P<component>[^/]+)"),
}
_NO_BURSTABLE = re.compile(r"ml\.t\d")


def parts(request: Record) -> dict[str, str]:
    """Return the names in a ResourceId, or refuse it."""
    if request["ServiceNamespace"] != state.NAMESPACE:
        raise _invalid(f"The embedded cloud scales sagemaker only, not {request['ServiceNamespace']}")
    pattern = _IDS.get(request["ScalableDimension"])
    if pattern is None:
        raise _invalid(f"The embedded cloud does not scale {request['ScalableDimension']}")
    found = pattern.fullmatch(request["ResourceId"])
    if found is None:
        raise _invalid(
            "Unsupported service namespace, resource type or scalable dimension: the ResourceId "
            f"{request['ResourceId']} does not fit {request['ScalableDimension']}"
        )
    return found.groupdict()


def require(request: Record) -> None:
    """Raise unless what is to be scaled exists and can be scaled."""
    names = parts(request)
    try:
        described = _describe(names)
    except SageMakerError as error:
        raise _invalid(f"{error.message} (Service: AmazonSageMaker; Error Code: {error.code})") from error
    if "component" in names:
        return
    variant = _variant(described, names["variant"], request["ResourceId"])
    instance_type = _instance_type(described, names["variant"])
    if instance_type is None or variant.get("CurrentServerlessConfig"):
        raise _invalid(f"{request['ResourceId']} has no instances: a serverless variant has none to scale")
    if _NO_BURSTABLE.match(instance_type):
        # https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling.html; wording assumed
        raise _invalid(f"Autoscaling is not supported for burstable instances: {instance_type}")


def current(target: Record) -> int:
    """Return how many there should be at present. Raises SageMaker's error when what is scaled is gone."""
    names = parts(target)
    described = _describe(names)
    if "component" in names:
        return int(described["RuntimeConfig"]["DesiredCopyCount"])
    variant = _variant(described, names["variant"], target["ResourceId"])
    return int(variant.get("DesiredInstanceCount", variant.get("CurrentInstanceCount", 0)))


def change(target: Record, wanted: int) -> None:
    """Ask SageMaker for another number. Raises SageMaker's error when it refuses."""
    names = parts(target)
    with _service_linked():
        if "component" in names:
            sagemaker.call(
                "UpdateInferenceComponentRuntimeConfig",
                {"InferenceComponentName": names["component"], "DesiredRuntimeConfig": {"CopyCount": wanted}},
            )
            return
        desired = [{"VariantName": names["variant"], "DesiredInstanceCount": wanted}]
        sagemaker.call(
            "UpdateEndpointWeightsAndCapacities",
            {"EndpointName": names["endpoint"], "DesiredWeightsAndCapacities": desired},
        )


def noun(target: Record) -> str:
    """Return what a target counts, in the words of its activities."""
    return "desired copy count" if target["ScalableDimension"] == COMPONENT else "desired instance count"


def role_arn() -> str:
    """Return the service-linked role's ARN."""
    return f"arn:aws:iam::{get_account_id()}:role/aws-service-role/{_SERVICE}/{_ROLE}"


def require_role() -> None:
    """Make the service-linked role when there is none yet, which the caller must be allowed to do.

    Source: https://docs.aws.amazon.com/autoscaling/application/userguide/application-auto-scaling-service-linked-roles.html
    """
    if _ROLE in iam._roles:
        return
    authorization.authorize("iam:CreateServiceLinkedRole", role_arn(), context={"iam:AWSServiceName": _SERVICE})
    statement = {"Effect": "Allow", "Principal": {"Service": _SERVICE}, "Action": "sts:AssumeRole"}
    iam._roles[_ROLE] = {
        "RoleName": _ROLE,
        "Arn": role_arn(),
        "RoleId": f"AROA{new_uuid().replace('-', '')[:17].upper()}",
        "CreateDate": iam._now(),
        "Path": f"/aws-service-role/{_SERVICE}/",
        "AssumeRolePolicyDocument": json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
        "Description": "Service-linked role of Application Auto Scaling for SageMaker endpoints",
        "MaxSessionDuration": 3600,
        "AttachedPolicies": [],
        "InlinePolicies": {},
        "Tags": [],
    }


@contextmanager
def _service_linked() -> Iterator[None]:
    with authorization.acting_as(authorization.role_session(role_arn(), "AutoScaling-UpdateDesiredCapacity")):
        yield


def _describe(names: dict[str, str]) -> dict[str, Any]:
    with _service_linked():
        if "component" in names:
            return sagemaker.call("DescribeInferenceComponent", {"InferenceComponentName": names["component"]})
        return sagemaker.call("DescribeEndpoint", {"EndpointName": names["endpoint"]})


def _variant(described: dict[str, Any], name: str, resource_id: str) -> dict[str, Any]:
    variants = {each["VariantName"]: each for each in described.get("ProductionVariants", [])}
    if name not in variants:
        raise _invalid(f"No variant found for resource ID: {resource_id}")
    return variants[name]


def _instance_type(described: dict[str, Any], variant: str) -> str | None:
    with _service_linked():
        config = sagemaker.call("DescribeEndpointConfig", {"EndpointConfigName": described["EndpointConfigName"]})
    found = next(each for each in config["ProductionVariants"] if each["VariantName"] == variant)
    return found.get("InstanceType") or ("pools" if found.get("InstancePools") else None)


def _invalid(message: str) -> ServiceError:
    return ServiceError("ValidationException", message)
