"""The paths of a deployment: every kind, newer runs win, what fails is undone, nothing that is reached is deleted."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ebb.addresses import ASLEEP, WAKING, Address
from ebb.requests import recommendations
from infrastructure import project
from infrastructure.deployments import ADDRESS, CONDITION_FAILED, EARLIER, Cloud, Hosted
from infrastructure.interpreter import TaskError, run
from worked_run import NOW, moment

PATH = project.ROOT / "statemachines" / "deploy_model.asl.yaml"
KINDS = ["serverless", "async", "realtime", "shared", "batch"]
MOVES = [(before, after) for before in KINDS for after in KINDS if before != after]
ALARMS = {
    "serverless": {"errors", "latency"},
    "async": {"errors", "idle"},
    "realtime": {"errors", "idle"},
    "shared": {"errors", "idle"},
    "batch": set(),
}
ENDPOINTS = {
    "serverless": {ADDRESS},
    "async": {"ebb-wine--async"},
    "realtime": {"ebb-wine--realtime"},
    "shared": {"ebb--shared-c5-large"},
    "batch": set(),
}
BUSY_ERROR = TaskError("SageMaker.AmazonSageMakerException", "no")


def _deploy(cloud: Cloud, **asked: Any) -> Any:
    return run(PATH, {"project": "wine"} | asked, cloud)


def _actions(execution: Any) -> list[str]:
    return [resource.rsplit(":", 1)[-1] for resource, _ in execution.asked]


def _serving(kind: str = "serverless", **others: Any) -> Cloud:
    """A cloud in which an earlier run serves; what its deployment made is left as it made it."""
    cloud = Cloud(kind=kind, generation=3, run_id=EARLIER.removesuffix("-a2"), **others)
    assert _deploy(cloud).status == "SUCCEEDED"
    cloud.generation, cloud.run_id = 7, "wine-20261123010203-0a1b2c3d4e"
    cloud.answering.clear()
    return cloud


def _state(cloud: Cloud) -> dict[str, Any]:
    """Everything that a deployment which failed must leave as it was."""
    address = cloud.address.model_dump(exclude={"generation", "changed_at"}) if cloud.address else None
    return {
        "address": address,
        "endpoints": {name: (each.config, each.status) for name, each in cloud.endpoints.items()},
        "components": {k: v["status"] for k, v in cloud.components.items() if v["status"] != "Deleting"},
        "configs": dict(cloud.configs),
        "models": set(cloud.models),
        "targets": set(cloud.targets),
        "alarms": {name: (each["MetricName"], each["Dimensions"]) for name, each in cloud.alarms.items()},
        "generation": cloud.project["deployed_generation"],
        "deploying": cloud.project.get("deploying"),
    }


# ---- Each kind, and each move ----


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_model_comes_to_its_address_as_any_kind(kind):
    cloud = Cloud(kind=kind, looks=8)
    ended = _deploy(cloud)
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert (ended.output["deployed"], ended.output["kind"], ended.output["address"]) == (True, kind, ADDRESS)
    assert cloud.address
    assert (cloud.address.kind, cloud.address.state) == (kind, "awake")
    assert set(cloud.endpoints) == ENDPOINTS[kind]
    assert cloud.watched() == ALARMS[kind]
    assert (cloud.project["deployed_generation"], "deploying" in cloud.project) == (7, False)


@pytest.mark.parametrize(("before", "after"), MOVES, ids=lambda kind: kind)
def test_a_model_moves_between_kinds_without_a_moment_in_which_nobody_answers(before, after):
    cloud = _serving(before)
    ended = _deploy(cloud, kind=after)
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert all(cloud.answering)
    assert cloud.address
    assert cloud.address.kind == after
    assert (set(cloud.endpoints), cloud.watched()) == (ENDPOINTS[after], ALARMS[after])
    assert len(cloud.models) == 1
    assert len(cloud.configs) == len(cloud.endpoints)
    assert len(cloud.targets) == (after in ("async", "realtime", "shared"))
    assert EARLIER not in cloud.models


@pytest.mark.parametrize("kind", KINDS)
def test_a_newer_model_of_the_same_kind_takes_over_and_the_earlier_one_goes(kind):
    cloud = _serving(kind)
    ended = _deploy(cloud)
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert all(cloud.answering)
    assert {name.rsplit("-a", 1)[0] for name in cloud.models} == {"wine-20261123010203-0a1b2c3d4e"}
    assert (set(cloud.endpoints), len(cloud.configs)) == (ENDPOINTS[kind], len(ENDPOINTS[kind]))
    alive = [name for name, each in cloud.components.items() if each["status"] == "InService"]
    assert alive == ([cloud.address.component] if cloud.address and cloud.address.component else [])
    assert "deleteEndpoint" not in _actions(ended)


@pytest.mark.parametrize("kind", ["realtime", "shared"])
def test_high_availability_keeps_two_copies_that_never_sleep(kind):
    cloud = Cloud(kind=kind, serve={"kind": kind, "availability": "high"})
    ended = _deploy(cloud)
    (component,) = ended.arguments("createInferenceComponent")
    assert component["RuntimeConfig"] == {"CopyCount": 2}
    assert component["Specification"]["SchedulingConfig"]["PlacementStrategy"] == "SPREAD"
    assert (cloud.watched(), cloud.targets) == ({"errors"}, set())
    assert cloud.address
    assert not cloud.address.policy.sleeps


def test_a_model_that_only_moves_is_not_made_again():
    cloud = _serving("serverless")
    cloud.generation, cloud.run_id = 3, EARLIER.removesuffix("-a2")
    ended = _deploy(cloud, kind="async")
    assert ended.status == "SUCCEEDED"
    assert "createModel" not in _actions(ended)
    assert len(cloud.models) == 1


@pytest.mark.parametrize("name", ["somebody-elses", "wine-red-20261122010203-9f8e7d-a2", "wine-a1"])
def test_a_configuration_that_no_run_of_the_project_made_is_not_deleted(name):
    cloud = Cloud()
    cloud.endpoints[ADDRESS], cloud.configs[name] = Hosted(name), name
    cloud.models = {name}
    assert _deploy(cloud).status == "SUCCEEDED"
    assert name in cloud.configs
    assert name in cloud.models


def test_others_stay_on_a_shared_endpoint():
    cloud = _serving("shared")
    cloud.components["ebb-beer--g1"] = {"endpoint": "ebb--shared-c5-large", "status": "InService", "left": 0}
    ended = _deploy(cloud, kind="serverless")
    assert ended.status == "SUCCEEDED"
    assert set(cloud.endpoints) == {ADDRESS, "ebb--shared-c5-large"}
    assert {name for name, each in cloud.components.items() if each["status"] == "InService"} == {"ebb-beer--g1"}


def test_two_projects_that_both_saw_no_shared_endpoint_live_on_one():
    cloud = Cloud(kind="shared")
    cloud.on["createEndpoint"] = lambda: cloud.endpoints.setdefault("ebb--shared-c5-large", Hosted("theirs"))
    ended = _deploy(cloud)
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert cloud.endpoints["ebb--shared-c5-large"].config == "theirs"


def test_the_log_of_an_endpoint_is_encrypted_and_forgotten():
    """SageMaker would make the group itself, without a key and for ever."""
    cloud = Cloud()
    ended = _deploy(cloud)
    tags = {"ebb:project": "wine", "ebb:stack": "ebb"}
    log = f"/aws/sagemaker/Endpoints/{ADDRESS}"
    assert cloud.log_groups == {log: {"key": "${DataKeyArn}", "tags": tags, "days": 30}}
    actions = _actions(ended)
    assert actions.index("putRetentionPolicy") < actions.index("createEndpoint")


def test_the_log_of_a_component_is_encrypted_and_forgotten_too():
    cloud = Cloud(kind="realtime")
    _deploy(cloud)
    assert cloud.address
    log = f"/aws/sagemaker/InferenceComponents/{cloud.address.component}"
    assert cloud.log_groups[log] == cloud.log_groups[f"/aws/sagemaker/Endpoints/{cloud.address.endpoint_name}"]


def test_a_failed_endpoint_of_earlier_is_replaced():
    cloud = Cloud()
    cloud.endpoints[ADDRESS] = Hosted("older", "Failed")
    assert _deploy(cloud).status == "SUCCEEDED"
    assert cloud.endpoints[ADDRESS].status == "InService"


def test_an_async_endpoint_is_deleted_only_once_its_queue_is_empty():
    cloud = _serving("async")
    cloud.backlog = 4
    ended = _deploy(cloud, kind="serverless")
    actions = _actions(ended)
    assert actions.count("getMetricStatistics") == 4
    assert actions.index("deleteEndpoint") > actions.index("getMetricStatistics")


def test_an_async_endpoint_whose_queue_cannot_be_read_is_not_deleted():
    cloud = _serving("async")
    cloud.fails["getMetricStatistics"] = TaskError("CloudWatch.InternalServiceFault", "no")
    assert _deploy(cloud, kind="serverless").status == "SUCCEEDED"
    assert "ebb-wine--async" in cloud.endpoints


# ---- Whose turn it is ----


def test_an_older_run_changes_nothing():
    cloud = _serving()
    cloud.project["deployed_generation"] = 9
    ended = _deploy(cloud)
    assert (ended.status, ended.output["deployed"]) == ("SUCCEEDED", False)
    assert _actions(ended) == ["invoke"]


def test_of_two_deployments_the_second_waits_for_the_first():
    cloud = _serving()
    cloud.project |= {"deploying": "other", "deploying_since": NOW}
    planned, looks = cloud.plan, []

    def plan(asked: Any) -> Any:
        looks.append(asked)
        if len(looks) == 3:
            cloud.project.pop("deploying")
        return planned(asked)

    cloud.plan = plan  # type: ignore[method-assign]
    assert _deploy(cloud).status == "SUCCEEDED"
    assert len(looks) == 3


def test_a_deployment_that_died_with_its_claim_does_not_block_for_ever():
    cloud = _serving()
    cloud.project |= {"deploying": "dead", "deploying_since": "2026-11-23T01:00:00Z"}
    assert _deploy(cloud).status == "SUCCEEDED"


def test_what_was_planned_upon_has_changed_so_it_is_planned_again():
    cloud = _serving()
    planned, moved = cloud.plan, []

    def plan(asked: Any) -> Any:
        made = planned(asked)
        if not moved:  # another deployment begins and ends between the plan and the claim
            cloud.project["deployments"] += 1
            moved.append(True)
        return made

    cloud.plan = plan  # type: ignore[method-assign]
    ended = _deploy(cloud)
    assert ended.status == "SUCCEEDED"
    assert _actions(ended)[:4] == ["invoke", "updateItem", "invoke", "updateItem"]


def test_an_endpoint_that_wakes_is_waited_for_and_one_that_sleeps_is_brought_up_awake():
    cloud = _serving("async")
    assert cloud.address
    cloud.address = cloud.address.model_copy(update={"state": WAKING, "changed_at": moment(NOW)})
    planned, looks = cloud.plan, []

    def plan(asked: Any) -> Any:
        looks.append(asked)
        if len(looks) == 3 and cloud.address:
            cloud.address = cloud.address.model_copy(update={"state": ASLEEP})
        return planned(asked)

    cloud.plan = plan  # type: ignore[method-assign]
    assert _deploy(cloud).status == "SUCCEEDED"
    assert (len(looks), cloud.address.state) == (3, "awake")


def test_an_endpoint_that_wakes_for_more_than_an_hour_is_not_waited_for():
    cloud = _serving("async")
    assert cloud.address
    since = moment(NOW) - timedelta(minutes=61)
    cloud.address = cloud.address.model_copy(update={"state": WAKING, "changed_at": since})
    assert _deploy(cloud).status == "SUCCEEDED"


def test_a_turn_that_never_comes_is_not_waited_for_for_ever():
    cloud = _serving()
    cloud.project |= {"deploying": "other", "deploying_since": NOW}
    ended = _deploy(cloud)
    assert (ended.status, ended.error) == ("FAILED", "EndpointBusy")
    assert cloud.project["deploying"] == "other"


@pytest.mark.parametrize("action", ["createEndpointConfig", "putMetricAlarm"])
def test_a_run_whose_claim_a_newer_one_has_taken_changes_nothing_more(action):
    cloud = _serving()
    cloud.on[action] = lambda: cloud.project.update(deploying="newer", deployed_generation=8)
    served = cloud.address
    ended = _deploy(cloud, kind="async")
    assert (ended.status, ended.output["deployed"]) == ("SUCCEEDED", False)
    assert cloud.address == served
    assert (cloud.project["deploying"], cloud.project["deployed_generation"]) == ("newer", 8)
    assert cloud.endpoints[ADDRESS].status == "InService"


# ---- Rollback ----


@pytest.mark.parametrize("before", KINDS)
@pytest.mark.parametrize("after", ["serverless", "realtime", "shared"])
def test_a_model_that_sets_off_an_alarm_gives_way_to_the_earlier_one(before, after):
    cloud = _serving(before)
    left = _state(cloud)
    cloud.serve = {"watch": "5m"}
    told: list[bool] = []
    cloud.on["describeAlarms"] = lambda: (told.append(True), len(told) > 1 and cloud.ringing.append("ebb-wine-errors"))
    ended = _deploy(cloud, kind=after)
    assert (ended.status, ended.error) == ("FAILED", "RolledBack"), ended.cause
    assert "ebb-wine-errors" in str(ended.cause)
    assert _state(cloud) == left
    assert all(cloud.answering)


def test_a_first_model_that_sets_off_an_alarm_leaves_no_address():
    cloud = Cloud(serve={"watch": "5m"})
    told: list[bool] = []
    cloud.on["describeAlarms"] = lambda: (told.append(True), len(told) > 1 and cloud.ringing.append("ebb-wine-errors"))
    assert _deploy(cloud).error == "RolledBack"
    assert (cloud.address, cloud.endpoints, cloud.configs, cloud.models, cloud.alarms) == (None, {}, {}, set(), {})


def test_an_async_endpoint_is_watched_by_sagemaker_itself_while_it_is_updated():
    cloud = _serving("async")
    cloud.serve = {"watch": "5m"}
    ended = _deploy(cloud)
    (update,) = ended.arguments("updateEndpoint")
    assert update["DeploymentConfig"]["AutoRollbackConfiguration"] == {"Alarms": [{"AlarmName": "ebb-wine-errors"}]}
    assert update["DeploymentConfig"]["BlueGreenUpdatePolicy"]["TerminationWaitInSeconds"] == 300
    assert "describeAlarms" not in _actions(ended)


def test_an_async_model_whose_alarm_rings_can_be_repaired():
    """SageMaker would roll back at once, so Ebb watches itself."""
    cloud = _serving("async")
    cloud.serve, cloud.ringing = {"watch": "1s"}, ["ebb-wine-errors"]
    ended = _deploy(cloud)
    (update,) = ended.arguments("updateEndpoint")
    assert "AutoRollbackConfiguration" not in update["DeploymentConfig"]
    assert (ended.status, "describeAlarms" in _actions(ended)) == ("SUCCEEDED", True)


@pytest.mark.parametrize("kind", ["serverless", "async"])
def test_an_update_that_sagemaker_rolls_back_keeps_the_earlier_model(kind):
    cloud = _serving(kind)
    left = _state(cloud)
    (name,) = cloud.endpoints
    earlier = cloud.endpoints[name].config
    described = cloud.describeEndpoint

    def describe(arguments: Any) -> Any:
        found = described(arguments)
        if found["EndpointStatus"] == "InService" and found["EndpointConfigName"] != earlier:
            cloud.endpoints[name] = Hosted(earlier)
            return {**found, "EndpointConfigName": earlier, "FailureReason": "alarm ebb-wine-errors"}
        return found

    cloud.describeEndpoint = describe  # type: ignore[method-assign]
    ended = _deploy(cloud)
    assert (ended.status, ended.error) == ("FAILED", "EndpointNotUpdated")
    assert "alarm ebb-wine-errors" in str(ended.cause)
    assert _state(cloud) == left


def test_an_alarm_that_rang_for_the_earlier_model_does_not_take_its_repair_back():
    cloud = _serving()
    cloud.ringing = ["ebb-wine-errors"]
    cloud.serve = {"watch": "1s"}
    assert _deploy(cloud).status == "SUCCEEDED"


@pytest.mark.parametrize(
    ("calls", "spec", "watch_s", "drain_s"),
    [
        pytest.param(0, {}, 0, 0, id="nobody calls: nobody to watch for"),
        pytest.param(3, {}, 300, 0, id="with calls it is watched for five minutes, in which the old one answers"),
        pytest.param(3, {"watch": "20s"}, 20, 40, id="as long as the spec asks, and the old one answers for a minute"),
        pytest.param(0, {"watch": "1m"}, 60, 0, id="also without calls"),
    ],
)
def test_how_long_a_deployment_is_watched(calls, spec, watch_s, drain_s):
    cloud = _serving("serverless")
    cloud.serve, cloud.calls_last_hour = spec, calls
    plan = cloud.plan({"project": "wine", "execution": "e", "kind": "realtime"})
    assert (plan["watch_s"], plan["drain_s"]) == (watch_s, drain_s)


def _asleep_meanwhile(cloud: Cloud, action: str) -> None:
    """Let what serves fall asleep while the new one is brought up; its snapshot is the ledger's only one."""
    done: list[bool] = []

    def fall_asleep() -> None:
        if not done:
            done.append(True)
            cloud.change_address("falling-asleep", "asleep", snapshot={"sha256": "kept"})
            cloud.alarms["ebb-wine-wake"] = {"AlarmName": "ebb-wine-wake"}
            cloud.alarms.pop("ebb-wine-idle")

    cloud.on[action] = fall_asleep


