"""The paths of a run: what is asked of whom, in which order, and how each way of ending ends."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from aws_shapes import problems
from ebb import capacity
from ebb.record import RecordRequest
from infrastructure import project
from infrastructure.interpreter import TaskError, run

PATH = project.ROOT / "statemachines" / "run_pipeline.asl.yaml"
GIVEN = {
    "run_id": "wine-20261123010203-0a1b2c",
    "attempt": 1,
    "project": "wine",
    "drop": {"kind": "object", "bucket": "landing", "key": "wine/data/wine.csv", "size_bytes": 10},
}
STAGES = ("process", "train", "compress", "compile")
JOBS = {
    "process": "createProcessingJob.sync",
    "train": "createTrainingJob.sync",
    "compress": "createTrainingJob.sync",
    "compile": "createProcessingJob.sync",
}

BUILD = {
    "Arn": "arn:aws:codebuild:us-east-1:000000000000:build/x",
    "Id": "ebb-images:x",
    "BuildStatus": "SUCCEEDED",
    "StartTime": 1795426210000,
    "EndTime": 1795426355000,
    "Environment": {"ComputeType": "BUILD_GENERAL1_MEDIUM", "Image": "aws/codebuild/x"},
    "Phases": [],
}


PARTITIONS = [
    {
        "Values": [split],
        "StorageDescriptor": {"Columns": [{"Name": "a", "Type": "double"}], "Location": f"s3://b/{split}"},
    }
    for split in ("train", "validation", "test")
]


class World:
    """Answers a run's Tasks; `fails` maps the end of a resource, or a function and action, to an error."""

    def __init__(
        self,
        *,
        outcome: str = "run",
        needed: tuple[str, ...] = STAGES,
        images: tuple[str, ...] = (),
        deploy: Any = "yes",
        spark: bool = False,
        table: dict[str, str] | None = None,
        partition_errors: list[Any] | None = None,
        features: str = "",
        group: tuple[str, ...] = ("Created",),
        **fails: Any,
    ):
        self.outcome, self.needed, self.images, self.deploy = outcome, needed, images, deploy
        self.spark, self.table, self.partition_errors = spark, table, partition_errors or []
        self.features, self.group = features, list(group)
        self.fails = {key.replace("__", ":"): error for key, error in fails.items()}

    def __call__(self, resource: str, arguments: Any) -> Any:
        if resource.endswith("lambda:invoke"):
            function = arguments["FunctionName"].removeprefix("${").removesuffix("FunctionArn}")
            payload = arguments["Payload"]
            what = payload.get("stage") if payload.get("action") == "stage_finished" else payload.get("action", "")
            self._raise(f"{function}:{what}")
            self._raise(function)
            return {"StatusCode": 200, "Payload": getattr(self, function)(payload)}
        action = resource.removesuffix(":2").rsplit(":", 1)[-1]
        self._raise(arguments.get("stage", action))
        if action == "startBuild.sync":
            return {"Build": BUILD}
        if action == "startExecution.sync":
            return {"Output": {"deployed": True, "endpoint_name": "ebb-wine"}, "Status": "SUCCEEDED"}
        if action == "getTable":
            if self.table is None:
                raise TaskError("Glue.EntityNotFoundException", "no such table")
            return {"Table": {"VersionId": "7", "Parameters": self.table}}
        if action == "batchUpdatePartition":
            return {"Errors": self.partition_errors}
        if action == "describeFeatureGroup":
            status = self.group.pop(0)
            return {"FeatureGroupStatus": status} | ({"FailureReason": "no table"} if status == "CreateFailed" else {})
        if action == "createModelPackage":
            return {"ModelPackageArn": "arn:aws:sagemaker:us-east-1:000000000000:model-package/ebb-wine/1"}
        return {"job": arguments} if action.endswith(".sync") else {}

    def IdentifyDataset(self, _: Any) -> Any:
        """Say whether there is anything to do."""
        reuses = None if self.outcome == "run" else "wine-20261122010203-0a1b2c"
        return {"outcome": self.outcome, "reason": "the same bytes", "reuses": reuses, "spec": {}, "sources": []}

    def PlanPipeline(self, _: Any) -> Any:
        """Return requests that can be told apart."""
        stages = {
            stage: {"needed": stage in self.needed, "request": {"stage": stage}, "report_uri": f"s3://b/{stage}.json"}
            for stage in STAGES
        }
        roles = [{"create": {"RoleName": f"ebb-wine-{stage}"}, "policy": {"PolicyName": stage}} for stage in STAGES]
        images = [
            {"ProjectName": "ebb-images", "EnvironmentVariablesOverride": [{"Name": "IMAGE_URI", "Value": name}]}
            for name in self.images
        ]
        job = {"create": {"Name": "ebb-wine-process"}, "update": {"JobName": "ebb-wine-process"}}
        return {
            "generation": 3,
            "images": images,
            "roles": roles,
            "artifacts": {"curated": "s3://b/curated/", "manifest": "s3://b/manifest.json"},
            "spark_job": job if self.spark else None,
            "features": {
                "needed": self.features in ("published", "no table"),
                "borrowed": self.features == "borrowed",
                "report_uri": "s3://b/features.json",
            },
            **stages,
        }

    def PlanFeatures(self, payload: Any) -> Any:
        """Return the requests of a feature group, or say that the rows are none."""
        assert payload["plan"]["artifacts"]["curated"] == "s3://b/curated/"
        if self.features == "no table":
            return {"publish": False, "reason": "these are pictures"}
        return {
            "publish": True,
            "group": {"FeatureGroupName": "ebb-wine--1"},
            "request": {"ProcessingJobName": "features"},
        }

    def PlanTable(self, payload: Any) -> Any:
        """Return the requests of a table."""
        assert (payload["generation"], payload["curated_uri"]) == (3, "s3://b/curated/")
        what = {"DatabaseName": "ebb"}
        if self.table == {}:
            return {"table": None}
        return {
            "table": {
                "read": what | {"Name": "wine"},
                "write": what | {"TableInput": {"Name": "wine"}},
                "partitions": what | {"TableName": "wine", "PartitionInputList": PARTITIONS},
            }
        }

    def SelectCandidate(self, _: Any) -> Any:
        """Choose, and deploy or not."""
        deploy = {"run_id": GIVEN["run_id"], "requests": {}} if self.deploy == "yes" else None
        return {"chosen": "student-int8", "package_group": {}, "package": {}, "deploy": deploy}

    def RecordRun(self, payload: Any) -> Any:
        """Accept what the real handler accepts, and nothing else."""
        RecordRequest.validate_python(payload)
        if payload["action"] == "job_failed":
            return capacity.after(
                payload["plan"], payload["stage"], payload["error"], payload["cause"], datetime.now(UTC)
            )
        return {"subject": f"{payload['action']}", "message": "words"}

    def _raise(self, key: str) -> None:
        if key in self.fails:
            error = self.fails[key]
            raise error if isinstance(error, TaskError) else TaskError(*error)


