"""Every IAM decision of the gateway enters the call record, and its caller becomes the current principal.

MiniStack decides about signed requests in `iam_evaluator.enforce`, which keeps no record. What AWS does on behalf of
the caller (the key of an encrypted bucket) is decided here too, and a denial of that is what the caller is told.
"""

from contextvars import ContextVar
from typing import NamedTuple

from ministack import app
from ministack.core import iam_evaluator
from ministack.core.responses import get_account_id

from ebb_local import authorization


class Request(NamedTuple):
    """The signed request in hand, as far as decisions need it."""

    method: str
    path: str
    query: dict
    headers: dict


_request: ContextVar[Request | None] = ContextVar("ebb_request", default=None)
_refusal: ContextVar[str] = ContextVar("ebb_refusal", default="")


def current_request() -> Request | None:
    """Return the HTTP request in hand; None for what happens inside the cloud."""
    return _request.get()


def refusal() -> str:
    """Return AWS's text when something other than the requested action itself was refused."""
    return _refusal.get()


def install() -> None:
    """Wrap the gateway's dispatch and its evaluation of IAM."""
    dispatch, enforce = app._dispatch_service_request, iam_evaluator.enforce

    async def dispatch_request(method, path, headers, body, query_params, request_id):
        _request.set(Request(method, path, query_params, headers))
        return await dispatch(method, path, headers, body, query_params, request_id)

    def enforce_and_record(access_key_id, iam_action, service, region, resource_arn="*", service_context=None):
        denied = enforce(access_key_id, iam_action, service, region, resource_arn, service_context)
        if isinstance(denied, iam_evaluator.AuthError):
            return denied
        principal = _principal_of(access_key_id)
        authorization.set_principal(principal)
        authorization.record(principal, iam_action, resource_arn, denied.decision if denied else "Allow")
        if denied:
            return denied
        try:
            authorization.authorize_implied(iam_action, resource_arn, principal, service_context or {})
        except authorization.AccessDenied as refused:
            _refusal.set(str(refused))
            return iam_evaluator.EvalResult("ImplicitDeny", principal, reason=str(refused))
        return None

    app._dispatch_service_request = dispatch_request
    iam_evaluator.enforce = enforce_and_record


def _principal_of(access_key_id: str) -> str:
    if not access_key_id:
        return "anonymous"
    credential = iam_evaluator.resolve_credential(access_key_id, get_account_id())
    return getattr(credential, "principal_arn", "") or f"arn:aws:iam::{get_account_id()}:root"