def test_an_endpoint_that_fell_asleep_while_another_was_brought_up_is_put_back_asleep():
    cloud = _serving("async")
    cloud.serve = {"watch": "5m"}
    told: list[bool] = []
    cloud.on["describeAlarms"] = lambda: (told.append(True), len(told) > 1 and cloud.ringing.append("ebb-wine-errors"))
    _asleep_meanwhile(cloud, "registerScalableTarget")
    ended = _deploy(cloud, kind="realtime")
    assert (ended.status, ended.error) == ("FAILED", "RolledBack"), ended.cause
    assert cloud.address
    assert (cloud.address.state, cloud.address.snapshot) == ("asleep", {"sha256": "kept"})
    assert "ebb-wine-wake" in cloud.alarms


def test_a_deployment_that_is_stopped_puts_back_what_fell_asleep_meanwhile():
    """The undoing knows no more than the claim."""
    cloud = _serving("async")
    cloud.serve = {"watch": "5m"}
    _asleep_meanwhile(cloud, "registerScalableTarget")
    event = _stop_in(cloud, "describeAlarms", before=True, kind="realtime")
    assert run(PATH, event, cloud).output["deployed"] is False
    assert cloud.address
    assert (cloud.address.kind, cloud.address.state, cloud.address.snapshot) == ("async", "asleep", {"sha256": "kept"})