def _recorded(execution: Any) -> list[str]:
    payloads = [each["Payload"] for each in execution.arguments("lambda:invoke")]
    return [
        each.get("stage") if each["action"] == "stage_finished" else each["action"]
        for each in payloads
        if "action" in each
    ]


def test_a_run_goes_through_every_stage_and_is_recorded():
    ended = run(PATH, GIVEN, World())
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert _recorded(ended) == [*STAGES, "succeeded"]
    jobs = [arguments["stage"] for resource, arguments in ended.asked if resource.endswith("Job.sync")]
    assert jobs == list(STAGES)
    for stage, action in JOBS.items():
        assert {"stage": stage} in ended.arguments(action)
    assert [each["RoleName"] for each in ended.arguments("iam:createRole")] == [f"ebb-wine-{each}" for each in STAGES]
    (message,) = ended.arguments("sns:publish")
    assert (message["Subject"], message["Message"]) == ("succeeded", "words")


def test_each_function_is_told_when_and_for_which_run():
    ended = run(PATH, GIVEN, World())
    for each in ended.arguments("lambda:invoke"):
        payload = each["Payload"]
        assert (payload["run_id"], payload["attempt"], payload["project"]) == (GIVEN["run_id"], 1, "wine")
        assert payload["now"].startswith("20")
    identify, plan, *_ = [each["Payload"] for each in ended.arguments("lambda:invoke")]
    assert identify["drop"] == GIVEN["drop"]
    assert identify["execution_arn"].startswith("arn:aws:states:")
    assert plan["identified"]["outcome"] == "run"


