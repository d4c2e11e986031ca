"""A small SageMaker, its alarms and its ledger, for the state machine that deploys: as AWS keeps them, without time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aws_shapes import assert_valid
from ebb import ledger, recommendation, rollout, serving, serving_model, traffic
from ebb.addresses import Address, State
from ebb.recommendation import LoadTest
from ebb.rollout import Endpoint, Model, Seen
from ebb.settings import StackSettings
from ebb.spec_parts import RetrainSpec
from ebb.spec_serve import ServeSpec
from infrastructure.interpreter import TaskError
from worked_run import NOW, candidate, moment

STACK = StackSettings(
    stack="ebb",
    artifact_bucket="artifacts",
    data_key_arn="arn:aws:kms:us-east-1:000000000000:key/0a1b2c3d-0000-0000-0000-000000000000",
    serve_image_uri="000000000000.dkr.ecr.us-east-1.amazonaws.com/ebb/serve:0123456789ab",
    ledger_table="ledger",
)
SAMPLE = {"uri": "s3://artifacts/bundles/sample-payload.tar.gz", "content_type": "text/csv"}
ADDRESS = "ebb-wine"
EARLIER = "wine-20261122010203-9f8e7d6c5b-a2"
CONDITION_FAILED = "DynamoDB.ConditionalCheckFailedException"
MISSING = TaskError("SageMaker.SageMakerException", "Could not find it")
BUSY = ("Creating", "Updating", "Deleting")


@dataclass
class Hosted:
    """An endpoint: its status, the configuration that it has, and for how many looks it still changes."""

    config: str
    status: str = "InService"
    left: int = 0


@dataclass
class Cloud:
    """What the machine acts on. `plan_deployment` answers with the real planner's plan of what is there now."""

    serve: dict[str, Any] = field(default_factory=dict)
    kind: str = "serverless"
    retrain: dict[str, Any] = field(default_factory=dict)
    generation: int = 7
    run_id: str = "wine-20261123010203-0a1b2c3d4e"
    calls_last_hour: float = 0.0
    looks: int = 1  # until a change is done
    ends: str = "InService"  # the status that a creation or an update ends in
    copies_come_up: bool = True
    load_test_ends: str = "COMPLETED"  # the status that a load test ends in, after that many looks
    load_test_looks: int = 2
    load_test_finds: int = 0  # how many sizes it has measured when it is stopped

    def __post_init__(self) -> None:
        self.project: dict[str, Any] = {"deployed_generation": 3, "claimed_by": "older"}
        self.address: Address | None = None
        self.deployed_by: str | None = None
        self.models: set[str] = set()
        self.configs: dict[str, str | None] = {}  # name -> the model of its variant
        self.endpoints: dict[str, Hosted] = {}
        self.components: dict[str, dict[str, Any]] = {}
        self.targets: set[str] = set()
        self.policies: set[str] = set()
        self.alarms: dict[str, dict[str, Any]] = {}
        self.ringing: list[str] = []
        self.log_groups: dict[str, dict[str, Any]] = {}
        self.fails: dict[str, TaskError] = {}
        self.on: dict[str, Any] = {}
        self.planned: Callable[[Any], Any] = lambda _: None  # after each plan
        self.backlog = 0
        self.execution = ""
        self.load_tests: dict[str, dict[str, Any]] = {}  # name -> status, looks left, what it found
        self.noted: dict[str, Any] | None = None  # the ledger's item of the load test
        self.answering: list[bool] = []  # after each call: whether something answers at the address

    # ---- The other side of the machine ----

    def __call__(self, resource: str, arguments: Any) -> Any:
        action = resource.rsplit(":", 1)[-1]
        if action == "invoke":
            plan = self.plan(arguments["Payload"])
            self.planned(plan)
            return {"Payload": plan}
        if action in self.on:
            self.on[action]()
        if action in self.fails:
            raise self.fails[action]
        answer = getattr(self, action)(arguments)
        self.answering.append(self.answers())
        return answer or {}

    def plan(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Plan as plan_deployment does, from what is there."""
        now = moment(NOW)
        self.execution = asked["execution"]
        held = rollout.hold(
            self.project, self.address, generation=self.generation, execution=asked["execution"], now=now
        )
        test = LoadTest.model_validate(asked["recommendation"]) if "recommendation" in asked else None
        if held:
            told = test and held["action"] == "none"
            return held | ({"note": recommendation.note(STACK, self.run_id, test, None, now=now)} if told else {})
        serve = ServeSpec.model_validate(self.serve)
        made = Model(
            run_id=self.run_id,
            attempt=1,
            generation=self.generation,
            bundle_uri="s3://artifacts/bundles/student/model.tar.gz",
            candidate=candidate("student", ("distill", "compile")),
        )
        chosen = serving.choose(
            serve=serve,
            model=recommendation.applied(
                serving_model.Model.of(made.candidate), test or recommendation.read(self.noted)
            ),
            traffic=traffic.UNKNOWN,
            region="us-east-1",
            asked=asked.get("kind") or self.kind,
        )
        wanted = rollout.wanted("wine", made, chosen, serve, retrain=RetrainSpec.model_validate(self.retrain))
        if serve.recommender and test is None and self.noted is None and "package_arn" in asked:
            answer = recommendation.ask(
                STACK,
                project="wine",
                run_id=self.run_id,
                attempt=1,
                package_arn=asked["package_arn"],
                payload=SAMPLE,
                serve=serve,
                row=wanted.row,
            )
            if isinstance(answer, dict):
                return answer
            test = answer
        seen = Seen(
            address=self.address,
            endpoint=self.seen(rollout.endpoint_name(STACK, wanted)),
            superseded=self.seen(self.address.endpoint_name if self.address else ADDRESS),
            alarms=list(self.alarms.values()),
            ringing=[name for name in self.alarms if name in self.ringing],
            calls_last_hour=self.calls_last_hour,
        )
        plan = rollout.build(STACK, wanted, seen, self.project, execution=asked["execution"], now=now)
        noted = recommendation.note(STACK, self.run_id, test, wanted.row, now=now) if test else None
        return plan | ({"note": noted} if noted else {})

    def seen(self, name: str | None) -> Endpoint | None:
        found = self.endpoints.get(str(name))
        return Endpoint(str(name), found.status, found.config, self.configs.get(found.config)) if found else None

    def answers(self) -> bool:
        """Say whether a call to what the address names would be answered."""
        at = self.address
        if at is None or at.kind == "batch":
            return True
        hosted = self.endpoints.get(str(at.endpoint_name))
        up = hosted is not None and hosted.status in ("InService", "Updating")
        return up and (at.component is None or self.components.get(at.component, {}).get("status") == "InService")

    # ---- Ledger ----

    def updateItem(self, arguments: Any) -> None:
        """Send one of the planner's writes."""
        values = {key: next(iter(value.values())) for key, value in arguments["ExpressionAttributeValues"].items()}
        expression = arguments["UpdateExpression"]
        if arguments["Key"]["pk"]["S"].startswith("ADDRESS#"):
            return self._write_address(arguments, values)
        if ":generation" in values:
            self._claim(values)
        elif self.project.get("deploying") != values[":me"]:
            raise TaskError(CONDITION_FAILED, "The conditional request failed")
        elif "REMOVE" in expression:
            if "previous_generation" in expression:
                self.project["deployed_generation"] = self.project["previous_generation"]
            for name in ("deploying", "deploying_since", "deployment"):
                self.project.pop(name, None)
        elif "committed_by" in expression:
            self.project["committed_by"] = values[":me"]
        elif ":plan" in values:
            self.project["deployment"] = values[":plan"]

    def _claim(self, values: dict[str, Any]) -> None:
        there = self.project
        newer = there["deployed_generation"] > int(values[":generation"])
        other = there.get("deploying") not in (None, values[":me"], values[":seen"])
        if newer or other or there.get("deployments", 0) != int(values[":before"]):
            raise TaskError(CONDITION_FAILED, "The conditional request failed")
        there |= {
            "previous_generation": there["deployed_generation"],
            "deployed_generation": int(values[":generation"]),
            "claimed_by": values[":run"],
            "deploying": values[":me"],
            "deploying_since": values[":now"],
            "deployments": int(values[":count"]),
            "deployment": values[":plan"],
        }

    def _write_address(self, arguments: Any, values: dict[str, Any]) -> None:
        if ":mine" in values and self.deployed_by != values[":mine"]:
            raise TaskError(CONDITION_FAILED, "The conditional request failed")
        there = self.address.generation if self.address else None
        if ":seen" in values and there != int(values[":seen"]) and self.deployed_by != values[":deployed_by"]:
            raise TaskError(CONDITION_FAILED, "The conditional request failed")
        plain = {key.removeprefix(":"): _plain(value) for key, value in arguments["ExpressionAttributeValues"].items()}
        plain["generation"] = (there or 0) + 1
        self.address, self.deployed_by = Address.model_validate(plain), plain["deployed_by"]

    def change_address(self, *states: State, **fields: Any) -> None:
        """Let somebody else change the state, as falling asleep and waking do."""
        assert self.address
        for state in states:
            told = {"state": state, "generation": self.address.generation + 1, "changed_at": moment(NOW)}
            self.address = self.address.model_copy(update=told | fields)

    def deleteItem(self, arguments: Any) -> None:
        if self.deployed_by != arguments["ExpressionAttributeValues"][":mine"]["S"]:
            raise TaskError(CONDITION_FAILED, "The conditional request failed")
        self.address = self.deployed_by = None

    def getItem(self, _: Any) -> Any:
        names = ("deploying", "deployment", "committed_by")
        return {"Item": {name: {"S": self.project[name]} for name in names if name in self.project}}

    def putItem(self, arguments: Any) -> None:
        item = {key: _plain(value) for key, value in arguments["Item"].items()}
        assert (item["pk"], item["sk"]) == tuple(ledger.recommendation_key(self.run_id).values())
        assert self.noted is None, "it is noted once"
        self.noted = item

    # ---- Load tests ----

    def createInferenceRecommendationsJob(self, arguments: Any) -> None:
        assert_valid("sagemaker", "CreateInferenceRecommendationsJob", arguments)
        assert arguments["JobName"] not in self.load_tests
        found = []
        for number, each in enumerate(arguments["InputConfig"]["EndpointConfigurations"]):
            # the last one that is tested is the best one
            metrics = {"MaxInvocations": 600 * (number + 1), "ModelLatency": 40_000 // (number + 1) ** 2}
            # as the embedded cloud's Step Functions answers; AWS's own spelling is in the unit tests
            size = each.get("ServerlessConfig", {}).get("MemorySizeInMB")
            setup = {"ServerlessConfig": {"MemorySizeInMb": size}} if size else each
            found.append({"EndpointConfiguration": setup, "Metrics": metrics, "ModelConfiguration": {}})
        self.load_tests[arguments["JobName"]] = {"status": "PENDING", "left": self.load_test_looks, "found": found}

    def describeInferenceRecommendationsJob(self, arguments: Any) -> Any:
        job = self.load_tests[arguments["JobName"]]
        job["left"] -= 1
        if job["left"] < 0 and job["status"] != "STOPPED":
            job["status"] = self.load_test_ends
        told = {"JobName": arguments["JobName"], "Status": job["status"]}
        if job["status"] == "COMPLETED":
            return told | {"InferenceRecommendations": job["found"], "CompletionTime": "2126-11-23T09:00:00.000Z"}
        if job["status"] == "STOPPED" and self.load_test_finds:
            return told | {"InferenceRecommendations": job["found"][: self.load_test_finds]}
        return told | ({"FailureReason": "the model did not start"} if job["status"] == "FAILED" else {})

    def stopInferenceRecommendationsJob(self, arguments: Any) -> None:
        if arguments["JobName"] not in self.load_tests:
            raise TaskError("SageMaker.ResourceNotFoundException", "Could not find requested job")
        self.load_tests[arguments["JobName"]]["status"] = "STOPPED"

    # ---- SageMaker ----

    def createModel(self, arguments: Any) -> None:
        self.models.add(arguments["ModelName"])

    def deleteModel(self, arguments: Any) -> None:
        if arguments["ModelName"] not in self.models:
            raise MISSING
        self.models.remove(arguments["ModelName"])

    def createEndpointConfig(self, arguments: Any) -> None:
        (variant,) = arguments["ProductionVariants"]
        assert arguments["EndpointConfigName"] not in self.configs
        self.configs[arguments["EndpointConfigName"]] = variant.get("ModelName")

    def deleteEndpointConfig(self, arguments: Any) -> None:
        """Delete, which must not happen under an endpoint that is live or changing.

        Source: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DeleteEndpointConfig.html
        """
        name = arguments["EndpointConfigName"]
        live = ("InService", "Creating", "Updating")
        assert not any(each.config == name and each.status in live for each in self.endpoints.values()), name
        self.configs.pop(name, None)

    def describeEndpoint(self, arguments: Any) -> Any:
        """Say where it is; a change ends after the given number of looks."""
        name = arguments["EndpointName"]
        found = self.endpoints.get(name)
        if found and found.status in BUSY:
            found.left -= 1
            if found.left < 0 and found.status == "Deleting":
                del self.endpoints[name]
                found = None
            elif found.left < 0:
                found.status = self.ends
        if found is None:
            raise MISSING
        return {"EndpointName": name, "EndpointStatus": found.status, "EndpointConfigName": found.config}

    def createEndpoint(self, arguments: Any) -> None:
        if arguments["EndpointName"] in self.endpoints:
            raise TaskError("SageMaker.AmazonSageMakerException", "Cannot create already existing endpoint")
        config = arguments["EndpointConfigName"]
        self.endpoints[arguments["EndpointName"]] = Hosted(config, "Creating", self.looks)

    def updateEndpoint(self, arguments: Any) -> None:
        found = self.endpoints[arguments["EndpointName"]]
        if found.status != "InService" or arguments["EndpointConfigName"] not in self.configs:
            raise TaskError("SageMaker.AmazonSageMakerException", f"Cannot update in status {found.status}")
        found.status, found.config, found.left = "Updating", arguments["EndpointConfigName"], self.looks

    def deleteEndpoint(self, arguments: Any) -> None:
        name = arguments["EndpointName"]
        if name not in self.endpoints or self.endpoints[name].status in BUSY:
            raise TaskError("SageMaker.SageMakerException", "Cannot update in-progress endpoint")
        assert not any(each["endpoint"] == name for each in self.components.values())
        del self.endpoints[name]

    def createInferenceComponent(self, arguments: Any) -> None:
        assert self.endpoints[arguments["EndpointName"]].status == "InService"
        name = arguments["InferenceComponentName"]
        assert name not in self.components
        assert arguments["Specification"]["ModelName"] in self.models
        self.components[name] = {"endpoint": arguments["EndpointName"], "status": "Creating", "left": self.looks}

    def describeInferenceComponent(self, arguments: Any) -> Any:
        found = self.components.get(arguments["InferenceComponentName"])
        if found is None:
            raise MISSING
        found["left"] -= 1
        if found["status"] == "Creating" and found["left"] < 0:
            found["status"] = "InService" if self.copies_come_up else "Failed"
        return {"InferenceComponentStatus": found["status"], "FailureReason": "no capacity"}

    def deleteInferenceComponent(self, arguments: Any) -> None:
        found = self.components[arguments["InferenceComponentName"]]
        assert found["status"] not in ("Creating", "Updating")
        found["status"], found["left"] = "Deleting", self.looks

    def listInferenceComponents(self, arguments: Any) -> Any:
        there = {k: v for k, v in self.components.items() if v["endpoint"] == arguments["EndpointNameEquals"]}
        for name, each in list(there.items()):
            each["left"] -= 1
            if each["status"] == "Deleting" and each["left"] < 0:
                del self.components[name], there[name]
        return {"InferenceComponents": [{"InferenceComponentStatus": each["status"]} for each in there.values()]}

    # ---- Scaling, alarms, logs ----

    def registerScalableTarget(self, arguments: Any) -> None:
        self.targets.add(arguments["ResourceId"])

    def putScalingPolicy(self, arguments: Any) -> Any:
        assert arguments["ResourceId"] in self.targets
        self.policies.add(arguments["PolicyName"])
        return {"PolicyARN": "arn"}

    def deregisterScalableTarget(self, arguments: Any) -> None:
        assert set(arguments) == {"ServiceNamespace", "ResourceId", "ScalableDimension"}
        self.targets.discard(arguments["ResourceId"])

    def putMetricAlarm(self, arguments: Any) -> None:
        self.alarms[arguments["AlarmName"]] = arguments

    def deleteAlarms(self, arguments: Any) -> None:
        for name in arguments["AlarmNames"]:
            self.alarms.pop(name, None)

    def describeAlarms(self, arguments: Any) -> Any:
        states = {name: "ALARM" if name in self.ringing else "OK" for name in arguments["AlarmNames"]}
        return {"MetricAlarms": [{"AlarmName": name, "StateValue": state} for name, state in states.items()]}

    def getMetricStatistics(self, arguments: Any) -> Any:
        assert arguments["MetricName"] == "ApproximateBacklogSize"
        self.backlog = max(0, self.backlog - 1)
        points = [{"Timestamp": f"2026-11-23T09:{minute:02}:00Z", "Maximum": 9} for minute in (1, 2)]
        return {"Datapoints": [*points, {"Timestamp": "2026-11-23T09:30:00Z", "Maximum": self.backlog}]}

    def createLogGroup(self, arguments: Any) -> None:
        if arguments["LogGroupName"] in self.log_groups:
            raise TaskError("CloudWatchLogs.ResourceAlreadyExistsException", "The specified log group already exists")
        self.log_groups[arguments["LogGroupName"]] = {"key": arguments["KmsKeyId"], "tags": arguments["Tags"]}

    def putRetentionPolicy(self, arguments: Any) -> None:
        self.log_groups[arguments["LogGroupName"]]["days"] = arguments["RetentionInDays"]

    def watched(self) -> set[str]:
        """Return what the alarms look at, by their kind."""
        return {name.rsplit("-", 1)[1] for name in self.alarms}


def _plain(value: Any) -> Any:
    ((kind, held),) = value.items()
    if kind == "M":
        return {key: _plain(each) for key, each in held.items()}
    if kind == "L":
        return [_plain(each) for each in held]
    return float(held) if kind == "N" else held
