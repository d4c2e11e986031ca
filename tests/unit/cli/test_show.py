"""Runs as people and programs see them: stable documents, abbreviations, exit statuses."""

import json

import pytest

from ebb import ledger, serving, serving_kinds, serving_model, traffic
from ebb.spec_serve import ServeSpec
from ebb_cli.ledger import RUN_FIELDS, STAGE_FIELDS

from .conftest import RUN_ID

OLDER = "churn-20261122040506-abc999"
MEASURE = {
    "quality": {"validation": 0.97, "test": 0.968},
    "latency_ms": {"p50": 0.2, "p99": 0.3},
    "end_to_end_latency_ms": {"p50": 0.5, "p99": 0.9},
    "throughput_rows_per_s": 9000,
    "size_bytes": 2_000_000,
    "memory_mib": 40,
    "per_million": {
        "energy_kwh": {"low": 0.001, "value": 0.002, "high": 0.003},
        "carbon_g": {"low": 0.4, "value": 0.8, "high": 1.2},
        "cost_usd": {"low": 0.9, "value": 1.0, "high": 1.1},
    },
}
SHIPPED = (
    MEASURE
    | {"size_bytes": 200_000, "latency_ms": {"p50": 0.02, "p99": 0.05}}
    | {"end_to_end_latency_ms": {"p50": 0.25, "p99": 0.3}}
)


def test_a_run_document_holds_every_field_whatever_became_of_the_run(ebb, put):
    for number, status in enumerate(("running", "rejected", "failed", "succeeded")):
        run = put(status, run_id=f"churn-2026112304050{number}-abc123")
        document = json.loads(ebb("show", run, "--json").stdout)
        assert tuple(document) == RUN_FIELDS
        assert document["status"] == status
        assert document["stages"] == document["candidates"] == document["sources"] == []


def test_stages_come_in_the_order_they_ran_with_their_seconds(ebb, put, put_stage):
    put()
    for stage, seconds in (("train", 30.5), ("compile", 4), ("process", 2.25), ("compress", 9)):
        put_stage(stage, duration_s=seconds)
    stages = json.loads(ebb("show", RUN_ID, "--json").stdout)["stages"]
    assert [(stage["stage"], stage["duration_s"]) for stage in stages] == [
        ("process", 2.25), ("train", 30.5), ("compress", 9), ("compile", 4),
    ]  # fmt: skip
    assert {tuple(stage) for stage in stages} == {STAGE_FIELDS}


def test_the_duration_of_a_run_is_counted_from_its_beginning(ebb, put):
    put()
    assert json.loads(ebb("show", RUN_ID, "--json").stdout)["duration_s"] == 66.5


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(RUN_ID, id="the whole id"),
        pytest.param("churn-20261123", id="a prefix that only one run has"),
        pytest.param("latest", id="latest is the newest by creation"),
    ],
)
def test_a_run_may_be_abbreviated(ebb, put, name):
    put(run_id=RUN_ID)
    put(run_id=OLDER)
    assert json.loads(ebb("show", name, "--json").stdout)["run_id"] == RUN_ID


@pytest.mark.parametrize(
    ("name", "told"),
    [
        pytest.param("churn-", "any of 2 runs", id="an ambiguous prefix"),
        pytest.param("nothing", "No run is called 'nothing'", id="an unknown name"),
    ],
)
def test_a_name_that_is_no_run_is_wrong_usage(ebb, put, name, told):
    put(run_id=RUN_ID)
    put(run_id=OLDER)
    done = ebb("show", name)
    assert done.exit_code == 2
    assert told in done.stderr
    assert done.stdout == ""


def test_latest_without_any_run_says_how_to_start_one(ebb, target):
    done = ebb("show", "latest")
    assert done.exit_code == 1
    assert "ebb drop" in done.stderr


@pytest.mark.parametrize(
    ("status", "code"),
    [
        pytest.param("succeeded", 0, id="success"),
        pytest.param("reused", 0, id="a reused model is a success"),
        pytest.param("superseded", 0, id="a newer drop took over"),
        pytest.param("failed", 1, id="failure"),
        pytest.param("rejected", 3, id="rejection"),
        pytest.param("cancelled", 4, id="cancelled"),
    ],
)
def test_waiting_ends_with_the_status_of_the_run(ebb, put, status, code):
    put(status)
    assert ebb("show", RUN_ID, "--wait").exit_code == code
    assert ebb("show", RUN_ID).exit_code == 0, "looking at a run is not waiting for it"


def test_waiting_with_json_prints_exactly_one_document(ebb, put):
    put("rejected", error={"message": "line 7 has 4 cells", "file": "a.csv", "line": 7, "remedy": "Repair it."})
    done = ebb("show", RUN_ID, "--wait", "--json")
    assert json.loads(done.stdout)["error"]["remedy"] == "Repair it."


