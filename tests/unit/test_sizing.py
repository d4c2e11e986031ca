"""Right-sizing: the least energy that holds the work."""

import botocore.session
import pytest

from ebb import catalog, sizing
from ebb.carbon import Band
from ebb.errors import NoFeasibleInstanceError
from ebb.sizing import MIB, Data, Workload
from ebb.spec import PipelineSpec
from worked_run import built_plan


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


def test_memory_that_nothing_has_says_what_to_do():
    with pytest.raises(NoFeasibleInstanceError, match=r"GiB of memory.*: drop less data, or name an instance"):
        sizing.choose("train", Workload(60, 1000, 0.5, 3600))
    with pytest.raises(NoFeasibleInstanceError, match=r"drop less data$"):
        sizing.choose("process", Workload(60, 1000, 0.5, 3600))


def test_an_estimate_never_refuses_for_time():
    """Two hours of a serial part: no machine shortens them, and the job's own limit judges."""
    choice = sizing.choose("train", Workload(14_400, 2, 0.5, 3600), accelerators=catalog.ACCELERATOR_KINDS)
    assert choice.reason.startswith("fastest of")
    assert "within the 3600 s of train.max_runtime" in choice.reason
    assert choice.numbers["expected_duration_s"] > 3600


def test_of_the_machines_that_are_too_slow_the_fastest_is_taken():
    hopeless = Workload(1e9, 2, 0.999, 3600)
    assert sizing.choose("process", hopeless).instance.name == "ml.m5.24xlarge"
    assert sizing.choose("train", hopeless, accelerators=("gpu", "neuron")).instance.accelerator is not None
    roomy = Workload(1e9, 300, 0.999, 3600)
    assert sizing.choose("train", roomy, accelerators=("gpu", "neuron")).instance.name == "ml.m5.24xlarge"


GIB = 1024 * MIB


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(Data(400 * MIB, "images", example_count=2_000), id="two thousand photographs"),
        pytest.param(Data(4 * GIB, "archive", content="images", example_count=20_000), id="a zip of photographs"),
        pytest.param(Data(10 * GIB, "archive"), id="a large archive that nobody looked into"),
        pytest.param(Data(400 * MIB, "archive", task="tabular-classification"), id="packed tables"),
        pytest.param(Data(30 * GIB, "script", task="custom"), id="the data of a script"),
        pytest.param(Data(2 * GIB, "csv", task="text-classification"), id="many texts"),
    ],
)
@pytest.mark.parametrize("limit", [60, 3600])
def test_ordinary_drops_find_a_machine_for_every_stage(data, limit):
    spec = PipelineSpec.model_validate({"train": {"max_runtime": limit}})
    for stage in ("process", "train", "compress", "compile"):
        assert sizing.for_stage(stage, spec, data, accelerators=()).instance


def needs(data, stage="train"):
    return sizing.workload(stage, data, max_runtime_s=3600)


def test_pictures_count_by_their_number_because_all_become_small():
    photographs = Data(400 * MIB, "images", example_count=2_000)
    thumbnails = Data(8 * MIB, "images", example_count=2_000)
    assert needs(photographs).cpu_s == pytest.approx(needs(thumbnails).cpu_s, rel=0.01)
    assert needs(photographs, "process").cpu_s > needs(thumbnails, "process").cpu_s, "they have to be decoded"
    assert needs(Data(400 * MIB, "images", example_count=4_000)).cpu_s > 1.9 * needs(photographs).cpu_s


def test_pictures_take_what_was_measured():
    """3,430 digits of 28 x 28, 1.2 MB of PNG: 60 to 90 CPU-s."""
    assert 60 <= needs(Data(1_200_000, "archive", content="images", example_count=3_430)).cpu_s <= 90


def test_texts_take_what_was_measured():
    """5,000 mails, some 8 MiB: about a minute of two cores."""
    assert 60 <= needs(Data(8 * MIB, "csv", task="text-classification")).cpu_s <= 130


