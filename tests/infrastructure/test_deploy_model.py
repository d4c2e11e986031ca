"""The paths of a deployment: newer runs win, what fails is undone, nothing that is served is ever deleted."""

import json
from typing import Any

import pytest

from ebb import deployment
from ebb.settings import StackSettings
from ebb.spec import ServeSpec
from infrastructure import project
from infrastructure.interpreter import TaskError, run

PATH = project.ROOT / "statemachines" / "deploy_model.asl.yaml"
ENDPOINT = "ebb-wine"
NAME = "wine-20261123010203-0a1b2c-a1"
STACK = StackSettings(
    stack="ebb",
    artifact_bucket="artifacts",
    data_key_arn="arn:aws:kms:us-east-1:000000000000:key/0a1b2c3d-0000-0000-0000-000000000000",
    serve_image_uri="000000000000.dkr.ecr.us-east-1.amazonaws.com/ebb/serve:0123456789ab",
    ledger_table="ledger",
)


def _given(generation: int = 7) -> dict[str, Any]:
    plan = {
        "run_id": "wine-20261123010203-0a1b2c",
        "attempt": 1,
        "project": "wine",
        "generation": generation,
        "artifacts": {"bundles": "s3://artifacts/bundles/"},
    }
    candidate = {"name": "student", "memory_mib": 90, "latency_ms": {"p50": 0.2, "p99": 0.4}}
    return deployment.deploy_input(STACK, plan, candidate=candidate, serve=ServeSpec())


