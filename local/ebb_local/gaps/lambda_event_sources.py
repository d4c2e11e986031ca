"""Event source mappings read the queue as the function's role, which MiniStack never asks.

Source: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html (execution role permissions);
the text at creation is AWS's.
"""

import logging
import time

from ministack.core.responses import error_response_json
from ministack.services import lambda_svc

from ebb_local import authorization

_ACTIONS = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
_logger = logging.getLogger("ebb.lambda")


def install() -> None:
    """Check the role when a mapping is created, and again for each batch."""
    create, run_batch = lambda_svc._create_esm, lambda_svc._run_sqs_batch

    def create_checked(data: dict) -> tuple[int, dict, bytes]:
        source = data.get("EventSourceArn", "")
        func, config, _ = lambda_svc._get_func_record_for_ref(data.get("FunctionName", ""))
        if func and config and source.split(":")[2:3] == ["sqs"]:
            for action in _ACTIONS:
                try:
                    authorization.authorize(action, source, principal=_session(config))
                except authorization.AccessDenied as denied:
                    return error_response_json(
                        "InvalidParameterValueException",
                        "The function execution role does not have permissions to call "
                        f"{action.split(':')[1]} on SQS ({denied})",
                        400,
                    )
        return create(data)

    def run_batch_as_role(esm, func_rec, event, batch, queue_url, queue_name):
        config = func_rec.get("config") or func_rec
        try:
            for action in _ACTIONS:
                authorization.authorize(action, esm["EventSourceArn"], principal=_session(config))
        except authorization.AccessDenied as denied:
            esm["LastProcessingResult"] = f"PROBLEM: {denied}"
            lambda_svc._esm_backoff_until[esm["UUID"]] = time.time() + lambda_svc._ESM_BACKOFF_SECONDS
            _logger.error("event source mapping of %s: %s", config.get("FunctionName"), denied)
            return
        run_batch(esm, func_rec, event, batch, queue_url, queue_name)

    lambda_svc._create_esm = create_checked
    lambda_svc._run_sqs_batch = run_batch_as_role


def _session(config: dict) -> str:
    return authorization.role_session(config.get("Role", ""), config.get("FunctionName", "function"))
