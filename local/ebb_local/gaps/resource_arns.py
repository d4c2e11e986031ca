"""The ARN that a request is about, where MiniStack's differs from AWS's.

- IAM roles carry their path: `role/ebb/ebb-iris-train`, not `role/ebb-iris-train`. A policy that names the path is the
  only thing that keeps a plan's role-creating state machine away from other roles.
- A rule of the default event bus has no bus in its ARN.
Source: https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsidentityandaccessmanagement.html,
.../list_amazoneventbridge.html
"""

from ministack.core import iam_actions
from ministack.services import iam as iam_service


def install() -> None:
    """Wrap `iam_actions.extract_resource_arn`, which the gateway and state machines ask."""
    extract = iam_actions.extract_resource_arn

    def extract_like_aws(service, method, path, headers, body, query_params, region, account_id):
        arn = extract(service, method, path, headers, body, query_params, region, account_id)
        if service == "iam" and ":role/" in arn:
            return _role_arn(arn, query_params, account_id)
        if service == "events":
            return arn.replace(":rule/default/", ":rule/")
        return arn

    iam_actions.extract_resource_arn = extract_like_aws


def _role_arn(arn: str, query_params: dict, account_id: str) -> str:
    name = arn.rsplit("/", 1)[-1]
    role = iam_service._roles.get_scoped(account_id, None, name)
    path = query_params.get("Path")
    if path:  # only CreateRole carries one
        return f"arn:aws:iam::{account_id}:role{path[0] if isinstance(path, list) else path}{name}"
    return role["Arn"] if role else arn