class SageMaker:
    """One endpoint and the claim on it, as SageMaker and the ledger keep them."""

    def __init__(self, *, status: str | None = None, config: str = "older", deployed: int = 3, looks: int = 1):
        self.status, self.config, self.deployed, self.looks = status, config, deployed, looks
        self.previous, self.claimed_by, self.superseded = 0, "", ""
        self.models: set[str] = set()
        self.configs: set[str] = set()
        self.alarms: set[str] = set()
        self.log_groups: dict[str, dict[str, Any]] = {}
        self.fails: dict[str, TaskError] = {}
        self.left = 0  # looks at the endpoint until it is at rest
        self.ends = "InService"  # the status that a creation or an update ends in
        self.on_look: Any = lambda: None

    def __call__(self, resource: str, arguments: Any) -> Any:
        action = resource.rsplit(":", 1)[-1]
        if action in self.fails:
            raise self.fails[action]
        return getattr(self, action)(arguments) or {}

    def updateItem(self, arguments: Any) -> Any:
        """Claim, confirm the claim, or release it."""
        values = arguments["ExpressionAttributeValues"]
        mine = int(values[":generation"]["N"])
        claiming = "previous_generation =" in arguments["UpdateExpression"]
        if not (self.deployed < mine if claiming else self.deployed == mine):
            raise TaskError("DynamoDB.ConditionalCheckFailedException", "The conditional request failed")
        if "superseded_config" in arguments["UpdateExpression"]:
            self.superseded = values[":config"]["S"]
            return
        self.claimed_by = values[":run"]["S"]
        self.previous, self.deployed = (self.deployed, mine) if claiming else (self.previous, self.previous)

    def getItem(self, _: Any) -> Any:
        """Read the claim."""
        found = {"deployed_generation": {"N": str(self.deployed)}, "claimed_by": {"S": self.claimed_by}}
        return {"Item": found | ({"superseded_config": {"S": self.superseded}} if self.superseded else {})}

    def createModel(self, arguments: Any) -> None:
        """Create."""
        self.models.add(arguments["ModelName"])

    def deleteModel(self, arguments: Any) -> None:
        """Delete, refused when there is none."""
        if arguments["ModelName"] not in self.models:
            raise TaskError("SageMaker.SageMakerException", "Could not find model")
        self.models.remove(arguments["ModelName"])

    def createEndpointConfig(self, arguments: Any) -> None:
        """Create."""
        self.configs.add(arguments["EndpointConfigName"])

    def deleteEndpointConfig(self, arguments: Any) -> None:
        """Delete, which must not happen under an endpoint that is live or changing.

        Source: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DeleteEndpointConfig.html
        """
        live = self.status in ("InService", "Creating", "Updating")
        assert not (live and self.config == arguments["EndpointConfigName"])
        self.configs.discard(arguments["EndpointConfigName"])

    def createLogGroup(self, arguments: Any) -> None:
        """Create, refused when there is one."""
        if arguments["LogGroupName"] in self.log_groups:
            raise TaskError("CloudWatchLogs.ResourceAlreadyExistsException", "The specified log group already exists")
        self.log_groups[arguments["LogGroupName"]] = {"key": arguments["KmsKeyId"], "tags": arguments["Tags"]}

    def putRetentionPolicy(self, arguments: Any) -> None:
        """Keep what the group holds for so long."""
        self.log_groups[arguments["LogGroupName"]]["days"] = arguments["RetentionInDays"]

    def describeEndpointConfig(self, arguments: Any) -> Any:
        """Say which model it serves: the one of the same name."""
        if arguments["EndpointConfigName"] not in self.configs:
            raise TaskError("SageMaker.SageMakerException", "Could not find configuration")
        name = arguments["EndpointConfigName"]
        return {"EndpointConfigName": name, "ProductionVariants": [{"ModelName": name}]}

    def putMetricAlarm(self, arguments: Any) -> None:
        """Create."""
        self.alarms.add(arguments["AlarmName"])

    def deleteAlarms(self, arguments: Any) -> None:
        """Delete."""
        self.alarms -= set(arguments["AlarmNames"])

    def describeEndpoint(self, arguments: Any) -> Any:
        """Say where it is; a change ends after the given number of looks."""
        assert arguments == {"EndpointName": ENDPOINT}
        self.on_look()
        if self.status in ("Creating", "Updating", "Deleting"):
            self.left -= 1
            if self.left < 0:
                self.status = None if self.status == "Deleting" else self.ends
        if self.status is None:
            raise TaskError("SageMaker.SageMakerException", "Could not find endpoint")
        return {"EndpointName": ENDPOINT, "EndpointStatus": self.status, "EndpointConfigName": self.config}

    def createEndpoint(self, arguments: Any) -> None:
        """Create, refused when there is one."""
        if self.status:
            raise TaskError("SageMaker.AmazonSageMakerException", "Cannot create already existing endpoint")
        self.status, self.config, self.left = "Creating", arguments["EndpointConfigName"], self.looks

    def updateEndpoint(self, arguments: Any) -> None:
        """Update, refused unless it is in service."""
        if self.status != "InService":
            raise TaskError("SageMaker.AmazonSageMakerException", f"Cannot update in status {self.status}")
        self.status, self.config, self.left = "Updating", arguments["EndpointConfigName"], self.looks

    def deleteEndpoint(self, _: Any) -> None:
        """Delete, refused while the endpoint is changing."""
        if self.status not in ("InService", "Failed", "OutOfService"):
            raise TaskError("SageMaker.SageMakerException", "Cannot update in-progress endpoint")
        self.status, self.left = "Deleting", self.looks


ALARMS = {"ebb-wine-errors", "ebb-wine-latency"}


def _actions(execution: Any) -> list[str]:
    return [resource.rsplit(":", 1)[-1] for resource, _ in execution.asked]


def test_a_first_model_gets_an_endpoint_with_its_alarms():
    cloud = SageMaker(looks=8)
    ended = run(PATH, _given(), cloud)
    assert (ended.status, ended.output) == ("SUCCEEDED", {"deployed": True, "endpoint_name": ENDPOINT})
    assert (cloud.status, cloud.config, cloud.deployed) == ("InService", NAME, 7)
    assert cloud.alarms == ALARMS
    actions = _actions(ended)
    assert actions[-2:] == ["putMetricAlarm", "putMetricAlarm"]


LOG = f"/aws/sagemaker/Endpoints/{ENDPOINT}"


