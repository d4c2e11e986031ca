"""Request parts of services that AWS has closed or frozen, for accounts that have them: Debugger, Training Compiler.

Off unless a spec asks for them. Shapes: CreateTrainingJob of the SageMaker API. Accounts of the rules' image by Region:
https://docs.aws.amazon.com/sagemaker/latest/dg/debugger-reference.html
"""

import re
from collections.abc import Sequence
from typing import Any

RULES_IMAGES = {
    "us-east-1": "503895931360",
    "us-east-2": "915447279597",
    "us-west-2": "895741380848",
    "eu-west-1": "929884845733",
    "eu-central-1": "482524230118",
    "eu-north-1": "314864569078",
    "ap-northeast-1": "430734990657",
    "ap-southeast-2": "184798709955",
}
# https://docs.aws.amazon.com/sagemaker/latest/dg/training-compiler-enable-api.html
COMPILER_HYPERPARAMETERS = {
    "sagemaker_training_compiler_enabled": "true",
    "sagemaker_training_compiler_debug_mode": "false",
}


# How an account is refused that has not used Debugger before its closure is not documented: any word of it is taken.
_WORDS = re.compile(r"debug ?(ger|hook|rule)", re.IGNORECASE)
REFUSED = (
    "SageMaker refuses Debugger, which is closed to new customers since 2026-07-30: remove train.debugger, and watch "
    "the script's metric with train.stop. SageMaker says: "
)


def is_refused(message: str) -> bool:
    """Return whether a job was not created because of Debugger, by what SageMaker said."""
    return _WORDS.search(message) is not None


def debug_parts(rules: Sequence[str], region: str, *, output_uri: str) -> dict[str, Any] | None:
    """Return DebugHookConfig and DebugRuleConfigurations; None in a Region whose rules' image is not known."""
    account = RULES_IMAGES.get(region)
    if account is None:
        return None
    image = f"{account}.dkr.ecr.{region}.amazonaws.com/sagemaker-debugger-rules:latest"
    return {
        "DebugHookConfig": {"S3OutputPath": f"{output_uri}/debugger"},
        "DebugRuleConfigurations": [
            {
                "RuleConfigurationName": rule,
                "RuleEvaluatorImage": image,
                "RuleParameters": {"rule_to_invoke": rule},
                "S3OutputPath": f"{output_uri}/debugger-rules",
            }
            for rule in rules
        ],
    }
