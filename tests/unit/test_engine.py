"""Which engine processes how much, and what Glue is asked for."""

import json
from datetime import timedelta

import pytest

from aws_shapes import problems
from ebb import engine, sizing
from ebb.errors import NoFeasibleInstanceError
from ebb.requests import glue
from ebb.spec import PipelineSpec
from worked_run import built_plan

GIB = 1024**3


def data(gib, form="csv", **more):
    return sizing.Data(size_bytes=int(gib * GIB), form=form, **more)


def spec(**more):
    return PipelineSpec.model_validate(more)


@pytest.mark.parametrize(
    ("asked", "seen", "name"),
    [
        pytest.param({}, data(0.001), "DuckDB", id="a small table"),
        pytest.param({}, data(10), "DuckDB", id="a table that one machine sorts on disk"),
        pytest.param({}, data(2000), "Spark", id="no machine has the memory"),
        pytest.param({}, data(400, "parquet"), "Spark", id="Parquet holds five times its bytes"),
        pytest.param({"train": {"max_runtime": 60}}, data(10), "Spark", id="no machine is expected to finish in time"),
        pytest.param({"task": "text-classification"}, data(2000), "DuckDB", id="texts stay on one machine"),
        pytest.param({}, data(2000, "archive"), "DuckDB", id="an archive stays on one machine"),
        pytest.param({"task": "custom"}, data(2000), "DuckDB", id="a script's data stay on one machine"),
    ],
)
def test_the_engine_follows_from_the_size(asked, seen, name):
    chosen = engine.choose(spec(**asked), seen)
    assert chosen.name == name, chosen.reason
    assert chosen.numbers["text_gib"] > 0
    assert (chosen.worker_type is None) == (name == "DuckDB")


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        pytest.param({}, data(0.001), id="a small table"),
        pytest.param({}, data(2000), id="a table that would suit Spark"),
        pytest.param({"train": {"max_runtime": 60}}, data(10), id="no machine is expected to finish in time"),
        pytest.param({"task": "custom"}, data(2000), id="a script's data"),
    ],
)
def test_a_plan_takes_one_machine_because_nothing_starts_glue_yet(asked, seen):
    chosen = engine.planned(spec(**asked), seen)
    assert chosen.name == "DuckDB"
    assert "Spark" not in repr(chosen)
    assert sizing.for_stage("process", spec(**asked), seen).instance, "and there is one"


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(data(4000), id="CSV"),
        pytest.param(data(800, "csv", compressed=True), id="packed CSV, by its text"),
        pytest.param(data(800, "parquet"), id="Parquet, by its text"),
    ],
)
def test_what_no_volume_holds_is_refused_with_size_limit_and_remedy(seen):
    with pytest.raises(NoFeasibleInstanceError, match=r"20,010 GiB for 4,000 GiB of text.*16,384 GiB: drop the data"):
        engine.planned(spec(), seen)


def test_a_script_is_told_its_bytes():
    with pytest.raises(NoFeasibleInstanceError, match="for 4,000 GiB,"):
        engine.planned(spec(task="custom"), data(4000, "script"))


def test_a_plan_is_refused_where_its_volume_is(monkeypatch):
    monkeypatch.setattr(sizing, "choose", lambda *_, **__: pytest.fail("the instance is not chosen first"))
    with pytest.raises(NoFeasibleInstanceError, match="volume"):
        built_plan(data=data(4000))


def test_larger_tables_get_more_and_then_larger_workers():
    sizes = [engine.choose(spec(), data(gib)) for gib in (270, 300, 700, 5000)]
    assert [each.worker_type for each in sizes] == ["G.1X", "G.1X", "G.2X", "G.2X"]
    assert [each.workers for each in sizes] == [35, 39, 45, 50]


def start(**more):
    values = {
        "job_name": "ebb-process",
        "security_configuration": "ebb",
        "worker_type": "G.1X",
        "workers": 5,
        "max_runtime_s": 3601,
        "manifest_uri": "s3://a/manifest.json",
        "curated_uri": "s3://a/curated/",
        "report_uri": "s3://a/report",
        "work_uri": "s3://a/work",
        "settings": {"spec": {}},
    }
    return glue.start_job_run(**(values | more))


def test_the_requests_are_valid_for_glue():
    policy = glue.session_policy(read=["arn:aws:s3:::landing/p/data/*"], write=["arn:aws:s3:::artifacts/runs/r/*"])
    assert not problems("glue", "StartJobRun", start(session_policy=policy))
    job = glue.create_job(
        name="ebb-process",
        role_arn="arn:aws:iam::123456789012:role/ebb-glue",
        script_uri="s3://a/jobs/ebb_jobs/process_spark.py",
        code_zip_uri="s3://a/jobs.zip",
        security_configuration="ebb",
        tags={"ebb:stack": "ebb"},
    )
    assert not problems("glue", "CreateJob", job)
    assert job["GlueVersion"] == "5.1", "the newest version is the default, and has another Python and Spark"
    assert job["DefaultArguments"]["--job-bookmark-option"] == "job-bookmark-disable"
    assert (job["ExecutionClass"], job["SecurityConfiguration"]) == ("FLEX", "ebb")


def test_a_run_has_time_in_whole_minutes_and_no_less_than_asked():
    assert timedelta(minutes=start()["Timeout"]) == timedelta(minutes=61)


def test_a_policy_that_is_too_long_is_not_sent():
    with pytest.raises(ValueError, match="2048"):
        start(session_policy=glue.session_policy(read=["arn:aws:s3:::b/" + "k" * 2000], write=[]))


def test_what_glue_installs_is_what_the_tests_run():
    installed = dict(each.split("==") for each in glue.MODULES)
    assert json.dumps(installed, sort_keys=True) == json.dumps(_locked(installed), sort_keys=True)


def _locked(names):
    from pathlib import Path

    root = Path(__file__).parents[2]
    lines = (root / "requirements/jobs-test.txt").read_text() + (root / "containers/jobs/requirements.txt").read_text()
    pins = dict(line.split("==") for line in lines.splitlines() if "==" in line)
    return {name: pins[name] for name in names}
