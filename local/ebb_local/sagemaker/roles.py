"""Roles that SageMaker takes over: may the caller pass them, may SageMaker assume them, and their credentials."""

import secrets
import string
from dataclasses import dataclass

from ministack.core.responses import get_account_id
from ministack.services import sts

from ebb_local import authorization, clock
from ebb_local.sagemaker.errors import validation_exception

SERVICE = "sagemaker.amazonaws.com"
SESSION_NAME = "SageMaker"


@dataclass(frozen=True)
class Credentials:
    """Temporary credentials of a role session, and who they speak for."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    principal: str


def require_role(role_arn: str) -> None:
    """Raise unless the caller may pass the role and SageMaker may assume it.

    Source of the text: what CreateTrainingJob, CreateProcessingJob and CreateModel answer,
    https://repost.aws/knowledge-center/sagemaker-could-not-assume-role (wording assumed to be the same for all).
    """
    authorization.authorize_pass_role(role_arn, SERVICE)
    if not authorization.role_trusts(role_arn, SERVICE):
        raise validation_exception(
            f"Could not assume role {role_arn}. Please ensure that the role exists and allows principal "
            f"'{SERVICE}' to assume the role."
        )


def principal_of(role_arn: str) -> str:
    """Return who SageMaker is while it works under the role."""
    return authorization.role_session(role_arn, SESSION_NAME)


def credentials(role_arn: str, *, valid_s: float, session_name: str = SESSION_NAME) -> Credentials:
    """Return credentials of a new session of the role: what `sts:AssumeRole` by the service itself gives."""
    alphabet = string.ascii_uppercase + string.digits
    issued = Credentials(
        access_key_id="ASIA" + "".join(secrets.choice(alphabet) for _ in range(16)),
        secret_access_key=secrets.token_urlsafe(30),
        session_token=secrets.token_urlsafe(96),
        principal=authorization.role_session(role_arn, session_name),
    )
    sts.register_session(
        issued.access_key_id,
        {
            "Arn": issued.principal,
            "UserId": f"AROA{role_arn.rsplit('/', 1)[-1].upper()[:17]}:{session_name}",
            "SecretAccessKey": issued.secret_access_key,
            "SessionToken": issued.session_token,
            "Expiration": clock.real_now() + valid_s,  # sessions live in real time, as whoever holds them
            "AccountId": role_arn.split(":")[4] or get_account_id(),
            "PrincipalType": "AssumedRole",
        },
    )
    return issued
