"""SageMaker, a service of ours, becomes one that state machines can call by its SDK name; CloudWatch is called in JSON.

MiniStack sends CloudWatch's requests as query and reads nothing but strings from the answers. Application Auto Scaling
registers itself (`ebb_local.scaling`). Others that MiniStack lacks (`aws-sdk:scheduler`, `aws-sdk:codebuild`) are
refused when a machine is created.
"""

from ministack.services import stepfunctions


def install() -> None:
    """Register SageMaker, which is a service of ours, with state machines, and CloudWatch by its JSON protocol."""
    stepfunctions._AWS_SDK_SERVICE_MAP["sagemaker"] = {"target_prefix": "SageMaker", "protocol": "json"}
    stepfunctions._AWS_SDK_ERROR_PREFIX["sagemaker"] = "SageMaker"
    stepfunctions._AWS_SDK_SERVICE_MAP["cloudwatch"] = {
        "target_prefix": "GraniteServiceVersion20100801",
        "protocol": "json",
        "service_key": "monitoring",
    }
