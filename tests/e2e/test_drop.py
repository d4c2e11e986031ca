"""Drop a table, get a served model: what an ML engineer sees."""

import csv
import itertools
import json
import subprocess
from pathlib import Path

import pytest

from ebb_local import settings

from .conftest import ROOT, Cloud, Ebb, wait_until

GRADES = {"Fair", "Good", "Very Good", "Premium", "Ideal"}


def without_target(table: Path, target: str, rows: int = 3) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return [{k: v for k, v in row.items() if k != target} for row in itertools.islice(csv.DictReader(file), rows)]


@pytest.fixture(scope="module")
def cut_run(ebb: Ebb, tables: Path) -> dict:
    return ebb.drop(tables / "cut.csv", "cut")


def test_a_classification_table_without_a_spec_ends_in_an_endpoint_that_answers(ebb, cut_run, tables):
    assert cut_run["status"] == "succeeded", cut_run
    assert cut_run["task"] == "tabular-classification"
    rows = without_target(tables / "cut.csv", "cut")
    answer = ebb.json("invoke", "cut", "-", stdin=json.dumps(rows))
    assert len(answer["predictions"]) == 3
    for prediction in answer["predictions"]:
        assert prediction["label"] in GRADES
        assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-3)


def test_the_record_of_a_run_compares_the_original_with_the_shipped_model(cut_run):
    original, shipped = cut_run["comparison"]["original"], cut_run["comparison"]["shipped"]
    assert shipped["quality"]["validation"] >= original["quality"]["validation"] - 0.01
    # A linear model may be shipped as it was trained: a few kilobytes, of which its runtime's own notes are a part.
    assert shipped["size_bytes"] <= original["size_bytes"] + 1024
    for measured in (original, shipped):
        assert 0 < measured["latency_ms"]["p50"] <= measured["latency_ms"]["p99"]
    footprint = cut_run["footprint"]
    for quantity in ("energy_kwh", "carbon_g", "cost_usd"):
        assert 0 < footprint[quantity]["low"] <= footprint[quantity]["value"] <= footprint[quantity]["high"]
    assert {stage["stage"] for stage in cut_run["stages"]} - {"images"} == {"process", "train", "compress", "compile"}


def test_what_the_run_took_stands_in_its_months_account_and_nothing_is_left_set_aside(ebb, cut_run):
    """Without a budget too: runs that have one must know what is gone."""
    (cut,) = ebb.json("budget", "cut", "--month", cut_run["created_at"][:7])["projects"]
    assert cut["taken"]["carbon_g"] >= cut_run["footprint"]["carbon_g"]["value"] * 0.999 > 0
    assert cut["under_way"] == []


def test_the_chosen_candidate_was_measured_and_is_within_the_quality_floor(cut_run):
    chosen = next(c for c in cut_run["candidates"] if c["name"] == cut_run["chosen"])
    assert chosen["status"] == "measured"


def test_the_record_tells_which_recipes_training_tried_what_each_took_and_which_was_enough(ebb, cut_run):
    report = next(stage["report"] for stage in cut_run["stages"] if stage["stage"] == "train")
    tried = report["rungs"]
    assert tried[0]["name"] == "linear", "the cheapest first"
    assert report["rung"] in {rung["name"] for rung in tried}
    for rung in tried:
        assert rung["energy_kwh"]["value"] > 0
        assert rung["reason"]
    assert "Training, a ladder" in ebb("show", cut_run["run_id"]).stdout
    assert f"fitting {report['rung']} (taken)" in ebb("why", cut_run["run_id"]).stdout


def test_why_tells_the_chain_from_the_upload_to_the_grams(ebb, cut_run):
    told = ebb("why", cut_run["run_id"]).stdout
    for part in ("data/cut.csv", "last column", "tabular-classification", cut_run["chosen"], "gCO2e"):
        assert part in told


def test_the_run_leaves_a_report_with_what_its_model_gets_wrong(ebb, cut_run):
    told = json.loads(ebb("report", cut_run["run_id"], "--json").stdout)
    assert told["origin"] == "written when the run ended"
    page = Path(told["path"]).read_text()
    for part in ("Confusion matrix", "What would make it greener", cut_run["chosen"], *GRADES):
        assert part in page