def test_the_log_of_an_endpoint_is_encrypted_and_forgotten():
    """SageMaker would make the group itself, without a key and for ever."""
    cloud = SageMaker()
    ended = run(PATH, _given(), cloud)
    tags = {"ebb:project": "wine", "ebb:stack": "ebb"}
    assert cloud.log_groups == {LOG: {"key": "${DataKeyArn}", "tags": tags, "days": 30}}
    actions = _actions(ended)
    assert actions.index("putRetentionPolicy") < actions.index("createEndpoint")


def test_a_log_group_that_an_earlier_endpoint_left_is_used_again():
    cloud = SageMaker()
    cloud.log_groups[LOG] = {}
    assert run(PATH, _given(), cloud).status == "SUCCEEDED"
    assert cloud.log_groups[LOG] == {"days": 30}


def test_a_later_model_updates_the_endpoint():
    cloud = SageMaker(status="InService")
    ended = run(PATH, _given(), cloud)
    assert ended.status == "SUCCEEDED"
    assert "createEndpoint" not in _actions(ended)
    assert (cloud.config, cloud.models, cloud.configs) == (NAME, {NAME}, {NAME})


EARLIER = "wine-20261122010203-9f8e7d6c5b-a2"


def _serving(name: str, **others: Any) -> SageMaker:
    cloud = SageMaker(status="InService", config=name, **others)
    cloud.models, cloud.configs = {name}, {name}
    return cloud


@pytest.mark.parametrize("earlier", [EARLIER, "wine-20261122010203-9f8e7d-a2"])
def test_the_model_that_was_superseded_is_deleted_once_the_new_one_serves(earlier):
    cloud = _serving(earlier)
    ended = run(PATH, _given(), cloud)
    assert ended.output == {"deployed": True, "endpoint_name": ENDPOINT}
    assert (cloud.models, cloud.configs) == ({NAME}, {NAME})
    actions = _actions(ended)
    assert actions.index("putMetricAlarm") < actions.index("deleteEndpointConfig")


@pytest.mark.parametrize(
    "name", ["somebody-elses", "wine-red-20261122010203-9f8e7d-a2", "winery-20261122010203-9f8e7d-a2", "wine-a1"]
)
def test_a_model_that_no_run_of_the_project_made_is_not_deleted(name):
    cloud = _serving(name)
    ended = run(PATH, _given(), cloud)
    assert ended.status == "SUCCEEDED"
    assert (cloud.models, cloud.configs) == ({NAME, name}, {NAME, name})


@pytest.mark.parametrize("action", ["describeEndpointConfig", "deleteEndpointConfig", "deleteModel"])
def test_a_deployment_succeeds_even_if_the_superseded_model_cannot_be_deleted(action):
    cloud = _serving(EARLIER)
    cloud.fails[action] = TaskError("SageMaker.SageMakerException", "throttled")
    ended = run(PATH, _given(), cloud)
    assert (ended.status, ended.output) == ("SUCCEEDED", {"deployed": True, "endpoint_name": ENDPOINT})


def test_an_update_that_fails_keeps_the_model_that_serves():
    cloud = _serving(EARLIER)
    cloud.fails["updateEndpoint"] = TaskError("SageMaker.AmazonSageMakerException", "no")
    assert run(PATH, _given(), cloud).status == "FAILED"
    assert (cloud.models, cloud.configs) == ({EARLIER}, {EARLIER})


def test_an_older_run_changes_nothing():
    cloud = SageMaker(status="InService", deployed=9)
    ended = run(PATH, _given(generation=7), cloud)
    assert (ended.status, ended.output["deployed"]) == ("SUCCEEDED", False)
    assert _actions(ended) == ["updateItem"]


def test_an_update_that_is_given_up_does_not_touch_the_alarms_of_the_model_that_serves():
    """They carry the limits of the model; one that never serves must not set them."""
    overtaken, rejected = SageMaker(status="InService"), SageMaker(status="InService")
    overtaken.on_look = lambda: setattr(overtaken, "deployed", 8)
    rejected.fails["updateEndpoint"] = TaskError("SageMaker.AmazonSageMakerException", "no")
    for cloud in (overtaken, rejected):
        assert "putMetricAlarm" not in _actions(run(PATH, _given(), cloud))


