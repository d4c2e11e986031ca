"""Function URLs ask for both permissions that AWS asks for, and take and give no more than Lambda does.

MiniStack asks for `lambda:InvokeFunctionUrl` alone, and carries payloads of any size.
Sources: https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html (both permissions, since October 2025),
https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html (6 MB, for the event as for the answer).
Assumed: how the refusal of a payload that is too large reads, and that an answer that is too large is a 502.
"""

import json

from ministack import app
from ministack.services import lambda_svc

MOST_BYTES = 6_291_456
_JSON = {"Content-Type": "application/json"}


def install() -> None:
    """Wrap the authorisation of a URL's caller, and the call itself."""
    enforce, handle, build = (
        app._enforce_data_plane,
        lambda_svc.handle_function_url_request,
        lambda_svc._build_function_url_event,
    )

    def enforce_both(service, iam_action, headers, query_params, request_id, **more):
        denied = enforce(service, iam_action, headers, query_params, request_id, **more)
        if denied or iam_action != "lambda:InvokeFunctionUrl":
            return denied
        context = {**(more.pop("service_context", None) or {}), "lambda:InvokedViaFunctionUrl": "true"}
        return enforce(
            service, "lambda:InvokeFunction", headers, query_params, request_id, service_context=context, **more
        )

    async def handle_limited(url_id, method, path, headers, body, query_params, **more):
        try:
            status, answered, data = await handle(url_id, method, path, headers, body, query_params, **more)
        except _TooLargeError:
            text = f"Request must be smaller than {MOST_BYTES} bytes for the InvokeFunction operation"
            return 413, dict(_JSON), json.dumps({"Message": text}).encode()
        if len(data) > MOST_BYTES:
            return 502, dict(_JSON), b'{"Message": "Internal Server Error"}'
        return status, answered, data

    def build_limited(*given, **more):
        event = build(*given, **more)
        if len(event.get("body") or "") > MOST_BYTES:
            raise _TooLargeError
        return event

    app._enforce_data_plane = enforce_both
    lambda_svc.handle_function_url_request = handle_limited
    lambda_svc._build_function_url_event = build_limited


class _TooLargeError(Exception):
    """An event that Lambda would not take."""
