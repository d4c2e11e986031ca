"""What endpoints note of their calls: what their containers are told, where it lies and how long.

The container writes (`ebb_jobs/capture.py`), CloudWatch Logs keeps: docs/retraining-data.md has the lines. Pure.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from ebb.addresses import Address, Kind
from ebb.spec_parts import CaptureSpec

SHARE, ENDPOINT = "EBB_CAPTURE_SHARE", "EBB_CAPTURE_ENDPOINT"  # in the environment of a model
FILTER = '"ebb_sample"'  # of FilterLogEvents: the lines that hold a sample
ENDPOINTS, COMPONENTS = "/aws/sagemaker/Endpoints/", "/aws/sagemaker/InferenceComponents/"
KINDS: tuple[Kind, ...] = ("serverless", "async", "realtime")  # that have an endpoint of the project's own
# Days that a log group may keep its events: https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
RETENTION_DAYS = (
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653,
)  # fmt: skip


def environment(asked: CaptureSpec | None, address: str) -> dict[str, str]:
    """Return what a model's container is told; nothing where nothing is noted."""
    return {SHARE: f"{asked.share:g}", ENDPOINT: address} if asked else {}


def keep_days(keep: timedelta) -> int:
    """Return for how many days a log group keeps what is noted: never longer than asked for, at least a day."""
    return max(days for days in RETENTION_DAYS if timedelta(days=days) <= max(keep, timedelta(days=1)))


def own_log_group(at: Address) -> str | None:
    """Return the log group that the container of an address writes to: its component's, else its endpoint's."""
    if at.component:
        return COMPONENTS + at.component
    return ENDPOINTS + at.endpoint_name if at.endpoint_name else None


def log_groups(at: Address) -> list[str]:
    """Return the log groups in which samples of an address may lie, the one that is written to now first.

    An address that was of another kind, or whose component has been replaced, has left what it noted where that was.
    """
    earlier = [COMPONENTS + each for each in at.earlier_components]
    own = [f"{ENDPOINTS}{at.address}", *(f"{ENDPOINTS}{at.address}--{kind}" for kind in KINDS if kind != "serverless")]
    now = own_log_group(at)
    return list(dict.fromkeys([*([now] if now else []), *earlier, *own]))


def logs(at: Address, asked: CaptureSpec | None, before: int | None) -> list[dict[str, Any]]:
    """Return the log groups that a deployment makes, with the days that they keep; without, as the stack says.

    `before` is the age limit under which the address noted requests earlier: those still lie there, and a deployment
    that notes nothing more must not make them older than what was promised (`most`).
    """
    groups: Sequence[str | None] = (
        ENDPOINTS + at.endpoint_name if at.endpoint_name else None,
        COMPONENTS + at.component if at.component else None,
    )
    own = own_log_group(at)
    made: list[dict[str, Any]] = []
    for name in (each for each in groups if each):
        limit: dict[str, Any] = {}
        if name == own and asked:
            limit = {"days": keep_days(asked.keep)}
        elif name == own and before:
            limit = {"most": before}
        made.append({"name": name, **limit})
    return made
