"""Authorization: who is calling, whether IAM lets them, and a record of every decision.

MiniStack decides about signed HTTP requests only. What happens inside the cloud (a state machine that sends a
request, a rule that delivers to a queue, a service that takes over a role) is decided here, with MiniStack's own
policy evaluator, so that both answers come from the same rules.

A principal is written as
- a role session, `arn:aws:sts::<account>:assumed-role/<role name>/<session name>`,
- an AWS service, `events.amazonaws.com`, which only resource policies can allow,
- a user, `arn:aws:iam::<account>:user/<name>`, or the account's root, which may do everything.

Sources: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html,
https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html (the texts).
"""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ministack.core import iam_evaluator
from ministack.core.responses import get_account_id, get_region
from ministack.services import iam as iam_service
from ministack.services import tagging

_principal: ContextVar[str] = ContextVar("ebb_principal", default="")
_record: dict[tuple[str, str, str, str], int] = {}
_record_lock = threading.Lock()

# (action, resource, principal) of an allowed call -> further (action, resource, condition keys) under its caller.
Implication = Callable[[str, str, str], Iterable[tuple[str, str, dict[str, Any]]]]
_implications: list[Implication] = []


class AccessDenied(Exception):
    """IAM does not allow the call. `str()` is AWS's own text; each service wraps it in its own error code."""

    def __init__(self, message: str, *, action: str, resource: str, principal: str) -> None:
        super().__init__(message)
        self.action, self.resource, self.principal = action, resource, principal


@dataclass(frozen=True)
class Call:
    """One kind of call that was decided: who asked for what, the answer, and how often it was given."""

    principal: str
    action: str
    resource: str
    decision: str
    count: int


def current_principal() -> str:
    """Return the ARN of the caller of the request or state in hand; the account's root where nobody is named."""
    return _principal.get() or f"arn:aws:iam::{get_account_id()}:root"


@contextmanager
def acting_as(principal: str) -> Iterator[None]:
    """Make `principal` the caller of everything that is authorized inside the block, threads it copies included."""
    token = _principal.set(principal)
    try:
        yield
    finally:
        _principal.reset(token)


def set_principal(principal: str) -> None:
    """Make `principal` the caller for the rest of this context: a request's own, when its signature is checked."""
    _principal.set(principal)


def role_session(role_arn: str, session_name: str) -> str:
    """Return the principal ARN of a session of a role: paths of the role do not appear in it."""
    account, name = role_arn.split(":")[4], role_arn.rsplit("/", 1)[-1]
    return f"arn:aws:sts::{account}:assumed-role/{name}/{session_name[:64]}"


def authorize(
    action: str, resource: str, *, principal: str | None = None, context: dict[str, Any] | None = None
) -> None:
    """Raise AccessDenied unless IAM allows `principal` (default: the current one) the action on the resource ARN.

    `context` holds condition keys of the request, for example `{"iam:PassedToService": "sagemaker.amazonaws.com"}`.
    """
    principal = principal or current_principal()
    result = _decide(principal, action, resource, context or {})
    record(principal, action, resource, result.decision)
    if result.decision != "Allow":
        raise AccessDenied(
            denial_text(principal, action, resource, result), action=action, resource=resource, principal=principal
        )
    authorize_implied(action, resource, principal, context or {})


def authorize_implied(action: str, resource: str, principal: str, context: dict[str, Any]) -> None:
    """Raise AccessDenied unless the caller may also do what AWS does on its behalf (see `imply`).

    For whom a service acts (`aws:SourceArn`, `aws:SourceAccount`) is known to the further calls as well.
    """
    source = {key: value for key, value in context.items() if key.lower().startswith("aws:source")}
    for implied in _implications:
        for further_action, further_resource, keys in implied(action, resource, principal):
            authorize(further_action, further_resource, principal=principal, context=source | keys)


def imply(calls_of: Implication) -> None:
    """Register what an allowed call makes AWS ask for on behalf of the caller: the key of an encrypted bucket."""
    _implications.append(calls_of)


def is_allowed(
    action: str, resource: str, *, principal: str | None = None, context: dict[str, Any] | None = None
) -> bool:
    """Return whether `authorize` would pass. The question is recorded like any other call."""
    try:
        authorize(action, resource, principal=principal, context=context)
    except AccessDenied:
        return False
    return True


def authorize_pass_role(role_arn: str, service: str) -> None:
    """Raise AccessDenied unless the caller may pass the role to `service` (`sagemaker.amazonaws.com`).

    AWS checks iam:PassRole when a role is configured, not when it is used, with the role's ARN as the resource.
    Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_use_passrole.html
    """
    authorize("iam:PassRole", role_arn, context={"iam:PassedToService": service})