@pytest.mark.parametrize("kind", ["async", "realtime"])
def test_a_model_takes_the_place_of_what_fell_asleep_meanwhile_with_the_alarms_of_what_is_awake(kind):
    cloud = _serving("async")
    _asleep_meanwhile(cloud, "putScalingPolicy" if kind == "realtime" else "updateEndpoint")
    ended = _deploy(cloud, kind=kind)
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert cloud.address
    assert (cloud.address.kind, cloud.address.state) == (kind, "awake")
    assert cloud.watched() == {"errors", "idle"}


def test_what_falls_asleep_at_the_switch_is_waited_for():
    cloud = _serving("async")
    looks: list[str] = []
    planned = cloud.plan

    def plan(asked: Any) -> Any:
        found = planned(asked)
        looks.append(found["action"])
        if len(looks) == 3:
            cloud.change_address("asleep")
        return found

    cloud.plan = plan  # type: ignore[method-assign]
    cloud.on["putScalingPolicy"] = lambda: len(looks) == 1 and cloud.change_address("falling-asleep")
    ended = _deploy(cloud, kind="realtime")
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert looks == ["deploy", "wait", "wait", "deploy"]


@pytest.mark.parametrize("action", ["registerScalableTarget", "describeAlarms"])
def test_an_update_of_what_sleeps_is_undone_to_what_sleeps_with_the_alarm_that_wakes_it(action):
    """A wake alarm on what is called awake is what no later wake gets over; the sweep wakes what has capacity."""
    cloud = _serving("async")
    cloud.alarms["ebb-wine-wake"] = cloud.alarms.pop("ebb-wine-idle") | {"AlarmName": "ebb-wine-wake"}
    cloud.change_address("falling-asleep", "asleep", snapshot={"sha256": "kept"})
    cloud.serve, cloud.ringing = {"watch": "5m"}, ["ebb-wine-errors"]
    cloud.fails[action] = FAILING["registerScalableTarget"]
    ended = _deploy(cloud)
    assert (ended.status, action in _actions(ended)) == ("FAILED", True)
    assert cloud.address
    assert (cloud.address.state, cloud.address.snapshot) == ("asleep", {"sha256": "kept"})
    assert cloud.watched() == {"errors", "wake"}
    restored = ended.arguments("putMetricAlarm")
    assert "ebb-wine-wake" not in {each["AlarmName"] for each in restored}