READ = """
import duckdb, json, sys
places, columns = json.loads(sys.argv[1]), json.loads(sys.argv[2])
named = ", ".join(f'CAST("{name}" AS {type}) AS "{name}"' for name, type in columns.items())
rows = {split: duckdb.sql(f"SELECT {named} FROM '{place}/*.parquet'").fetchall() for split, place in places.items()}
print(json.dumps(rows))
"""


def read_table(cloud: Cloud, name: str, folder: Path) -> tuple[dict, dict[str, list]]:
    """Read a table by what the Data Catalog says of it: places, names and types; return it and its rows by split."""
    glue, s3, database = cloud.client("glue"), cloud.client("s3"), cloud.stack.replace("-", "_")
    table = glue.get_table(DatabaseName=database, Name=name)["Table"]
    places = {}
    for partition in glue.get_partitions(DatabaseName=database, TableName=name)["Partitions"]:
        (split,) = partition["Values"]
        bucket, _, prefix = partition["StorageDescriptor"]["Location"].removeprefix("s3://").partition("/")
        places[split] = str(folder / split)
        (folder / split).mkdir()
        for each in s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
            s3.download_file(bucket, each["Key"], str(folder / split / each["Key"].rpartition("/")[2]))
    columns = {each["Name"]: each["Type"] for each in table["StorageDescriptor"]["Columns"]}
    python = settings.environment_python("jobs")
    read = [str(python), "-c", READ, json.dumps(places), json.dumps(columns)]
    done = subprocess.run(read, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return table, json.loads(done.stdout)


def test_the_curated_rows_are_a_table_of_the_data_catalog(ebb, cloud: Cloud, cut_run, tmp_path):
    table, rows = read_table(cloud, "cut", tmp_path)
    told = next(stage["report"] for stage in cut_run["stages"] if stage["stage"] == "process")["rows"]
    assert {split: len(found) for split, found in rows.items()} == {
        split: told[split] for split in ("train", "validation", "test")
    }
    assert {row[-1] for row in rows["train"]} == GRADES, "the target is the last column"
    assert table["Parameters"]["ebb.run_id"] == cut_run["run_id"]
    assert "table in the Data Catalog" in ebb("why", cut_run["run_id"]).stdout


def test_the_same_drop_again_starts_no_job_and_names_the_run_it_reuses(ebb, cloud: Cloud, cut_run, tables):
    before = cloud.job_names()
    again = ebb.drop(tables / "cut.csv", "cut")
    assert again["status"] == "reused"
    assert again["reuses"] == cut_run["run_id"]
    assert cloud.job_names() == before


def test_a_regression_table_with_a_spec_ends_in_an_endpoint_that_returns_values(ebb, cloud: Cloud, tables, tmp_path):
    """Its recipe is searched by training jobs of their own, and the best one's model goes on."""
    spec = tmp_path / "pipeline.yaml"
    spec.write_text(
        "task: tabular-regression\ndata: {target: median}\n"
        "train: {metric: rmse, spot: true, rungs: [trees], tune: {jobs: 2, trials: 3}}\n"
    )
    run = ebb.drop(tables / "price.csv", "price", "--spec", spec)
    assert run["status"] == "succeeded", run
    assert run["metric"] == "rmse"
    trained = next(stage for stage in run["stages"] if stage["stage"] == "train")
    search = trained["report"]["tuning"]
    assert search["where"] == "a SageMaker tuning job"
    assert len(search["trials"]) == 3
    best = search["trials"][search["best"]["trial"]]
    assert best["objective"] == max(one["objective"] for one in search["trials"] if one["status"] == "finished")
    assert trained["job_name"] == best["job_name"]
    assert trained["billable_s"] == pytest.approx(sum(one["seconds"] for one in search["trials"]), abs=1)
    jobs = cloud.client("sagemaker")
    described = jobs.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=search["job_name"])
    assert described["HyperParameterTuningJobStatus"] == "Completed"
    assert described["BestTrainingJob"]["TrainingJobName"] == best["job_name"]
    assert "SageMaker tuning job" in ebb("why", run["run_id"]).stdout
    rows = without_target(tables / "price.csv", "median")
    body = "\n".join(",".join(row.values()) for row in rows)
    csv_file = tmp_path / "rows.csv"
    csv_file.write_text(body + "\n")
    answer = ebb.json("invoke", "price", csv_file)
    assert [20_000 < p["value"] < 500_000 for p in answer["predictions"]] == [True] * 3