def test_an_update_that_cannot_be_watched_is_taken_back():
    cloud = SageMaker(status="InService")
    cloud.fails["putMetricAlarm"] = TaskError("CloudWatch.LimitExceededException", "no")
    ended = run(PATH, _given(), cloud)
    assert (ended.status, ended.error) == ("FAILED", "CloudWatch.LimitExceededException")
    assert (cloud.status, cloud.config, cloud.deployed) == ("InService", "older", 3)
    assert (cloud.models, cloud.configs) == (set(), set())


def test_a_run_overtaken_while_it_waited_takes_its_things_back():
    """Generation 8 claims while 7 waits for an update of 6 to end."""
    cloud = SageMaker(status="Updating", looks=3)
    cloud.left = 3
    cloud.on_look = lambda: setattr(cloud, "deployed", 8)
    ended = run(PATH, _given(generation=7), cloud)
    assert (ended.status, ended.output["deployed"]) == ("SUCCEEDED", False)
    assert not {"updateEndpoint", "createEndpoint", "deleteEndpoint"} & set(_actions(ended))
    assert (cloud.config, cloud.deployed, cloud.models, cloud.configs) == ("older", 8, set(), set())


def test_a_run_overtaken_after_its_endpoint_was_made_leaves_the_newer_model_alone():
    cloud = SageMaker()

    def overtake() -> None:
        if cloud.status == "Creating":
            cloud.status, cloud.config, cloud.deployed = "InService", "newer", 8

    cloud.on_look = overtake
    ended = run(PATH, _given(generation=7), cloud)
    assert (ended.status, ended.output["deployed"]) == ("SUCCEEDED", False)
    assert (cloud.status, cloud.config, cloud.deployed) == ("InService", "newer", 8)
    assert "deleteEndpoint" not in _actions(ended)


def test_two_first_runs_at_once_share_one_endpoint():
    """Both saw none; the other one was created between our look and our creation."""
    cloud = SageMaker()
    described = cloud.describeEndpoint

    def describe(arguments: Any) -> Any:
        try:
            return described(arguments)
        except TaskError:
            cloud.status, cloud.config, cloud.left = "Creating", "other", 2
            raise

    cloud.describeEndpoint = describe  # type: ignore[method-assign]
    ended = run(PATH, _given(), cloud)
    assert ended.status == "SUCCEEDED"
    assert (cloud.status, cloud.config) == ("InService", NAME)


def test_an_endpoint_that_never_comes_up_is_removed_with_all_that_belongs_to_it():
    cloud = SageMaker()
    cloud.ends = "Failed"
    ended = run(PATH, _given(), cloud)
    assert (ended.status, ended.error) == ("FAILED", "EndpointNotInService")
    assert cloud.status == "Deleting"
    assert (cloud.models, cloud.configs, cloud.alarms, cloud.deployed) == (set(), set(), set(), 3)


def test_an_update_that_is_rolled_back_keeps_the_endpoint_and_fails():
    cloud = SageMaker(status="InService")
    described = cloud.describeEndpoint

    def describe(arguments: Any) -> Any:
        found = described(arguments)
        if cloud.config == NAME and cloud.status == "InService":
            cloud.config = "older"
        return {**found, "EndpointConfigName": cloud.config, "FailureReason": "ping failed"}

    cloud.describeEndpoint = describe  # type: ignore[method-assign]
    ended = run(PATH, _given(), cloud)
    assert (ended.status, ended.error) == ("FAILED", "EndpointNotUpdated")
    assert "ping failed" in ended.cause
    assert (cloud.status, cloud.models, cloud.configs, cloud.deployed) == ("InService", set(), set(), 3)


def test_a_failed_endpoint_of_earlier_is_replaced():
    cloud = SageMaker(status="Failed")
    ended = run(PATH, _given(), cloud)
    assert ended.status == "SUCCEEDED"
    assert (cloud.status, cloud.config) == ("InService", NAME)


