"""State changes of SageMaker as EventBridge events, source `aws.sagemaker`.

The detail holds the Describe fields; times are milliseconds since the epoch, tags an object. EventBridge events of
SageMaker are "best effort", so a failing delivery is logged and nothing else.
Source: https://docs.aws.amazon.com/sagemaker/latest/dg/automating-sagemaker-with-eventbridge.html
"""

import json
import logging
from typing import Any

from ministack.services import eventbridge

from ebb_local.sagemaker import state

logger = logging.getLogger("ebb.sagemaker.events")


def state_changed(kind: str, arn: str, record: state.Record) -> None:
    """Publish `SageMaker <kind> State Change` for a record."""
    detail = in_milliseconds(state.public(record))
    detail["Tags"] = {tag["Key"]: tag["Value"] for tag in state.tags.get(arn, [])}
    entry = {
        "Source": "aws.sagemaker",
        "DetailType": f"SageMaker {kind} State Change",
        "Resources": [arn],
        "Detail": json.dumps(detail),
    }
    try:
        eventbridge._put_events({"Entries": [entry]}, allow_aws_source=True)
    except Exception:
        logger.exception("EventBridge did not take the state change of %s", arn)


def in_milliseconds(value: Any, name: str = "") -> Any:
    """Return a record with its times as AWS's own services show them to each other: integers, milliseconds."""
    if isinstance(value, dict):
        return {key: in_milliseconds(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [in_milliseconds(item) for item in value]
    is_time = isinstance(value, float) and (name.endswith("Time") or name == "Timestamp")
    return int(value * 1000) if is_time else value