def test_a_rejection_is_told_with_its_place_and_remedy(ebb, put):
    put("rejected", error={"message": "4 cells where 3 are due", "file": "a.csv", "line": 7, "remedy": "Repair it."})
    told = ebb("show", RUN_ID).stdout
    assert "a.csv, line 7: 4 cells where 3 are due" in told
    assert "Repair it." in told


def test_a_message_that_names_its_place_is_told_once(ebb, put):
    put("rejected", error={"message": "a.csv, line 7: the text is empty", "file": "a.csv", "line": 7, "column": "text"})
    assert ebb("show", RUN_ID).stdout.count("a.csv") == 1


def test_before_and_after_stand_side_by_side_with_units_and_bands(ebb, put):
    put(metric="accuracy", chosen="student", comparison={"original": MEASURE, "shipped": SHIPPED})
    rows = ebb("show", RUN_ID).stdout.splitlines()
    size = next(row for row in rows if row.startswith("size"))
    assert [part.strip() for part in size.split("  ") if part.strip()][1:] == ["1.9 MiB", "195.3 KiB", "10.0x"]
    whole = next(row for row in rows if row.startswith("latency p50, row to answer"))
    assert [part.strip() for part in whole.split("  ") if part.strip()][1:] == ["0.500 ms", "0.250 ms", "2.0x"]
    alone = next(row for row in rows if row.startswith("latency p50, network alone"))
    assert [part.strip() for part in alone.split("  ") if part.strip()][1:] == ["0.200 ms", "0.0200 ms", "10.0x"]
    carbon = next(row for row in rows if row.startswith("gCO2e per million"))
    assert "0.800 (0.400 to 1.20)" in carbon
    assert any(row.startswith("USD on AWS per million") for row in rows)


def cells(told: str, first: str) -> list[str]:
    line = next(line for line in told.splitlines() if line.startswith(first))
    return [part.strip() for part in line.split("  ") if part.strip()]


CANDIDATES = [
    {
        "name": "student", "status": "measured", "runtime": "onnxruntime", "quality": {"validation": 0.9713},
        "drop_bound": 0.0042, "latency_ms": {"p50": 0.021}, "throughput_rows_per_s": 91234.5, "size_bytes": 200_000,
        "cpu_ms_per_prediction": 0.031, "verdict": "student takes the least energy: 0.031 CPU-ms",
    },
    {"name": "pruned-int8-openvino", "status": "failed", "runtime": "openvino", "reason": "cannot be compiled"},
]  # fmt: skip


def test_what_a_stage_used_of_its_machine_is_shown(ebb, put, put_stage):
    put()
    feed = {"loop_s": 100.0, "wait_s": 63.0, "workers": 0}
    report = {"duration_s": 600.0, "vcpu": 8, "peak_rss_mib": 921.6, "feed": feed}
    put_stage("train", instance_type="ml.m5.2xlarge", cpu_seconds=1008, report=report)
    told = ebb("show", RUN_ID).stdout
    assert "used by train: CPU 21% of 8 vCPU, 0.9 of 32 GiB, 63% of its loop waiting for data" in told


def test_each_lever_of_the_training_is_named_with_what_it_gave(ebb, put, put_stage):
    put()
    lever = {"name": "growing pictures", "gave": "36% fewer multiplications", "from": "counted in this run"}
    put_stage("train", report={"rung": "net", "rungs": [{"name": "net", "levers": [lever]}]})
    shown = ebb("show", RUN_ID).stdout
    assert all(words in shown for words in lever.values())


def test_every_candidate_stands_with_its_runtime_its_figures_and_its_verdict(ebb, put):
    put(
        metric="accuracy", chosen="student", candidates=CANDIDATES, comparison={"original": MEASURE, "shipped": SHIPPED}
    )
    told = ebb("show", RUN_ID).stdout
    assert cells(told, "student ✓") == [
        "student ✓", "onnxruntime", "0.9713", "0.0042", "0.0210", "91,234", "195.3 KiB", "0.0310",
        "student takes the least energy",
    ]  # fmt: skip
    assert cells(told, "as trained")[:3] == ["as trained", "pytorch", "0.9700"]


def test_what_a_script_exported_is_compared_with_itself_as_exported(ebb, put):
    put(task="custom", chosen="student", candidates=CANDIDATES, comparison={"original": MEASURE, "shipped": SHIPPED})
    told = ebb("show", RUN_ID).stdout
    assert cells(told, "as exported")[:2] == ["as exported", "onnxruntime"]
    assert "target" not in told


def test_a_candidate_that_failed_says_why_instead_of_figures(ebb, put):
    put(metric="accuracy", chosen="student", candidates=CANDIDATES)
    told = cells(ebb("show", RUN_ID).stdout, "pruned-int8-openvino")
    assert told == ["pruned-int8-openvino", "openvino", *["-"] * 6, "cannot be compiled"]


