"""Metrics that SageMaker publishes about endpoints and training jobs, through the cloud's own CloudWatch.

Names, units and the meaning of 0 and 1: https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html.
No invocation is published while nobody calls; instances and queues are, each minute (`minutes`). Sent by one thread,
about every second, so that a request does not wait.
"""

import json
import logging
import threading
import time
from typing import Any

from ministack import app
from ministack.core.responses import get_account_id, get_region, request_scope

logger = logging.getLogger("ebb.sagemaker.metrics")

NAMESPACE = "AWS/SageMaker"
INSTANCES = "/aws/sagemaker/Endpoints"
COMPONENTS = "/aws/sagemaker/InferenceComponents"
TRAINING = "/aws/sagemaker/TrainingJobs"
_FLUSH_EVERY_S = 1.0
_BATCH = 500

_lock = threading.Lock()
_waiting: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
_timer: threading.Timer | None = None


def put(dimensions: dict[str, str], values: dict[str, tuple[float, str]], *, namespace: str = NAMESPACE) -> None:
    """Publish metrics of one moment: name -> (value, unit)."""
    global _timer
    moment = time.time()
    rows = [
        {
            "MetricName": name,
            "Dimensions": [{"Name": key, "Value": text} for key, text in dimensions.items()],
            "Timestamp": moment,
            "Value": value,
            "Unit": unit,
        }
        for name, (value, unit) in values.items()
    ]
    with _lock:
        _waiting.setdefault((get_account_id(), get_region(), namespace), []).extend(rows)
        if _timer is None:
            _timer = threading.Timer(_FLUSH_EVERY_S, flush)
            _timer.daemon = True
            _timer.start()


def flush() -> None:
    """Send what waits."""
    global _timer, _waiting
    with _lock:
        batches, _waiting, _timer = _waiting, {}, None
    for (account, region, namespace), rows in batches.items():
        with request_scope(account, region):
            for start in range(0, len(rows), _BATCH):
                _send({"Namespace": namespace, "MetricData": rows[start : start + _BATCH]})


def _send(request: dict[str, Any]) -> None:
    headers = {
        "x-amz-target": "GraniteServiceVersion20100801.PutMetricData",
        "content-type": "application/x-amz-json-1.0",
    }
    try:
        status, _, body = app.call_service_handler_sync(
            app.SERVICE_HANDLERS["monitoring"], "POST", "/", headers, json.dumps(request).encode(), {}, timeout=30
        )
    except Exception:
        logger.exception("CloudWatch took no metrics")
        return
    if status >= 400:
        logger.warning("CloudWatch refused metrics: %s", body)
