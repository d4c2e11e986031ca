"""Which engine processes how much, and what Glue is asked for."""

import json
from datetime import timedelta

import pytest

from aws_shapes import problems
from ebb import engine, sizing
from ebb.errors import DropRejectedError, InvalidSpecError, NoFeasibleInstanceError
from ebb.requests import glue, jobs
from ebb.spec import PipelineSpec
from worked_run import ARTIFACTS, JOBS_HASH, RUN_ID, built_plan

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
    ("asked", "seen", "name"),
    [
        pytest.param("auto", data(0.001), "DuckDB", id="a small table"),
        pytest.param("auto", data(2000), "Spark", id="a large table"),
        pytest.param("auto", data(4000), "Spark", id="one that no volume holds"),
        pytest.param("single", data(2000), "DuckDB", id="one machine, as asked"),
        pytest.param("spark", data(0.001), "Spark", id="Spark, as asked"),
        pytest.param("single", data(0.001, "archive"), "DuckDB", id="an archive on one machine, as asked"),
    ],
)
def test_a_plan_follows_the_size_unless_the_spec_names_an_engine(asked, seen, name):
    chosen = engine.planned(spec(process={"engine": asked}), seen)
    assert chosen.name == name
    assert (asked == "auto") == ("named by process.engine" not in chosen.reason)
    assert (chosen.workers >= 2) == (name == "Spark")


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(data(1, "archive"), id="an archive"),
        pytest.param(data(1, "images"), id="pictures"),
        pytest.param(data(1, task="text-classification"), id="texts, by what was found"),
        pytest.param(data(1, "script"), id="a script"),
    ],
)
def test_spark_is_refused_for_what_only_one_machine_can_process(seen):
    with pytest.raises(InvalidSpecError) as refused:
        engine.planned(spec(process={"engine": "spark"}), seen)
    rejection = refused.value.rejection
    assert (rejection.code, rejection.column) == ("engine-not-for-data", "process.engine")
    assert "engine: auto" in rejection.remedy


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
        engine.planned(spec(process={"engine": "single"}), seen)


def test_a_script_is_told_its_bytes():
    with pytest.raises(NoFeasibleInstanceError, match="for 4,000 GiB,"):
        engine.planned(spec(task="custom"), data(4000, "script"))


def test_a_plan_is_refused_where_its_volume_is(monkeypatch):
    monkeypatch.setattr(sizing, "choose", lambda *_, **__: pytest.fail("the instance is not chosen first"))
    with pytest.raises(DropRejectedError, match="volume"):
        built_plan(data=data(4000), spec=spec(process={"engine": "single"}))


@pytest.mark.parametrize(
    ("gib", "asked", "named"), [(32, "auto", "DuckDB"), (300, "spark", "Spark"), (2000, "auto", "Spark")]
)
def test_of_a_table_beyond_what_train_holds_a_fair_sample_is_learned(gib, asked, named):
    """Whoever processes it: the rows that are left are all read by one machine that trains."""
    made = built_plan(data=data(gib), spec=spec(process={"engine": asked}))
    told = {each["what"]: each for each in made["decisions"]}
    share = told["rows to learn from"]["numbers"]["share"]
    assert share == pytest.approx(31 / gib, rel=0.01)
    assert share <= 31 / gib
    assert "31 GiB of text" in told["rows to learn from"]["reason"]
    assert told["engine for process"]["chosen"] == named
    assert settings_of(made["process"]["request"])["learn_share"] == share
    train = made["train"]["request"]["ResourceConfig"]
    assert train["VolumeSizeInGB"] == sizing.volume_gib(data(31 if gib == 32 else gib * share))
    assert made["data"]["learn_share"] == share, "the next run is compared with what this one's stages read"


def settings_of(request):
    if "Arguments" in request:
        return json.loads(request["Arguments"]["--settings"])
    return jobs.settings_of(request["Environment"])


