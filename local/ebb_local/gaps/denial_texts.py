"""Denials name the resource, as AWS's do: MiniStack leaves it out for most services.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
"""

from ministack.core import iam_actions

from ebb_local.gaps import gateway_decisions


def install() -> None:
    """Fill in the message of a denial that came without one."""
    respond = iam_actions.access_denied_response

    def respond_naming_resource(service, action, principal_arn, request_id, **keywords):
        if not keywords.get("error_code") and not keywords.get("resource_policy_arn"):
            keywords["message"] = gateway_decisions.refusal() or iam_actions.identity_denial_message(
                action,
                principal_arn,
                _quoted(service, keywords.get("resource_arn", "*")),
                keywords.get("explicit_deny", False),
            )
        return respond(service, action, principal_arn, request_id, **keywords)

    iam_actions.access_denied_response = respond_naming_resource


def _quoted(service: str, resource_arn: str) -> str:
    return f'"{resource_arn}"' if service == "s3" else resource_arn
