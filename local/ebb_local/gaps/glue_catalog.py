"""Who may touch what in the Glue Data Catalog: AWS asks on the catalog, the database and the table.

MiniStack asks on one of them, and takes a table's name for a table without a database. SecurityConfiguration, which its
CloudFormation does not know, is kept by its API.
Sources: https://docs.aws.amazon.com/glue/latest/dg/glue-specifying-resource-arns.html,
https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsglue.html
"""

import json
from collections.abc import Iterator
from typing import Any

from ministack.core import iam_actions
from ministack.services import glue
from ministack.services.cloudformation import provisioners

from ebb_local import authorization

_JOBS = ("Job", "JobRun")


def install() -> None:
    """Wrap the extraction of ARNs, name what a call is asked for besides, and let templates hold the configuration."""
    extract = iam_actions.extract_resource_arn

    def extract_like_aws(service, method, path, headers, body, query_params, region, account_id):
        if service != "glue" or not headers.get("x-amz-target"):
            return extract(service, method, path, headers, body, query_params, region, account_id)
        try:
            request = json.loads(body or b"{}")
        except ValueError:
            request = {}
        return _arn(resource_of(headers["x-amz-target"].rpartition(".")[2], request), region, account_id)

    iam_actions.extract_resource_arn = extract_like_aws
    authorization.imply(_above)
    provisioners._RESOURCE_HANDLERS["AWS::Glue::SecurityConfiguration"] = {
        "create": _create_security_configuration,
        "delete": lambda name, _: glue._delete_security_configuration({"Name": name}),
    }


def resource_of(action: str, request: dict[str, Any]) -> str:
    """Return the resource that an action is asked for on, as the end of its ARN: `table/sales/orders`."""
    if "ResourceArn" in request:
        return str(request["ResourceArn"])
    if action.endswith((*_JOBS, "JobRuns", "JobBookmark")):
        return f"job/{request.get('JobName') or request.get('Name') or '*'}"
    if "SecurityConfiguration" in action or action in ("GetJobs", "ListJobs"):
        return "*"
    database = request.get("DatabaseName")
    if "Table" in action or "Partition" in action or "ColumnStatistics" in action:
        given = request.get("TableInput") or {}
        name = request.get("TableName") or given.get("Name") or request.get("Name") or "*"
        return f"table/{database}/{name}"
    if action.endswith("Database"):
        given = request.get("DatabaseInput") or {}
        return f"database/{request.get('Name') or given.get('Name') or '*'}"
    return f"database/{database}" if database else "catalog"


def _above(action: str, resource: str, principal: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the calls on what a table and a database belong to."""
    head, _, path = resource.partition(":table/")
    if path and action.startswith("glue:"):
        yield action, f"{head}:database/{path.split('/')[0]}", {}
    elif action.startswith("glue:") and ":database/" in resource:
        yield action, f"{resource.partition(':database/')[0]}:catalog", {}


def _arn(resource: str, region: str, account_id: str) -> str:
    return (
        resource if resource == "*" or resource.startswith("arn:") else f"arn:aws:glue:{region}:{account_id}:{resource}"
    )


def _create_security_configuration(logical_id: str, props: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
    name = str(props["Name"])
    asked = dict(props["EncryptionConfiguration"])
    if "S3Encryptions" in asked:  # as templates spell it
        asked["S3Encryption"] = asked.pop("S3Encryptions")
    status, _, body = glue._create_security_configuration({"Name": name, "EncryptionConfiguration": asked})
    if status >= 400:
        raise ValueError(f"AWS::Glue::SecurityConfiguration create failed: {body!r}")
    return name, {}
