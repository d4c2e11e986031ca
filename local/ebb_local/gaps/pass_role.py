"""Giving a role to a service needs iam:PassRole, and a role that trusts the service; MiniStack asks neither.

Checked for functions, state machines, rule targets and schedules. SageMaker checks its own requests.
Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_use_passrole.html; the texts are AWS's.
"""

from collections.abc import Callable
from types import ModuleType

from ministack.core.responses import error_response_json
from ministack.services import eventbridge, lambda_svc, scheduler, stepfunctions

from ebb_local import authorization


def install() -> None:
    """Wrap the calls that configure a role."""
    _check(lambda_svc, "_create_function", lambda data: [data.get("Role")], "lambda.amazonaws.com")
    _check(lambda_svc, "_update_config", lambda name, data: [data.get("Role")], "lambda.amazonaws.com")
    _check(stepfunctions, "_create_state_machine", lambda data: [data.get("roleArn")], "states.amazonaws.com")
    _check(stepfunctions, "_update_state_machine", lambda data: [data.get("roleArn")], "states.amazonaws.com")
    _check(eventbridge, "_put_targets", _target_roles, "events.amazonaws.com")
    _check(scheduler, "_create_schedule", _schedule_role, "scheduler.amazonaws.com")
    _check(scheduler, "_update_schedule", _schedule_role, "scheduler.amazonaws.com")


def _target_roles(data: dict) -> list[str | None]:
    return [target.get("RoleArn") for target in data.get("Targets", [])]


def _schedule_role(name: str, body: dict) -> list[str | None]:
    return [body.get("Target", {}).get("RoleArn")]


def _check(module: ModuleType, name: str, roles_of: Callable[..., list[str | None]], service: str) -> None:
    configure = getattr(module, name)

    def configure_checked(*arguments):
        for role_arn in filter(None, roles_of(*arguments)):
            try:
                authorization.authorize_pass_role(role_arn, service)
            except authorization.AccessDenied as denied:
                return error_response_json("AccessDeniedException", str(denied), 403 if module is lambda_svc else 400)
            if not authorization.role_trusts(role_arn, service):
                return _not_trusted(service, role_arn)
        return configure(*arguments)

    setattr(module, name, configure_checked)


def _not_trusted(service: str, role_arn: str) -> tuple[int, dict, bytes]:
    if service == "lambda.amazonaws.com":
        text = "The role defined for the function cannot be assumed by Lambda."
        return error_response_json("InvalidParameterValueException", text, 400)
    if service == "states.amazonaws.com":
        text = (
            "Neither the global service principal states.amazonaws.com, nor the regional one is authorized to assume "
            "the provided role."
        )
        return error_response_json("AccessDeniedException", text, 400)
    text = f"The execution role you provide must allow AWS EventBridge ({service}) to assume the role {role_arn}."
    return error_response_json("ValidationException", text, 400)