def test_the_record_of_a_success_holds_what_was_planned_chosen_and_deployed():
    ended = run(PATH, GIVEN, World())
    record = ended.arguments("lambda:invoke")[-1]["Payload"]
    assert record["plan"]["generation"] == 3
    assert record["selection"]["chosen"] == "student-int8"
    assert record["deployment"] == {"deployed": True, "endpoint_name": "ebb-wine"}


def test_a_model_that_is_not_deployed_is_still_a_success():
    ended = run(PATH, GIVEN, World(deploy=None))
    assert ended.status == "SUCCEEDED"
    assert not ended.arguments("startExecution.sync:2")
    assert ended.arguments("lambda:invoke")[-1]["Payload"]["deployment"] is None


def test_what_an_earlier_attempt_finished_is_not_repeated():
    ended = run(PATH, {**GIVEN, "attempt": 2}, World(needed=("compress", "compile")))
    assert [arguments["stage"] for resource, arguments in ended.asked if resource.endswith("Job.sync")] == [
        "compress",
        "compile",
    ]
    assert _recorded(ended) == ["compress", "compile", "succeeded"]


def _done(ended: Any, *of_glue: str) -> list[str]:
    actions = [resource.rsplit(":", 1)[-1] for resource, _ in ended.asked]
    return [each for each in actions if each in of_glue]


JOB_CALLS = ("createJob", "updateJob", "startJobRun.sync", "createProcessingJob.sync")
TABLE_CALLS = ("getTable", "createTable", "updateTable", "batchCreatePartition", "batchUpdatePartition")


@pytest.mark.parametrize(
    ("world", "calls"),
    [
        pytest.param(World(spark=True), ["createJob", "startJobRun.sync"], id="the project's first run"),
        pytest.param(
            World(spark=True, createJob=("Glue.AlreadyExistsException", "x")),
            ["createJob", "updateJob", "startJobRun.sync"],
            id="a later run",
        ),
        pytest.param(
            World(spark=True, createJob=("Glue.IdempotentParameterMismatchException", "x")),
            ["createJob", "updateJob", "startJobRun.sync"],
            id="a later run of another version",
        ),
    ],
)
def test_spark_processes_in_a_job_of_the_project_and_is_recorded_like_one_machine(world, calls):
    ended = run(PATH, GIVEN, world)
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert _done(ended, *JOB_CALLS) == [*calls, "createProcessingJob.sync"], "the last one compiles"
    assert ended.arguments("startJobRun.sync") == [{"stage": "process"}]
    assert _recorded(ended) == [*STAGES, "succeeded"]


@pytest.mark.parametrize(
    ("world", "calls"),
    [
        pytest.param(
            World(),
            ["getTable", "createTable", "batchCreatePartition", "batchUpdatePartition"],
            id="the project's first run",
        ),
        pytest.param(
            World(table={"ebb.generation": "2"}),
            ["getTable", "updateTable", "batchCreatePartition", "batchUpdatePartition"],
            id="a later run",
        ),
        pytest.param(
            World(table={"ebb.generation": "3"}),
            ["getTable", "updateTable", "batchCreatePartition", "batchUpdatePartition"],
            id="the same run, tried again",
        ),
        pytest.param(World(table={"ebb.generation": "4"}), ["getTable"], id="an older run that ends late"),
        pytest.param(
            World(needed=("train", "compress", "compile")),
            ["getTable", "createTable", "batchCreatePartition", "batchUpdatePartition"],
            id="processed by an earlier attempt",
        ),
        pytest.param(World(table={}), [], id="no table"),
    ],
)
def test_the_curated_rows_are_registered_and_never_over_those_of_a_newer_run(world, calls):
    ended = run(PATH, GIVEN, world)
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert _done(ended, *TABLE_CALLS) == calls
    for each in ended.arguments("batchUpdatePartition"):
        assert not problems("glue", "BatchUpdatePartition", each)
        assert [(entry["PartitionValueList"], entry["PartitionInput"]) for entry in each["Entries"]] == [
            (given["Values"], given) for given in PARTITIONS
        ]
    for each in ended.arguments("updateTable"):
        assert each["VersionId"] == "7", "what was read is what is replaced"


