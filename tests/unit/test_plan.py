"""The plan: what runs, where its results lie, and what an earlier attempt has done already."""

import hashlib
import json
from dataclasses import replace

import pytest

from ebb import catalog, images, names, plan
from ebb.errors import DropRejectedError, InvalidSpecError
from ebb.plan_facts import Champion
from ebb.sizing import Data
from ebb.sources import Source
from ebb.spec import PipelineSpec
from worked_run import ARTIFACTS, RUN_ID, STACK, built_plan, facts, load, step_events

RUN_URI = f"s3://{ARTIFACTS}/projects/cancer/runs/{RUN_ID}/"
CURATED_URI = f"s3://{ARTIFACTS}/curated/cancer/{RUN_ID}/"


def settings(request: dict) -> dict:
    environment = request.get("Environment")
    if environment is None:
        return json.loads(request["HyperParameters"]["settings"])
    return json.loads("".join(environment[name] for name in sorted(environment, key=lambda n: (len(n), n))))


def channels(request: dict) -> dict[str, str]:
    if "InputDataConfig" in request:
        given = request["InputDataConfig"]
        return {each["ChannelName"]: each["DataSource"]["S3DataSource"]["S3Uri"] for each in given}
    return {each["InputName"]: each["S3Input"]["S3Uri"] for each in request["ProcessingInputs"]}


def test_each_stage_reads_what_the_ones_before_wrote():
    plan = built_plan()
    train, compress = (f"{RUN_URI}a1/{stage}/{RUN_ID}-a1-{stage}/output/model/" for stage in ("train", "compress"))
    code = f"s3://{ARTIFACTS}/jobs/5c1d9e7f30ab42d6/"
    curated = f"{CURATED_URI}a1/"
    read = {"code": code, "data": f"{RUN_URI}manifest.json", "sources": f"{RUN_URI}sources.json"}
    assert channels(plan["process"]["request"]) == read
    assert channels(plan["train"]["request"]) == {"code": code, "curated": curated}
    assert channels(plan["compress"]["request"]) == {"code": code, "curated": curated, "original": train}
    assert channels(plan["compile"]["request"]) == {
        "code": code,
        "curated": curated,
        "original": train,
        "candidates": compress,
    }


def test_the_artifacts_are_where_the_jobs_put_them():
    plan = built_plan()
    outputs = plan["process"]["request"]["ProcessingOutputConfig"]["Outputs"]
    assert plan["artifacts"]["curated"] == outputs[0]["S3Output"]["S3Uri"] + "/"
    assert plan["process"]["report_uri"] == outputs[1]["S3Output"]["S3Uri"] + "/metrics.json"
    # SageMaker writes a training job's output below <S3OutputPath>/<job name>/output/model
    request = plan["train"]["request"]
    written = f"{request['OutputDataConfig']['S3OutputPath']}/{request['TrainingJobName']}/output/model/"
    assert plan["artifacts"]["original"] == written
    assert plan["train"]["report_uri"] == written + "metrics.json"


def test_the_digests_that_process_verifies_travel_as_a_file():
    """Two thousand of them fit neither a job's environment nor what a state machine carries."""
    made = built_plan()
    for stage in names.STAGES:
        assert "sources" not in settings(made[stage]["request"])
        assert ("sources" in channels(made[stage]["request"])) is (stage == "process")


def test_a_training_job_is_told_only_what_it_reads():
    told = settings(built_plan()["train"]["request"])
    assert set(told["spec"]) == {"task", "data", "train", "compress"}
    assert told["spec"]["train"]["max_runtime"] == 3600


def test_the_run_is_written_into_its_bundles():
    assert settings(built_plan()["compile"]["request"])["run_id"] == RUN_ID


