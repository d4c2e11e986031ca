"""Tags of SageMaker resources."""

from typing import Any

from ebb_local import authorization
from ebb_local.sagemaker import listing, state

_PAGE = 50


def require_tagging(arn: str, request: dict[str, Any]) -> None:
    """Raise unless the caller may tag what it is about to create with tags: AWS checks `sagemaker:AddTags` too.

    Source: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsagemaker.html
    """
    wanted = {tag["Key"]: tag["Value"] for tag in request.get("Tags") or []}
    if wanted:
        context = {f"aws:RequestTag/{key}": value for key, value in wanted.items()} | {"aws:TagKeys": list(wanted)}
        authorization.authorize("sagemaker:AddTags", arn, context=context)


def put(arn: str, tags: list[dict[str, str]] | None) -> list[dict[str, str]]:
    """Add tags to a resource and return all it has."""
    merged = {tag["Key"]: tag["Value"] for tag in [*state.tags.get(arn, []), *(tags or [])]}
    found = [{"Key": key, "Value": value} for key, value in merged.items()]
    if found:
        state.tags[arn] = found
    return found


def forget(arn: str) -> None:
    """Drop the tags of a deleted resource."""
    state.tags.pop(arn, None)


def add_tags(request: dict[str, Any]) -> dict[str, Any]:
    """AddTags."""
    return {"Tags": put(request["ResourceArn"], request["Tags"])}


def list_tags(request: dict[str, Any]) -> dict[str, Any]:
    """ListTags."""
    found, start = list(state.tags.get(request["ResourceArn"], [])), listing.position(request)
    end = start + int(request.get("MaxResults") or _PAGE)
    return {"Tags": found[start:end], **({"NextToken": str(end)} if end < len(found) else {})}


def delete_tags(request: dict[str, Any]) -> dict[str, Any]:
    """DeleteTags."""
    arn = request["ResourceArn"]
    state.tags[arn] = [tag for tag in state.tags.get(arn, []) if tag["Key"] not in request["TagKeys"]]
    return {}
