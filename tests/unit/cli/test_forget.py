"""`ebb forget`: everything that holds rows goes, nothing else, and a call that broke is gone on with."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from ebb import ledger, names
from ebb_cli import forget as module
from ebb_cli import target as targets
from ebb_cli.target import Target
from unit.cli import forgettable
from unit.cli.forgettable import CURATED, IDENTITY, KEY, MODEL, OTHER, RUN_ID, SECOND, WITH_ROWS, WITHOUT_ROWS

DOCUMENT = Path(__file__).parents[3] / "docs/data.md"
ACTIONS = {  # where S3's permissions are not called like its operations, and where there is none
    "ListObjectVersions": {"s3:ListBucketVersions"},
    "ListMultipartUploads": {"s3:ListBucketMultipartUploads"},
    "DeleteObjects": {"s3:DeleteObject", "s3:DeleteObjectVersion"},
    "DescribeAlarms": {"cloudwatch:DescribeAlarms"},
    "GetCallerIdentity": {"dynamodb:Query"},  # needs none
}


@pytest.fixture
def dropped(target: Target, put, put_stage, monkeypatch) -> Target:
    """An embedded cloud with a project whose data is to be forgotten."""
    embedded = replace(target, embedded=True)
    embedded.__dict__["outputs"] = target.outputs
    monkeypatch.setattr(targets, "find", lambda **_: embedded)
    monkeypatch.setattr(module.destroy.owned, "components", lambda _: [])  # moto knows of none
    forgettable.make(embedded, put, put_stage)
    return embedded


def records(target: Target) -> list[dict]:
    return module.Known(target).items("PROJECT#churn", "FORGOTTEN#")


def test_a_dry_run_lists_every_object_and_removes_nothing(dropped, ebb):
    before = forgettable.landing(dropped), forgettable.artifacts(dropped)
    told = json.loads(ebb("forget", KEY, "--dry-run", "--json").stdout)
    assert told["objects"]["landing"]["objects"] == 2  # the version that was overwritten too
    listed = {each["key"] for each in told["held"]}
    assert listed == {
        KEY, *WITH_ROWS, "requests/ebb-churn/t1", "answers/ebb-churn/t1.out",
    }  # fmt: skip
    assert (forgettable.landing(dropped), forgettable.artifacts(dropped)) == before
    assert records(dropped) == []
    people = ebb("forget", KEY, "--dry-run").stdout
    assert f"s3://landing/{KEY}" in people
    assert "ebb drop PATH --project churn" in people


def test_no_version_of_the_data_and_nothing_that_holds_its_rows_is_left(dropped, ebb):
    dropped.client("s3").delete_object(Bucket="landing", Key=KEY)  # a delete marker hides the versions
    done = ebb("forget", KEY, "--yes")
    assert done.exit_code == 0, done.output
    assert sorted(forgettable.landing(dropped)) == ["churn/data/a.csv.gz", OTHER]
    assert sorted(forgettable.artifacts(dropped)) == sorted([*WITHOUT_ROWS, MODEL, "requests/ebb-churn-2/t1"])


def test_an_upload_that_was_never_finished_goes_too(dropped, ebb):
    s3 = dropped.client("s3")
    upload = s3.create_multipart_upload(Bucket="landing", Key=KEY)["UploadId"]
    s3.upload_part(Bucket="landing", Key=KEY, UploadId=upload, PartNumber=1, Body=b"rows")
    assert ebb("forget", KEY, "--yes").exit_code == 0
    assert not s3.list_multipart_uploads(Bucket="landing").get("Uploads")


@pytest.mark.parametrize(("holder", "goes"), [(RUN_ID, True), (SECOND, False)])
def test_the_table_of_the_data_catalog_goes_when_its_rows_do(dropped, ebb, holder, goes):
    glue = dropped.client("glue")
    glue.create_database(DatabaseInput={"Name": "ebb"})
    table = {"Name": "churn", "Parameters": {"ebb.run_id": holder}, "StorageDescriptor": {"Location": "s3://a/"}}
    glue.create_table(DatabaseName="ebb", TableInput=table)
    planned = json.loads(ebb("forget", KEY, "--dry-run", "--json").stdout)
    assert planned["tables"] == (["churn"] if goes else [])
    assert ebb("forget", KEY, "--yes").exit_code == 0
    assert [each["Name"] for each in glue.get_tables(DatabaseName="ebb")["TableList"]] == ([] if goes else ["churn"])


def test_the_ledger_knows_what_was_forgotten_when_and_by_whom(dropped, ebb):
    ebb("forget", KEY, "--yes")
    [record] = records(dropped)
    assert record["dataset"] == f"s3://landing/{KEY}"
    assert record["status"] == "done"
    assert record["by"].startswith("arn:aws:sts::123456789012:")
    assert record["begun_at"] <= record["ended_at"]
    assert record["runs"] == [RUN_ID]
    assert record["still_serving"] == [SECOND]
    forgotten = forgettable.read(dropped, ledger.run_key(RUN_ID))["forgotten"]
    assert forgotten["dataset"] == record["dataset"]
    assert "forgotten" not in forgettable.read(dropped, ledger.run_key(SECOND))


def test_nothing_is_started_from_the_data_any_more(dropped, ebb):
    """No drop reuses its run, no retry goes on from its stages, nothing is added to it or begins with its weights."""
    ebb("forget", KEY, "--yes")
    assert forgettable.read(dropped, ledger.identity_key(IDENTITY)) is None
    assert "identity" not in forgettable.read(dropped, ledger.stage_key(RUN_ID, "process"))
    noted = [each["source"]["key"] for each in module.Known(dropped).items("PROJECT#churn", "SOURCE#")]
    assert noted == [OTHER]
    served = forgettable.read(dropped, ledger.project_key("churn"))["served"]
    assert served == {"run_id": SECOND, "address": "ebb-churn"}


def test_another_runs_identity_stays(dropped, ebb):
    forgettable.write(dropped, ledger.identity_key(IDENTITY) | {"run_id": SECOND})
    ebb("forget", KEY, "--yes")
    assert forgettable.read(dropped, ledger.identity_key(IDENTITY))["run_id"] == SECOND


def test_models_that_learnt_from_it_are_told_with_the_command_that_does_without(dropped, ebb):
    told = {each["run_id"]: each for each in json.loads(ebb("forget", KEY, "--dry-run", "--json").stdout)["models"]}
    assert set(told) == {RUN_ID, SECOND}  # the second by a warm start
    assert told[RUN_ID]["serves"] is None
    assert told[SECOND]["serves"]["address"] == "ebb-churn"
    assert told[SECOND]["retrain"].startswith(f"aws s3 cp 's3://landing/{OTHER}'")


def test_with_models_the_models_go_and_what_serves_them(dropped, ebb, monkeypatch):
    sagemaker, unregistered = dropped.client("sagemaker"), []
    monkeypatch.setattr(  # moto has none
        sagemaker, "delete_model_package", lambda ModelPackageName: unregistered.append(ModelPackageName)
    )
    sagemaker.create_model_package_group(ModelPackageGroupName="ebb-churn")
    for run_id in (RUN_ID, "churn-20261122040506-abc120"):
        sagemaker.create_model_package(
            ModelPackageGroupName="ebb-churn", CustomerMetadataProperties={"ebb-run": run_id},
            InferenceSpecification={"Containers": [{"Image": "i"}], "SupportedContentTypes": ["text/csv"],
                                    "SupportedResponseMIMETypes": ["text/csv"]},
        )  # fmt: skip
    forgettable.serve(dropped, "churn", "wine")
    done = ebb("forget", KEY, "--models", "--yes")
    assert done.exit_code == 0, done.output
    assert MODEL not in forgettable.artifacts(dropped)
    assert set(WITHOUT_ROWS) <= set(forgettable.artifacts(dropped))
    assert [each["EndpointName"] for each in sagemaker.list_endpoints()["Endpoints"]] == ["ebb-wine"]
    assert [each["ModelName"] for each in sagemaker.list_models()["Models"]] == ["ebb-wine"]
    assert [each.rpartition("/")[2] for each in unregistered] == ["1"]
    assert "served" not in forgettable.read(dropped, ledger.project_key("churn"))
    assert records(dropped)[0]["still_serving"] == []


def test_an_endpoint_that_a_broken_call_left_without_its_address_goes_with_the_next(dropped, ebb, monkeypatch):
    unserve, projects = module.destroy.unserve, []

    def address_only(target, outputs, project):
        forgettable.write(target, ledger.project_key(project))
        raise ClientError({"Error": {"Code": "Throttling", "Message": "Rate"}}, "DeleteEndpoint")

    def whole(target, outputs, project):
        projects.append(project)
        yield from unserve(target, outputs, project)

    monkeypatch.setattr(module.destroy, "unserve", address_only)
    assert ebb("forget", KEY, "--models", "--yes").exit_code == 1
    monkeypatch.setattr(module.destroy, "unserve", whole)
    assert ebb("forget", KEY, "--models", "--yes").exit_code == 0
    assert projects == ["churn"]


def test_data_that_a_run_works_on_is_refused_with_what_to_do(dropped, ebb, put):
    running = put("running", run_id="churn-20261126040506-abc126", sources=[], drop={"kind": "object"})
    done = ebb("forget", KEY, "--yes")
    assert done.exit_code == 1
    assert running in done.stderr
    assert "ebb cancel" in done.stderr
    assert KEY in forgettable.landing(dropped)
    assert json.loads(ebb("forget", KEY, "--dry-run", "--json").stdout)["in_progress"] == [running]


def test_a_run_that_starts_while_it_is_forgotten_stops_it_and_the_next_call_goes_on(dropped, ebb, put, monkeypatch):
    delete = module._delete

    def and_start(target, held):
        put("running", run_id="churn-20261126040506-abc126", sources=[], drop={"kind": "object"})
        return delete(target, held)

    monkeypatch.setattr(module, "_delete", and_start)
    assert ebb("forget", KEY, "--yes").exit_code == 1
    assert records(dropped)[0]["status"] == "begun"
    monkeypatch.setattr(module, "_delete", delete)
    put("cancelled", run_id="churn-20261126040506-abc126", sources=[], drop={"kind": "object"})
    assert ebb("forget", KEY, "--yes").exit_code == 0
    [record] = records(dropped)
    assert record["status"] == "done"
    assert not [each for each in forgettable.artifacts(dropped) if "curated" in each]


def test_a_call_that_broke_half_way_is_gone_on_with(dropped, ebb, monkeypatch):
    s3, broken = (
        dropped.client("s3"),
        ClientError({"Error": {"Code": "SlowDown", "Message": "Reduce"}}, "DeleteObjects"),
    )
    delete = s3.delete_objects

    def landing_only(**request):
        if request["Bucket"] == "artifacts":
            raise broken
        return delete(**request)

    monkeypatch.setattr(s3, "delete_objects", landing_only)
    assert ebb("forget", KEY, "--yes").exit_code == 1
    assert KEY not in forgettable.landing(dropped)
    assert CURATED in forgettable.artifacts(dropped)
    monkeypatch.setattr(s3, "delete_objects", delete)
    done = ebb("forget", KEY, "--yes")
    assert done.exit_code == 0, done.output
    assert CURATED not in forgettable.artifacts(dropped)
    assert [each["status"] for each in records(dropped)] == ["done"]


def test_an_object_that_s3_would_not_delete_is_an_error(dropped, ebb, monkeypatch):
    answer = {"Errors": [{"Key": KEY, "Code": "AccessDenied", "Message": "no s3:DeleteObjectVersion"}]}
    monkeypatch.setattr(dropped.client("s3"), "delete_objects", lambda **_: answer)
    done = ebb("forget", KEY, "--yes")
    assert done.exit_code == 1
    assert "AccessDenied" in done.stderr
    assert "goes on" in done.stderr


def test_forgetting_again_finds_nothing_left(dropped, ebb):
    ebb("forget", KEY, "--yes")
    told = json.loads(ebb("forget", KEY, "--yes", "--json").stdout)
    assert (told["objects"], told["removed"]) == ({}, {})


def test_the_logs_of_its_jobs_go_and_those_of_other_runs_stay(dropped, ebb):
    logs, group = dropped.client("logs"), "/aws/sagemaker/TrainingJobs"
    logs.create_log_group(logGroupName=group)
    for run_id in (RUN_ID, SECOND):
        logs.create_log_stream(logGroupName=group, logStreamName=f"{run_id}-a1-train/algo-1")
    ebb("forget", KEY, "--yes")
    left = logs.describe_log_streams(logGroupName=group)["logStreams"]
    assert [each["logStreamName"] for each in left] == [f"{SECOND}-a1-train/algo-1"]


def test_what_a_failed_job_said_is_taken_out_of_its_record(dropped, ebb, put):
    error = {"type": "JobFailed", "stage": "train", "message": "cannot read 'Smith'"}
    drop = {"kind": "object", "bucket": "landing", "key": KEY}
    failed = put("failed", run_id="churn-20261121040506-abc121", error=error, drop=drop)
    record = f"projects/churn/runs/{failed}/run.json"
    report = record.replace("run.json", "report.html")
    for key in (record, report):
        dropped.client("s3").put_object(Bucket="artifacts", Key=key, Body=b"Smith")
    ebb("forget", KEY, "--yes")
    assert "Smith" not in forgettable.read(dropped, ledger.run_key(failed))["error"]["message"]
    assert not {record, report} & set(forgettable.artifacts(dropped))


def test_scored_files_go_with_what_was_dropped_to_be_scored(dropped, ebb):
    scored = f"projects/churn/runs/{forgettable.SCORING}/scored/new.csv.out"
    dropped.client("s3").put_object(Bucket="artifacts", Key=scored, Body=b"rows")
    dropped.client("s3").put_object(Bucket="landing", Key="churn/score/new.csv", Body=b"rows")
    told = json.loads(ebb("forget", "churn/score/new.csv", "--yes", "--json").stdout)
    assert told["models"] == []
    assert scored not in forgettable.artifacts(dropped)
    assert KEY in forgettable.landing(dropped)


def test_a_whole_project_is_a_folder(dropped, ebb):
    assert ebb("forget", "churn/", "--yes").exit_code == 0
    assert forgettable.landing(dropped) == []


def test_data_in_a_bucket_of_somebody_elses_stays_and_what_came_from_it_goes(dropped, ebb, put):
    lake = {"bucket": "lake", "key": "rows.csv", "size_bytes": 4, "etag": "e", "sha256": "5" * 64}
    run = put(run_id="wine-20261121040506-abc121", sources=[lake], source_count=1, drop={"kind": "spec"})
    curated = f"{names.curated_prefix(run)}a1/train.parquet"
    dropped.client("s3").put_object(Bucket="artifacts", Key=curated, Body=b"rows")
    done = ebb("forget", "s3://lake/rows.csv", "--yes")
    assert done.exit_code == 0, done.output
    assert "not Ebb's to remove" in done.stdout
    assert curated not in forgettable.artifacts(dropped)


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        pytest.param(["lineage", KEY], 1, id="lineage"),
        pytest.param(["forget", KEY, "--yes"], 2, id="forget"),
        pytest.param(["forget", KEY, "--models", "--yes"], 3, id="with the models"),
    ],
)
def test_what_a_command_calls_is_among_the_permissions_that_the_documentation_lists(
    dropped, ebb, monkeypatch, arguments, rows
):
    used = set()
    dropped.client("s3").create_multipart_upload(Bucket="landing", Key=KEY)
    forgettable.serve(dropped, "churn")
    fresh = replace(dropped, account=f"{rows:012}")  # clients are kept by target, and these are to be watched
    fresh.__dict__["outputs"] = dropped.outputs
    monkeypatch.setattr(targets, "find", lambda **_: fresh)

    def note(model, **_):
        service = model.service_model
        used.update(ACTIONS.get(model.name) or {f"{service.signing_name}:{model.name}"})

    dropped.session.events.register("before-call", note)
    try:
        assert ebb(*arguments).exit_code == 0
    finally:
        dropped.session.events.unregister("before-call", note)
    listed = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.count("`") > 8]
    documented = {each for line in listed[:rows] for each in re.findall(r"`([a-z0-9-]+:[A-Za-z]+)`", line)}
    assert len(listed) == 3
    assert {"dynamodb:Query", "s3:ListBucketVersions"} <= used
    assert used - documented == set()


@pytest.mark.parametrize("name", ["s3://landing/", "wine/data/nothing.csv"])
def test_what_is_not_there_is_refused(dropped, ebb, name):
    assert ebb("forget", name, "--yes").exit_code in (1, 2)
    assert records(dropped) == []


def test_nothing_goes_without_a_yes(dropped, ebb):
    done = ebb("forget", KEY, stdin="n\n")
    assert done.exit_code == 1
    assert KEY in forgettable.landing(dropped)


def test_on_aws_forget_takes_a_named_profile_and_the_dataset_typed(dropped, ebb, monkeypatch):
    account = replace(dropped, embedded=False)
    account.__dict__["outputs"] = dropped.outputs
    monkeypatch.setattr(targets, "find", lambda **_: account)
    assert ebb("forget", KEY, "--yes").exit_code == 2
    named = replace(account, profile="work")
    named.__dict__["outputs"] = dropped.outputs
    monkeypatch.setattr(targets, "find", lambda **_: named)
    assert ebb("forget", KEY, "--yes", stdin="churn\n").exit_code == 1
    assert KEY in forgettable.landing(dropped)
    assert ebb("forget", KEY, stdin=f"{KEY}\n").exit_code == 0
    assert KEY not in forgettable.landing(dropped)