def test_a_model_that_is_served_as_its_script_left_it_has_no_figures_to_compare(ebb, put):
    as_is = {"name": "as-is", "status": "measured", "quality": None, "size_bytes": 3_000_000, "reason": "no model.onnx"}
    put(task="custom", chosen="as-is", candidates=[as_is], comparison={"original": None, "shipped": as_is})
    told = ebb("show", RUN_ID).stdout
    assert cells(told, "as-is ✓") == ["as-is ✓", *["-"] * 5, "2.9 MiB", "-", "no model.onnx"]
    assert "Original against shipped" not in told


def test_runs_lists_newest_first_and_only_those_of_the_project(ebb, put):
    put(run_id=OLDER)
    put(run_id=RUN_ID)
    put(run_id="other-20261123040506-abc123")
    found = json.loads(ebb("runs", "--project", "churn", "--json").stdout)
    assert [run["run_id"] for run in found] == [RUN_ID, OLDER]
    assert len(json.loads(ebb("runs", "--limit", "1", "--json").stdout)) == 1


def test_why_prints_the_chain_of_the_decisions(ebb, put, target):
    put(drop={"bucket": "landing", "key": "churn/data/a.csv", "uploaded_at": "2026-11-23T04:05:06Z", "size_bytes": 10})
    decision = {"what": "target", "chosen": "label", "reason": "the column is called 'label'"}
    for item in ledger.decision_items(RUN_ID, "identify", [decision]):
        target.session.resource("dynamodb").Table("ledger").put_item(Item=item)
    told = ebb("why", RUN_ID).stdout
    assert told.index("churn/data/a.csv") < told.index("target: label")
    assert json.loads(ebb("why", RUN_ID, "--json").stdout)["decisions"][0]["what"] == "target"


def test_the_kind_of_serving_is_shown_with_what_the_others_would_take(ebb, put, target):
    put("succeeded")
    decision = serving.choose(
        serve=ServeSpec(), model=serving_model.Model(memory_mib=200), traffic=traffic.expected(500), region="us-east-1"
    ).decision()
    for item in ledger.decision_items(RUN_ID, "select", [decision]):
        target.session.resource("dynamodb").Table("ledger").put_item(Item=item)
    told = ebb("show", RUN_ID).stdout
    assert "Served as serverless: least energy" in told
    assert "no, serve.kind: answers files" in told
    assert "no, serve.kind: answers files" in ebb("why", RUN_ID).stdout
    document = json.loads(ebb("show", RUN_ID, "--json").stdout)
    assert [row["kind"] for row in document["serving"]["table"]] == list(serving_kinds.KINDS)


def test_every_command_says_on_stderr_whom_it_speaks_to(ebb, put):
    put()
    done = ebb("runs", "--json")
    assert done.stderr.startswith("target: AWS account 123456789012 region us-east-1")
    json.loads(done.stdout)


def test_what_a_load_test_found_is_shown_and_told(ebb, put, target):
    run_id = put()
    item = {
        **ledger.recommendation_key(run_id),
        "stage": "deploy",
        "what": "right-sizing",
        "chosen": "2048 MB, 5 at once",
        "reason": "Inference Recommender's load test of 1024 MB, 2048 MB found it the best",
        "numbers": {"USD at most": 0.5, "minutes": 15.0},
        "alternatives": ["1024 MB: 600 requests a minute, 90 ms each"],
        "figures": ["1024 MB: 600 requests a minute, 90 ms each", "2048 MB: 1,500 requests a minute, 30 ms each"],
        "job_name": "churn--lt-a1",
        "at_most_usd": 2.0,
    }
    target.session.resource("dynamodb").Table("ledger").put_item(Item=ledger.to_item(item))
    shown, told = (" ".join(ebb(command, run_id).stdout.split()) for command in ("show", "why"))
    assert "Right-sized to 2048 MB, 5 at once: Inference Recommender's load test" in shown
    assert "2048 MB: 1,500 requests a minute" in shown
    assert "load test churn--lt-a1, at most 0.50 USD (cap 2.00 USD)" in shown
    assert "right-sizing: 2048 MB, 5 at once, because Inference Recommender's load test" in told
    assert "not taken: 1024 MB: 600 requests a minute" in told


def test_a_run_that_waits_for_greener_electricity_says_for_when_and_what_that_saves(ebb, put):
    window = {"stage": "train", "begins": "2026-11-23T12:00:00Z", "source": "forecast file (ours)", "saved_g": 62.04}
    put("running", window=window | {"state": "waiting"})
    assert "train: waits for 2026-11-23" in ebb("show", RUN_ID).stdout
    assert "train waits for 2026-11-23" in " ".join(ebb("runs").stdout.split())
    put("succeeded", window=window | {"state": "begun"})
    assert "train: 62.0 g less than at its first look (forecast file (ours)" in ebb("show", RUN_ID).stdout
