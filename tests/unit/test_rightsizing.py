"""Right-sizing from the second run on: the last run's own figures choose, and say what was wasted."""

import json
from dataclasses import replace

import pytest

from ebb import catalog, plan, rightsizing, sizing
from ebb.rightsizing import Measured
from ebb.sizing import MIB, Data
from ebb.spec import PipelineSpec
from worked_run import STACK, facts

TABLE = Data(600 * MIB, "csv", task="tabular-classification")
# 600 MiB of CSV: the estimate asks for 9.7 GiB and two hours of CPU; what the job then used is far less.
OVERSIZED = Measured(
    run_id="wine-20261122010203-0a1b2c",
    instance_type="ml.m5.2xlarge",
    duration_s=600.0,
    billable_s=660.0,
    vcpu=8,
    cpu_s=1008.0,
    peak_memory_gib=0.9,
    data=TABLE,
    settled=True,
)
INPUT_BOUND = replace(
    OVERSIZED, instance_type="ml.m5.large", vcpu=2, cpu_s=400.0, loop_s=500.0, wait_s=315.0, data=TABLE
)


def chosen(last: Measured | None, data: Data = TABLE, **train: object) -> sizing.Choice:
    spec = PipelineSpec.model_validate({"train": {"max_runtime": 36_000, **train}})
    if last and not last.asked:  # for the same as now
        last = replace(last, asked=rightsizing.asked("train", spec))
    return rightsizing.for_stage("train", spec, data, last)


def test_before_the_first_run_the_estimate_chooses():
    assert chosen(None) == sizing.for_stage(
        "train", PipelineSpec.model_validate({"train": {"max_runtime": 36_000}}), TABLE
    )


def test_an_oversized_job_is_named_with_cause_and_remedy_and_the_next_costs_less():
    choice = chosen(OVERSIZED)
    (finding,) = choice.findings
    assert finding.what == "oversized"
    assert finding.cause == "peak memory 0.9 of 32 GiB, CPU 21% of 8 vCPU"
    assert f"the next run is on {choice.instance.name}; saves " in finding.remedy
    before = catalog.instance("ml.m5.2xlarge")
    assert choice.instance.price_usd_per_hour.value < before.price_usd_per_hour.value
    # by the price table: 660 s at 0.461 USD an hour, against what is expected of the smaller one with its 60 s of start
    cost = choice.instance.price_usd_per_hour.value * (choice.numbers["expected_duration_s"] + 60) / 3600
    assert cost < 0.461 * 660 / 3600
    assert finding.numbers["saves_usd"] == pytest.approx(0.461 * 660 / 3600 - cost, rel=0.01)
    assert finding.numbers["saves_kwh"] > 0
    assert OVERSIZED.run_id in choice.reason


def test_an_input_bound_job_gets_workers_and_waits_no_longer():
    choice = chosen(INPUT_BOUND)
    finding = next(each for each in choice.findings if each.what == "input-bound")
    assert finding.cause == "63% of the time of the training loop was spent waiting for data"
    assert choice.workers == 2  # 315 s of loading beside 185 s of computing
    assert finding.remedy.startswith("2 workers make the next batches ready while the loop computes; saves ")
    machine = catalog.instance("ml.m5.large")
    assert choice.numbers["expected_usd"] < machine.price_usd_per_hour.value * INPUT_BOUND.duration_s / 3600


def test_where_workers_do_not_suffice_the_machine_shrinks():
    """Eight workers already, and the loop still waits: more processors would only wait too."""
    fed = replace(INPUT_BOUND, instance_type="ml.m5.2xlarge", vcpu=8, workers=8)
    choice = chosen(fed)
    assert choice.workers == 8 or choice.instance.vcpu < 8
    assert choice.instance.price_usd_per_hour.value < catalog.instance("ml.m5.2xlarge").price_usd_per_hour.value


def test_a_job_that_fits_keeps_its_machine():
    busy = replace(OVERSIZED, instance_type="ml.m5.large", vcpu=2, cpu_s=1150.0, peak_memory_gib=4.0)
    choice = chosen(busy)
    assert (choice.instance.name, choice.findings) == ("ml.m5.large", ())
    assert choice.reason.startswith("the last one still fits")


