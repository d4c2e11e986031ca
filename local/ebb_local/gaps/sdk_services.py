"""SageMaker, a service of ours, becomes one that state machines can call by its SDK name.

Others that MiniStack lacks (`aws-sdk:scheduler`, `aws-sdk:codebuild`) are refused when a machine is created.
"""

from ministack.services import stepfunctions


def install() -> None:
    """Register SageMaker, which is a service of ours, with state machines."""
    stepfunctions._AWS_SDK_SERVICE_MAP["sagemaker"] = {"target_prefix": "SageMaker", "protocol": "json"}
    stepfunctions._AWS_SDK_ERROR_PREFIX["sagemaker"] = "SageMaker"
