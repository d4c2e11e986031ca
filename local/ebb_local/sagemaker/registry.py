"""Model Registry: model package groups and their versions.

Sources: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateModelPackage.html; texts from public issues
where AWS's are known ("Model Package Group already exists"), otherwise assumed.
"""

from typing import Any

from ebb_local import authorization
from ebb_local.sagemaker import events, listing, state, tags
from ebb_local.sagemaker.errors import not_implemented, validation_exception

_GROUP_SUMMARY = ["ModelPackageGroupName", "ModelPackageGroupArn", "ModelPackageGroupDescription", "CreationTime",
                  "ModelPackageGroupStatus"]  # fmt: skip
_SUMMARY = ["ModelPackageGroupName", "ModelPackageVersion", "ModelPackageArn", "ModelPackageDescription",
            "CreationTime", "ModelPackageStatus", "ModelApprovalStatus"]  # fmt: skip
_UPDATABLE = ("ModelApprovalStatus", "ApprovalDescription", "InferenceSpecification", "SourceUri", "ModelCard",
              "ModelLifeCycle")  # fmt: skip


def create_group(request: dict[str, Any]) -> dict[str, Any]:
    """CreateModelPackageGroup."""
    name = request["ModelPackageGroupName"]
    arn = state.arn("model-package-group", name)
    tags.require_tagging(arn, request)
    if name in state.model_package_groups:
        raise validation_exception(f"Model Package Group already exists: {arn}")
    state.model_package_groups[name] = {
        **{key: value for key, value in request.items() if key != "Tags"},
        "ModelPackageGroupArn": arn,
        "ModelPackageGroupStatus": "Completed",
        "CreationTime": state.now(),
        "CreatedBy": {},
        "_versions": 0,
    }
    tags.put(arn, request.get("Tags"))
    return {"ModelPackageGroupArn": arn}


def describe_group(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeModelPackageGroup."""
    return state.public(find_group(request["ModelPackageGroupName"]))


def list_groups(request: dict[str, Any]) -> dict[str, Any]:
    """ListModelPackageGroups."""
    rows, more = listing.page(
        state.model_package_groups.values(), request, name="ModelPackageGroupName", members=_GROUP_SUMMARY
    )
    return {"ModelPackageGroupSummaryList": rows, **more}


def delete_group(request: dict[str, Any]) -> dict[str, Any]:
    """DeleteModelPackageGroup."""
    group = find_group(request["ModelPackageGroupName"])
    if _versions(group["ModelPackageGroupName"]):
        raise validation_exception(
            f"Model Package Group {group['ModelPackageGroupArn']} cannot be deleted because it still contains model "
            "packages."
        )
    del state.model_package_groups[group["ModelPackageGroupName"]]
    tags.forget(group["ModelPackageGroupArn"])
    return {}


def create(request: dict[str, Any]) -> dict[str, Any]:
    """CreateModelPackage: the next version of a group."""
    if not request.get("ModelPackageGroupName"):
        raise not_implemented("CreateModelPackage without ModelPackageGroupName")
    if request.get("Tags"):
        raise validation_exception("Tags cannot be specified for a versioned model package: tag its group.")
    group = find_group(request["ModelPackageGroupName"])
    name = group["ModelPackageGroupName"]
    authorization.authorize("sagemaker:CreateModelPackage", group["ModelPackageGroupArn"])
    token = request.get("ClientToken")
    for earlier in _versions(name):
        if token and earlier.get("_client_token") == token:
            return {"ModelPackageArn": earlier["ModelPackageArn"]}
    moment = state.now()
    version = group["_versions"] + 1
    arn = state.arn("model-package", f"{name}/{version}")
    record: state.Record = {
        **{key: value for key, value in request.items() if key != "ClientToken"},
        "ModelPackageGroupName": name,
        "ModelPackageVersion": version,
        "ModelPackageArn": arn,
        "CreationTime": moment,
        "LastModifiedTime": moment,
        "CreatedBy": {},
        "ModelPackageStatus": "Completed",
        "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
        "ModelApprovalStatus": request.get("ModelApprovalStatus", "PendingManualApproval"),
        "_client_token": token,
    }
    state.model_packages[arn] = record
    state.update(group, _versions=version)
    events.state_changed("Model Package", arn, record)
    return {"ModelPackageArn": arn}


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeModelPackage."""
    return state.public(find(request["ModelPackageName"]))


def list_packages(request: dict[str, Any]) -> dict[str, Any]:
    """ListModelPackages."""
    group = request.get("ModelPackageGroupName")
    records = [r for r in state.model_packages.values() if not group or r["ModelPackageGroupName"] == _plain(group)]
    approval = request.get("ModelApprovalStatus")
    records = [record for record in records if not approval or record["ModelApprovalStatus"] == approval]
    rows, more = listing.page(records, request, name="ModelPackageGroupName", members=_SUMMARY)
    return {"ModelPackageSummaryList": rows, **more}


def update(request: dict[str, Any]) -> dict[str, Any]:
    """UpdateModelPackage."""
    record = find(request["ModelPackageArn"])
    changed = {member: request[member] for member in _UPDATABLE if request.get(member) is not None}
    properties = {**record.get("CustomerMetadataProperties", {}), **request.get("CustomerMetadataProperties", {})}
    for name in request.get("CustomerMetadataPropertiesToRemove") or []:
        properties.pop(name, None)
    if properties:
        changed["CustomerMetadataProperties"] = properties
    state.update(record, **changed, LastModifiedTime=state.now())
    events.state_changed("Model Package", record["ModelPackageArn"], record)
    return {"ModelPackageArn": record["ModelPackageArn"]}


def delete(request: dict[str, Any]) -> dict[str, Any]:
    """DeleteModelPackage."""
    record = find(request["ModelPackageName"])
    del state.model_packages[record["ModelPackageArn"]]
    return {}


def find(name_or_arn: str) -> state.Record:
    """Return a version's record by its ARN, or raise as AWS does."""
    record = state.model_packages.get(name_or_arn)
    if record is None:
        raise validation_exception(f"ModelPackage {name_or_arn} does not exist.")
    return record


def find_group(name_or_arn: str) -> state.Record:
    """Return a group's record, or raise as AWS does."""
    record = state.model_package_groups.get(_plain(name_or_arn))
    if record is None:
        raise validation_exception(f"ModelPackageGroup {state.arn('model-package-group', _plain(name_or_arn))} "
                                   "does not exist.")  # fmt: skip
    return record


def _plain(name_or_arn: str) -> str:
    return name_or_arn.rsplit("/", 1)[-1]


def _versions(group: str) -> list[state.Record]:
    return [record for record in state.model_packages.values() if record["ModelPackageGroupName"] == group]