def test_the_largest_table_that_train_holds_is_learned_whole_with_either_engine():
    for asked, named in (("auto", "DuckDB"), ("spark", "Spark")):
        made = built_plan(data=data(31), spec=spec(process={"engine": asked}))
        assert all(made[stage]["request"] for stage in ("process", "train", "compress", "compile"))
        assert "learn_share" not in settings_of(made["process"]["request"])
        assert "rows to learn from" not in [each["what"] for each in made["decisions"]]
        (chosen,) = [each for each in made["decisions"] if each["what"] == "engine for process"]
        assert chosen["chosen"] == named
        assert chosen["numbers"]["largest_text_gib_to_train"] == 31
        assert "one machine trains: on 31 GiB at most, of more on a fair sample" in chosen["reason"]


def test_texts_beyond_what_train_holds_are_rejected_with_the_limit_and_a_remedy():
    with pytest.raises(DropRejectedError) as refused:
        built_plan(data=data(40), spec=spec(task="text-classification"))
    rejection = refused.value.rejection
    assert rejection.code == "beyond-every-machine"
    assert "the largest holds" in rejection.message
    assert rejection.remedy.startswith("Drop less data")


def test_a_machine_that_the_spec_names_is_taken_beyond_what_is_expected_to_fit():
    named = spec(train={"instance": "ml.m5.24xlarge"})
    assert built_plan(data=data(46), spec=named)["data"]["learn_share"] == 1
    made = built_plan(data=data(48), spec=named)
    assert made["data"]["learn_share"] == pytest.approx(46 / 48, rel=0.01), "compile has a machine that Ebb chooses"


def test_a_stage_is_compared_with_what_it_read_of_the_rows():
    then, now = data(62, learn_share=0.5), data(31)
    assert sizing.growth("train", now, then) == pytest.approx(1)
    assert sizing.growth("process", now, then) == pytest.approx(0.5)


def test_a_plan_says_that_spark_moves_to_no_other_machine():
    told = {each["what"]: each for each in built_plan(spec=spec(process={"engine": "spark"}))["decisions"]}
    order = told["order of machines for process"]
    assert (order["chosen"], order["alternatives"]) == ("2 x G.1X on Glue, FLEX", [])
    assert "ebb retry" in order["reason"]


def test_rows_that_spark_must_process_in_time_still_become_a_model():
    """The one way in which `auto` takes Spark for data that train holds: a short train.max_runtime."""
    made = built_plan(data=data(31), spec=spec(train={"max_runtime": timedelta(minutes=5)}))
    assert made["process"]["request"]["WorkerType"] == "G.1X"
    assert made["train"]["request"]["ResourceConfig"]["InstanceType"] == "ml.m5.24xlarge"


def test_larger_tables_get_more_and_then_larger_workers():
    sizes = [engine.choose(spec(), data(gib)) for gib in (270, 300, 700, 5000)]
    assert [each.worker_type for each in sizes] == ["G.1X", "G.1X", "G.2X", "G.2X"]
    assert [each.workers for each in sizes] == [35, 39, 45, 50]


ON_SPARK = spec(process={"engine": "spark"})


