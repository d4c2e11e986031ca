"""Event source mappings read the queue as the function's role, and call again what Lambda itself has not let begin.

MiniStack never asks the role. It also takes a throttled call, or one for which there was no worker, for a failure of
the function, after which the messages stay out of sight until their visibility timeout is over: nine minutes for a
request that somebody waits for. Lambda calls again until then, and what a role may not read stays in the queue.
Sources: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html (execution role permissions),
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html (backoff strategy for failed invocations);
the text at creation is AWS's.
"""

import contextvars
import logging
import time
from typing import Any

from ministack.core.responses import error_response_json
from ministack.services import lambda_svc

from ebb_local import authorization, clock
from ebb_local.gaps.lambda_errors import SERVICE_FAULT

_ACTIONS = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
_AGAIN_AFTER_S = 1.0  # real; Lambda backs off, by how much is not published
_hidden_until: contextvars.ContextVar[float | None] = contextvars.ContextVar("ebb_batch_hidden_until", default=None)
_logger = logging.getLogger("ebb.lambda")


def install() -> None:
    """Check the role when a mapping is created, and again for each batch; call a batch's function until it began."""
    create, run_batch, execute = lambda_svc._create_esm, lambda_svc._run_sqs_batch, lambda_svc._execute_function

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
            for message in batch:  # not received after all
                message |= {"visible_at": clock.now(), "receive_count": message["receive_count"] - 1}
            return
        token = _hidden_until.set(min(message["visible_at"] for message in batch))
        try:
            run_batch(esm, func_rec, event, batch, queue_url, queue_name)
        finally:
            _hidden_until.reset(token)

    def execute_until_it_began(*arguments: Any, **keywords: Any) -> dict:
        hidden_until = _hidden_until.get() or 0.0
        while _never_began(result := execute(*arguments, **keywords)) and clock.now() + _AGAIN_AFTER_S < hidden_until:
            time.sleep(_AGAIN_AFTER_S)
        return result

    lambda_svc._create_esm = create_checked
    lambda_svc._run_sqs_batch = run_batch_as_role
    lambda_svc._execute_function = execute_until_it_began


def _never_began(result: dict) -> bool:
    body = result.get("body")
    return bool(result.get("throttle") or (isinstance(body, dict) and body.get("errorType") == SERVICE_FAULT))


def _session(config: dict) -> str:
    return authorization.role_session(config.get("Role", ""), config.get("FunctionName", "function"))
