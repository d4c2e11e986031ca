"""One endpoint of a small account, to be put to sleep and woken by the real functions and the real state machines.

SageMaker, Application Auto Scaling and CloudWatch are kept here as far as an endpoint's sleep concerns them, so that a
test can break each of them at any moment; the ledger and the snapshots are moto's. Time is the test's own: it goes on
by what a machine waits.
"""

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

import aws_shapes
import decide_scaling
import plan_wake
from ebb import addresses, endpoint_world, ledger
from ebb.addresses import Address, IdlePolicy
from ebb.aws import endpoints, executions, metrics, restoring
from ebb.aws.ledger import Ledger
from ebb.aws.metrics import Traffic
from ebb.endpoint_world import World
from ebb.errors import EndpointUnreadableError, MetricsUnavailableError
from ebb.requests import alarms, scaling
from infrastructure import interpreter, project
from infrastructure.interpreter import Execution, TaskError
from integration.conftest import Account, made
from worked_run import ACCOUNT, LEDGER, REGION

START = datetime(2026, 11, 23, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:ebb-notifications"
SLEEP, WAKE = (project.ROOT / "statemachines" / f"{name}.asl.yaml" for name in ("scale_to_zero", "wake_endpoint"))
SERVICES = {"applicationautoscaling": "application-autoscaling"}
NO_CAPACITY = "Unable to provision requested ML compute capacity due to InsufficientInstanceCapacity error."
TARGET = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/shop/variant/blue",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}


class Stopped(BaseException):
    """An execution is gone in the middle: no Catch runs."""


class Cloud:
    """One endpoint with all that belongs to it, and what becomes of each call about it."""

    def __init__(self, at: Address, account: Account, monkeypatch: pytest.MonkeyPatch):
        self.at, self.account, self.now = at, account, START
        self.book = Ledger(LEDGER)
        self.book.apply(addresses.put(at, now=START - timedelta(days=2)))
        self.configs: dict[str, dict[str, Any]] = {}
        self.config_tags: dict[str, dict[str, str]] = {}  # of those that waking has made
        self.endpoint: dict[str, Any] | None = None
        self.component: dict[str, Any] | None = None
        self.tags: dict[str, str] = {}
        self.targets: list[dict[str, Any]] = []
        self.policies: list[dict[str, Any]] = []
        self.scheduled: list[dict[str, Any]] = []
        self.alarms: dict[str, dict[str, Any]] = {}
        self.calls: list[datetime] = []  # what CloudWatch knows of callers
        self.hears = True  # whether metrics arrive
        self.unreadable: list[Exception] = []  # what the next reads raise
        self.lost: str | None = None  # what it would need to be made again
        self.refused: set[str] = set()  # instance types without capacity
        self.fails: dict[str, list[TaskError]] = {}  # what the next calls of an action raise
        self.before: dict[str, Callable[[], None]] = {}  # runs once, before a call takes effect
        self.after: dict[str, Callable[[], None]] = {}
        self.sent: list[str] = []
        self.steps: list[dict[str, Any]] = []  # as the machines were told them
        self.told: list[dict[str, Any]] = []
        self.started: list[tuple[str, dict[str, Any]]] = []
        self.running: set[str] = set()
        self.arns = 0
        monkeypatch.setenv("NOTIFICATIONS_TOPIC_ARN", TOPIC)
        monkeypatch.setenv("MANAGE_FOREIGN_ENDPOINTS", "yes")
        monkeypatch.setattr(endpoints, "observe", self.observe)
        monkeypatch.setattr(endpoints, "stack_of", lambda _: None)
        monkeypatch.setattr(endpoints, "models_gone", lambda _: ())
        monkeypatch.setattr(restoring, "missing", lambda _: self.lost)
        monkeypatch.setattr(metrics, "observe", self.traffic)
        monkeypatch.setattr(metrics, "history", lambda *_, **__: ())
        monkeypatch.setattr(executions, "is_running", lambda arn: arn in self.running)

    # ---- What can be read ----

    def observe(self, at: Address, *, config_name: str | None = None, whole: bool = True) -> World:
        """As `ebb.aws.endpoints.observe`."""
        self._may_fail(EndpointUnreadableError)
        if self.endpoint and self.endpoint["EndpointStatus"] == "Deleting":
            self.endpoint = None
        named = config_name or (self.endpoint or {}).get("EndpointConfigName")
        alive = at.component or self.endpoint
        if not whole:
            return copy.deepcopy(
                World(endpoint=self.endpoint, config=self.configs.get(str(named)), component=self.component)
            )
        return copy.deepcopy(
            World(
                endpoint=self.endpoint,
                config=self.configs.get(str(named)),
                tags=self.tags if self.endpoint else {},
                component=self.component,
                targets=tuple(self.targets) if alive else (),
                policies=tuple(_body(each) for each in self.policies),
                policy_arns={endpoint_world.policy_key(each): each["PolicyARN"] for each in self.policies},
                scheduled=tuple(self.scheduled),
                alarms=tuple(self.alarms[name] for name in sorted(self.alarms)),
            )
        )

    def traffic(self, at: Address, variants: list[str], *, since: datetime, now: datetime) -> Traffic:
        """As `ebb.aws.metrics.observe`: a heartbeat each minute, and who called, both some time later."""
        self._may_fail(MetricsUnavailableError)
        minutes = int((now - since) / MINUTE)
        beats = [since + number * MINUTE for number in range(minutes)] if self.hears else []
        return Traffic(since, tuple(each for each in self.calls if since <= each <= now), tuple(beats))

    def _may_fail(self, kind: type[Exception]) -> None:
        if self.unreadable and isinstance(self.unreadable[0], kind):
            raise self.unreadable.pop(0)

    def state(self) -> Address:
        """The address as the ledger holds it."""
        found = self.book.address(self.at.address)
        assert found is not None
        return found

    def events(self) -> list[dict[str, Any]]:
        """What the ledger tells of its sleeps and wakes, oldest first."""
        pk = addresses.key(self.at.address)["pk"]
        return [each for each in self.book._query(pk) if each["sk"].startswith("EVENT#")]

    # ---- Running a machine ----

    def sleep(self, **given: Any) -> Execution:
        """Run `scale_to_zero` to its end."""
        return self._run(SLEEP, {"reason": "idle alarm", **given})

    def wake(self, **given: Any) -> Execution:
        """Run `wake_endpoint` to its end."""
        return self._run(WAKE, given)

    def killed_in(self, action: str, path: Any = SLEEP, *, effective: bool) -> None:
        """Run a machine and kill it in a call of `action`, before or after the call took effect."""

        def kill() -> None:
            raise Stopped

        (self.after if effective else self.before)[action] = kill
        with pytest.raises(Stopped):
            self._run(path, {})

    def _run(self, path: Any, given: dict[str, Any]) -> Execution:
        last: dict[str, Any] = {}
        mine: set[str] = set()
        killed: list[Stopped] = []

        def answer(resource: str, arguments: Any) -> Any:
            if killed:  # the interpreter runs a Map in threads, of which only exceptions come back
                raise killed[0]
            try:
                return taken(resource, arguments)
            except Stopped as stopped:
                killed.append(stopped)
                raise

        def taken(resource: str, arguments: Any) -> Any:
            if resource.endswith("lambda:invoke"):
                self.now += timedelta(seconds=max(last.get("wait_s", 0), 1))
                mine.add(arguments["Payload"]["execution"])
                self.running |= mine
                step = self._decide(path, arguments["Payload"])
                last.clear()
                last.update(step)
                self.steps.append(step)
                return {"Payload": step}
            return self.carry_out(resource, arguments)

        try:
            return interpreter.run(path, {"address": self.at.address, "generation": 1, **given}, answer)
        finally:
            self.running -= mine

    def _decide(self, path: Any, payload: dict[str, Any]) -> dict[str, Any]:
        handler = (decide_scaling if path == SLEEP else plan_wake).handler
        context = SimpleNamespace(function_name="f", memory_limit_in_mb=1, invoked_function_arn="a", aws_request_id="r")
        hook = self.before.pop("decide", None)
        if hook:
            hook()
        try:
            return handler(payload | {"now": ledger.iso(self.now)}, context)
        except Exception as error:
            raise TaskError(type(error).__name__, str(error)) from error

    # ---- Carrying out ----

    def carry_out(self, resource: str, arguments: Any) -> Any:
        """Do what a Task asks."""
        service, action = resource.split(":")[-2:]
        self.sent.append(action)
        if self.fails.get(action):
            raise self.fails[action].pop(0)
        if hook := self.before.pop(action, None):
            hook()
        if ":aws-sdk:" in resource:
            named = {("OKActions" if name == "OkActions" else name): value for name, value in arguments.items()}
            aws_shapes.assert_valid(SERVICES.get(service, service), action[0].upper() + action[1:], named)
            arguments = named
        answer = getattr(self, action)(arguments)
        if hook := self.after.pop(action, None):
            hook()
        return answer or {}

    def describeEndpoint(self, arguments: Any) -> Any:
        """As it is; a machine that watches it waits no time here."""
        if self.endpoint and self.endpoint["EndpointStatus"] == "Deleting":
            self.endpoint = None
        if self.endpoint is None:
            raise TaskError("SageMaker.SageMakerException", f'Could not find endpoint "{arguments["EndpointName"]}".')
        return copy.deepcopy(self.endpoint)

    def describeInferenceComponent(self, arguments: Any) -> Any:
        """As it is."""
        if self.component is None:
            raise TaskError("SageMaker.SageMakerException", "Could not find inference component")
        return copy.deepcopy(self.component)

    def updateItem(self, arguments: Any) -> None:
        """The ledger, with its conditions."""
        try:
            made("dynamodb").update_item(**arguments)
        except ClientError as error:
            name = error.response["Error"]["Code"]
            raise TaskError(f"DynamoDB.{name}", str(error)) from error

    def publish(self, arguments: Any) -> None:
        """Somebody is told."""
        assert arguments["TopicArn"] == TOPIC
        self.told.append(arguments)

    def startExecution(self, arguments: Any) -> None:
        """Another machine is started; it is the test that runs it."""
        self.started.append((arguments.get("Name", ""), arguments["Input"]))

    def updateEndpointWeightsAndCapacities(self, arguments: Any) -> None:
        """Instances come and go at once, where there are some."""
        self._at_rest()
        assert self.endpoint
        config = self.configs[self.endpoint["EndpointConfigName"]]["ProductionVariants"]
        types = {each["VariantName"]: each["InstanceType"] for each in config}
        self.endpoint.pop("FailureReason", None)
        for wanted in arguments["DesiredWeightsAndCapacities"]:
            (variant,) = [e for e in self.endpoint["ProductionVariants"] if e["VariantName"] == wanted["VariantName"]]
            more = wanted.get("DesiredInstanceCount", 0) > variant["CurrentInstanceCount"]
            if more and types[wanted["VariantName"]] in self.refused:
                self.endpoint["FailureReason"] = NO_CAPACITY
                continue
            variant.update({name: value for name, value in wanted.items() if name != "VariantName"})
            variant["CurrentInstanceCount"] = variant["DesiredInstanceCount"]
            variant["CurrentWeight"] = variant["DesiredWeight"]

    def updateInferenceComponentRuntimeConfig(self, arguments: Any) -> None:
        """Copies come and go at once, where there are instances."""
        assert self.component
        assert self.endpoint
        count = arguments["DesiredRuntimeConfig"]["CopyCount"]
        config = self.configs[self.endpoint["EndpointConfigName"]]["ProductionVariants"][0]
        self.component.pop("FailureReason", None)
        self.component["LastModifiedTime"] = ledger.iso(self.now)
        if count and config["InstanceType"] in self.refused:
            self.component |= {"InferenceComponentStatus": "Failed", "FailureReason": NO_CAPACITY}
            return
        self.component |= {
            "InferenceComponentStatus": "InService",
            "RuntimeConfig": {"DesiredCopyCount": count, "CurrentCopyCount": count},
        }

    def createEndpointConfig(self, arguments: Any) -> None:
        """A configuration that must not be there yet."""
        name = arguments["EndpointConfigName"]
        assert name not in self.configs
        self.configs[name] = {key: value for key, value in arguments.items() if key != "Tags"}
        self.config_tags[name] = {each["Key"]: each["Value"] for each in arguments.get("Tags", [])}

    def createEndpoint(self, arguments: Any) -> None:
        """An endpoint that must not be there yet; without capacity it fails."""
        assert self.endpoint is None or self.endpoint["EndpointStatus"] == "Deleting"
        self.endpoint = described(arguments["EndpointName"], arguments["EndpointConfigName"], self.configs)
        self.tags = {each["Key"]: each["Value"] for each in arguments.get("Tags", [])}
        self._provide(arguments["EndpointConfigName"], "Failed")

    def updateEndpoint(self, arguments: Any) -> None:
        """Another configuration; without capacity the earlier one stays."""
        self._at_rest()
        assert self.endpoint
        before = self.endpoint
        self.endpoint = described(before["EndpointName"], arguments["EndpointConfigName"], self.configs)
        self.endpoint["LastModifiedTime"] = ledger.iso(self.now)
        if not self._provide(arguments["EndpointConfigName"], "Failed"):
            self.endpoint = before | {"FailureReason": NO_CAPACITY, "LastModifiedTime": ledger.iso(self.now)}

    def _provide(self, config: str, status: str) -> bool:
        assert self.endpoint
        if {each["InstanceType"] for each in self.configs[config]["ProductionVariants"]} & self.refused:
            self.endpoint |= {"EndpointStatus": status, "FailureReason": NO_CAPACITY}
            return False
        return True

    def deleteEndpoint(self, arguments: Any) -> None:
        """It is gone, with nothing else; a later look does not find it."""
        if self.endpoint is None:
            raise TaskError("SageMaker.SageMakerException", f'Could not find endpoint "{arguments["EndpointName"]}".')
        assert self.endpoint["EndpointStatus"] != "Deleting"
        self.endpoint["EndpointStatus"] = "Deleting"

    def _at_rest(self) -> None:
        if self.endpoint is None or self.endpoint["EndpointStatus"] != "InService":
            raise TaskError("SageMaker.SageMakerException", "Cannot update in-progress endpoint")

    def registerScalableTarget(self, arguments: Any) -> None:
        """A target, new or changed."""
        self.targets = [each for each in self.targets if each["ResourceId"] != arguments["ResourceId"]] + [arguments]

    def deregisterScalableTarget(self, arguments: Any) -> None:
        """Its policies and schedules go with it."""
        name = arguments["ResourceId"]
        for kept in (self.targets, self.policies, self.scheduled):
            kept[:] = [each for each in kept if each["ResourceId"] != name]

    def putScalingPolicy(self, arguments: Any) -> None:
        """A policy; a new one has a new ARN."""
        assert any(each["ResourceId"] == arguments["ResourceId"] for each in self.targets)
        self.arns += 1
        arn = f"arn:aws:autoscaling:{REGION}:{ACCOUNT}:scalingPolicy:{self.arns}:{arguments['PolicyName']}"
        self.policies.append(arguments | {"PolicyARN": arn})

    def putScheduledAction(self, arguments: Any) -> None:
        """A schedule."""
        self.scheduled.append(arguments)

    def putMetricAlarm(self, arguments: Any) -> None:
        """An alarm, new or changed."""
        self.alarms[arguments["AlarmName"]] = {name: value for name, value in arguments.items() if name != "Tags"}

    def deleteAlarms(self, arguments: Any) -> None:
        """Alarms that are there."""
        for name in arguments["AlarmNames"]:
            del self.alarms[name]

    def disableAlarmActions(self, arguments: Any) -> None:
        """Alarms stay and tell nobody."""
        for name in arguments["AlarmNames"]:
            self.alarms[name]["ActionsEnabled"] = False


def described(name: str, config_name: str, configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return an endpoint in service as DescribeEndpoint shows it."""
    variants = [
        {
            "VariantName": each["VariantName"],
            "DesiredWeight": each.get("InitialVariantWeight", 1.0),
            "CurrentWeight": each.get("InitialVariantWeight", 1.0),
            "DesiredInstanceCount": each["InitialInstanceCount"],
            "CurrentInstanceCount": each["InitialInstanceCount"],
        }
        for each in configs[config_name]["ProductionVariants"]
    ]
    return {
        "EndpointName": name,
        "EndpointArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/{name}",
        "EndpointConfigName": config_name,
        "EndpointStatus": "InService",
        "CreationTime": ledger.iso(START - timedelta(days=2)),
        "LastModifiedTime": ledger.iso(START - timedelta(days=2)),
        "ProductionVariants": variants,
    }


POLICY = IdlePolicy(idle_after_s=900)


def asynchronous(account: Account, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Cloud:
    """An asynchronous endpoint of Ebb's own, awake, with its alarms and the policy by which AWS wakes it."""
    at = Address(
        address="ebb-pets",
        project="pets",
        kind="async",
        endpoint_name="ebb-pets--async",
        instance_type="ml.m5.large",
        policy=POLICY,
        awake_usd_per_hour=0.115,
        awake_watts=20.0,
        **more,
    )
    cloud = Cloud(at, account, monkeypatch)
    variant = {"VariantName": "AllTraffic", "ModelName": "m", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    cloud.configs["pets-a1"] = {"EndpointConfigName": "pets-a1", "ProductionVariants": [variant]}
    cloud.endpoint = described("ebb-pets--async", "pets-a1", cloud.configs)
    return _scaled(cloud)


def component(account: Account, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Cloud:
    """A real-time endpoint of Ebb's own with two copies of one inference component."""
    at = Address(
        address="ebb-pets",
        project="pets",
        kind="realtime",
        endpoint_name="ebb-pets--realtime",
        component="ebb-pets--g1",
        instance_type="ml.m5.large",
        copies=2,
        policy=POLICY,
        **more,
    )
    cloud = Cloud(at, account, monkeypatch)
    managed = {"Status": "ENABLED", "MinInstanceCount": 0, "MaxInstanceCount": 2}
    variant = {"VariantName": "AllTraffic", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    variants = [variant | {"ManagedInstanceScaling": managed}]
    cloud.configs["pets-a1"] = {"EndpointConfigName": "pets-a1", "ProductionVariants": variants}
    cloud.endpoint = described("ebb-pets--realtime", "pets-a1", cloud.configs)
    cloud.component = {
        "InferenceComponentName": "ebb-pets--g1",
        "InferenceComponentStatus": "InService",
        "LastModifiedTime": ledger.iso(START - timedelta(days=1)),
        "RuntimeConfig": {"DesiredCopyCount": 2, "CurrentCopyCount": 2},
    }
    return _scaled(cloud)


def _scaled(cloud: Cloud) -> Cloud:
    cloud.registerScalableTarget(scaling.register_scalable_target(cloud.at, most=2))
    cloud.putScalingPolicy(scaling.put_scaling_policy(cloud.at))
    for body in (
        alarms.errors(cloud.at, actions=[TOPIC], tags=[]),
        alarms.idle(cloud.at, window=15 * MINUTE, tags=[]),
    ):
        cloud.putMetricAlarm(body)
    return cloud


def classic(account: Account, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Cloud:
    """An endpoint that Ebb did not make: two variants with weights of their own, scaling, a schedule, alarms, tags."""
    at = Address(
        address="shop",
        origin="foreign",
        kind="classic",
        endpoint_name="shop",
        variant="blue",
        instance_type="ml.m5.large",
        policy=POLICY,
        awake_usd_per_hour=0.345,
        **more,
    )
    cloud = Cloud(at, account, monkeypatch)
    each = {"ModelName": "shop-1", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    variants = [each | {"VariantName": name, "InitialVariantWeight": 1.0} for name in ("blue", "green")]
    cloud.configs["shop-config"] = {"EndpointConfigName": "shop-config", "ProductionVariants": variants}
    cloud.endpoint = described("shop", "shop-config", cloud.configs)
    for variant, weight, count in zip(cloud.endpoint["ProductionVariants"], (9.0, 1.0), (2, 1), strict=True):
        variant |= {"DesiredWeight": weight, "CurrentWeight": weight}
        variant |= {"DesiredInstanceCount": count, "CurrentInstanceCount": count}
    cloud.tags = {"ebb:sleep": "allowed", "team": "shop"}
    cloud.registerScalableTarget(TARGET | {"MinCapacity": 1, "MaxCapacity": 4})
    steps = [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}]
    step = {"AdjustmentType": "ChangeInCapacity", "StepAdjustments": steps}
    cloud.putScalingPolicy(
        TARGET | {"PolicyName": "out", "PolicyType": "StepScaling", "StepScalingPolicyConfiguration": step}
    )
    night = {"ScheduledActionName": "night", "Schedule": "cron(0 20 * * ? *)"}
    cloud.putScheduledAction(TARGET | night | {"ScalableTargetAction": {"MinCapacity": 1, "MaxCapacity": 1}})
    busy = {
        "AlarmName": "shop-busy",
        "Namespace": "AWS/SageMaker",
        "MetricName": "Invocations",
        "Dimensions": [{"Name": "EndpointName", "Value": "shop"}, {"Name": "VariantName", "Value": "blue"}],
        "Statistic": "Sum",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 100.0,
        "ComparisonOperator": "GreaterThanThreshold",
        "ActionsEnabled": True,
        "AlarmActions": [cloud.policies[0]["PolicyARN"]],
        "OKActions": [TOPIC],
    }
    cloud.putMetricAlarm(busy)
    cloud.putMetricAlarm(busy | {"AlarmName": "shop-muted", "ActionsEnabled": False, "AlarmActions": [TOPIC]})
    return cloud


def everything(cloud: Cloud) -> str:
    """Return all of an endpoint but for times, old failures and the ARNs of policies, which nobody can choose."""
    kept = {
        "endpoint": _lasting(cloud.endpoint),
        "component": _lasting(cloud.component),
        "tags": cloud.tags,
        "targets": cloud.targets,
        "policies": [_body(each) for each in cloud.policies],
        "scheduled": cloud.scheduled,
        "alarms": cloud.alarms,
    }
    text = json.dumps(kept, sort_keys=True)
    for number, policy in enumerate(cloud.policies):
        text = text.replace(policy["PolicyARN"], f"policy {number}")
    return text


def _lasting(described: dict[str, Any] | None) -> dict[str, Any]:
    passing = ("Time", "FailureReason")
    return {name: value for name, value in (described or {}).items() if not name.endswith(passing)}


def _body(policy: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in policy.items() if name != "PolicyARN"}
