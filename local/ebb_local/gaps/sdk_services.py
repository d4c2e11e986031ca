"""Services that state machines call and MiniStack does not offer to them: CloudWatch's and IAM's by their SDK names.

`arn:aws:states:::aws-sdk:scheduler` and `:s3:putObject` stay unknown and are refused when a machine is created.
"""

from ministack.services import stepfunctions


def install() -> None:
    """Register SageMaker, which is a service of ours, with state machines."""
    stepfunctions._AWS_SDK_SERVICE_MAP["sagemaker"] = {"target_prefix": "SageMaker", "protocol": "json"}
    stepfunctions._AWS_SDK_ERROR_PREFIX["sagemaker"] = "SageMaker"