def test_partitions_that_were_not_written_fail_the_run():
    ended = run(PATH, GIVEN, World(partition_errors=[{"ErrorDetail": {"ErrorCode": "InternalServiceException"}}]))
    assert (ended.status, ended.error) == ("FAILED", "PartitionsNotWritten")
    assert "InternalServiceException" in ended.cause


def test_no_image_is_built_when_all_are_there():
    assert "Build images" not in run(PATH, GIVEN, World()).entered


@pytest.mark.parametrize("images", [("jobs",), ("serve", "jobs"), ("serve", "jobs", "jobs-gpu")])
def test_missing_images_are_built_before_the_first_job(images):
    ended = run(PATH, GIVEN, World(images=images))
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    built = ended.arguments("startBuild.sync")
    assert sorted(each["EnvironmentVariablesOverride"][0]["Value"] for each in built) == sorted(images)
    waited_for = [resource.rsplit(":", 1)[-1] for resource, _ in ended.asked if resource.endswith(".sync")]
    assert waited_for[: len(images)] == ["startBuild.sync"] * len(images)
    assert _recorded(ended) == ["images_built", *STAGES, "succeeded"]
    (told,) = [
        each["Payload"]["builds"]
        for each in ended.arguments("lambda:invoke")
        if each["Payload"].get("action") == "images_built"
    ]
    assert told == [
        {
            "Id": "ebb-images:x",
            "StartTime": 1795426210000,
            "EndTime": 1795426355000,
            "ComputeType": "BUILD_GENERAL1_MEDIUM",
            "Image": image,
        }
        for image in images
    ]


@pytest.mark.parametrize("outcome", ["reuse", "superseded"])
def test_a_run_with_nothing_to_do_starts_nothing(outcome):
    ended = run(PATH, GIVEN, World(outcome=outcome))
    assert ended.status == "SUCCEEDED"
    assert _recorded(ended) == ["reused"]
    assert {resource for resource, _ in ended.asked} == {"arn:aws:states:::lambda:invoke"}
    assert ended.output["outcome"] == outcome


REFUSED = json.dumps({"errorType": "DropRejectedError", "errorMessage": json.dumps({"code": "ragged"})})


@pytest.mark.parametrize(
    ("world", "stage"),
    [
        pytest.param(World(IdentifyDataset=("DropRejectedError", REFUSED)), "identify", id="by the first MiB"),
        pytest.param(World(IdentifyDataset=("InvalidSpecError", REFUSED)), "identify", id="by its spec"),
        pytest.param(World(PlanPipeline=("InvalidSpecError", REFUSED)), "plan", id="by what cannot be planned"),
        pytest.param(World(PlanPipeline=("DropRejectedError", REFUSED)), "plan", id="by what no machine holds"),
        pytest.param(World(RecordRun__process=("DropRejectedError", REFUSED)), "process", id="by the full scan"),
    ],
)
def test_a_rejected_drop_is_rejected_and_not_failed(world, stage):
    ended = run(PATH, GIVEN, world)
    assert (ended.status, ended.error, ended.cause) == ("FAILED", "DropRejected", REFUSED)
    assert _recorded(ended)[-1] == "rejected"
    assert ended.arguments("lambda:invoke")[-1]["Payload"]["stage"] == stage
    assert [each["Subject"] for each in ended.arguments("sns:publish")] == ["rejected"]