def test_a_plan_for_spark_asks_glue_and_no_processing_job():
    plan = built_plan(spec=ON_SPARK)
    assert not problems("glue", "CreateJob", plan["spark_job"]["create"])
    assert not problems("glue", "UpdateJob", plan["spark_job"]["update"])
    assert not problems("glue", "StartJobRun", plan["process"]["request"])
    job, run = plan["spark_job"]["create"], plan["process"]["request"]
    assert plan["spark_job"]["update"]["JobUpdate"] == {
        name: value for name, value in job.items() if name not in ("Name", "Tags")
    }
    assert run["JobName"] == job["Name"] == "ebb-cancer-process"
    assert job["GlueVersion"] == "5.1", "the newest version is the default, and has another Python and Spark"
    assert job["DefaultArguments"]["--job-bookmark-option"] == "job-bookmark-disable"
    assert job["DefaultArguments"]["--extra-py-files"] == f"s3://{ARTIFACTS}/jobs/{JOBS_HASH}.zip"
    assert job["Command"]["ScriptLocation"] == f"s3://{ARTIFACTS}/jobs/{JOBS_HASH}/ebb_jobs/process_spark.py"
    assert (job["ExecutionClass"], job["SecurityConfiguration"]) == ("FLEX", "ebb")
    assert run["Arguments"]["--custom-logStream-prefix"] == f"{RUN_ID}-a1-process", "by which ebb logs finds it"
    assert run["Arguments"]["--curated"] == plan["artifacts"]["curated"]
    assert f"{run['Arguments']['--report']}/metrics.json" == plan["process"]["report_uri"]
    decisions = {each["what"]: each for each in plan["decisions"]}
    assert decisions["engine for process"]["chosen"] == "Spark"
    assert "instance for process" not in decisions


def test_a_plan_for_one_machine_knows_no_spark():
    assert built_plan()["spark_job"] is None
    assert not [each for each in built_plan()["roles"] if each["create"]["RoleName"].endswith("-spark")]


def test_a_finished_process_asks_for_no_job_again():
    plan = built_plan(spec=ON_SPARK, finished={"process": 1}, attempt=2)
    assert (plan["spark_job"], plan["process"]["request"], plan["process"]["needed"]) == (None, {}, False)


def test_the_role_of_spark_is_assumed_by_glue_and_reaches_its_own_project_only():
    roles = {each["create"]["RoleName"]: each for each in built_plan(spec=ON_SPARK)["roles"]}
    role = roles["ebb-cancer-spark"]
    trust = json.loads(role["create"]["AssumeRolePolicyDocument"])["Statement"][0]
    assert trust["Principal"] == {"Service": "glue.amazonaws.com"}
    statements = json.loads(role["policy"]["PolicyDocument"])["Statement"]
    objects = {
        resource
        for each in statements
        for resource in each["Resource"]
        if each["Action"][0].startswith(("s3:GetObject", "s3:PutObject"))
    }
    assert objects
    for each in objects:
        assert "cancer" in each or each.endswith(":::" + f"{ARTIFACTS}/jobs/*"), each
    assert f"arn:aws:s3:::{ARTIFACTS}/projects/cancer/*_${{$}}folder${{$}}" in objects, "as Spark marks a folder"
    actions = {action for each in statements for action in each["Action"]}
    assert not {action for action in actions if action.startswith(("ecr:", "sagemaker:", "iam:"))}


def test_a_run_has_time_in_whole_minutes_and_no_less_than_asked():
    run = built_plan(spec=spec(process={"engine": "spark"}, train={"max_runtime": 3601}))["process"]["request"]
    assert timedelta(minutes=run["Timeout"]) == timedelta(minutes=61)


def test_settings_that_are_too_long_are_not_sent():
    places = {f"{name}_uri": "s3://a/b" for name in ("manifest", "sources", "curated", "report", "work")}
    with pytest.raises(ValueError, match="10240"):
        glue.start_job_run(
            job_name="j",
            stream="s",
            worker_type="G.1X",
            workers=2,
            max_runtime_s=60,
            settings={"spec": "x" * 11_000},
            **places,
        )


def test_what_glue_installs_is_what_the_tests_run():
    installed = dict(each.split("==") for each in glue.MODULES)
    assert json.dumps(installed, sort_keys=True) == json.dumps(_locked(installed), sort_keys=True)


def _locked(names):
    from pathlib import Path

    root = Path(__file__).parents[2]
    lines = (root / "requirements/spark.txt").read_text() + (root / "containers/jobs/requirements.txt").read_text()
    pins = dict(line.split("==") for line in lines.splitlines() if "==" in line)
    return {name: pins[name] for name in names}