# ---- What is noted of the calls ----


def test_a_log_that_holds_requests_is_as_old_as_the_spec_allows_and_stays_so_when_none_are_noted_any_more():
    cloud = Cloud()
    cloud.retrain = {"capture": {"keep": 7 * 86400}, "drift": {}}
    assert _deploy(cloud).status == "SUCCEEDED"
    log = "/aws/sagemaker/Endpoints/ebb-wine"
    assert (cloud.log_groups[log]["days"], cloud.log_groups[log]["key"]) == (7, "${DataKeyArn}")
    assert cloud.watched() == {"errors", "latency", "drift"}
    cloud.retrain = {}
    cloud.run_id, cloud.generation = "wine-20261124093000-3f9a1c07be", 9
    assert _deploy(cloud).status == "SUCCEEDED"
    assert cloud.log_groups[log]["days"] == 7  # the stack would keep it for 30
    assert cloud.watched() == {"errors", "latency"}


# ---- What fails is undone ----

FAILING = {
    "createModel": BUSY_ERROR,
    "createEndpointConfig": BUSY_ERROR,
    "createLogGroup": TaskError("CloudWatchLogs.LimitExceededException", "no"),
    "createEndpoint": TaskError("SageMaker.ResourceLimitExceededException", "no"),
    "createInferenceComponent": BUSY_ERROR,
    "registerScalableTarget": TaskError("ApplicationAutoScaling.LimitExceededException", "no"),
    "putScalingPolicy": TaskError("ApplicationAutoScaling.LimitExceededException", "no"),
    "putMetricAlarm": TaskError("CloudWatch.LimitExceededException", "no"),
}


