"""The alarms that guard a deployment, as CloudWatch tells about them."""

import json
from typing import Any

from ministack import app
from ministack.core.responses import get_account_id, get_region

from ebb_local import authorization
from ebb_local.sagemaker.errors import ServiceError, validation_exception


def require(names: list[str]) -> None:
    """Raise unless the caller may see the alarms and all of them are there.

    Source: https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-configuration.html (the permission
    `cloudwatch:DescribeAlarms`; the wording of the refusal is assumed).
    """
    for name in names:
        arn = f"arn:aws:cloudwatch:{get_region()}:{get_account_id()}:alarm:{name}"
        authorization.authorize("cloudwatch:DescribeAlarms", arn)
    missing = sorted(set(names) - states(names).keys())
    if missing:
        raise validation_exception(f"Could not find CloudWatch alarms: {', '.join(missing)}.")


def alarmed(names: list[str]) -> list[str]:
    """Return which of the alarms are in ALARM. One that is gone, or cannot be read, counts as in ALARM."""
    found = states(names)
    return [name for name in names if found.get(name, "ALARM") == "ALARM"]


def states(names: list[str]) -> dict[str, str]:
    """Return the state of each alarm that is there."""
    if not names:
        return {}
    headers = {
        "x-amz-target": "GraniteServiceVersion20100801.DescribeAlarms",
        "content-type": "application/x-amz-json-1.0",
    }
    body = json.dumps({"AlarmNames": names, "AlarmTypes": ["MetricAlarm", "CompositeAlarm"]}).encode()
    handler = app.SERVICE_HANDLERS["monitoring"]
    status, _, answer = app.call_service_handler_sync(handler, "POST", "/", headers, body, {}, timeout=30)
    if status >= 400:
        raise ServiceError("InternalFailure", f"CloudWatch did not describe the alarms: {answer!r}", status=500)
    described: dict[str, Any] = json.loads(answer)
    rows = [*described.get("MetricAlarms", []), *described.get("CompositeAlarms", [])]
    return {row["AlarmName"]: row["StateValue"] for row in rows}
