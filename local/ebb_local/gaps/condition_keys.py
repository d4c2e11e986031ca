"""Condition keys of requests that MiniStack does not fill in.

- `iam:PermissionsBoundary`: the boundary that a new role asks for, or that an existing role has. It is what confines
  a state machine that creates roles.
Source: https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsidentityandaccessmanagement.html
"""

from ministack.core import iam_actions
from ministack.core.responses import get_account_id
from ministack.services import iam as iam_service


def install() -> None:
    """Wrap the collection of a request's keys, which the gateway and state machines ask."""
    collect = iam_actions.request_tag_context

    def collect_all(service: str, iam_action: str, body: bytes, params: dict) -> dict:
        keys = collect(service, iam_action, body, params)
        if service == "iam" and (boundary := _boundary(iam_action, params)):
            keys = {**keys, "iam:PermissionsBoundary": boundary}
        return keys

    iam_actions.request_tag_context = collect_all


def _boundary(iam_action: str, params: dict) -> str | None:
    asked = iam_actions._query_param(params, "PermissionsBoundary")
    if asked:
        return asked
    name = iam_actions._query_param(params, "RoleName")
    role = iam_service._roles.get_scoped(get_account_id(), None, name) if name else None
    return None if iam_action == "iam:CreateRole" else (role or {}).get("PermissionsBoundary")