@pytest.mark.parametrize(
    ("kind", "action"),
    [("realtime", action) for action in FAILING]
    + [("async", action) for action in FAILING if action != "createInferenceComponent"],
)
def test_what_cannot_be_created_leaves_the_earlier_model_serving(action, kind):
    cloud = _serving("serverless")
    left = _state(cloud)
    cloud.fails[action] = FAILING[action]
    ended = _deploy(cloud, kind=kind)
    assert (ended.status, ended.error, ended.cause) == ("FAILED", FAILING[action].error, "no")
    assert _state(cloud) == left
    assert all(cloud.answering)


@pytest.mark.parametrize("action", ["createModel", "createEndpointConfig", "updateEndpoint"])
def test_an_update_that_fails_keeps_the_model_that_serves(action):
    cloud = _serving("serverless")
    left = _state(cloud)
    cloud.fails[action] = BUSY_ERROR
    assert _deploy(cloud).status == "FAILED"
    assert _state(cloud) == left


def test_a_component_that_never_comes_up_is_taken_back():
    cloud = _serving("realtime")
    left = _state(cloud)
    cloud.copies_come_up = False
    ended = _deploy(cloud)
    assert (ended.status, ended.error) == ("FAILED", "ComponentNotInService")
    assert "no capacity" in str(ended.cause)
    assert _state(cloud) == left


def test_an_endpoint_that_never_comes_up_is_removed_with_all_that_belongs_to_it():
    cloud = Cloud(ends="Failed")
    ended = _deploy(cloud)
    assert (ended.status, ended.error) == ("FAILED", "EndpointNotInService")
    assert (cloud.endpoints, cloud.models, cloud.configs, cloud.alarms) == ({}, set(), {}, {})
    assert cloud.project["deployed_generation"] == 3


def test_the_first_error_is_the_one_that_is_told():
    cloud = Cloud()
    for action in ("createEndpoint", "deleteAlarms", "deleteEndpointConfig", "deleteModel"):
        cloud.fails[action] = TaskError("SageMaker.SageMakerException", action)
    ended = _deploy(cloud)
    assert (ended.status, ended.cause) == ("FAILED", "createEndpoint")


@pytest.mark.parametrize("action", ["deleteEndpoint", "deleteEndpointConfig", "deleteModel", "deleteAlarms"])
def test_a_deployment_succeeds_even_if_what_was_superseded_cannot_be_deleted(action):
    cloud = _serving("serverless")
    cloud.fails[action] = TaskError("SageMaker.SageMakerException", "throttled")
    ended = _deploy(cloud, kind="async")
    assert (ended.status, ended.output["deployed"]) == ("SUCCEEDED", True)


@pytest.mark.parametrize("times", [1, 5, 1000])
def test_an_old_component_that_cannot_be_read_is_not_taken_for_gone(times):
    """Throttled once, it would have been left, with its instance, for ever."""
    cloud = _serving("realtime")
    (old,) = cloud.components
    throttled = iter([TaskError("SageMaker.SageMakerException", "Rate exceeded")] * times)

    def throttle() -> None:
        if problem := next(throttled, None):
            raise problem

    cloud.on["describeInferenceComponent"] = throttle
    ended = _deploy(cloud, kind="serverless")
    assert ended.status == "SUCCEEDED"
    assert cloud.components.get(old, {"status": "Deleting"})["status"] == "Deleting"
    assert ended.entered.count("Deployed") == 1
    assert len(ended.arguments("describeInferenceComponent")) == min(times + 1, 8)


def test_an_old_component_that_is_gone_is_not_waited_for():
    cloud = _serving("realtime")
    cloud.on["describeInferenceComponent"] = cloud.components.clear
    ended = _deploy(cloud, kind="serverless")
    assert ended.status == "SUCCEEDED"
    assert len(ended.arguments("describeInferenceComponent")) == 1
    assert not ended.arguments("deleteInferenceComponent")


def test_an_endpoint_that_stays_busy_is_waited_for_but_not_for_ever():
    cloud = _serving()
    cloud.endpoints[ADDRESS] = replace(cloud.endpoints[ADDRESS], status="Updating", left=10_000)
    ended = _deploy(cloud)
    assert (ended.status, ended.error) == ("FAILED", "EndpointBusy")
    assert cloud.configs.keys() == {cloud.endpoints[ADDRESS].config}


def test_nothing_is_deleted_under_an_endpoint_that_may_still_come_up():
    cloud = Cloud(looks=10_000)
    ended = _deploy(cloud)
    assert (ended.status, ended.error) == ("FAILED", "EndpointNotInService")
    assert (len(cloud.models), len(cloud.configs)) == (1, 1)
    assert "deploying" not in cloud.project


@pytest.mark.parametrize("times", [2, 10_000], ids=["for a moment", "for ever"])
def test_an_endpoint_that_cannot_be_read_is_not_taken_for_one_that_is_not_there(times):
    cloud = _serving("serverless")
    left, throttled = _state(cloud), []

    def throttle() -> None:
        if len(throttled) < times:
            throttled.append(True)
            raise TaskError("SageMaker.SageMakerException", "Rate exceeded")

    cloud.on["describeEndpoint"] = throttle
    ended = _deploy(cloud)
    assert "createEndpoint" not in _actions(ended)
    if times == 2:
        assert (ended.status, "updateEndpoint" in _actions(ended)) == ("SUCCEEDED", True)
    else:
        assert (ended.status, ended.error) == ("FAILED", "EndpointUnreadable")
        assert "Rate exceeded" in str(ended.cause)
        assert _state(cloud)["endpoints"] == left["endpoints"]
        assert "deploying" not in cloud.project


