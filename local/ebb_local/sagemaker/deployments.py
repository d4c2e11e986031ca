"""Blue/green: bring the new fleet up beside the old one, shift the traffic in steps, watch the alarms, or go back.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-blue-green.html. Waits are virtual.
Assumed: an alarm that is in ALARM when the deployment begins rolls it back as well.
"""

from collections.abc import Callable, Iterator
from typing import Any

from ebb_local.sagemaker import alarms, threads
from ebb_local.sagemaker.errors import HostingFailure, not_implemented, validation_exception

_LOOK_EVERY_S = 30.0  # alarms are evaluated each minute: none comes and goes in between
Deployment = dict[str, Any]


def require_valid(deployment: Deployment | None, *, serverless: bool, components: bool) -> None:
    """Raise for a deployment that AWS, or the embedded cloud, refuses (wording assumed)."""
    if not deployment:
        return
    if serverless:  # dg/deployment-guardrails-exclusions
        raise validation_exception("DeploymentConfig is not supported for serverless endpoints.")
    policies = [name for name in ("BlueGreenUpdatePolicy", "RollingUpdatePolicy") if deployment.get(name)]
    if len(policies) > 1:
        raise validation_exception("Only one of BlueGreenUpdatePolicy and RollingUpdatePolicy can be specified.")
    if "RollingUpdatePolicy" in policies:
        raise not_implemented("DeploymentConfig with RollingUpdatePolicy")
    if components:
        raise validation_exception("BlueGreenUpdatePolicy is not supported for endpoints with inference components.")
    routing = (deployment.get("BlueGreenUpdatePolicy") or {}).get("TrafficRoutingConfiguration") or {}
    for kind, member in (("CANARY", "CanarySize"), ("LINEAR", "LinearStepSize")):
        if routing.get("Type") == kind and not routing.get(member):
            raise validation_exception(f"{member} is required for traffic routing of type {kind}.")
        if routing.get(member) and routing["Type"] != kind:
            raise validation_exception(f"{member} is not supported for traffic routing of type {routing['Type']}.")
    alarms.require(alarm_names(deployment))


def alarm_names(deployment: Deployment | None) -> list[str]:
    """Return the names of the alarms that roll a deployment back."""
    configured = ((deployment or {}).get("AutoRollbackConfiguration") or {}).get("Alarms") or []
    return [alarm["AlarmName"] for alarm in configured]


def bake(deployment: Deployment | None, instances: int, shift: Callable[[float], None]) -> None:
    """Shift the traffic step by step; return when the old fleet may end. Raises HostingFailure on an alarm."""
    names = alarm_names(deployment)
    for share, wait_s in steps(deployment, instances):
        shift(share)
        _watch(names, wait_s)


def steps(deployment: Deployment | None, instances: int) -> Iterator[tuple[float, float]]:
    """Yield (share of the requests for the new fleet, seconds to watch it) up to the end of the old fleet."""
    policy = (deployment or {}).get("BlueGreenUpdatePolicy") or {}
    routing = policy.get("TrafficRoutingConfiguration") or {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}
    wait_s = float(routing["WaitIntervalInSeconds"])
    size = routing.get("CanarySize") or routing.get("LinearStepSize")
    if size:
        step = min(1.0, size["Value"] / (100 if size["Type"] == "CAPACITY_PERCENT" else max(1, instances)))
        share = step
        while share < 1 - 1e-9:
            yield share, wait_s
            share = share + step if routing["Type"] == "LINEAR" else 1.0
    yield 1.0, wait_s + float(policy.get("TerminationWaitInSeconds", 0))


def _watch(names: list[str], seconds: float) -> None:
    left_s = seconds
    while True:
        if alarmed := alarms.alarmed(names):
            raise HostingFailure(f"Deployment was rolled back because of CloudWatch alarms: {', '.join(alarmed)}.")
        if left_s <= 0:
            return
        step_s = min(left_s, _LOOK_EVERY_S) if names else left_s
        threads.sleep(step_s)
        left_s -= step_s