@pytest.fixture(scope="module")
def pair_run(ebb: Ebb, tables: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A drop of two files, 400 rows together; what comes after them in `few.csv` is for a drop that adds."""
    lines = (tables / "few.csv").read_text().splitlines()
    folder = tmp_path_factory.mktemp("two") / "pair"
    folder.mkdir()
    (folder / "a.csv").write_text("\n".join(lines[:200]) + "\n")
    (folder / "b.csv").write_text("\n".join([lines[0], *lines[200:401]]) + "\n")
    spec = tmp_path_factory.mktemp("spec") / "pipeline.yaml"
    spec.write_text("features: {share: [lent]}\n")
    return ebb.drop(folder, "pair", "--spec", spec)


def test_a_drop_of_several_files_starts_once_its_success_marker_is_there(pair_run):
    assert pair_run["status"] == "succeeded", pair_run
    assert Path(pair_run["drop"]["key"]).name == "_SUCCESS"
    assert len(pair_run["sources"]) == 2


OFFLINE_STORE = """
import json, sys
from ebb_jobs import offline_store
table = offline_store.load(sys.argv[1])
rows = table.scan().to_arrow()
print(json.dumps({"runs": rows["ebb_run"].to_pylist(), "sides": rows["ebb_split"].to_pylist(),
                  "columns": rows.column_names, **offline_store.figures(table)}))
"""


def read_features(cloud: Cloud, group: str) -> dict:
    """Read the table of a feature group as anybody would who has the right: by the Data Catalog, with pyiceberg."""
    keys = cloud.session.get_credentials().get_frozen_credentials()
    given = {
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_DEFAULT_REGION": cloud.session.region_name,
        "PYTHONPATH": str(ROOT / "jobs"),
        **({"AWS_SESSION_TOKEN": keys.token} if keys.token else {}),
        **({"AWS_ENDPOINT_URL": cloud.endpoint_url} if cloud.endpoint_url else {}),
    }
    read = [str(settings.environment_python("jobs")), "-c", OFFLINE_STORE, group]
    done = subprocess.run(read, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def published(run: dict) -> dict:
    """What the stage that registers features reported."""
    return next(stage["report"] for stage in run["stages"] if stage["stage"] == "features")


def test_a_project_that_shares_its_rows_has_them_in_an_offline_feature_group(ebb, cloud: Cloud, pair_run):
    report = published(pair_run)
    group = cloud.client("sagemaker").describe_feature_group(FeatureGroupName=report["group"])
    assert group["OfflineStoreConfig"]["TableFormat"] == "Iceberg"
    table = read_features(cloud, report["group"])
    rows = next(stage["report"]["rows"] for stage in pair_run["stages"] if stage["stage"] == "process")
    assert len(table["runs"]) == report["rows"] == rows["kept"]
    assert set(table["runs"]) == {pair_run["run_id"]}
    assert table["sides"].count("test") == rows["test"]
    assert table["snapshot_id"] == report["snapshot_id"]


def test_another_project_learns_from_shared_features_without_processing_anything(ebb, cloud: Cloud, pair_run):
    spec = b"data: {features: pair}\ntrain: {rungs: [linear]}\ncompress: {methods: [quantize]}\n"
    cloud.put("lent/pipeline.yaml", spec + b"compile: {engine: neo, target: ml_c5}\n")
    run = wait_until(lambda: cloud.run_of("lent/pipeline.yaml"), "a run of the spec")
    record = json.loads(ebb("show", run["run_id"], "--wait", "--json").stdout)
    assert record["status"] == "succeeded", record
    assert "process" not in {stage["stage"] for stage in record["stages"]}
    assert not [name for name in cloud.job_names() if name.startswith(run["run_id"]) and name.endswith("-process")]
    why = ebb("why", run["run_id"]).stdout
    assert f"features: those of pair, made by {pair_run['run_id']}" in why
    assert "kWh saved" in why
    assert [Path(each["key"]).name for each in record["sources"]] == ["a.csv", "b.csv"]
    assert f"learnt from the features that {pair_run['run_id']} made" in ebb("lineage", "lent").stdout


def test_a_run_that_asks_for_neo_polls_its_job_and_goes_on_without_it_when_it_fails(ebb, cloud: Cloud):
    """The compiler is Amazon's: here the job fails, as it does on AWS for what Neo cannot compile."""
    run = cloud.run_of("lent/pipeline.yaml")
    assert run is not None, "the test before leaves it"
    record = json.loads(ebb("show", run["run_id"], "--json").stdout)
    sagemaker = cloud.client("sagemaker")
    job = sagemaker.describe_compilation_job(CompilationJobName=f"{run['run_id']}-a1-neo")
    assert job["CompilationJobStatus"] == "FAILED"
    bucket, _, key = job["InputConfig"]["S3Uri"].removeprefix("s3://").partition("/")
    assert cloud.client("s3").head_object(Bucket=bucket, Key=key)["ContentLength"] > 0
    (stage,) = [each for each in record["stages"] if each["stage"] == "neo"]
    assert (stage["status"], stage["instance_type"]) == ("failed", "SageMaker Neo")
    assert stage["duration_s"] > 0
    assert record["status"] == "succeeded"
    assert record["deployed"]
    why = ebb("why", run["run_id"]).stdout
    assert "SageMaker Neo for ml_c5 beside it" in why
    assert "packed as ONNX 1.7" in why
    assert f"the compilation job was FAILED when the run went on: {job['FailureReason'][:60]}" in why


def test_features_are_refused_to_a_project_that_they_are_not_shared_with(ebb, cloud: Cloud, pair_run):
    cloud.put("other/pipeline.yaml", b"data: {features: pair}\n")
    run = wait_until(lambda: cloud.run_of("other/pipeline.yaml"), "a run of the spec")
    record = json.loads(ebb("show", run["run_id"], "--wait", "--json").stdout)
    assert record["status"] == "rejected", record
    assert record["error"]["code"] == "features-not-shared"
    assert "Add other to features.share" in record["error"]["remedy"]


def test_a_spec_that_names_a_uri_and_spark_starts_a_run_on_data_left_where_it_is(ebb, cloud, tables, tmp_path):
    elsewhere = f"s3://{cloud.outputs['LandingBucketName']}/warehouse/few.csv"
    cloud.put("warehouse/few.csv", (tables / "few.csv").read_bytes())
    spec = f"data: {{uri: '{elsewhere}', target: cut}}\nprocess: {{engine: spark}}\n"
    cloud.put("cellar/pipeline.yaml", spec.encode())
    run = wait_until(lambda: cloud.run_of("cellar/pipeline.yaml"), "a run of the spec")
    ended = ebb("show", run["run_id"], "--wait", "--json")
    record = json.loads(ended.stdout)
    assert record["status"] == "succeeded", record
    assert record["sources"][0]["key"] == "warehouse/few.csv"
    # processed by Spark on Glue, and otherwise like every other run
    stage = next(stage for stage in record["stages"] if stage["stage"] == "process")
    assert stage["instance_type"] == "2 x G.1X of Glue 5.1, FLEX"
    assert stage["report"]["engine"].startswith("Spark 3.5.")
    assert stage["dpu_hours"] > 0
    assert stage["footprint"]["cost_usd"]["value"] > 0
    assert "engine for process: Spark, because named by process.engine" in ebb("why", run["run_id"]).stdout
    (job_run,) = cloud.client("glue").get_job_runs(JobName=f"{cloud.stack}-cellar-process")["JobRuns"]
    assert job_run["JobRunState"] == "SUCCEEDED"
    assert "features: " in ebb("logs", run["run_id"], "process").stdout
    _, rows = read_table(cloud, "cellar", tmp_path)
    assert sum(map(len, rows.values())) == stage["report"]["rows"]["kept"]


def test_a_drop_that_adds_trains_on_the_old_and_the_new_rows(ebb, pair_run, tables, tmp_path):
    lines = (tables / "few.csv").read_text().splitlines()
    spec = tmp_path / "pipeline.yaml"
    spec.write_text("data: {target: cut, mode: append}\n")
    tuesday = tmp_path / "tuesday.csv"
    tuesday.write_text("\n".join([lines[0], *lines[401:]]) + "\n")
    run = ebb.drop(tuesday, "pair", "--spec", spec)
    assert run["status"] == "succeeded", run
    assert [Path(source["key"]).name for source in run["sources"]] == ["a.csv", "b.csv", "tuesday.csv"]
    report = next(stage["report"] for stage in run["stages"] if stage["stage"] == "train")
    assert report["rungs"], report
    told = ebb("why", run["run_id"]).stdout
    assert "start: the weights of the served model" in told
    assert f"measured in {pair_run['run_id']}: " in told, "the last run's use chooses the machines of the next"


def test_forgotten_data_is_in_no_object_version_and_lineage_tells_who_learnt_from_it(ebb, cloud: Cloud, pair_run):
    """After the drop that adds: the served model began with the weights of the one before it."""
    planned = ebb.json("forget", "pair/", "--dry-run")
    assert {"landing", "curated", "samples"} <= planned["objects"].keys()
    assert planned["tables"] == ["pair"]
    (features,) = planned["features"]
    assert features["rows"] == len(read_features(cloud, features["group"])["runs"]) > 0
    done = ebb("forget", "pair/", "--yes", "--json", *ebb.named, stdin="pair/\n")
    assert done.returncode == 0, done.stderr
    for bucket in ("LandingBucketName", "ArtifactBucketName"):
        listing = cloud.client("s3").get_paginator("list_object_versions").paginate(Bucket=cloud.outputs[bucket])
        left = {each["Key"] for page in listing for each in (*page.get("Versions", []), *page.get("DeleteMarkers", []))}
        assert not left & {each["key"] for each in planned["held"]}
        assert not [key for key in left if key.startswith(("pair/", "curated/pair/"))]
    glue = cloud.client("glue")
    with pytest.raises(glue.exceptions.EntityNotFoundException):
        glue.get_table(DatabaseName=cloud.stack.replace("-", "_"), Name="pair")
    table = read_features(cloud, features["group"])
    assert (table["runs"], table["table_files"]) == ([], 0), "it reads, and holds nothing"
    assert "ebb_run" in table["columns"]
    assert not [key for key in left if key.startswith("features/pair/") and key.endswith(".parquet")]
    told = ebb.json("lineage", "pair/data/pair/a.csv")
    assert (told["versions"], [each["status"] for each in told["forgotten"]]) == ([], ["done"])
    first, lent, second = told["models"]
    assert lent["run_id"].startswith("lent-")
    assert (first["run_id"], first["forgotten"]["dataset"].endswith("/pair/")) == (pair_run["run_id"], True)
    assert second["serves"]["address"].endswith("-pair")


def test_plan_prints_what_would_be_done_and_starts_nothing(ebb, cloud, tables):
    before = cloud.executions()
    planned = ebb("plan", tables / "few.csv")
    assert planned.returncode == 0, planned.stderr
    for stage in ("process", "train", "compress", "compile"):
        assert stage in planned.stdout
    assert cloud.executions() == before


def test_rows_dropped_below_score_come_back_with_the_predictions_that_the_endpoint_gives(
    ebb, cloud: Cloud, cut_run, tables, tmp_path
):
    rows = without_target(tables / "cut.csv", "cut", rows=40)
    sent = tmp_path / "new.csv"
    with sent.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    run = ebb.json("score", sent, "--project", "cut", "--wait", "--output", tmp_path / "scored")
    assert run["status"] == "succeeded", run
    with (tmp_path / "scored" / "new.scored.csv").open(newline="") as file:
        scored = list(csv.DictReader(file))
    assert [{name: row[name] for name in rows[0]} for row in scored] == rows
    answer = ebb.json("invoke", "cut", "-", stdin=json.dumps(rows))
    assert [row["prediction"] for row in scored] == [each["label"] for each in answer["predictions"]]
    assert run["scored_uri"].startswith(run["record_uri"].removesuffix("run.json"))
    assert run["footprint"]["cost_usd"]["value"] > 0
    models = cloud.client("sagemaker").list_models(NameContains=run["run_id"])["Models"]
    assert models == []  # nothing is left that could run


def test_a_file_that_cannot_be_scored_is_refused_before_anything_starts(ebb, cut_run, tmp_path):
    refused = tmp_path / "new.parquet"
    refused.write_bytes(b"PAR1")
    done = ebb("score", refused, "--project", "cut")
    assert done.returncode == 3
    assert ".jsonl" in done.stderr