@pytest.mark.parametrize(
    ("world", "stage"),
    [
        pytest.param(World(IdentifyDataset=("KeyError", "x")), "identify", id="identify"),
        pytest.param(World(PlanPipeline=("ImageMissingError", "x")), "plan", id="plan"),
        pytest.param(World(putRolePolicy=("Iam.MalformedPolicyDocumentException", "x")), "plan", id="roles"),
        pytest.param(
            World(images=("jobs",), **{"startBuild.sync": ("States.TaskFailed", "x")}), "images", id="an image's build"
        ),
        pytest.param(
            World(images=("jobs",), RecordRun__images_built=("KeyError", "x")), "images", id="the record of the builds"
        ),
        *[pytest.param(World(**{stage: ("States.TaskFailed", "x")}), stage, id=f"{stage} job") for stage in STAGES],
        pytest.param(World(process=("States.Timeout", "x")), "process", id="a job that never ends"),
        pytest.param(World(spark=True, process=("States.TaskFailed", "x")), "process", id="Spark"),
        pytest.param(World(spark=True, createJob=("Glue.InvalidInputException", "x")), "process", id="Spark's job"),
        pytest.param(World(PlanTable=("KeyError", "x")), "process", id="what the table is to hold"),
        pytest.param(World(createTable=("Glue.GlueException", "x")), "process", id="the table"),
        pytest.param(World(RecordRun__train=("ReportMissingError", "x")), "train", id="a job without a report"),
        pytest.param(World(SelectCandidate=("NoAcceptableCandidateError", "x")), "select", id="select"),
        pytest.param(World(createModelPackage=("SageMaker.SageMakerException", "x")), "register", id="register"),
        pytest.param(World(**{"startExecution.sync": ("States.TaskFailed", "x")}), "deploy", id="deploy"),
        pytest.param(World(RecordRun__succeeded=("KeyError", "x")), "record", id="the record itself"),
    ],
)
def test_a_failure_is_recorded_told_and_kept_as_the_executions_own_error(world, stage):
    ended = run(PATH, GIVEN, world)
    (error,) = world.fails.values()
    assert (ended.status, ended.error, ended.cause) == ("FAILED", *error)
    last = ended.arguments("lambda:invoke")[-1]["Payload"]
    assert (last["action"], last["stage"], last["error"], last["cause"]) == ("failed", stage, *error)
    assert [each["Subject"] for each in ended.arguments("sns:publish")] == ["failed"]


def test_nothing_starts_after_a_failed_stage():
    ended = run(PATH, GIVEN, World(train=("States.TaskFailed", "x")))
    jobs = [arguments["stage"] for resource, arguments in ended.asked if resource.endswith("Job.sync")]
    assert jobs == ["process", "train"]


def test_a_failure_that_cannot_be_recorded_still_fails_with_its_own_error():
    ended = run(PATH, GIVEN, World(train=("States.TaskFailed", "x"), RecordRun__failed=("KeyError", "y")))
    assert (ended.status, ended.error, ended.cause) == ("FAILED", "States.TaskFailed", "x")


@pytest.mark.parametrize(
    ("world", "status"),
    [
        pytest.param(World(publish=("SNS.InternalErrorException", "x")), "SUCCEEDED", id="a success stays one"),
        pytest.param(
            World(publish=("SNS.InternalErrorException", "x"), train=("States.TaskFailed", "y")),
            "FAILED",
            id="so a failure",
        ),
    ],
)
def test_an_unsent_message_changes_nothing(world, status):
    ended = run(PATH, GIVEN, world)
    assert ended.status == status
    assert ended.error == (None if status == "SUCCEEDED" else "States.TaskFailed")


def test_roles_and_groups_that_exist_are_kept():
    exists = World(
        createRole=("Iam.EntityAlreadyExistsException", "x"),
        createModelPackageGroup=("SageMaker.SageMakerException", "already exists"),
    )
    ended = run(PATH, GIVEN, exists)
    assert ended.status == "SUCCEEDED"
    assert len(ended.arguments("iam:putRolePolicy")) == len(STAGES)


class Crowded(World):
    """A world that has no machine of the first types for a stage; its plan holds an order."""

    def __init__(self, stage: str, times: int, error: tuple[str, str]):
        super().__init__()
        self.stage, self.left, self.error = stage, times, error

    def PlanPipeline(self, given: Any) -> Any:
        """Name three machines for each stage."""
        plan = super().PlanPipeline(given) | {"run_id": GIVEN["run_id"], "attempt": 1}
        offers = [{"instance_type": name, "spot": False} for name in ("ml.a", "ml.b", "ml.c")]
        for stage in STAGES:
            where = (
                {"TrainingJobName": stage, "ResourceConfig": {}, "StoppingCondition": {"MaxRuntimeInSeconds": 60}}
                if "Training" in JOBS[stage]
                else {"ProcessingJobName": stage, "ProcessingResources": {"ClusterConfig": {}}}
            )
            plan[stage] |= {"offers": offers, "request": {"stage": stage, **where}}
        return plan

    def _raise(self, key: str) -> None:
        if key == self.stage and self.left:
            self.left -= 1
            raise TaskError(*self.error)