def test_nothing_is_deleted_under_an_endpoint_that_cannot_be_read():
    cloud = _serving("serverless")
    event = _stop_in(cloud, "updateEndpoint")
    cloud.fails["describeEndpoint"] = TaskError("SageMaker.SageMakerException", "Rate exceeded")
    ended = run(PATH, event, cloud)
    assert (ended.status, ended.error) == ("FAILED", "DeploymentStopped")
    assert cloud.endpoints[ADDRESS].config in cloud.configs
    assert "deploying" not in cloud.project


# ---- Stopped from outside: no Catch runs, an event starts the undoing ----


class Stopped(BaseException):
    """The execution is gone in the middle of a call."""


def _stop_in(cloud: Cloud, action: str, *, before: bool = False, nth: int = 1, **asked: Any) -> dict[str, Any]:
    """Run a deployment and stop it in its nth call of `action`; return the event that this causes."""
    calls = 0

    def answer(resource: str, arguments: Any) -> Any:
        nonlocal calls
        if calls >= nth:  # what runs in a Map is stopped with the rest
            raise Stopped
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
        run(PATH, {"project": "wine"} | asked, answer)
    return _stopped_event({"project": "wine"} | asked, cloud.execution)


def _stopped_event(given: dict[str, Any], name: str) -> dict[str, Any]:
    event = json.loads((project.ROOT / "events" / "execution_aborted.json").read_text(encoding="utf-8"))
    event["detail"] |= {"input": json.dumps(given), "name": name}
    return event


@pytest.mark.parametrize("before", [True, False], ids=["before it took effect", "after it took effect"])
@pytest.mark.parametrize(
    ("kind", "action"),
    [
        *((kind, action) for kind in ("serverless", "async", "realtime") for action in ("createModel", "updateItem")),
        *((kind, "createEndpoint") for kind in ("serverless", "async", "realtime", "shared")),
        ("realtime", "createInferenceComponent"),
        ("shared", "createInferenceComponent"),
        ("async", "registerScalableTarget"),
        ("realtime", "putMetricAlarm"),
    ],
)
def test_a_deployment_that_is_stopped_leaves_what_was_there(kind, action, before):
    for earlier in (None, "serverless" if kind != "serverless" else "realtime"):
        cloud = _serving(earlier, looks=3) if earlier else Cloud(looks=3)
        left = _state(cloud)
        event = _stop_in(cloud, action, before=before, kind=kind)
        ended = run(PATH, event, cloud)
        assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
        assert ended.output["deployed"] is False
        assert _state(cloud) == left
        assert all(cloud.answering)


@pytest.mark.parametrize("kind", ["serverless", "async"])
def test_an_update_that_is_stopped_leaves_the_earlier_model_serving(kind):
    cloud = _serving(kind)
    left = _state(cloud)
    event = _stop_in(cloud, "updateEndpoint")
    ended = run(PATH, event, cloud)
    assert ended.output == {"deployed": False, "reason": "the deployment was stopped, and taken back"}
    assert _state(cloud) == left
    assert "deleteEndpoint" not in _actions(ended)


def test_a_deployment_that_is_stopped_after_the_switch_is_switched_back():
    cloud = _serving("serverless")
    left = _state(cloud)
    event = _stop_in(cloud, "updateItem", nth=4, kind="realtime")
    assert cloud.address
    assert cloud.address.kind == "realtime"
    assert run(PATH, event, cloud).status == "SUCCEEDED"
    assert _state(cloud) == left


def test_what_is_stopped_while_it_deletes_the_earlier_one_is_completed():
    """There is nothing to go back to any more."""
    cloud = _serving("serverless")
    event = _stop_in(cloud, "deleteEndpoint", kind="realtime")
    ended = run(PATH, event, cloud)
    assert (ended.status, ended.output["deployed"]) == ("SUCCEEDED", True)
    assert cloud.address
    assert cloud.address.kind == "realtime"
    assert cloud.answers()
    assert set(cloud.endpoints) == {"ebb-wine--realtime"}
    assert len(cloud.configs) == len(cloud.models) == 1
    assert "deploying" not in cloud.project


def test_a_stopped_undoing_is_undone_too():
    cloud = Cloud()
    event = _stop_in(cloud, "createEndpoint")
    ended = run(PATH, _stopped_event(event, "the-undoing"), cloud)
    assert ended.status == "SUCCEEDED"
    assert (cloud.endpoints, cloud.models, cloud.configs) == ({}, set(), {})


def test_what_a_newer_run_has_taken_over_is_left_alone():
    cloud = Cloud()
    event = _stop_in(cloud, "createEndpoint")
    cloud.endpoints[ADDRESS] = Hosted("newer")
    cloud.project |= {"deploying": "newer", "deployed_generation": 8}
    ended = run(PATH, event, cloud)
    assert (ended.status, ended.output["deployed"]) == ("SUCCEEDED", False)
    assert cloud.endpoints == {ADDRESS: Hosted("newer")}


def test_a_deployment_that_had_ended_is_not_undone():
    cloud = Cloud()
    _deploy(cloud)
    left = _state(cloud)
    assert run(PATH, _stopped_event({"project": "wine"}, cloud.execution), cloud).output["deployed"] is False
    assert _state(cloud) == left


def test_an_earlier_model_that_does_not_come_back_leaves_the_endpoint_serving_ours():
    cloud = _serving()
    event = _stop_in(cloud, "updateEndpoint")
    cloud.fails["updateEndpoint"] = TaskError("SageMaker.AmazonSageMakerException", "Could not find configuration")
    ended = run(PATH, event, cloud)
    assert (ended.status, ended.error) == ("FAILED", "DeploymentStopped")
    assert cloud.endpoints[ADDRESS].status == "InService"
    assert cloud.endpoints[ADDRESS].config in cloud.configs
    assert "deploying" not in cloud.project


