"""Right-sizing: the least energy that holds the work."""

import botocore.session
import pytest

from ebb import catalog, sizing
from ebb.carbon import Band
from ebb.errors import NoFeasibleInstanceError
from ebb.sizing import MIB, Workload
from ebb.spec import PipelineSpec


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        pytest.param(Workload(60, 2, 0.7, 3600), "ml.m5.large", id="little work takes the smallest machine"),
        pytest.param(
            Workload(60, 12, 0.5, 3600), "ml.m5.xlarge", id="memory decides when the small one does not hold it"
        ),
        pytest.param(Workload(12_000, 2, 0.95, 3600), "ml.c5.xlarge", id="a deadline asks for more processors"),
    ],
)
def test_choose(work, expected):
    assert sizing.choose("train", work).instance.name == expected


def test_work_that_nothing_holds_says_what_to_do():
    with pytest.raises(NoFeasibleInstanceError, match=r"raise train\.max_runtime or drop less data"):
        sizing.choose("train", Workload(1e9, 2, 0.5, 3600))


def test_the_choice_keeps_what_was_not_taken():
    choice = sizing.choose("train", Workload(60, 2, 0.7, 3600))
    assert choice.numbers["expected_cpu_s"] == 60
    assert all("Wh expected" in other for other in choice.alternatives)


def test_the_reason_is_true_of_what_was_chosen():
    least = sizing.choose("train", Workload(60, 2, 0.95, 3600))
    assert least.reason.startswith("least expected energy of")
    energies = [float(other.split(": ")[1].split()[0]) for other in least.alternatives]
    assert min(energies) >= float(f"{least.numbers['expected_energy_wh']:.3g}")
    cheaper = sizing.choose("train", Workload(60, 2, 0.7, 3600))
    leanest = cheaper.alternatives[0].split(":")[0]
    assert cheaper.instance.name != leanest
    assert f"cheapest of those within 10% of the least expected energy ({leanest}," in cheaper.reason


def test_a_named_instance_is_taken_for_training_only():
    spec = PipelineSpec.model_validate({"train": {"instance": "ml.m5.4xlarge"}})
    chosen = {
        stage: sizing.for_stage(stage, spec, size_bytes=MIB, form="csv", compressed=False).instance.name
        for stage in ("process", "train", "compress", "compile")
    }
    assert chosen == {
        "process": "ml.m5.large",
        "train": "ml.m5.4xlarge",
        "compress": "ml.m5.4xlarge",
        "compile": "ml.m5.large",
    }


def test_compressed_and_columnar_bytes_count_as_more_text():
    sizes = [
        sizing.workload("process", size_bytes=MIB, form=form, compressed=gz, max_runtime_s=1).cpu_s
        for form, gz in (("jsonl", False), ("csv", False), ("parquet", False), ("csv", True))
    ]
    assert sizes[0] < sizes[1] < sizes[2] == sizes[3]


def test_every_catalogued_instance_may_train_and_those_without_an_accelerator_process():
    model = botocore.session.get_session().get_service_model("sagemaker")
    for each in catalog.instances():
        assert each.name in model.shape_for("TrainingInstanceType").enum
        assert each.accelerator or each.name in model.shape_for("ProcessingInstanceType").enum


LONG = {"cpu_s": 200_000, "memory_gib": 8, "parallel_share": 0.99}


def test_an_accelerator_is_taken_only_when_no_processor_finishes_in_time():
    """The 96 vCPUs of ml.m5.24xlarge take 4,063 s."""
    kinds = catalog.ACCELERATOR_KINDS
    patient = sizing.choose("train", Workload(**LONG, max_runtime_s=4100), accelerators=kinds)
    hurried = sizing.choose("train", Workload(**LONG, max_runtime_s=4000), accelerators=kinds)
    assert patient.instance.name == "ml.m5.24xlarge"
    assert hurried.instance.accelerator.kind in kinds
    assert hurried.reason.endswith("no instance without an accelerator does")


def test_where_no_accelerator_can_be_used_none_is_chosen():
    with pytest.raises(NoFeasibleInstanceError):
        sizing.choose("train", Workload(**LONG, max_runtime_s=4000), accelerators=())
    gpu = sizing.choose("train", Workload(**LONG, max_runtime_s=4000), accelerators=("gpu",))
    assert gpu.instance.accelerator.kind == "gpu"


def test_what_measures_for_the_endpoint_never_has_an_accelerator():
    for stage in ("process", "compile"):
        with pytest.raises(NoFeasibleInstanceError):
            sizing.for_stage(
                stage,
                PipelineSpec.model_validate({"train": {"max_runtime": 60}}),
                size_bytes=100_000 * MIB,
                form="archive",
                compressed=False,
            )


def test_pictures_and_texts_need_more_than_a_table_of_their_size():
    def cpu_s(**what):
        return sizing.workload("train", **({"size_bytes": MIB, "compressed": False, "max_runtime_s": 1} | what)).cpu_s

    table = cpu_s(form="csv", task="tabular-classification")
    assert cpu_s(form="csv", task="text-classification") > table
    assert cpu_s(form="images", task="image-classification") > table
    assert cpu_s(form="archive") == cpu_s(form="images", task="image-classification"), "until it is known what it holds"
    assert cpu_s(form="archive", task="tabular-classification") == table


def test_an_accelerator_draws_beside_its_processors():
    """g4dn.xlarge at full load: 4 vCPUs of 4.26 W and a T4 of 71 W (Cloud Carbon Footprint)."""
    machine = catalog.instance("ml.g4dn.xlarge")
    full, idle = (catalog.power_w(machine, processors=load, accelerators=load) for load in map(Band.exact, (1.0, 0.0)))
    assert full.value == pytest.approx(4 * 4.26 + 71)
    assert idle.value == pytest.approx(4 * 0.65 + 8)