@pytest.mark.parametrize(
    ("action", "error"),
    [
        ("createModel", "SageMaker.AmazonSageMakerException"),
        ("createEndpointConfig", "SageMaker.AmazonSageMakerException"),
        ("createLogGroup", "CloudWatchLogs.LimitExceededException"),
        ("createEndpoint", "SageMaker.ResourceLimitExceededException"),
    ],
)
def test_what_cannot_be_created_leaves_nothing_behind(action, error):
    cloud = SageMaker()
    cloud.fails[action] = TaskError(error, "no")
    ended = run(PATH, _given(), cloud)
    assert (ended.status, ended.error, ended.cause) == ("FAILED", error, "no")
    assert (cloud.status, cloud.models, cloud.configs, cloud.alarms, cloud.deployed) == (None, set(), set(), set(), 3)


def test_a_first_endpoint_that_cannot_be_watched_is_removed():
    cloud = SageMaker()
    cloud.fails["putMetricAlarm"] = TaskError("CloudWatch.LimitExceededException", "no")
    ended = run(PATH, _given(), cloud)
    assert (ended.status, ended.error, ended.cause) == ("FAILED", "CloudWatch.LimitExceededException", "no")
    assert (cloud.status, cloud.models, cloud.configs, cloud.deployed) == ("Deleting", set(), set(), 3)


def test_the_first_error_is_the_one_that_is_told():
    cloud = SageMaker()
    for action in ("createEndpoint", "deleteAlarms", "deleteEndpointConfig", "deleteModel", "updateItem"):
        cloud.fails[action] = TaskError("SageMaker.SageMakerException", action)
    claim = cloud.fails.pop("updateItem")
    update = cloud.updateItem

    def claim_only(arguments: Any) -> None:
        if arguments["UpdateExpression"].endswith("= previous_generation"):
            raise claim
        update(arguments)

    cloud.updateItem = claim_only  # type: ignore[method-assign]
    ended = run(PATH, _given(), cloud)
    assert (ended.status, ended.cause) == ("FAILED", "createEndpoint")


def test_an_endpoint_that_stays_busy_is_waited_for_but_not_for_ever():
    cloud = SageMaker(status="Updating")
    cloud.left = 10_000
    ended = run(PATH, _given(), cloud)
    assert (ended.status, ended.error) == ("FAILED", "EndpointBusy")
    assert (cloud.models, cloud.deployed) == (set(), 3)


def test_nothing_is_deleted_under_an_endpoint_that_may_still_come_up():
    cloud = SageMaker(looks=10_000)
    ended = run(PATH, _given(), cloud)
    assert (ended.status, ended.error) == ("FAILED", "EndpointNotInService")
    assert (cloud.models, cloud.configs) == ({NAME}, {NAME})


# ---- Stopped from outside: no Catch runs, an event starts the undoing ----


class Stopped(BaseException):
    """The execution is gone in the middle of a call."""


def _stop_in(action: str, cloud: SageMaker, *, before: bool = False, nth: int = 1) -> None:
    """Run a deployment and stop it in its nth call of `action`, before or after the call took effect."""
    calls = 0

    def answer(resource: str, arguments: Any) -> Any:
        nonlocal calls
        mine = resource.endswith(f":{action}")
        calls += mine
        if mine and before and calls == nth:
            raise Stopped
        try:
            return cloud(resource, arguments)
        finally:
            if mine and calls == nth:
                raise Stopped

    with pytest.raises(Stopped):
        run(PATH, _given(), answer)


def _stopped_event(given: dict[str, Any]) -> dict[str, Any]:
    event = json.loads((project.ROOT / "events" / "execution_aborted.json").read_text(encoding="utf-8"))
    event["detail"]["input"] = json.dumps(given)
    return event


@pytest.mark.parametrize("before", [True, False], ids=["before it took effect", "after it took effect"])
@pytest.mark.parametrize(
    "action", ["updateItem", "createModel", "createEndpointConfig", "describeEndpoint", "createEndpoint"]
)
def test_a_first_deployment_that_is_stopped_leaves_nothing_behind(action, before):
    cloud = SageMaker(looks=3)
    _stop_in(action, cloud, before=before)
    ended = run(PATH, _stopped_event(_given()), cloud)
    assert ended.status == "SUCCEEDED"
    assert cloud.status in (None, "Deleting")
    assert (cloud.models, cloud.configs, cloud.alarms) == (set(), set(), set())
    assert cloud.deployed == 3