def test_an_address_that_cannot_be_put_back_keeps_what_it_names():
    cloud = _serving("serverless")
    cloud.serve = {"watch": "5m"}
    told: list[bool] = []
    cloud.on["describeAlarms"] = lambda: (told.append(True), len(told) > 1 and cloud.ringing.append("ebb-wine-errors"))
    write = cloud._write_address

    def refuse(arguments: Any, values: dict[str, Any]) -> None:
        if ":mine" in values:
            raise TaskError("DynamoDB.RequestLimitExceeded", "no")
        write(arguments, values)

    cloud._write_address = refuse  # type: ignore[method-assign]
    ended = _deploy(cloud, kind="realtime")
    assert (ended.status, ended.error) == ("FAILED", "RolledBack")
    assert isinstance(cloud.address, Address)
    assert cloud.answers()
    assert CONDITION_FAILED not in str(ended.cause)


# ---- Load tests: Inference Recommender, where the spec asks for it ----

PACKAGE = "arn:aws:sagemaker:us-east-1:000000000000:model-package/ebb-wine/7"
LOAD_TEST = "wine--lt-20261123010203-0a1b2c3d4e-a1"
TESTED = ["createInferenceRecommendationsJob", "describeInferenceRecommendationsJob", "stopInferenceRecommendationsJob"]


def _tested(**others: Any) -> Cloud:
    return Cloud(serve={"recommender": True, "kind": others.get("kind", "serverless")}, **others)


def _deploy_tested(cloud: Cloud) -> Any:
    return _deploy(cloud, package_arn=PACKAGE, load_test=LOAD_TEST)


def _memory(execution: Any) -> int:
    (config,) = execution.arguments("createEndpointConfig")
    return config["ProductionVariants"][0]["ServerlessConfig"]["MemorySizeInMB"]


def test_a_load_test_decides_the_size_before_anything_is_claimed():
    cloud = _tested()
    ended = _deploy_tested(cloud)
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    actions = _actions(ended)
    assert actions.index("putItem") < actions.index("updateItem"), "noted, and then claimed"
    assert [actions.count(each) for each in TESTED] == [1, 3, 0]
    assert _memory(ended) == 4096, "the size that the test found best, not the smallest"
    assert cloud.noted
    assert (cloud.noted["chosen"], cloud.noted["status"], cloud.noted["job_name"]) == (
        "4096 MB, 5 at once",
        "COMPLETED",
        LOAD_TEST,
    )
    assert cloud.noted["ended_at"] == "2126-11-23T09:00:00Z", "as the job says, not when it was first looked at"
    assert cloud.noted["numbers"]["4096 MB, requests a minute"] == 1800


def test_a_load_test_decides_the_instance_of_what_has_one():
    cloud = _tested(kind="realtime")
    ended = _deploy_tested(cloud)
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    (asked,) = ended.arguments("createInferenceRecommendationsJob")
    tested = [each["InstanceType"] for each in asked["InputConfig"]["EndpointConfigurations"]]
    assert len(tested) == 4
    assert cloud.address
    assert cloud.address.instance_type in tested
    assert cloud.noted
    assert cloud.noted["chosen"] == f"1 x {cloud.address.instance_type}"


def test_a_second_deployment_of_the_same_model_starts_no_second_load_test():
    cloud = _tested()
    _deploy_tested(cloud)
    again = _deploy_tested(cloud)
    assert again.status == "SUCCEEDED", (again.error, again.cause)
    assert not set(_actions(again)) & {*TESTED, "putItem"}
    assert _memory(again) == 4096, "what was found then counts now"


@pytest.mark.parametrize(
    ("others", "fails", "told"),
    [
        pytest.param({"load_test_ends": "FAILED"}, None, "FAILED: the model did not start", id="it failed"),
        pytest.param({"load_test_ends": "STOPPED"}, None, "status STOPPED", id="somebody stopped it"),
        pytest.param({"load_test_looks": 99}, None, "not end within 2 h", id="it took too long"),
        pytest.param({}, TESTED[0], "refused: quota", id="it was refused"),
        pytest.param({}, TESTED[1], "looked at any more and was stopped: quota", id="nobody could look at it"),
    ],
)
def test_without_a_result_ebbs_own_measurement_decides_and_the_reason_is_noted(others, fails, told):
    cloud = _tested(**others)
    if fails:
        cloud.fails[fails] = TaskError("SageMaker.ResourceLimitExceededException", "quota")
    ended = _deploy_tested(cloud)
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert _memory(ended) == 1024
    assert cloud.noted
    assert told in cloud.noted["reason"]
    assert "Ebb's own measurement decides" in cloud.noted["reason"]
    assert all(each["status"] in ("FAILED", "STOPPED") for each in cloud.load_tests.values()), "nothing runs on"
    assert not set(_actions(_deploy_tested(cloud))) & set(TESTED), "it is not tried again"


@pytest.mark.parametrize(
    ("others", "told"),
    [
        pytest.param({"load_test_ends": "STOPPED"}, "in status STOPPED", id="somebody stopped it"),
        pytest.param({"load_test_looks": 99}, "not end within 2 h", id="it took too long"),
    ],
)
def test_what_was_measured_before_a_load_test_was_stopped_is_paid_for_and_counts(others, told):
    cloud = _tested(load_test_finds=2, **others)
    ended = _deploy_tested(cloud)
    assert (ended.status, _memory(ended)) == ("SUCCEEDED", 2048)
    assert cloud.noted
    assert cloud.noted["chosen"] == "2048 MB, 5 at once"
    assert "the best of the 2 that it measured" in cloud.noted["reason"]
    assert told in cloud.noted["reason"]
    assert cloud.load_tests[LOAD_TEST]["status"] == "STOPPED"


