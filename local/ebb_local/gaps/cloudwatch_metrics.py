"""CloudWatch's metrics are ours: MiniStack has no math, limits or pages, and keeps every point in one list.

Metrics that its services publish and what it saves go to `ebb_local.cloudwatch.store`; the requests named below to
`ebb_local.cloudwatch`. Composite alarms, dashboards, tags, DescribeAlarms and the history stay with MiniStack.
"""

from collections.abc import Callable
from typing import Any

from ministack.core import concurrency
from ministack.services import cloudwatch
from ministack.services.cloudformation import provisioners

from ebb_local import clock
from ebb_local.cloudwatch import alarms, metrics, store, wire
from ebb_local.gaps import alarm_evaluation

_FORGET_EVERY_S = 3600
_HISTORY_KEPT_S = (
    30 * store.DAY_S
)  # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_DescribeAlarmHistory.html


def _put_metric_alarm(request: dict[str, Any]) -> dict[str, Any]:
    known = cloudwatch._alarms.get(request["AlarmName"])
    record = alarms.record(request, known)
    tags = request.get("Tags") or []
    cloudwatch.cloudformation_put_metric_alarm(record)
    if known is None and tags:
        cloudwatch._resource_tags[record["AlarmArn"]] = {tag["Key"]: tag["Value"] for tag in tags}
    return {}


ACTIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "PutMetricData": metrics.put_metric_data,
    "GetMetricData": metrics.get_metric_data,
    "GetMetricStatistics": metrics.get_metric_statistics,
    "ListMetrics": metrics.list_metrics,
    "PutMetricAlarm": _put_metric_alarm,
}


def install() -> None:
    """Answer these requests, and keep what MiniStack's services publish."""
    handle, record_of, add_history = (
        cloudwatch.handle_request,
        provisioners._cw_metric_alarm_record,
        cloudwatch._record_history,
    )

    async def handle_ours(method: str, path: str, headers: dict, body: bytes, query: dict) -> wire.Reply:
        operation = wire.action(path, headers, body, query)
        if operation not in ACTIONS:
            return await handle(method, path, headers, body, query)
        return await concurrency.run_reentrant(answer, operation, headers, body, query)

    def record_metric(
        namespace: str, metric_name: str, value: float, unit: str = "None", dimensions: dict | None = None
    ) -> None:
        moment = clock.now()
        store.put(namespace, metric_name, dimensions, store.Sample.of(float(value)), at=moment, now_s=moment, unit=unit)

    def alarm_of_template(name: str, properties: dict[str, Any]) -> dict[str, Any]:
        if not properties.get("Metrics"):
            return record_of(name, properties)
        return alarms.record(_typed(properties) | {"AlarmName": name}, cloudwatch._alarms.get(name))

    def record_history(*arguments: Any, **keywords: Any) -> None:
        add_history(*arguments, **keywords)
        entries, since = cloudwatch._history_entries(), clock.now() - _HISTORY_KEPT_S
        while entries and (cloudwatch._parse_ts(entries[0]["Timestamp"]) or 0) < since:
            del entries[0]

    cloudwatch.handle_request = handle_ours
    cloudwatch.record_metric = record_metric
    cloudwatch._evict_old_metrics = lambda: None
    cloudwatch._record_history = record_history
    provisioners._cw_metric_alarm_record = alarm_of_template
    _persist()
    clock.every(_FORGET_EVERY_S, "old metrics", lambda: store.forget_old(clock.now()))


def answer(operation: str, headers: dict[str, str], body: bytes, query: dict[str, Any]) -> wire.Reply:
    """Carry out one request."""
    kind = "json"
    try:
        kind = wire.protocol(headers)
        request = wire.read(kind, operation, body, query)
        result = ACTIONS[operation](request)
    except wire.ServiceError as error:
        return wire.refusal(kind, error)
    if operation == "PutMetricData":
        alarm_evaluation.evaluate_watching(request["Namespace"])
    return wire.answer(kind, operation, result)


def _typed(properties: dict[str, Any]) -> dict[str, Any]:
    """Return a template's properties, in which numbers may be text, as a request."""
    shape = wire.model().operation_model("PutMetricAlarm").input_shape
    assert shape is not None
    return wire.typed(properties, shape)


def _persist() -> None:
    get_state, restore, reset = cloudwatch.get_state, cloudwatch.load_persisted_state, cloudwatch.reset

    def get_all() -> dict[str, Any]:
        return get_state() | {"ebb_metrics": store.save()}

    def load_all(data: dict[str, Any]) -> None:
        restore(data)
        store.load((data or {}).get("ebb_metrics", []))

    def reset_all() -> None:
        reset()
        store.clear()

    cloudwatch.get_state, cloudwatch.load_persisted_state, cloudwatch.reset = get_all, load_all, reset_all
