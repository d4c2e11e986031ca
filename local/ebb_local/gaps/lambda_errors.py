"""A failed function reports the name of its exception; MiniStack calls every one `Runtime.HandlerError`.

State machines catch by that name, and Cause is the error document that Lambda returns.
Source: https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html

A worker that could not be started fails the one call that it was for. MiniStack then ends every worker of the function,
those that answer other calls included. What is no fault of the function is Lambda's own: a ServiceException.
Source: https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html#API_Invoke_Errors
"""

import logging
import time
import traceback
from contextvars import ContextVar

from ministack.core import lambda_runtime
from ministack.services import lambda_svc

_ERROR_REPLY = 'json.dumps({"status": "error", "error": str(e), "trace": traceback.format_exc()})'
_NAMED_REPLY = (
    'json.dumps({"status": "error", "error": str(e), "error_type": type(e).__name__, "trace": traceback.format_exc()})'
)
SERVICE_FAULT = "Lambda.ServiceException"
_last_reply: ContextVar[dict] = ContextVar("ebb_last_lambda_reply")
_logger = logging.getLogger("ebb.lambda")


class StartError(RuntimeError):
    """A function's own code or package keeps its worker from starting."""


def install() -> None:
    """Let the worker say the exception's name, and put it into the invocation's error document."""
    script = lambda_runtime._PYTHON_WORKER_SCRIPT
    if script.count(_ERROR_REPLY) != 1:
        raise RuntimeError("MiniStack's Lambda worker no longer replies as expected: error names would be lost")
    lambda_runtime._PYTHON_WORKER_SCRIPT = script.replace(_ERROR_REPLY, _NAMED_REPLY)
    invoke, execute = lambda_runtime.Worker.invoke, lambda_svc._execute_function_warm

    def invoke_and_keep_reply(worker, *arguments, **keywords):
        try:
            reply = invoke(worker, *arguments, **keywords)
        except Exception as problem:
            reply = _not_started(worker, problem)
        _last_reply.set(reply)
        return reply

    def execute_naming_error(func, event, request_id):
        _last_reply.set({})
        result = execute(func, event, request_id)
        reply = _last_reply.get()
        if result.get("error") and reply.get("error_type"):
            result["body"] = error_document(reply, request_id)
        return result

    lambda_runtime.Worker.invoke = invoke_and_keep_reply
    lambda_svc._execute_function_warm = execute_naming_error


def _not_started(worker: lambda_runtime.Worker, problem: Exception) -> dict:
    """Return the reply of a worker that has no process, and let none be left half started."""
    process, worker._proc = worker._proc, None
    lambda_runtime._signal(process)
    lambda_runtime._collect(process, time.monotonic() + lambda_runtime._REAP_GRACE)
    kind = type(problem).__name__ if isinstance(problem, StartError) else SERVICE_FAULT
    if kind == SERVICE_FAULT:
        _logger.error("no worker of %s could be started", worker.func_name, exc_info=problem)
    trace = "".join(traceback.format_exception(problem))
    return {"status": "error", "error": str(problem), "error_type": kind, "trace": trace}


def error_document(reply: dict, request_id: str) -> dict:
    """Return what Lambda returns for an unhandled exception."""
    return {
        "errorMessage": reply.get("error", ""),
        "errorType": reply["error_type"],
        "requestId": request_id,
        "stackTrace": (reply.get("trace") or "").splitlines(keepends=True),
    }
