"""`ebb plan`: the pipeline's own judgement, without a cloud."""

import gzip
import json
import zipfile
from pathlib import Path

import pytest

from ebb import ledger, rightsizing
from ebb.spec import PipelineSpec
from ebb_cli import planning

ROWS = "".join(f"{number},{number % 7},{'yes' if number % 3 else 'no'}\n" for number in range(200))
TABLE = "a,b,label\n" + ROWS


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


def planned(ebb, *arguments) -> dict:
    done = ebb("plan", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_target_and_task_are_inferred_and_explained(ebb, table):
    look = planned(ebb, table)["look"]
    assert (look["target"]["value"], look["task"]["value"]) == ("label", "tabular-classification")
    assert look["target"]["reason"]
    assert look["task"]["reason"]


def test_the_plan_is_that_of_the_pipeline(ebb, table):
    plan = planned(ebb, table)["plan"]
    assert plan["train"]["request"]["HyperParameters"]
    assert [plan[stage]["needed"] for stage in ("process", "train", "compress", "compile")] == [True] * 4


def test_every_stage_has_a_machine_a_reason_and_an_upper_bound(ebb, table):
    document = planned(ebb, table)
    assert [stage["stage"] for stage in document["stages"]] == ["process", "train", "compress", "compile"]
    for stage in document["stages"]:
        assert stage["instance_type"].startswith("ml.")
        assert stage["reason"]
        assert stage["expected"]["cost_usd"]["high"] <= stage["at_most_usd"]
        assert document["plan"][stage["stage"]]["request"]


def test_the_plans_machines_are_those_of_the_request_bodies(ebb, table):
    document = planned(ebb, table)
    train = next(stage for stage in document["stages"] if stage["stage"] == "train")
    assert document["plan"]["train"]["request"]["ResourceConfig"]["InstanceType"] == train["instance_type"]


def test_spark_that_the_spec_names_is_told_with_its_workers_and_its_cost(ebb, table, tmp_path):
    spec = tmp_path / "pipeline.yaml"
    spec.write_text("process: {engine: spark}\n")
    document = planned(ebb, table, "--spec", spec)
    process, train = document["stages"][:2]
    assert (process["stage"], process["instance_type"], train["stage"]) == ("process", "Glue, 2 x G.1X", "train")
    assert 0 < process["expected"]["cost_usd"]["value"] < process["at_most_usd"]
    assert document["plan"]["process"]["request"]["NumberOfWorkers"] == 2
    people = ebb("plan", table, "--spec", spec).stdout
    assert "engine for process: Spark, named by process.engine in the spec; 2 workers" in people


def test_spark_is_refused_for_pictures(ebb, animals, tmp_path):
    spec = tmp_path / "pipeline.yaml"
    spec.write_text("process: {engine: spark}\n")
    done = ebb("plan", animals, "--spec", spec)
    assert done.exit_code == 3
    assert "process.engine" in done.stderr
    assert "engine: auto" in done.stderr


def test_the_spec_is_followed(ebb, table, tmp_path):
    spec = tmp_path / "pipeline.yaml"
    spec.write_text("data: {target: b}\ntrain: {spot: false, max_runtime: 2h}\n")
    with_spec, without = planned(ebb, table, "--spec", spec), planned(ebb, table)
    assert with_spec["look"]["target"]["value"] == "b"
    assert [stage["spot"] for stage in with_spec["stages"]] == [False] * 4
    assert with_spec["at_most_usd"] > without["at_most_usd"]


def test_compressed_and_json_lines_are_read_too(ebb, tmp_path):
    packed = tmp_path / "table.csv.gz"
    packed.write_bytes(gzip.compress(TABLE.encode()))
    assert planned(ebb, packed)["look"]["target"]["value"] == "label"
    lines = tmp_path / "table.jsonl"
    lines.write_text("".join(json.dumps({"x": number, "target": number / 3}) + "\n" for number in range(100)))
    assert planned(ebb, lines)["look"]["task"]["value"] == "tabular-regression"


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Pictures of two classes; what they show is nothing that a plan looks at."""
    folder = tmp_path / "animals"
    for name in (f"{label}/{number}.png" for label in ("cats", "dogs") for number in range(60)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n" + name.encode())
    return folder


@pytest.fixture
def packed(animals: Path) -> Path:
    with zipfile.ZipFile(animals.with_suffix(".zip"), "w") as archive:
        for file in animals.rglob("*.png"):
            archive.write(file, file.relative_to(animals.parent))
    return animals.with_suffix(".zip")


@pytest.mark.parametrize("name", ["animals", "animals.zip"])
def test_pictures_are_known_by_their_folders_packed_or_not(ebb, animals, packed, name):
    document = planned(ebb, animals.parent / name)
    look = document["look"]
    assert look["task"]["value"] == "image-classification"
    assert look["target"]["reason"].endswith("cats, dogs")
    assert document["plan"]["train"]["request"]
    assert look["format"] == ("archive" if name.endswith("zip") else "images")


def test_an_archive_that_would_be_rejected_is_rejected_with_status_3(ebb, tmp_path):
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 and no end")
    done = ebb("plan", tmp_path / "cut.zip")
    assert done.exit_code == 3
    assert "cut.zip" in done.stderr


def test_a_training_script_is_told_by_its_name(ebb, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train.py").write_text("print()\n")
    (tmp_path / "mine/rows.npz").write_bytes(b"rows")
    task = planned(ebb, tmp_path / "mine")["look"]["task"]
    assert task == {"value": "custom", "reason": "there is a training script, train.py"}


@pytest.mark.parametrize("columns", [("said", "tongue"), ("tongue", "said")], ids=["label last", "text last"])
def test_a_table_with_one_column_of_free_text_is_a_text_to_classify(ebb, tmp_path, columns):
    rows = [{"said": f"this is the sentence number {i}", "tongue": ("en", "de")[i % 2]} for i in range(100)]
    table = "\n".join(",".join(row[column] for column in columns) for row in rows)
    (tmp_path / "talk.csv").write_text(",".join(columns) + "\n" + table + "\n")
    look = planned(ebb, tmp_path / "talk.csv")["look"]
    assert (look["task"]["value"], look["target"]["value"]) == ("text-classification", "tongue")


def test_the_stages_told_are_those_of_the_plan_whatever_is_dropped(ebb, table, animals, packed, tmp_path):
    rows = "".join(f"this is the sentence number {i},{('en', 'de')[i % 2]}\n" for i in range(100))
    (tmp_path / "talk.csv").write_text("said,tongue\n" + rows)
    for path in (table, animals, packed, tmp_path / "talk.csv"):
        document = planned(ebb, path)
        decided = {each["what"]: each for each in document["plan"]["decisions"]}
        for stage in document["stages"]:
            made = decided[f"instance for {stage['stage']}"]
            assert (stage["instance_type"], stage["reason"]) == (made["chosen"], made["reason"])
            assert stage["expected_duration_s"] == made["numbers"]["expected_duration_s"]
    needs = {path: planned(ebb, path)["stages"][1]["expected_duration_s"] for path in (table, tmp_path / "talk.csv")}
    assert len(set(needs.values())) == 2, "texts are not sized as a table"


@pytest.mark.parametrize(
    ("body", "spec", "told"),
    [
        pytest.param(TABLE + "1,2,yes,more\n", None, "202", id="a ragged row names its line"),
        pytest.param(TABLE, "data: {target: price}\n", "price", id="a target that is not there"),
        pytest.param(TABLE, "servee: {}\n", "servee", id="an unknown field of the spec"),
        pytest.param("", None, "empty", id="an empty file"),
        pytest.param(TABLE.replace(",no\n", ",yes\n"), None, "same value", id="one class only"),
    ],
)
def test_what_would_be_rejected_is_rejected_with_status_3(ebb, tmp_path, body, spec, told):
    path, more = tmp_path / "table.csv", []
    path.write_text(body)
    if spec:
        (tmp_path / "pipeline.yaml").write_text(spec)
        more = ["--spec", tmp_path / "pipeline.yaml"]
    done = ebb("plan", path, *more)
    assert done.exit_code == 3
    assert told in done.stderr


def test_a_spec_that_is_not_there_is_wrong_usage(ebb, table, tmp_path):
    done = ebb("plan", table, "--spec", tmp_path / "none.yaml")
    assert done.exit_code == 2
    assert "none.yaml is no file" in done.stderr


@pytest.fixture
def spec_alone(tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text("data: {uri: s3://landing/rows/big.csv.gz, target: label}\n")
    return path


def test_data_that_stays_in_the_bucket_is_planned_with_its_size_unknown(ebb, spec_alone):
    document = planned(ebb, spec_alone)
    assert (document["look"]["size_bytes"], document["look"]["compressed"]) == (None, True)
    assert document["plan"]["train"]["request"]
    assert "size unknown" in ebb("plan", spec_alone).stdout


def test_several_machines_cost_as_many_times(ebb, table, tmp_path):
    spec = tmp_path / "pipeline.yaml"
    spec.write_text("train: {instances: 2, instance: ml.m5.large}\n")
    train = next(each for each in planned(ebb, table, "--spec", spec)["stages"] if each["stage"] == "train")
    assert train["instance_type"] == "2 x ml.m5.large"
    assert train["at_most_usd"] == pytest.approx(2 * 0.115 * 1.1, abs=1e-4)  # an hour each, at the band's upper end


def test_the_last_run_of_a_project_chooses_and_its_findings_are_told(ebb, target, table, monkeypatch):
    monkeypatch.setattr(planning, "find", lambda **_: target)
    used = {
        "run_id": "wine-20261122010203-0a1b2c3d4e", "instance_type": "ml.m5.2xlarge", "duration_s": 600,
        "billable_s": 660, "vcpu": 8, "cpu_s": 700, "peak_memory_gib": 0.9,
        "data": {"size_bytes": table.stat().st_size, "form": "csv", "task": "tabular-classification"},
        "asked": rightsizing.asked("train", PipelineSpec()),
    }  # fmt: skip
    item = ledger.to_item({**ledger.project_key("wine"), "measured": {"train": used}})
    target.session.resource("dynamodb").Table("ledger").put_item(Item=item)
    done = ebb("plan", table, "--project", "wine")
    assert "last train was oversized: the next run is on ml." in done.stdout
    assert "peak memory 0.9 of 32 GiB" in done.stdout


def test_a_named_target_tells_the_size_and_is_told(ebb, target, spec_alone, monkeypatch):
    monkeypatch.setattr(planning, "find", lambda **_: target)
    target.client("s3").put_object(Bucket="landing", Key="rows/big.csv.gz", Body=b"x" * 1234)
    done = ebb("plan", spec_alone, "--profile", "work", "--json")
    assert json.loads(done.stdout)["look"]["size_bytes"] == 1234
    assert "target: AWS account 123456789012 region us-east-1" in done.stderr


@pytest.mark.parametrize(
    ("text", "form", "task"),
    [
        pytest.param("data: {uri: s3://landing/x/shots.zip}", "archive", None, id="an archive"),
        pytest.param("data: {uri: s3://landing/x/rows.parquet}", "parquet", None, id="a table"),
        pytest.param(
            "data: {uri: s3://landing/x/}\ntask: image-classification", "images", "image-classification", id="a folder"
        ),
        pytest.param(
            "data: {uri: s3://landing/x/rows.csv}\ntrain: {source: s3://landing/x/train.py}",
            "script",
            "custom",
            id="a script apart from its data",
        ),
    ],
)
def test_data_that_stays_is_called_what_its_name_says(ebb, tmp_path, text, form, task):
    (tmp_path / "pipeline.yaml").write_text(text)
    look = planned(ebb, tmp_path / "pipeline.yaml")["look"]
    assert (look["format"], (look["task"] or {}).get("value")) == (form, task)


@pytest.mark.parametrize(
    ("keys", "form", "task"),
    [
        pytest.param(["cats/1.png", "dogs/1.png"], "images", "image-classification", id="pictures"),
        pytest.param(["train.py", "_layers.py", "rows.npy"], "script", "custom", id="a script with a private module"),
        pytest.param(["a.jsonl", "b.jsonl", "_SUCCESS"], "jsonl", None, id="tables"),
    ],
)
def test_a_folder_that_stays_is_looked_at_by_its_names(ebb, target, tmp_path, monkeypatch, keys, form, task):
    monkeypatch.setattr(planning, "find", lambda **_: target)
    for key in keys:
        target.client("s3").put_object(Bucket="landing", Key=f"kept/{key}", Body=b"x" * 10)
    (tmp_path / "pipeline.yaml").write_text("data: {uri: s3://landing/kept/}\n")
    look = planned(ebb, tmp_path / "pipeline.yaml", "--profile", "work")["look"]
    assert (look["format"], (look["task"] or {}).get("value")) == (form, task)
    assert look["files"] == len([key for key in keys if key != "_SUCCESS"])


def test_a_folder_that_is_no_drop_is_rejected_where_it_stays(ebb, target, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "find", lambda **_: target)
    for key in ("a.csv", "b.parquet"):
        target.client("s3").put_object(Bucket="landing", Key=f"kept/{key}", Body=b"x")
    (tmp_path / "pipeline.yaml").write_text("data: {uri: s3://landing/kept/}\n")
    done = ebb("plan", tmp_path / "pipeline.yaml", "--profile", "work")
    assert done.exit_code == 3
    assert "mixes" in done.stderr


def test_a_spec_without_data_is_nothing_to_plan(ebb, tmp_path):
    (tmp_path / "pipeline.yaml").write_text("data: {target: label}\n")
    done = ebb("plan", tmp_path / "pipeline.yaml")
    assert done.exit_code == 2
    assert "data.uri" in done.stderr


def test_an_unknown_region_is_wrong_usage(ebb, table):
    done = ebb("plan", table, "--region", "us-eest-1")
    assert done.exit_code == 2
    assert "us-eest-1" in done.stderr
    assert "us-east-1" in done.stderr


def test_people_read_stages_costs_and_what_was_not_started(ebb, table):
    told = ebb("plan", table).stdout
    for part in ("process", "train", "compress", "compile", "USD", "gCO2e", "nothing was started"):
        assert part in told


def test_a_plan_says_how_the_model_would_be_served_and_what_each_kind_takes(ebb, table, tmp_path):
    spec = tmp_path / "pipeline.yaml"
    spec.write_text("serve: {requests_per_day: 500, p95_latency: 50ms}\n")
    served = planned(ebb, table, "--spec", spec)["serving"]
    assert [row["kind"] for row in served["table"]] == ["serverless", "async", "realtime", "shared", "batch"]
    assert (served["chosen"], served["numbers"]["requests_per_day"]) == ("serverless", 500)
    assert {each["field"] for row in served["table"] for each in row["excluded"]} == {"serve.p95_latency", "serve.kind"}
    told = ebb("plan", table, "--spec", spec).stdout
    assert "How it would be served: serverless, least energy" in told
    assert "no, serve.p95_latency: 1 in 20 takes" in told


def test_a_plan_follows_the_kind_that_the_spec_names(ebb, table, tmp_path):
    spec = tmp_path / "pipeline.yaml"
    spec.write_text("serve: {availability: high}\n")
    served = planned(ebb, table, "--spec", spec)["serving"]
    (chosen,) = (row for row in served["table"] if row["kind"] == served["chosen"])
    assert (chosen["kind"], chosen["copies"], chosen["sleeps"]) == ("realtime", 2, "never")


def test_a_plan_says_what_would_be_load_tested_and_for_how_much_at_most(ebb, table, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text("serve: {recommender: true, kind: serverless}\n")
    told = " ".join(ebb("plan", table, "--spec", spec).stdout.split())
    assert "Inference Recommender would load-test 1024 MB, 2048 MB, 4096 MB" in told
    assert "which takes up to 2 h and costs at most 5.04 USD" in told
    document = json.loads(ebb("plan", table, "--spec", spec, "--json").stdout)
    assert document["serving"]["load_test"]["at_most_usd"] == 5.04
    assert "ebb-plan-recommend" in [each["create"]["RoleName"] for each in document["plan"]["roles"]]
    assert "Right-sizing" not in ebb("plan", table).stdout


def test_a_kind_that_cannot_be_had_is_refused_before_anything_runs(ebb, table, tmp_path):
    spec = tmp_path / "pipeline.yaml"
    spec.write_text("serve: {kind: async, availability: high}\n")
    done = ebb("plan", table, "--spec", spec)
    assert done.exit_code != 0
    assert "serve.availability" in done.stderr