def test_what_nobody_has_looked_into_is_reckoned_no_higher_than_a_large_set_of_pictures():
    assert needs(Data(10 * GIB, "archive")) == needs(Data(100 * GIB, "archive"))
    assert needs(Data(100 * GIB, "archive")).memory_gib < 8


def test_of_a_script_only_the_memory_grows():
    small, large = (needs(Data(size, "script", task="custom")) for size in (MIB, 10 * GIB))
    assert small.cpu_s == large.cpu_s
    assert large.memory_gib > small.memory_gib + 10


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(Data(GIB, "csv"), GIB, id="what is no archive stays"),
        pytest.param(Data(GIB, "archive", unpacked_bytes=3 * GIB), 3 * GIB, id="as the directory says"),
        pytest.param(Data(100 * MIB, "archive"), 2000 * MIB, id="several times its size, when nobody knows"),
        pytest.param(Data(5 * GIB, "archive"), 20 * GIB, id="no more than an archive may"),
    ],
)
def test_room_for_what_comes_out_of_an_archive(data, expected):
    assert sizing.unpacked_bytes(data) == expected


def test_the_disk_holds_what_comes_out_of_an_archive():
    def volume_gib(data):
        return built_plan(data=data)["process"]["request"]["ProcessingResources"]["ClusterConfig"]["VolumeSizeInGB"]

    assert volume_gib(Data(GIB, "csv")) == 15
    assert volume_gib(Data(GIB, "parquet")) == 35, "its text, which all is until the columns are typed"
    assert volume_gib(Data(GIB, "archive", unpacked_bytes=4 * GIB)) == 30
    assert volume_gib(Data(GIB, "archive")) == 110


def test_the_memory_of_process_does_not_grow_with_a_table():
    small, large = (needs(Data(size, "csv"), "process") for size in (MIB, 1000 * GIB))
    assert large.memory_gib == small.memory_gib


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
        stage: sizing.for_stage(stage, spec, Data(MIB, "csv")).instance.name
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
        needs(Data(MIB, form, gz), "process").cpu_s
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
    hurried = Workload(**LONG, max_runtime_s=4000)
    assert sizing.choose("train", hurried, accelerators=()).instance.accelerator is None
    assert sizing.choose("train", hurried, accelerators=("gpu",)).instance.accelerator.kind == "gpu"


def test_what_measures_for_the_endpoint_never_has_an_accelerator():
    spec = PipelineSpec.model_validate({"train": {"max_runtime": 60}})
    for stage in ("process", "compile"):
        chosen = sizing.for_stage(stage, spec, Data(10 * GIB, "archive"))
        assert chosen.instance.accelerator is None


def test_pictures_and_texts_need_more_than_a_table_of_their_size():
    table = needs(Data(MIB, "csv", task="tabular-classification")).cpu_s
    assert needs(Data(10 * MIB, "csv", task="text-classification")).cpu_s > table
    assert needs(Data(10 * MIB, "images", task="image-classification")).cpu_s > table
    assert needs(Data(MIB, "archive")) == needs(Data(MIB, "images")), "until it is known what it holds"
    packed = needs(Data(MIB, "archive", task="tabular-classification", unpacked_bytes=4 * MIB))
    assert packed == needs(Data(4 * MIB, "csv", task="tabular-classification"))


def test_an_accelerator_draws_beside_its_processors():
    """g4dn.xlarge at full load: 4 vCPUs of 4.26 W and a T4 of 71 W (Cloud Carbon Footprint)."""
    machine = catalog.instance("ml.g4dn.xlarge")
    full, idle = (catalog.power_w(machine, processors=load, accelerators=load) for load in map(Band.exact, (1.0, 0.0)))
    assert full.value == pytest.approx(4 * 4.26 + 71)
    assert idle.value == pytest.approx(4 * 0.65 + 8)
