"""KMS keys that SageMaker uses itself: for the volumes of jobs and of endpoints, through a grant.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/api-permissions-reference.html: `kms:CreateGrant` is needed by
the caller, for jobs only when the job's role has it not. No volume is encrypted here; only the permission is asked.
"""

from ministack.services import kms

from ebb_local import authorization
from ebb_local.sagemaker.errors import validation_exception
from ebb_local.sagemaker.roles import principal_of

_FOR_AWS = {"kms:GrantIsForAWSResource": "true"}


def require_grant(key_id: str | None, *, role_arn: str | None = None) -> None:
    """Raise unless a grant on the key may be made by the job's role, where there is one, or by the caller."""
    if not key_id:
        return
    found = kms._resolve_key(key_id)
    if found is None:
        raise validation_exception(f"KMS key {key_id} does not exist or cannot be accessed.")
    principal = principal_of(role_arn) if role_arn else None
    if principal and authorization.is_allowed("kms:CreateGrant", found["Arn"], principal=principal, context=_FOR_AWS):
        return
    authorization.authorize("kms:CreateGrant", found["Arn"], context=_FOR_AWS)