def test_a_retry_repeats_nothing_that_finished():
    plan = built_plan(attempt=2, finished={"process": 1, "train": 1})
    assert [plan[stage]["needed"] for stage in names.STAGES] == [False, False, True, True]
    assert plan["process"]["request"] == {}
    assert plan["artifacts"]["curated"] == f"{CURATED_URI}a1/"
    assert channels(plan["compress"]["request"])["original"] == f"{RUN_URI}a1/train/{RUN_ID}-a1-train/output/model/"
    assert plan["compress"]["request"]["TrainingJobName"] == f"{RUN_ID}-a2-compress"
    assert plan["artifacts"]["bundles"] == f"{RUN_URI}a2/compile/bundles/"


def test_a_retry_resumes_from_the_same_checkpoints():
    first, second = (built_plan(attempt=attempt)["train"]["request"] for attempt in (1, 2))
    assert first["CheckpointConfig"] == second["CheckpointConfig"]
    assert first["TrainingJobName"] != second["TrainingJobName"]


def test_the_served_model_is_measured_beside_the_new_ones():
    champion = Champion("older", "accuracy", {"validation": 0.9, "test": 0.9}, "s3://b/old/model.tar.gz")
    plan = built_plan(champion=champion)
    assert channels(plan["compile"]["request"])["champion"] == "s3://b/old/model.tar.gz"
    told = {"run_id": "older", "metric": "accuracy", "quality": {"validation": 0.9, "test": 0.9}}
    assert settings(plan["compile"]["request"])["champion"] == told


ENCRYPTED = "EnableInterContainerTrafficEncryption"


def test_several_machines_train_together_and_nothing_else_does():
    """What they tell each other is encrypted, and each is billed."""
    made = built_plan(spec=PipelineSpec.model_validate({"train": {"instances": 2}}))
    train, compress = made["train"]["request"], made["compress"]["request"]
    told = [(each["ResourceConfig"]["InstanceCount"], each[ENCRYPTED]) for each in (train, compress)]
    assert told == [(2, True), (1, False)]
    assert "machines for train" in [each["what"] for each in made["decisions"]]


def test_a_script_that_comes_with_the_data_is_not_shared():
    script = Data(1000, "script")
    with pytest.raises(InvalidSpecError, match="runs on one"):
        built_plan(spec=PipelineSpec.model_validate({"train": {"instances": 2}}), data=script)


def test_every_choice_says_why():
    for decision in built_plan()["decisions"]:
        assert decision["reason"], decision
    assert {each["what"] for each in built_plan()["decisions"]} >= {f"instance for {stage}" for stage in names.STAGES}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        pytest.param({}, None, id="nothing asked"),
        pytest.param({"serve": {"idle_after": 900, "p95_latency": 0.05}}, None, id="the default, and what is acted on"),
        pytest.param(
            {"serve": {"cold_start": "avoid"}, "retrain": {"drift": {"psi": 0.1}}, "carbon": {"budget": 500}},
            "retrain.drift",
            id="what comes later",
        ),
    ],
)
def test_what_is_asked_for_in_vain_is_said(asked, told):
    decisions = built_plan(spec=PipelineSpec.model_validate(asked))["decisions"]
    unheeded = [each["chosen"] for each in decisions if each["what"] == "asked for, not acted on yet"]
    assert unheeded == ([told] if told else [])


JOBS, SERVE = STACK.jobs_image_uri, STACK.serve_image_uri
GPU, NEURON = (
    hashlib.sha256(catalog.deep_learning_container(kind, "us-east-1").encode()).hexdigest()[:8]
    for kind in ("gpu", "neuron")
)


def image_of(request: dict) -> str:
    return (request.get("AlgorithmSpecification") or {}).get("TrainingImage") or request["AppSpecification"]["ImageUri"]


def test_nothing_is_built_when_the_registry_holds_every_image():
    assert built_plan()["images"] == []
    assert "images to build" not in {each["what"] for each in built_plan()["decisions"]}