NO_CAPACITY = ("States.TaskFailed", json.dumps({"TrainingJobName": "x", "FailureReason": "CapacityError: none left"}))
QUOTA_IN_USE = ("SageMaker.ResourceLimitExceededException", "The account-level service limit is 0")


@pytest.mark.parametrize("error", [NO_CAPACITY, QUOTA_IN_USE], ids=["a failed job", "a refused creation"])
@pytest.mark.parametrize("stage", STAGES)
def test_where_capacity_is_refused_the_next_machine_is_tried(stage, error):
    ended = run(PATH, GIVEN, Crowded(stage, 2, error))
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert _recorded(ended).count("job_failed") == 2
    asked = [arguments for resource, arguments in ended.asked if arguments.get("stage") == stage and "Job" in resource]
    names = [each.get("TrainingJobName") or each.get("ProcessingJobName") for each in asked]
    job = f"{GIVEN['run_id']}-a1-{stage}"
    assert names == [stage, f"{job}-1", f"{job}-2"]
    assert "ml.c" in json.dumps(asked[-1])


class Watched(Crowded):
    """A world whose training is watched, and in which alarms stand until they are cleared."""

    def __init__(self, times: int, error: tuple[str, str]):
        super().__init__("train", times, error)
        self.standing: set[str] = set()

    def PlanPipeline(self, given: Any) -> Any:
        """Put one alarm, under the job's name."""
        plan = super().PlanPipeline(given)
        plan["train"]["alarms"] = [{"AlarmName": "ebb-job-that-is-watched-nan"}]
        return plan

    def __call__(self, resource: str, arguments: Any) -> Any:
        if resource.endswith(":putMetricAlarm"):
            self.standing.add(arguments["AlarmName"])
        if resource.endswith(":startExecution"):
            assert arguments["StateMachineArn"] == "${StopTrainingStateMachineArn}"
            assert arguments["Input"]["alarm"] == "ended"
            self.standing.remove(f"ebb-{arguments['Input']['job']}-nan")
        return super().__call__(resource, arguments)


@pytest.mark.parametrize(("times", "status"), [(2, "SUCCEEDED"), (10_000, "FAILED")])
@pytest.mark.parametrize("error", [NO_CAPACITY, QUOTA_IN_USE], ids=["a failed job", "a refused creation"])
def test_no_alarm_of_a_refused_job_is_left_behind(error, times, status):
    """A job that was never created has no end that would clear them."""
    world = Watched(times, error)
    assert run(PATH, GIVEN, world).status == status
    assert world.standing == ({f"ebb-{GIVEN['run_id']}-a1-train-2-nan"} if times == 2 else set()), "of the job that ran"


def test_alarms_that_cannot_be_cleared_change_nothing_of_how_a_run_ends():
    ended = run(PATH, GIVEN, Unclearable(2, QUOTA_IN_USE))
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert len(ended.arguments("states:startExecution")) == 2


class Unclearable(Watched):
    """A world in which nothing can be started that would clear alarms."""

    def __call__(self, resource: str, arguments: Any) -> Any:
        if resource.endswith(":startExecution"):
            raise TaskError("StepFunctions.AccessDeniedException")
        return super().__call__(resource, arguments)


def test_what_nobody_watches_has_nothing_cleared():
    ended = run(PATH, GIVEN, Crowded("train", 2, QUOTA_IN_USE))
    assert ended.arguments("states:startExecution") == []


def test_after_the_last_machine_it_waits_and_begins_anew():
    ended = run(PATH, GIVEN, Crowded("train", 3, NO_CAPACITY))
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert "Wait for capacity" in ended.entered


