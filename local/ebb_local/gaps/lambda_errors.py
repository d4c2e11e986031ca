"""A failed function reports the name of its exception; MiniStack calls every one `Runtime.HandlerError`.

State machines catch by that name, and Cause is the error document that Lambda returns.
Source: https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html
"""

from contextvars import ContextVar

from ministack.core import lambda_runtime
from ministack.services import lambda_svc

_ERROR_REPLY = 'json.dumps({"status": "error", "error": str(e), "trace": traceback.format_exc()})'
_NAMED_REPLY = (
    'json.dumps({"status": "error", "error": str(e), "error_type": type(e).__name__, "trace": traceback.format_exc()})'
)
_last_reply: ContextVar[dict] = ContextVar("ebb_last_lambda_reply")


def install() -> None:
    """Let the worker say the exception's name, and put it into the invocation's error document."""
    script = lambda_runtime._PYTHON_WORKER_SCRIPT
    if script.count(_ERROR_REPLY) != 1:
        raise RuntimeError("MiniStack's Lambda worker no longer replies as expected: error names would be lost")
    lambda_runtime._PYTHON_WORKER_SCRIPT = script.replace(_ERROR_REPLY, _NAMED_REPLY)
    invoke, execute = lambda_runtime.Worker.invoke, lambda_svc._execute_function_warm

    def invoke_and_keep_reply(worker, *arguments, **keywords):
        reply = invoke(worker, *arguments, **keywords)
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


def error_document(reply: dict, request_id: str) -> dict:
    """Return what Lambda returns for an unhandled exception."""
    return {
        "errorMessage": reply.get("error", ""),
        "errorType": reply["error_type"],
        "requestId": request_id,
        "stackTrace": (reply.get("trace") or "").splitlines(keepends=True),
    }
