"""Request bodies of Application Auto Scaling: what lets AWS itself wake an endpoint that sleeps.

One scalable target for each asynchronous variant and each inference component, and one step policy, whose ARN is the
action of the alarm `<address>-wake`. Target tracking would bring alarms of its own, which are billed.
"""

from typing import Any

from ebb.addresses import Address
from ebb.requests.alarms import WAKE, alarm_name


def scalable(at: Address) -> dict[str, str]:
    """Return what is scaled: the copies of a component, or the instances of a variant."""
    if at.component:
        return {
            "ServiceNamespace": "sagemaker",
            "ResourceId": f"inference-component/{at.component}",
            "ScalableDimension": "sagemaker:inference-component:DesiredCopyCount",
        }
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{at.endpoint_name}/variant/{at.variant}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def register_scalable_target(at: Address, *, most: int) -> dict[str, Any]:
    """Return the body of RegisterScalableTarget: between nothing and so many copies."""
    return {**scalable(at), "MinCapacity": 0, "MaxCapacity": most}


def put_scaling_policy(at: Address) -> dict[str, Any]:
    """Return the body of PutScalingPolicy: as many copies as it has awake. A repeat answers with the same ARN.

    Not one copy more, as in the guides: the alarm counts each call that meets no copy, the delivery's early ones too,
    and acts again after the cooldown while the first copy is on its way. Nothing would scale in what that adds.
    Cooldown and aggregation as in the guides: dg/async-inference-autoscale, dg/endpoint-auto-scaling-zero-instances.
    Source: https://docs.aws.amazon.com/autoscaling/application/APIReference/API_StepScalingPolicyConfiguration.html
    """
    return {
        "PolicyName": alarm_name(at.address, WAKE),
        **scalable(at),
        "PolicyType": "StepScaling",
        "StepScalingPolicyConfiguration": {
            "AdjustmentType": "ExactCapacity",
            "MetricAggregationType": "Maximum" if at.component else "Average",
            "Cooldown": 60 if at.component else 300,
            "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": at.copies}],
        },
    }


def deregister_scalable_target(at: Address) -> dict[str, Any]:
    """Return the body of DeregisterScalableTarget, which deletes the policies with it.

    Source: https://docs.aws.amazon.com/autoscaling/application/APIReference/API_DeregisterScalableTarget.html
    """
    return scalable(at)
