"""No state's input or output, and no Task's result, may exceed 262,144 bytes; MiniStack passes anything.

Source: https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html; the text is AWS's.
"""

import json

from ministack.services import stepfunctions

LIMIT_BYTES = 262_144


def install() -> None:
    """Check what enters the history of an execution, and what a Task sends."""
    add_event, invoke = stepfunctions._add_event, stepfunctions._invoke_resource

    def add_checked_event(execution, event_type, details=None):
        for detail in (details or {}).values():
            for field in ("input", "output"):
                text = detail.get(field) if isinstance(detail, dict) else None
                if isinstance(text, str) and len(text.encode()) > LIMIT_BYTES:
                    raise _exceeded(event_type, field)
        return add_event(execution, event_type, details)

    def invoke_within_limit(resource, input_data):
        if len(json.dumps(input_data).encode()) > LIMIT_BYTES:
            raise _exceeded(resource, "input")
        return invoke(resource, input_data)

    stepfunctions._add_event = add_checked_event
    stepfunctions._invoke_resource = invoke_within_limit


def _exceeded(where: str, field: str) -> Exception:
    return stepfunctions._ExecutionError(
        "States.DataLimitExceeded",
        f"The state/task '{where}' returned a result or {field} with a size exceeding the maximum number of bytes "
        f"service limit ({LIMIT_BYTES}).",
    )