def test_a_first_deployment_that_is_stopped_at_its_very_end_leaves_nothing_behind():
    cloud = SageMaker()
    run(PATH, _given(), cloud)
    assert cloud.alarms == ALARMS
    ended = run(PATH, _stopped_event(_given()), cloud)
    assert ended.output == {"deployed": False, "reason": "the deployment was stopped, and taken back"}
    assert (cloud.status, cloud.models, cloud.configs, cloud.alarms) == ("Deleting", set(), set(), set())


@pytest.mark.parametrize("action", ["createModel", "createEndpointConfig", "describeEndpoint", "updateEndpoint"])
def test_an_update_that_is_stopped_leaves_the_earlier_model_serving(action):
    cloud = SageMaker(status="InService")
    _stop_in(action, cloud)
    ended = run(PATH, _stopped_event(_given()), cloud)
    assert ended.status == "SUCCEEDED"
    assert (cloud.status, cloud.config, cloud.deployed) == ("InService", "older", 3)
    assert (cloud.models, cloud.configs) == (set(), set())
    assert "deleteEndpoint" not in _actions(ended)


def test_the_undoing_waits_until_the_endpoint_may_be_deleted():
    cloud = SageMaker(looks=6)
    _stop_in("createEndpoint", cloud)
    ended = run(PATH, _stopped_event(_given()), cloud)
    assert _actions(ended).count("describeEndpoint") > 6
    assert _actions(ended).count("deleteEndpoint") == 1
    assert cloud.status == "Deleting"


def test_a_stopped_undoing_is_undone_too():
    cloud = SageMaker()
    _stop_in("createEndpoint", cloud)
    ended = run(PATH, _stopped_event(_stopped_event(_given())), cloud)
    assert ended.status == "SUCCEEDED"
    assert (cloud.status, cloud.models, cloud.configs, cloud.deployed) == ("Deleting", set(), set(), 3)


def test_what_a_newer_run_has_taken_over_is_left_alone():
    cloud = SageMaker()
    _stop_in("createEndpoint", cloud)
    cloud.status, cloud.config, cloud.deployed, cloud.claimed_by = "InService", "newer", 8, "newer"
    cloud.alarms = set(ALARMS)
    ended = run(PATH, _stopped_event(_given()), cloud)
    assert ended.status == "SUCCEEDED"
    assert (cloud.status, cloud.config, cloud.deployed, cloud.alarms) == ("InService", "newer", 8, ALARMS)
    assert (cloud.models, cloud.configs) == (set(), set())


def test_what_a_newer_run_still_serves_from_us_is_left_to_it():
    """It has the claim and is about to update the endpoint, which serves our model until then."""
    cloud = SageMaker()
    _stop_in("createEndpoint", cloud)
    cloud.status, cloud.deployed, cloud.claimed_by = "InService", 8, "newer"
    ended = run(PATH, _stopped_event(_given()), cloud)
    assert (ended.status, cloud.status, cloud.deployed) == ("SUCCEEDED", "InService", 8)
    assert (cloud.models, cloud.configs) == ({NAME}, {NAME})


def test_an_earlier_model_that_does_not_come_back_leaves_the_endpoint_serving_ours():
    cloud = SageMaker(status="InService")
    _stop_in("updateEndpoint", cloud)
    cloud.fails["updateEndpoint"] = TaskError("SageMaker.AmazonSageMakerException", "Could not find configuration")
    ended = run(PATH, _stopped_event(_given()), cloud)
    assert (ended.status, ended.error) == ("FAILED", "DeploymentStopped")
    assert (cloud.status, cloud.config, cloud.deployed) == ("InService", NAME, 7)
    assert (cloud.models, cloud.configs) == ({NAME}, {NAME})