def test_more_data_takes_more_memory():
    full = replace(OVERSIZED, instance_type="ml.m5.large", vcpu=2, cpu_s=1150.0, peak_memory_gib=4.0)
    grown = chosen(full, replace(TABLE, size_bytes=TABLE.size_bytes * 3))
    assert grown.instance.memory_gib >= 16
    assert "3 times as much data now" in grown.reason


def test_memory_without_room_is_named():
    tight = replace(OVERSIZED, instance_type="ml.m5.large", vcpu=2, cpu_s=1150.0, peak_memory_gib=7.5)
    choice = chosen(tight)
    assert [each.what for each in choice.findings] == ["undersized"]
    assert choice.instance.memory_gib >= 16


def test_what_process_took_of_a_large_machine_it_does_not_need():
    """It takes the memory that is there, and sorts on the volume what does not fit."""
    greedy = replace(OVERSIZED, instance_type="ml.m5.2xlarge", peak_memory_gib=30.0, asked="{}")
    choice = rightsizing.for_stage("process", PipelineSpec(), replace(TABLE, size_bytes=TABLE.size_bytes * 2), greedy)
    assert choice.instance.memory_gib <= 16
    assert "undersized" not in [each.what for each in choice.findings]


def test_a_named_instance_is_kept_and_the_finding_says_what_to_write():
    choice = chosen(OVERSIZED, instance="ml.m5.2xlarge")
    assert choice.instance.name == "ml.m5.2xlarge"
    (finding,) = choice.findings
    assert finding.remedy.startswith("write train.instance: auto or ml.")


def asked_for(**train: object) -> str:
    return rightsizing.asked("train", PipelineSpec.model_validate({"train": train}))


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        ({"rungs": ["linear"]}, {"rungs": ["net"]}, "train.rungs"),
        ({"epochs": 5}, {"epochs": 500}, "train.epochs"),
        ({}, {"tune": {"trials": 50}}, "train.tune"),
        ({"tune": {"trials": 50}}, {}, "train.tune"),
        ({"target": 0.7}, {"target": 0.99}, "train.target"),
        ({}, {"instances": 2}, "train.instances"),
    ],
)
def test_what_was_measured_of_other_work_is_no_measure(before, now, changed):
    choice = chosen(replace(OVERSIZED, asked=asked_for(**before)), **now)
    estimate = chosen(None, **now)
    assert (choice.instance, choice.numbers, choice.findings) == (estimate.instance, estimate.numbers, ())
    assert choice.reason.endswith(f"what {OVERSIZED.run_id} used is no measure of it: {changed} changed")


def test_how_long_and_on_what_it_may_run_is_no_other_work():
    last = replace(OVERSIZED, asked=asked_for(max_runtime=7200, spot=False, instance="ml.m5.2xlarge", instances=1))
    assert chosen(last).reason.startswith("leanest of those that cost less")


def test_what_an_earlier_version_remembered_is_no_measure():
    kept = rightsizing.remembered(OVERSIZED.run_id, [STAGE], rightsizing.kept_data(TABLE), PipelineSpec())["train"]
    old = rightsizing.read({name: value for name, value in kept.items() if name not in ("asked", "settled")})
    assert old is not None
    assert rightsizing.for_stage("train", PipelineSpec(), TABLE, old).findings == ()


def test_a_ladder_that_ended_early_may_climb_on_and_keeps_the_memory_of_the_estimate():
    cut_short = chosen(replace(OVERSIZED, settled=False))
    assert cut_short.numbers["expected_memory_gib"] == chosen(None).numbers["expected_memory_gib"]
    assert chosen(OVERSIZED).numbers["expected_memory_gib"] < 3


@pytest.mark.parametrize(
    ("report", "spec", "settled"),
    [
        ({"rungs": [{"name": "linear"}], "rungs_untried": ["trees", "mlp"]}, {}, set()),
        ({"rungs": [{"name": "linear"}, {"name": "mlp"}], "rungs_untried": []}, {}, {"train"}),
        ({"rungs": [{"name": "mlp"}], "rungs_untried": []}, {}, {"train", "compress"}),
        ({"rungs": [{"name": "mlp"}], "rungs_untried": []}, {"train": {"tune": True}}, set()),
        ({}, {}, set()),
    ],
)
def test_only_work_that_cannot_grow_dearer_is_remembered_as_settled(report, spec, settled):
    train = STAGE | {"report": STAGE["report"] | report}
    kept = rightsizing.remembered(
        "run",
        [train | {"stage": "process"}, train, train | {"stage": "compress"}],
        rightsizing.kept_data(TABLE),
        PipelineSpec.model_validate(spec),
    )
    assert {stage for stage, each in kept.items() if each["settled"]} == {"process"} | settled


