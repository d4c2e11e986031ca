"""Checks that both kinds of job make before they start."""

from typing import Any

from ministack.core.responses import get_region

from ebb_local.sagemaker import images, keys, roles, tags
from ebb_local.sagemaker.errors import not_implemented, validation_exception
from ebb_local.sagemaker.storage import Bucket, Location


def require_job(arn: str, request: dict[str, Any], image: str, resources: dict[str, Any]) -> None:
    """Raise unless role, image, tags and the volume's key of a new job are in order."""
    tags.require_tagging(arn, request)
    roles.require_role(request["RoleArn"])
    keys.require_grant(resources.get("VolumeKmsKeyId"), role_arn=request["RoleArn"])
    images.require_image(image, request["RoleArn"])


def require_one_instance(resources: dict[str, Any]) -> None:
    """Raise for what needs more machines than this one."""
    if not resources.get("InstanceType") or not resources.get("InstanceCount"):
        raise not_implemented("A cluster without InstanceType and InstanceCount")
    if resources["InstanceCount"] > 1:
        raise not_implemented(f"A job on {resources['InstanceCount']} instances")


def require_input(source: dict[str, Any], role_arn: str) -> None:
    """Raise unless at least one object matches an S3 data source, as seen by the role.

    Source of the text: https://github.com/aws/amazon-sagemaker-examples/issues/2267
    """
    kind, uri = source["S3DataType"], source["S3Uri"]
    if kind not in ("S3Prefix", "ManifestFile"):
        raise not_implemented(f"S3DataType {kind}")
    location = Location.parse(uri)
    bucket = Bucket(roles.credentials(role_arn, valid_s=300))
    if not bucket.holds_objects(uri):
        raise validation_exception(
            f'No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure that the bucket '
            f"exists in the selected region ({get_region()}), that objects exist under that S3 "
            f'prefix, and that the role "{role_arn}" has "s3:ListBucket" permissions on bucket "{location.bucket}".'
        )