def test_capacity_that_never_comes_is_the_runs_error():
    ended = run(PATH, GIVEN, Crowded("train", 10_000, QUOTA_IN_USE))
    assert (ended.status, ended.error) == ("FAILED", QUOTA_IN_USE[0])
    assert _recorded(ended)[-1] == "failed"


class Recovering(World):
    """A world in which one kind of call fails a number of times before it works."""

    def __init__(self, key: str, error: str, times: int):
        super().__init__(images=("jobs",))
        self.key, self.error, self.left = key, error, times

    def _raise(self, key: str) -> None:
        if key == self.key and self.left:
            self.left -= 1
            raise TaskError(self.error, "for now")


@pytest.mark.parametrize(
    ("key", "error", "times"),
    [
        pytest.param("train", "SageMaker.AmazonSageMakerException", 5, id="a role that is not visible yet"),
        pytest.param("startBuild.sync", "CodeBuild.AccountLimitExceededException", 20, id="as many builds as may run"),
        pytest.param("startBuild.sync", "CodeBuild.CodeBuildException", 4, id="CodeBuild throttles"),
        pytest.param("RecordRun", "Lambda.TooManyRequestsException", 4, id="throttled functions"),
        pytest.param("PlanPipeline", "LedgerUnavailableError", 4, id="a throttled ledger"),
        pytest.param("RecordRun:process", "ReportMissingError", 2, id="a report that is a moment late"),
        pytest.param("createRole", "Iam.ConcurrentModificationException", 4, id="roles changed at once"),
        pytest.param("createRole", "Iam.IamException", 6, id="IAM throttles"),
        pytest.param("createTable", "Glue.GlueException", 4, id="the catalog throttles"),
        pytest.param("PlanTable", "ReportMissingError", 2, id="a schema that is a moment late"),
        pytest.param("putRolePolicy", "Iam.IamException", 6, id="IAM throttles a policy"),
    ],
)
def test_what_passes_is_tried_again(key, error, times):
    assert run(PATH, GIVEN, Recovering(key, error, times)).status == "SUCCEEDED"
    assert run(PATH, GIVEN, Recovering(key, error, times + 1)).error == error


# ---- Features: what goes into Feature Store, and what comes from another project ----


def actions(ended: Any) -> list[str]:
    return [resource.rsplit(":", 1)[-1] for resource, _ in ended.asked]


def test_what_is_published_is_so_before_anything_is_trained():
    ended = run(PATH, GIVEN, World(features="published", group=("Creating", "Creating", "Created")))
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    done = actions(ended)
    assert done.count("createFeatureGroup") == 1
    assert done.count("describeFeatureGroup") == 3, "until the table is there"
    published = next(i for i, (_, sent) in enumerate(ended.asked) if sent.get("ProcessingJobName") == "features")
    assert done.index("createFeatureGroup") < published < done.index("createTrainingJob.sync")
    recorded = [sent["Payload"].get("stage") for resource, sent in ended.asked if resource.endswith("lambda:invoke")]
    assert recorded.count("features") == 1


def test_a_feature_group_of_an_earlier_run_is_taken():
    in_use = TaskError("SageMaker.ResourceInUseException", "already exists")
    ended = run(PATH, GIVEN, World(features="published", createFeatureGroup=in_use))
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert "describeFeatureGroup" in actions(ended)


def test_a_feature_group_that_could_not_be_made_is_removed_and_fails_the_run():
    ended = run(PATH, GIVEN, World(features="published", group=("CreateFailed",)))
    assert (ended.status, ended.error, ended.cause) == ("FAILED", "FeatureGroupFailed", "no table")
    assert "deleteFeatureGroup" in actions(ended)
    assert "createTrainingJob.sync" not in actions(ended)


def test_rows_that_are_no_features_are_trained_on_all_the_same():
    ended = run(PATH, GIVEN, World(features="no table"))
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert "createFeatureGroup" not in actions(ended)


def test_features_of_another_project_are_neither_processed_nor_catalogued_again():
    ended = run(PATH, GIVEN, World(features="borrowed", needed=("train", "compress", "compile")))
    assert ended.status == "SUCCEEDED", (ended.error, ended.cause)
    assert "getTable" not in actions(ended)
    assert actions(ended).count("createProcessingJob.sync") == 1, "compile"