def test_what_is_missing_is_built_from_its_context():
    made = built_plan(missing_images=[JOBS, SERVE])
    assert {each["ProjectName"] for each in made["images"]} == {"ebb-images"}
    told = [{each["Name"]: each["Value"] for each in build["EnvironmentVariablesOverride"]} for build in made["images"]]
    assert sorted(told, key=lambda each: each["IMAGE_URI"]) == [
        {"IMAGE_URI": JOBS, "CONTEXT_URI": STACK.jobs_context_uri},
        {"IMAGE_URI": SERVE, "CONTEXT_URI": STACK.serve_context_uri},
    ]
    (decision,) = [each for each in made["decisions"] if each["what"] == "images to build"]
    assert decision["chosen"] == "serve:0f3a9c, jobs:77b2d1"


@pytest.mark.parametrize(
    ("instance", "variant", "base"),
    [
        pytest.param("ml.m5.xlarge", JOBS, "", id="a CPU has the image of all jobs"),
        pytest.param("ml.g5.xlarge", f"{JOBS}-gpu-{GPU}", "/pytorch-training:", id="a GPU has AWS's container beneath"),
        pytest.param("ml.trn1.2xlarge", f"{JOBS}-neuron-{NEURON}", "/pytorch-training-neuronx:", id="so has Trainium"),
    ],
)
def test_training_has_the_image_that_drives_its_hardware(instance, variant, base):
    asked = PipelineSpec.model_validate({"train": {"instance": instance}})
    wanted = {image.uri: image.base_image for image in plan.images_of(facts(spec=asked), STACK)}
    assert set(wanted) == {SERVE, JOBS, variant}
    assert base in wanted[variant]
    assert wanted[JOBS] == ""
    built = built_plan(spec=asked)
    assert {stage: image_of(built[stage]["request"]) for stage in names.STAGES} == {
        "process": JOBS,
        "train": variant,
        "compress": variant,
        "compile": variant if "-neuron-" in variant else JOBS,  # which holds neuronx-cc
    }


def test_another_base_makes_another_image_of_the_same_context(monkeypatch):
    gpu = catalog.instance("ml.g5.xlarge")
    before = images.for_jobs(STACK, gpu)
    monkeypatch.setattr(catalog, "deep_learning_container", lambda *_: before.base_image + "-security-update")
    after = images.for_jobs(STACK, gpu)
    assert after.context_uri == before.context_uri
    assert after.uri != before.uri


def test_a_ready_image_is_taken_for_every_instance_and_never_built():
    ready = replace(STACK, jobs_context_uri="", jobs_image_uri="registry.example/jobs:1")
    asked = PipelineSpec.model_validate({"train": {"instance": "ml.g5.xlarge"}})
    built = plan.build(facts(spec=asked), ready)
    assert image_of(built["train"]["request"]) == "registry.example/jobs:1"
    assert built["images"] == []


def test_an_accelerator_that_aws_has_no_container_for_is_refused_by_name():
    elsewhere = replace(STACK, data_key_arn=STACK.data_key_arn.replace("us-east-1", "ap-east-1"))
    asked = PipelineSpec.model_validate({"train": {"instance": "ml.trn1.2xlarge"}})
    with pytest.raises(DropRejectedError, match=r"ml\.trn1\.2xlarge cannot be used in ap-east-1") as refused:
        plan.build(facts(spec=asked), elsewhere)
    assert refused.value.rejection.remedy == "Name a CPU instance in train.instance."


def test_code_that_lies_elsewhere_may_be_read_and_nothing_beside_it():
    asked = PipelineSpec.model_validate(
        {"task": "custom", "data": {"uri": "s3://lake/faces/"}, "train": {"source": "s3://lake/code/train.py"}}
    )
    made = built_plan(spec=asked, sources=())
    (policy,) = [each["policy"] for each in made["roles"] if each["create"]["RoleName"].endswith("-process")]
    statements = json.loads(policy["PolicyDocument"])["Statement"]
    (read,) = [each["Resource"] for each in statements if each["Sid"] == "ReadData0"]
    assert read == ["arn:aws:s3:::lake/faces/*", "arn:aws:s3:::lake/code/train.py"]