def test_a_load_test_that_ended_while_it_was_to_be_stopped_counts_as_a_whole():
    cloud = _tested(load_test_looks=21)  # one look more than it is watched for
    cloud.fails[TESTED[2]] = TaskError("SageMaker.SageMakerException", "it has ended")
    ended = _deploy_tested(cloud)
    assert (ended.status, _memory(ended)) == ("SUCCEEDED", 4096)
    assert cloud.noted
    assert cloud.noted["status"] == "COMPLETED"


def test_a_load_test_is_watched_for_longer_than_its_own_limit_and_a_run_waits_for_it():
    """A retry that is not jittered comes after min(interval * rate ** number, longest)."""
    rule = project.machine(PATH)["States"]["Watch load test"]["Retry"][0]
    delays = [rule["IntervalSeconds"] * rule["BackoffRate"] ** number for number in range(rule["MaxAttempts"])]
    watched_s = sum(min(each, rule["MaxDelaySeconds"]) for each in delays)
    limit_s = recommendations.LONGEST.total_seconds()
    assert limit_s + 15 * 60 <= watched_s <= limit_s + recommendations.GRACE.total_seconds()
    run_pipeline = project.machine(PATH.with_name("run_pipeline.asl.yaml"))["States"]
    # beside it: two hours until it is this deployment's turn, one and a half until the endpoint is in service
    assert run_pipeline["Deploy model"]["TimeoutSeconds"] >= watched_s + 3.5 * 3600
    assert "TimeoutSeconds" not in project.machine(PATH)


def test_a_note_that_cannot_be_written_stops_no_deployment_and_starts_no_second_test():
    cloud = _tested()
    cloud.fails["putItem"] = TaskError("DynamoDB.InternalServerError", "no")
    ended = _deploy_tested(cloud)
    assert (ended.status, _memory(ended)) == ("SUCCEEDED", 4096)
    assert _actions(ended).count(TESTED[0]) == 1


def test_a_load_test_whose_start_was_not_answered_is_waited_for_all_the_same():
    cloud = _tested()

    def lose_the_answer() -> None:
        cloud.createInferenceRecommendationsJob(asked[0])
        raise TaskError("SageMaker.ResourceInUseException", "it is there")

    asked = _deploy_tested(_tested()).arguments(TESTED[0])
    cloud.on[TESTED[0]] = lose_the_answer
    ended = _deploy_tested(cloud)
    assert (ended.status, _memory(ended)) == ("SUCCEEDED", 4096)


def test_a_newer_run_that_comes_while_a_load_test_lasts_is_not_overtaken():
    cloud = _tested()
    cloud.on[TESTED[1]] = lambda: cloud.project.update(deployed_generation=8)
    ended = _deploy_tested(cloud)
    assert (ended.status, ended.output["deployed"]) == ("SUCCEEDED", False)
    assert cloud.noted
    assert cloud.noted["chosen"] == "nothing is deployed"
    assert not cloud.endpoints


def test_what_was_found_is_noted_with_what_is_deployed_after_another_deployment_was_waited_for():
    cloud = _tested()
    polls = iter([lambda: cloud.project.update(deploying="other-a1", deploying_since=NOW)])
    cloud.on[TESTED[1]] = lambda: next(polls, lambda: None)()
    cloud.planned = lambda plan: plan["action"] == "wait" and cloud.project.pop("deploying")
    ended = _deploy_tested(cloud)
    assert (ended.status, _memory(ended)) == ("SUCCEEDED", 4096)
    assert "Wait for turn" in ended.entered
    assert cloud.noted
    assert cloud.noted["chosen"] == "4096 MB, 5 at once"


@pytest.mark.parametrize("asked", [True, False])
def test_a_deployment_that_is_stopped_stops_its_load_test(asked):
    """https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html: detail.input is text."""
    cloud = _tested()
    cloud.load_tests[LOAD_TEST] = {"status": "IN_PROGRESS", "left": 99, "found": []}
    given = {"project": "wine"} | ({"load_test": LOAD_TEST} if asked else {})
    name = LOAD_TEST.replace("--lt-", "-")
    event = {"detail": {"executionArn": f"arn:{name}", "name": name, "status": "ABORTED", "input": json.dumps(given)}}
    ended = run(PATH, event, cloud)
    assert (ended.status, ended.output["deployed"]) == ("SUCCEEDED", False)
    assert (cloud.load_tests[LOAD_TEST]["status"] == "STOPPED") is asked
    assert (TESTED[2] in _actions(ended)) is asked


def test_a_load_test_is_stopped_with_its_deployment_though_the_call_is_throttled():
    cloud = _tested()
    cloud.load_tests[LOAD_TEST] = {"status": "IN_PROGRESS", "left": 99, "found": []}
    name, tries = LOAD_TEST.replace("--lt-", "-"), iter([True, False])

    def throttle() -> None:
        if next(tries):
            raise TaskError("SageMaker.SageMakerException", "Rate exceeded")

    cloud.on[TESTED[2]] = throttle
    given = json.dumps({"project": "wine", "load_test": LOAD_TEST})
    event = {"detail": {"executionArn": f"arn:{name}", "name": name, "status": "ABORTED", "input": given}}
    assert run(PATH, event, cloud).status == "SUCCEEDED"
    assert cloud.load_tests[LOAD_TEST]["status"] == "STOPPED"


def test_a_deployment_whose_spec_asks_for_none_has_no_state_more():
    with_one, without = _deploy_tested(_tested()), _deploy(Cloud(), package_arn=PACKAGE)
    more = set(with_one.entered) - set(without.entered)
    assert more == {
        "Start load test",
        "Watch load test",
        "Note load test",
    }