def test_what_the_spec_names_is_never_left_for_what_ran_last():
    choice = chosen(replace(OVERSIZED, instance_type="ml.m5.4xlarge"), instance="ml.c5.4xlarge")
    assert (choice.instance.name, choice.otherwise) == ("ml.c5.4xlarge", ())


def test_an_accelerator_that_idles_is_named():
    idle = replace(OVERSIZED, instance_type="ml.g4dn.xlarge", vcpu=4, cpu_s=600.0, gpu_share=0.02)
    choice = chosen(idle)
    assert "idle accelerator" in [each.what for each in choice.findings]
    assert choice.instance.accelerator is None


def test_other_data_than_last_time_is_estimated_anew():
    pictures = Data(50 * MIB, "images", task="image-classification", example_count=5_000)
    assert chosen(OVERSIZED, pictures).findings == ()


def test_the_parallel_share_is_what_the_last_run_showed():
    """100 CPU-s in 40 s on 4 vCPUs: 20 s alone and 80 s on four, which Amdahl's law gives back."""
    last = replace(OVERSIZED, cpu_s=100.0, duration_s=40.0, vcpu=4)
    work = rightsizing.workload("train", TABLE, last, catalog.instance("ml.m5.xlarge"), 1.0, max_runtime_s=3600)
    assert work.parallel_share == pytest.approx(0.8)


STAGE = {
    "stage": "train",
    "status": "finished",
    "instance_type": "ml.m5.2xlarge",
    "cpu_seconds": 1008.0,
    "billable_s": 660,
    "report": {
        "duration_s": 600.0,
        "vcpu": 8,
        "peak_rss_mib": 921.6,
        "feed": {"loop_s": 500.0, "wait_s": 20.0, "workers": 0},
    },
}


def test_what_a_project_remembers_is_read_back():
    whole = STAGE | {"report": STAGE["report"] | {"rungs": [{"name": "linear"}], "rungs_untried": []}}
    found = rightsizing.remembered(OVERSIZED.run_id, [whole], rightsizing.kept_data(TABLE), PipelineSpec())
    kept = json.loads(json.dumps(found))
    assert rightsizing.read(kept["train"]) == replace(OVERSIZED, loop_s=500.0, wait_s=20.0, asked=asked_for())


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(STAGE | {"status": "failed"}, id="a failed stage"),
        pytest.param(STAGE | {"report": {}}, id="a job that reported nothing"),
    ],
)
def test_what_was_not_measured_is_not_remembered(stage):
    assert rightsizing.remembered("run", [stage], rightsizing.kept_data(TABLE), PipelineSpec()) == {}


def test_a_machine_that_the_catalog_no_longer_knows_is_forgotten():
    other = STAGE | {"instance_type": "ml.x9.large"}
    kept = rightsizing.remembered("run", [other], rightsizing.kept_data(TABLE), PipelineSpec())
    assert rightsizing.read(kept["train"]) is None


def test_the_plan_takes_what_was_measured_and_tells_it():
    stages = [_stage(INPUT_BOUND)]
    kept = rightsizing.remembered(INPUT_BOUND.run_id, stages, rightsizing.kept_data(TABLE), PipelineSpec())
    built = plan.build(facts(data=TABLE, measured=kept), STACK)
    told = {each["what"]: each for each in built["decisions"]}
    assert told["last train was input-bound"]["reason"].startswith("63% of the time")
    settings = json.loads(built["train"]["request"]["HyperParameters"]["settings"])
    assert settings["workers"] == 2


def _stage(last: Measured) -> dict:
    return {
        "stage": "train",
        "status": "finished",
        "instance_type": last.instance_type,
        "cpu_seconds": last.cpu_s,
        "billable_s": last.billable_s,
        "report": {
            "duration_s": last.duration_s,
            "vcpu": last.vcpu,
            "peak_rss_mib": last.peak_memory_gib * 1024,
            "feed": {"loop_s": last.loop_s, "wait_s": last.wait_s, "workers": last.workers},
        },
    }
