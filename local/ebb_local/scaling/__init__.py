"""Application Auto Scaling inside the embedded cloud, for SageMaker: variants and inference components.

`install()` registers the service with MiniStack, with Step Functions and with CloudWatch's alarms, whose actions are
policies. What it changes it changes by SageMaker's own actions, as the service-linked role does on AWS.
Source: https://docs.aws.amazon.com/autoscaling/application/userguide/what-is-application-auto-scaling.html
"""


def install() -> None:
    """Add the service to this process's MiniStack, after SageMaker and before the server starts."""
    from ebb_local.gaps import alarm_actions
    from ebb_local.scaling import policies, registration, scheduled

    registration.install()
    alarm_actions.on_scaling(policies.act)
    scheduled.install()
