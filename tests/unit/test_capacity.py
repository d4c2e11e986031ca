"""Where capacity is refused: which machine is tried next, in an order that the plan has written down."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from ebb import capacity
from ebb.spec import PipelineSpec
from worked_run import RUN_ID, built_plan

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
REFUSED = json.dumps(
    {
        "TrainingJobName": f"{RUN_ID}-a1-train",
        "TrainingJobStatus": "Failed",
        "FailureReason": "CapacityError: Unable to provision requested ML compute capacity. Please retry using a "
        "different ML instance type.",
    }
)
WAITED = json.dumps({"TrainingJobName": "x", "TrainingJobStatus": "Stopped", "SecondaryStatus": "MaxWaitTimeExceeded"})
BROKEN = json.dumps({"TrainingJobName": "x", "FailureReason": "AlgorithmError: no such column, exit code: 1"})


def refuse(plan: dict, times: int, stage: str = "train") -> dict:
    answer = {"plan": plan, "next": None, "wait_s": 0}
    for number in range(times):
        answer = capacity.after(answer["plan"], stage, "States.TaskFailed", REFUSED, NOW + timedelta(minutes=number))
    return answer


def test_spot_comes_first_then_the_same_on_demand_then_the_next_best():
    order = built_plan()["train"]["offers"]
    chosen = order[0]["instance_type"]
    assert [each["spot"] for each in order] == [True] + [False] * (len(order) - 1)
    assert order[1]["instance_type"] == chosen
    assert len({each["instance_type"] for each in order}) == len(order) - 1 >= 3


def test_the_order_stands_in_the_decisions():
    told = {each["what"]: each for each in built_plan()["decisions"]}["order of machines for train"]
    assert told["chosen"].endswith("on spot capacity")
    assert all(each.endswith("on demand") for each in told["alternatives"])


def test_what_the_spec_names_is_never_left_for_another_type():
    spec = PipelineSpec.model_validate({"train": {"instance": "ml.c5.4xlarge"}})
    assert {each["instance_type"] for each in built_plan(spec=spec)["train"]["offers"]} == {"ml.c5.4xlarge"}


@pytest.mark.parametrize(
    ("error", "cause", "refused"),
    [
        pytest.param("SageMaker.ResourceLimitExceededException", "quota", True, id="the quota is in use"),
        pytest.param("States.TaskFailed", REFUSED, True, id="no machine of the type"),
        pytest.param("States.TaskFailed", WAITED, True, id="no spot capacity in time"),
        pytest.param("States.TaskFailed", BROKEN, False, id="a job that fails by itself"),
        pytest.param("States.Timeout", "too long", False, id="a state that took too long"),
        pytest.param(None, None, False, id="nothing told"),
    ],
)
def test_what_is_a_refusal(error, cause, refused):
    assert capacity.is_refusal(error, cause) is refused


def test_after_spot_the_same_type_on_demand_with_a_name_of_its_own():
    plan = built_plan()
    answer = refuse(plan, 1)
    request = answer["plan"]["train"]["request"]
    assert (answer["next"], answer["wait_s"]) == ("again", 0)
    assert request["TrainingJobName"] == f"{RUN_ID}-a1-train-1"
    assert request["ResourceConfig"]["InstanceType"] == plan["train"]["request"]["ResourceConfig"]["InstanceType"]
    assert request["EnableManagedSpotTraining"] is False
    assert "MaxWaitTimeInSeconds" not in request["StoppingCondition"]
    assert request["CheckpointConfig"] == plan["train"]["request"]["CheckpointConfig"], "it goes on where spot ended"


def test_what_reads_the_jobs_results_follows_its_name():
    plan = refuse(built_plan(), 2)["plan"]
    written = f"/{RUN_ID}-a1-train-2/output/model/"
    assert plan["artifacts"]["original"].endswith(written)
    assert plan["train"]["report_uri"].endswith(written + "metrics.json")
    read = [each["DataSource"]["S3DataSource"]["S3Uri"] for each in plan["compress"]["request"]["InputDataConfig"]]
    assert any(uri.endswith(written) for uri in read)
    assert f"/{RUN_ID}-a1-train/output/" not in json.dumps(plan)


def test_a_refused_compress_leaves_train_alone():
    plan = refuse(built_plan(), 1, "compress")["plan"]
    assert plan["train"] == built_plan()["train"]
    assert plan["artifacts"]["candidates"].endswith(f"/{RUN_ID}-a1-compress-1/output/model/")


def test_it_is_recorded_which_was_refused_and_when():
    plan = refuse(built_plan(), 2)["plan"]
    first, second = plan["train"]["refused"]
    assert (first["spot"], first["at"]) == (True, "2026-11-23T09:30:00Z")
    assert (second["spot"], second["at"]) == (False, "2026-11-23T09:31:00Z")
    told = capacity.decision(plan, "train", 0)
    assert "on spot capacity at 2026-11-23T09:30:00Z (CapacityError" in told["reason"]
    assert told["chosen"] == capacity.words(plan["train"]["offers"][2])


def test_after_the_last_it_waits_and_begins_anew():
    plan = built_plan()
    count = len(plan["train"]["offers"])
    answer = refuse(plan, count)
    assert (answer["next"], answer["wait_s"]) == ("wait", 300)
    assert refuse(plan, count + 4 * (count - 1))["wait_s"] == 900


def most_refusals(plan: dict, stage: str = "train") -> int:
    count = len(plan[stage]["offers"])
    return count + (count - 1) * (capacity.ROUNDS - 1)  # spot in the first round alone


def test_spot_that_was_waited_for_once_is_not_waited_for_again():
    """Such a job may wait three times as long as it may run: sixteen of them would be days."""
    plan = built_plan()
    offers = plan["train"]["offers"]
    tried = []
    for number in range(len(offers) * 3):
        request = refuse(plan, number)["plan"]["train"]["request"]
        tried.append((request["ResourceConfig"]["InstanceType"], request["EnableManagedSpotTraining"]))
    order = [(each["instance_type"], each["spot"]) for each in offers]
    assert tried == (order + order[1:] * 3)[: len(tried)]


def test_a_refusal_without_end_is_a_failure():
    plan = built_plan()
    most = most_refusals(plan)
    assert refuse(plan, most - 1)["next"] == "again"
    assert refuse(plan, most)["next"] == "fail"


def test_refusals_that_come_slowly_end_with_the_time_and_not_with_the_rounds():
    plan = built_plan()
    count = len(plan["train"]["offers"])
    last = NOW + timedelta(minutes=count - 1)
    first_round = refuse(plan, count)["plan"]
    in_time = capacity.after(first_round, "train", capacity.QUOTA, None, last + timedelta(hours=5, minutes=59))
    assert in_time["next"] == "again"
    assert capacity.after(first_round, "train", capacity.QUOTA, None, last + timedelta(hours=6))["next"] == "fail"


def test_days_of_waiting_for_spot_leave_the_time_for_the_others():
    waited = capacity.after(built_plan(), "train", None, WAITED, NOW)["plan"]
    assert capacity.after(waited, "train", capacity.QUOTA, None, NOW + timedelta(days=10))["next"] == "again"


def test_the_record_of_many_rounds_forgets_none():
    plan = built_plan()
    count = len(plan["train"]["offers"])
    first = capacity.after(plan, "train", None, WAITED, NOW)["plan"]
    told = capacity.decision(refuse(first, count + 1)["plan"], "train", 0)
    assert "on spot capacity at 2026-11-23T09:30:00Z (no spot capacity in time);" in told["reason"]
    assert "on demand at 2026-11-23T09:30:00Z (CapacityError" in told["reason"]
    assert ", 1 more until 2026-11-23T09:34:00Z (CapacityError" in told["reason"]
    assert told["numbers"] == {"refused": count + 2, "round": 2}
    assert told["chosen"] == capacity.words(plan["train"]["offers"][3])
    assert told["alternatives"] == [capacity.words(each) for each in plan["train"]["offers"][4:]]


def test_the_names_of_all_tries_are_short_enough_for_sagemaker():
    longest = "a" * 20 + RUN_ID[RUN_ID.index("-") :]
    plan = built_plan(run_id=longest, attempt=12, project="a" * 20)
    most = most_refusals(plan, "compress")
    name = refuse(plan, most - 1, "compress")["plan"]["compress"]["request"]["TrainingJobName"]
    assert len(name) <= 63


def test_a_job_that_fails_by_itself_is_not_tried_elsewhere():
    plan = built_plan()
    assert capacity.after(plan, "train", "States.TaskFailed", BROKEN, NOW) == {
        "next": "fail",
        "plan": plan,
        "wait_s": 0,
    }


def test_a_processing_job_moves_too():
    answer = refuse(built_plan(), 1, "compile")
    cluster = answer["plan"]["compile"]["request"]["ProcessingResources"]["ClusterConfig"]
    assert cluster["InstanceType"] == built_plan()["compile"]["offers"][1]["instance_type"]


def test_what_moved_is_found_by_the_next_attempt():
    plan = built_plan(attempt=2, finished={"process": 1, "train": 1}, jobs={"train": f"{RUN_ID}-a1-train-2"})
    assert plan["artifacts"]["original"].endswith(f"/a1/train/{RUN_ID}-a1-train-2/output/model/")