def role_trusts(role_arn: str, service: str, context: dict[str, Any] | None = None) -> bool:
    """Return whether the role exists and its trust policy lets `service` assume it.

    The service acts for this account; `context` holds further keys, for example `aws:SourceArn`.
    """
    role = iam_service._roles.get_scoped(_account_of(role_arn), None, role_arn.rsplit("/", 1)[-1])
    if role is None or role.get("Arn") != role_arn:
        return False
    keys = {"aws:SourceAccount": get_account_id(), **(context or {})}
    asked = _context("sts:AssumeRole", role_arn, "", "Service", keys)
    document = _trust_as_policy(role.get("AssumeRolePolicyDocument"))
    return iam_evaluator.evaluate_resource_policy(document, asked, service).decision == "Allow"


def record(principal: str, action: str, resource: str, decision: str) -> None:
    """Write one decision into the call record."""
    key = (principal, action, resource, decision)
    with _record_lock:
        _record[key] = _record.get(key, 0) + 1


def calls() -> list[Call]:
    """Return every kind of call decided since the start or the last `clear_calls`, oldest first."""
    with _record_lock:
        return [Call(*key, count) for key, count in _record.items()]


def clear_calls() -> None:
    """Empty the call record."""
    with _record_lock:
        _record.clear()


def denial_text(principal: str, action: str, resource: str, result: iam_evaluator.EvalResult) -> str:
    """Return AWS's message for a denial, which names the kind of policy that decided."""
    if result.decision == "Deny":
        kind = "a resource-based policy" if result.resource_policy_arn else "an identity-based policy"
        reason = f"with an explicit deny in {kind}"
    elif result.reason in ("resource-based", "permissions boundary"):
        kind = "resource-based policy" if result.reason == "resource-based" else "permissions boundary"
        reason = f"because no {kind} allows the {action} action"
    else:
        reason = f"because no identity-based policy allows the {action} action"
    return f"User: {principal} is not authorized to perform: {action} on resource: {resource} {reason}"


def _decide(principal: str, action: str, resource: str, context: dict[str, Any]) -> iam_evaluator.EvalResult:
    if principal.endswith(":root"):
        return iam_evaluator.EvalResult("Allow", principal)
    service = resource.split(":")[2] if resource.startswith("arn:") else action.split(":")[0]
    found = iam_evaluator._resource_policy(service, resource)
    if not principal.startswith("arn:"):
        asked = _context(action, resource, "", "Service", context)
        result = iam_evaluator.evaluate_resource_policy(found[0] if found else None, asked, principal)
        result.reason = "resource-based"
        return result
    policies, limits, kind = _identity(principal)
    if iam_evaluator._names_condition_key(policies, "aws:resourcetag/"):
        tags = tagging.resource_tags(resource) or {}
        context = {**{f"aws:ResourceTag/{name}": value for name, value in tags.items()}, **context}
    asked = _context(action, resource, principal, kind, context)
    result = iam_evaluator.evaluate(asked, policies, *limits)
    if result.decision == "ImplicitDeny" and limits and iam_evaluator.evaluate(asked, policies).decision == "Allow":
        result.reason = "permissions boundary"
    if found is None:
        return result
    required = service in iam_evaluator._POLICY_REQUIRED
    identity_allows = result.decision == "Allow"
    result = iam_evaluator.combine_resource_policy(result, asked, *found, required=required, limits=tuple(limits))
    if result.decision == "ImplicitDeny" and identity_allows:
        result.reason = "resource-based"
    return result


def _identity(principal: str) -> tuple[list, list, str]:
    account, name = _account_of(principal), principal.split("/")[1 if ":assumed-role/" in principal else -1]
    if ":assumed-role/" in principal or ":role/" in principal:
        policies = iam_evaluator._gather_role_policies(name, account)
        return policies, iam_evaluator._permissions_boundary(iam_service._roles, name, account), "AssumedRole"
    policies = iam_evaluator._gather_user_policies(name, account)
    return policies, iam_evaluator._permissions_boundary(iam_service._users, name, account), "User"


def _context(action: str, resource: str, principal: str, kind: str, keys: dict[str, Any]) -> iam_evaluator.EvalContext:
    return iam_evaluator.EvalContext(
        principal_arn=principal,
        principal_type=kind,
        principal_account=_account_of(principal) or get_account_id(),
        action=action,
        resource_arn=resource,
        region=get_region(),
        secure_transport=True,  # AWS services call each other over TLS
        service_context={"aws:tagkeys": None, **{key.lower(): value for key, value in keys.items()}},
    )


def _trust_as_policy(document: Any) -> dict:
    """A trust policy has no Resource; the evaluator of resource policies wants one."""
    parsed = json.loads(document) if isinstance(document, str) else document or {}
    statements = parsed.get("Statement", [])
    statements = [statements] if isinstance(statements, dict) else statements
    return {"Statement": [{**statement, "Resource": "*"} for statement in statements]}


def _account_of(arn: str) -> str:
    parts = arn.split(":")
    return parts[4] if len(parts) > 5 else ""
