"""The ARN that a request is about, where MiniStack's differs from AWS's.

- IAM roles carry their path: `role/ebb/ebb-iris-train`, not `role/ebb-iris-train`. A policy that names the path is the
  only thing that keeps a plan's role-creating state machine away from other roles.
- A rule of the default event bus has no bus in its ARN.
- DeleteAlarms names its alarms in a list; the first one is taken, Ebb deletes alarms of one endpoint at a time.
Source: https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsidentityandaccessmanagement.html,
.../list_amazoneventbridge.html
"""

import json
from urllib.parse import parse_qs

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
        if service in ("monitoring", "cloudwatch") and arn == "*" and (alarm := _first_alarm(query_params, body)):
            return f"arn:aws:cloudwatch:{region}:{account_id}:alarm:{alarm}"
        return arn

    iam_actions.extract_resource_arn = extract_like_aws


def _first_alarm(query_params: dict, body: bytes) -> str | None:
    """Return the first of AlarmNames, as the query protocol (form or query string) or JSON carries it."""
    if named := query_params.get("AlarmNames.member.1"):
        return named[0] if isinstance(named, list) else named
    text = (body or b"").decode("utf-8", errors="replace")
    if text.startswith("{"):
        names = json.loads(text).get("AlarmNames") or [None]
        return names[0]
    return next(iter(parse_qs(text).get("AlarmNames.member.1", [])), None)


def _role_arn(arn: str, query_params: dict, account_id: str) -> str:
    name = arn.rsplit("/", 1)[-1]
    role = iam_service._roles.get_scoped(account_id, None, name)
    path = query_params.get("Path")
    if path:  # only CreateRole carries one
        return f"arn:aws:iam::{account_id}:role{path[0] if isinstance(path, list) else path}{name}"
    return role["Arn"] if role else arn