ENCODER = {"task": "text-classification", "train": {"pretrained": "s3://lake/encoders/minilm"}}
WEIGHTS = Source(
    bucket="lake", key="encoders/minilm/model.safetensors", size_bytes=90_868_376, etag="e", sha256="5" * 64
)


def test_an_encoder_is_a_channel_of_training_alone_and_the_plan_tells_it():
    made = built_plan(spec=PipelineSpec.model_validate(ENCODER), pretrained=[WEIGHTS])
    channels = {
        stage: {
            each["ChannelName"]: each["DataSource"]["S3DataSource"]["S3Uri"]
            for each in made[stage]["request"]["InputDataConfig"]
        }
        for stage in ("train", "compress")
    }
    assert channels["train"]["pretrained"] == "s3://lake/encoders/minilm/"
    assert "pretrained" not in channels["compress"]
    settings = json.loads(made["train"]["request"]["HyperParameters"]["settings"])
    assert settings["pretrained"] == {"model.safetensors": "5" * 64}
    (told,) = [each for each in made["decisions"] if each["what"] == "pretrained encoder"]
    assert (told["chosen"], told["numbers"]) == ("s3://lake/encoders/minilm/", {"bytes": 90_868_376})


def test_only_the_role_that_trains_may_read_the_encoder_and_nothing_beside_its_folder():
    stack = replace(STACK, external_data_key_arns=("arn:aws:kms:us-east-1:123456789012:key/theirs",))
    for role in plan.build(facts(spec=PipelineSpec.model_validate(ENCODER)), stack)["roles"]:
        statements = {each["Sid"]: each for each in json.loads(role["policy"]["PolicyDocument"])["Statement"]}
        kind = role["create"]["RoleName"].rpartition("-")[2]
        assert ("ReadPretrained0" in statements) is (kind == "train")
        assert ("ReadExternalData" in statements) is (kind in ("process", "train"))
        if kind == "train":
            assert statements["ReadPretrained0"]["Resource"] == ["arn:aws:s3:::lake/encoders/minilm/*"]
            assert statements["ListPretrained0"]["Condition"]["StringLike"]["s3:prefix"] == ["encoders/minilm/*"]


def test_a_plan_stays_far_below_what_step_functions_carries():
    widest = PipelineSpec.model_validate({"data": {"uri": "s3://" + "b" * 63 + "/" + "k" * 1000, "target": "t" * 200}})
    every = [f"{JOBS}{variant}" for variant in ("", f"-gpu-{GPU}")] + [SERVE]
    assert len(json.dumps(built_plan(spec=widest, missing_images=every))) < 100_000


@pytest.mark.parametrize(
    ("mode", "original", "starts_from"),
    [
        pytest.param("append", "s3://b/old/train/model/", True, id="the data grew"),
        pytest.param("replace", "s3://b/old/train/model/", False, id="other data"),
        pytest.param("append", None, False, id="a model of an earlier version"),
    ],
)
def test_training_starts_from_the_served_model_when_data_grew(mode, original, starts_from):
    champion = Champion("older", "accuracy", {"validation": 0.9}, "s3://b/old/model.tar.gz", original_uri=original)
    made = built_plan(spec=PipelineSpec.model_validate({"data": {"mode": mode}}), champion=champion)
    channels = {
        each["ChannelName"]: each["DataSource"]["S3DataSource"]["S3Uri"]
        for each in made["train"]["request"]["InputDataConfig"]
    }
    assert channels.get("previous") == (original if starts_from else None)


@pytest.mark.parametrize("name", sorted(step_events()))
def test_the_recorded_step_inputs_are_what_the_code_makes_today(name):
    assert load(name) == step_events()[name], "run: python tests/worked_run.py"
