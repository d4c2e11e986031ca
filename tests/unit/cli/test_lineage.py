"""`ebb lineage`: from an object to the models, from a model to the objects."""

import json

import pytest

from ebb import ledger, names
from ebb_cli.target import Target
from unit.cli import forgettable
from unit.cli.forgettable import KEY, OTHER, RUN_ID, SCORING, SECOND


@pytest.fixture
def dropped(target: Target, put, put_stage) -> dict:
    """A model of one drop, and a model that goes on from it with another one; returns the first drop's source."""
    return forgettable.make(target, put, put_stage)


def test_an_object_leads_to_the_models_made_from_it_and_to_those_that_went_on_from_them(dropped, ebb, target):
    told = json.loads(ebb("lineage", KEY, "--json").stdout)
    assert [each["run_id"] for each in told["models"]] == [RUN_ID, SECOND]
    read, warm = told["models"]
    [source] = read["objects"]
    assert (source["key"], source["size_bytes"], source["sha256"]) == (KEY, 8, dropped["sha256"])
    newest = target.client("s3").head_object(Bucket="landing", Key=KEY)["VersionId"]
    assert source["version_id"] == newest
    assert (read["serves"], read["learnt_through"]) == (None, [])
    assert warm["serves"]["address"] == "ebb-churn"
    assert (warm["learnt_through"], warm["objects"]) == ([RUN_ID], [])
    assert len(told["versions"]) == 2


@pytest.mark.parametrize("name", [SECOND, "churn", SECOND[:-3], f"churn-{SECOND[6:14]}"])
def test_a_model_leads_to_its_objects_and_to_the_model_that_it_began_with(dropped, ebb, name):
    model = json.loads(ebb("lineage", name, "--json").stdout)["model"]
    assert model["run_id"] == SECOND
    assert [each["key"] for each in model["objects"]] == [OTHER]
    assert model["started_from"]["run_id"] == RUN_ID
    assert [each["key"] for each in model["started_from"]["objects"]] == [KEY]
    assert [each["run_id"] for each in model["scored"]] == [SCORING]


def test_a_registered_model_is_named_by_its_version_or_its_arn(dropped, ebb, target):
    sagemaker = target.client("sagemaker")
    sagemaker.create_model_package_group(ModelPackageGroupName="ebb-churn")
    arn = sagemaker.create_model_package(
        ModelPackageGroupName="ebb-churn", CustomerMetadataProperties={"ebb-run": RUN_ID},
        InferenceSpecification={"Containers": [{"Image": "i"}], "SupportedContentTypes": ["text/csv"],
                                "SupportedResponseMIMETypes": ["text/csv"]},
    )["ModelPackageArn"]  # fmt: skip
    for name in ("churn/1", arn):
        model = json.loads(ebb("lineage", name, "--json").stdout)["model"]
        assert (model["run_id"], model["version"], model["package"]) == (RUN_ID, 1, arn)
    assert ebb("lineage", "churn/7").exit_code == 2


def test_people_see_a_tree_in_both_directions(dropped, ebb):
    forwards = ebb("lineage", KEY).stdout
    assert "models made from it" in forwards
    assert f"{SECOND}  int8  serves at ebb-churn" in forwards
    assert f"began as those of {RUN_ID}" in forwards
    backwards = ebb("lineage", "churn").stdout
    assert f"s3://landing/{OTHER}" in backwards
    assert f"training began with the weights of {RUN_ID}" in backwards
    assert dropped["sha256"][:16] in backwards


def test_of_many_objects_the_manifest_knows_the_names_and_digests(dropped, ebb, target, put):
    keys = [f"wine/data/d/{number}.csv" for number in range(60)]
    for key in keys:
        target.client("s3").put_object(Bucket="landing", Key=key, Body=b"a,b\n")
    run = put(run_id="wine-20991121040506-abc121", source_count=60, started_at="2099-11-21T04:05:06Z", chosen="int8")
    for key, document in (
        (names.manifest_key(run), [{"prefix": "s3://landing/"}, *keys]),
        (names.sources_key(run), dict.fromkeys(keys, "5" * 64)),
    ):
        target.client("s3").put_object(Bucket="artifacts", Key=key, Body=json.dumps(document).encode())
    model = json.loads(ebb("lineage", run, "--json").stdout)["model"]
    assert [each["key"] for each in model["objects"]] == keys
    assert {(each["size_bytes"], each["sha256"]) for each in model["objects"]} == {(4, "5" * 64)}
    assert all(each["version_id"] for each in model["objects"])
    assert "48 more" in ebb("lineage", run).stdout


def test_what_was_forgotten_is_told_with_the_models_that_learnt_from_it(dropped, ebb, target):
    record = {
        **ledger.project_key("churn"), "sk": "FORGOTTEN#2026-11-24T00:00:00Z#1", "dataset": "s3://landing/churn/data",
        "bucket": "landing", "key": "churn/data", "status": "done", "by": "arn:aws:sts::1:assumed-role/x/y",
        "begun_at": "2026-11-24T00:00:00Z", "ended_at": "2026-11-24T00:00:09Z",
    }  # fmt: skip
    forgettable.write(target, record)
    for version in json.loads(ebb("lineage", KEY, "--json").stdout)["versions"]:
        target.client("s3").delete_object(Bucket="landing", Key=KEY, VersionId=version["version_id"])
    told = json.loads(ebb("lineage", KEY, "--json").stdout)
    assert told["versions"] == []
    assert [each["by"] for each in told["forgotten"]] == [record["by"]]
    assert [each["run_id"] for each in told["models"]] == [RUN_ID, SECOND]
    assert "S3 holds no version of it" in ebb("lineage", KEY).stdout


def test_a_run_that_reused_a_model_names_the_one_that_made_it(dropped, ebb, put):
    reused = put("reused", run_id="churn-20261126040506-abc126", reuses=RUN_ID)
    done = ebb("lineage", reused)
    assert done.exit_code == 1
    assert f"ebb lineage {RUN_ID}" in done.stderr


@pytest.mark.parametrize("name", ["nobody", "wine/data/x.csv", "s3://lake/rows.csv", "s3://landing"])
def test_what_is_not_known_is_an_error(dropped, ebb, name):
    assert ebb("lineage", name).exit_code in (1, 2)


def test_a_model_names_the_encoder_that_its_ladder_was_given(ebb, put):
    encoder = {"bucket": "lake", "key": "minilm/model.safetensors", "size_bytes": 90_868_376, "sha256": "5" * 64}
    put(pretrained=[encoder], chosen="int8")
    [named] = json.loads(ebb("lineage", RUN_ID, "--json").stdout)["model"]["pretrained"]
    assert (named["key"], named["sha256"]) == ("minilm/model.safetensors", "5" * 64)
    assert "encoder s3://lake/minilm/model.safetensors" in " ".join(ebb("lineage", RUN_ID).stdout.split())
