"""The features part of `ebb forget`: which groups, one job each, and going on after one that failed."""

import pytest
from botocore.exceptions import ClientError

from ebb import ledger, names
from ebb_cli import forget_features
from ebb_cli.lineage import Known
from ebb_cli.problems import CommandError
from unit.cli import forgettable
from unit.cli.forgettable import RUN_ID, SECOND

GROUP = "ebb-churn--0a1b2c3d"
PUBLISHED = {
    "Environment": {"EBB_SETTINGS": '{"action":"publish","group":"ebb-churn--0a1b2c3d"}'},
    "AppSpecification": {"ImageUri": "image", "ContainerEntrypoint": ["python3", "run.py", "features"]},
    "NetworkConfig": {"EnableNetworkIsolation": False},
    "ProcessingInputs": [{"InputName": "code"}, {"InputName": "curated"}],
    "ProcessingOutputConfig": {"Outputs": [], "KmsKeyId": "key"},
    "ProcessingResources": {"ClusterConfig": {"InstanceCount": 1}},
    "RoleArn": "arn:aws:iam::000000000000:role/ebb/ebb-churn-features",
    "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
}


class SageMaker:
    """Jobs that end as they are told to."""

    def __init__(self, status: str = "Completed"):
        self.status, self.asked = status, []

    def describe_processing_job(self, ProcessingJobName):
        if not self.asked and ProcessingJobName == f"{RUN_ID}-a1-features":
            return PUBLISHED
        if not self.asked:
            missing = {"Error": {"Code": "ValidationException", "Message": "Could not find requested job"}}
            raise ClientError(missing, "DescribeProcessingJob")
        return {"ProcessingJobStatus": self.status, "FailureReason": "no table"}

    def create_processing_job(self, **request):
        self.asked.append(request)


@pytest.fixture
def known(target, put, put_stage) -> Known:
    """Two runs of one project that published into one group, and one that did not publish."""
    forgettable.make(target, put, put_stage)
    shared = {"data": {"mode": "replace"}, "features": {"publish": False, "share": ["crows"]}}
    for run_id, rows in ((RUN_ID, 300), (SECOND, 40)):
        put(run_id=run_id, spec=shared)
        report = {"group": GROUP, "table": "db.t", "rows": rows}
        put_stage(names.FEATURES, run_id, job_name=f"{run_id}-a1-features", report=report)
    return Known(target)


def with_jobs(known: Known, monkeypatch, jobs: SageMaker) -> SageMaker:
    client = known.target.client
    monkeypatch.setattr(type(known.target), "client", lambda _, name: jobs if name == "sagemaker" else client(name))
    return jobs


def test_each_group_is_told_with_its_runs_and_rows(known):
    (group,) = forget_features.look(known, known.runs)
    assert group.told() == {"group": GROUP, "runs": [RUN_ID, SECOND], "rows": 340}


def test_one_job_takes_the_rows_of_all_runs_and_nothing_is_left_to_do(known, monkeypatch):
    groups = forget_features.look(known, known.runs)
    jobs = with_jobs(known, monkeypatch, SageMaker())
    assert list(forget_features.carry_out(known, groups)) == [(GROUP, 340)]
    (request,) = jobs.asked
    assert f'"runs":["{RUN_ID}","{SECOND}"]' in request["Environment"]["EBB_SETTINGS"]
    assert request["ProcessingInputs"] == [{"InputName": "code"}]
    assert forget_features.look(known, known.runs) == []


def test_after_a_job_that_failed_the_next_call_finds_the_rows_again(known, monkeypatch):
    with_jobs(known, monkeypatch, SageMaker("Failed"))
    with pytest.raises(CommandError, match="no table"):
        list(forget_features.carry_out(known, forget_features.look(known, known.runs)))
    assert [group.rows for group in forget_features.look(known, known.runs)] == [340]


def test_the_stage_has_a_place_of_its_own_in_the_ledger():
    assert ledger.stage_key(RUN_ID, names.FEATURES)["sk"].endswith("#features")


def test_a_run_that_was_cut_short_may_have_left_rows_so_its_job_is_asked_where(known, monkeypatch):
    shared = {"features": {"publish": True}}
    with_jobs(known, monkeypatch, SageMaker())
    (group,) = forget_features.look(known, [{"run_id": RUN_ID.replace("abc123", "abc999"), "spec": shared}, *[
        {"run_id": RUN_ID, "spec": shared, "attempt": 2}]])  # fmt: skip
    assert group.runs == [RUN_ID], "the other one never came so far"


def test_rows_of_a_stage_that_failed_are_looked_for_by_its_job(known, put_stage, monkeypatch):
    put_stage(names.FEATURES, RUN_ID, job_name=f"{RUN_ID}-a1-features", report={})
    with_jobs(known, monkeypatch, SageMaker())
    (first,) = forget_features.look(known, [run for run in known.runs if run["run_id"] == RUN_ID])
    assert (first.name, first.table, first.rows) == (GROUP, None, 0)
