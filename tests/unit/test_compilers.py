"""Compilers besides the job's own: Neo's table decides, Neuron goes with Trainium, and every refusal has its reason."""

import json
from dataclasses import replace

import pytest
from pydantic import ValidationError

from aws_shapes import problems
from ebb import catalog, compilers, names, plan
from ebb.catalog import neo
from ebb.errors import InvalidSpecError
from ebb.requests import jobs as job_requests
from ebb.spec import PipelineSpec, parse
from ebb.spec_parts import CompileSpec
from worked_run import STACK, built_plan, facts

NEO = CompileSpec(engine="neo", target="ml_c5")
MADE = {
    "engine": "neo",
    "target": "ml_c5",
    "status": "made",
    "framework": "ONNX",
    "version": "1.7",
    "archive": "neo/model.tar.gz",
    "input": {"name": "input", "shape": [1, 7]},
}
DONE = {
    "CompilationJobName": "cancer-a1-neo",
    "CompilationJobArn": "arn:aws:sagemaker:us-east-1:123456789012:compilation-job/cancer-a1-neo",
    "CompilationJobStatus": "COMPLETED",
    "CompilationStartTime": "2026-11-23T09:30:00Z",
    "CompilationEndTime": "2026-11-23T09:33:20Z",
    "InputConfig": {"Framework": "ONNX"},
    "OutputConfig": {"TargetDevice": "ml_c5"},
    "InferenceImage": "785573368785.dkr.ecr.us-east-1.amazonaws.com/sagemaker-inference-onnx:1.7-cpu-py3",
    "ModelArtifacts": {"S3ModelArtifacts": "s3://b/neo/compiled/model-ml_c5.tar.gz"},
}


def asked(**fields) -> PipelineSpec:
    return PipelineSpec.model_validate({"compile": fields})


def in_region(region: str):
    return replace(STACK, data_key_arn=STACK.data_key_arn.replace("us-east-1", region))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        pytest.param(("ONNX", "1.7.0", "ml_c5", "eu-west-1"), None, id="the last ONNX that is listed"),
        pytest.param(("ONNX", "1.2", "ml_m5", "eu-west-1"), None, id="or earlier"),
        pytest.param(("ONNX", "1.16", "ml_c5", "eu-west-1"), "ONNX 1.16 is not in Neo's table", id="a later ONNX"),
        pytest.param(("PYTORCH", "2.0", "ml_g4dn", "eu-west-1"), None, id="the last PyTorch"),
        pytest.param(("PYTORCH", "2.13", "ml_c5", "eu-west-1"), "it holds 1.4, 1.5", id="ours"),
        pytest.param(
            ("PYTORCH", "1.9", "ml_c5", "eu-west-1"), "PYTORCH 1.9 is not", id="PyTorch's are listed one by one"
        ),
        pytest.param(
            ("ONNX", "1.7", "ml_c6g", "us-east-1"), "ml_c6g is not in Neo's table", id="only in the API's enum"
        ),
        pytest.param(
            ("ONNX", "1.7", "ml_inf2", "us-east-2"), "compiles PYTORCH, not ONNX", id="Inferentia reads no ONNX"
        ),
        pytest.param(("PYTORCH", "2.0", "ml_inf2", "us-east-1"), "offered in us-east-2 only", id="another Region"),
        pytest.param(("PYTORCH", "2.0", "ml_trn1", "us-east-1"), None, id="Trainium in its Region"),
        pytest.param(
            ("SKLEARN", "1.0", "ml_c5", "us-east-1"), "SKLEARN is not in Neo's table", id="only in the enum too"
        ),
    ],
)
def test_the_table_of_neo_decides(model, why):
    told = neo.refusal(*model)
    assert told is None if why is None else why in told


@pytest.mark.parametrize(
    ("text", "field", "remedy"),
    [
        ("compile: {engine: neo}\n", "compile.target", "write one of: ml_c4, ml_c5"),
        ("compile: {engine: neo, target: inf2}\n", "compile.target", "inf2 is none of neo's"),
        ("compile: {engine: neuron, target: ml_inf2}\n", "compile.target", "write one of: inf2, trn1, trn2"),
        ("compile: {target: ml_c5}\n", "compile.target", "or remove it"),
        ("compile: {engine: tvm}\n", "compile.engine", "write one of: auto, job, neo, neuron"),
    ],
)
def test_a_target_that_does_not_fit_is_refused_with_field_and_remedy(text, field, remedy):
    with pytest.raises(InvalidSpecError) as refused:
        parse(text.encode(), file="pipeline.yaml")
    told = refused.value.rejection
    assert told.column == field
    assert remedy in f"{told.message} {told.remedy}"


def test_unasked_only_the_job_compiles_and_nothing_is_told():
    made = built_plan()
    assert made["elsewhere"] is None
    assert not [each for each in made["decisions"] if each["what"] == "compiler"]
    assert "elsewhere" not in settings_of(made)


def settings_of(made: dict) -> dict:
    return job_requests.settings_of(made["compile"]["request"]["Environment"])


def decision_of(made: dict) -> dict:
    (found,) = [each for each in made["decisions"] if each["what"] == "compiler"]
    return found


def test_neo_is_planned_where_the_table_holds_what_the_job_hands_over():
    made = built_plan(spec=asked(engine="neo", target="ml_c5"))
    assert made["elsewhere"] == settings_of(made)["elsewhere"] == {"engine": "neo", "target": "ml_c5"}
    assert "SageMaker Neo for ml_c5 beside it" in decision_of(made)["chosen"]
    assert problems("sagemaker", "CreateProcessingJob", made["compile"]["request"]) == []


def test_what_the_table_does_not_hold_is_left_to_the_job_with_the_reason():
    made = built_plan(spec=asked(engine="neo", target="ml_inf2"))
    assert made["elsewhere"] is None
    told = decision_of(made)
    assert told["chosen"] == "the job's own, ONNX Runtime and OpenVINO"
    assert "not ONNX" in told["reason"]
    assert told["source"] == "ebb/catalog/neo.yaml"


def test_neuron_compiles_in_a_job_on_a_cpu_with_the_image_that_holds_its_compiler():
    spec = asked(engine="neuron", target="inf2")
    made = built_plan(spec=spec)
    request = made["compile"]["request"]
    assert "-neuron-" in request["AppSpecification"]["ImageUri"]
    assert settings_of(made)["elsewhere"] == {"engine": "neuron", "target": "inf2"}
    instance = catalog.instance(request["ProcessingResources"]["ClusterConfig"]["InstanceType"])
    assert instance.accelerator is None
    assert request["AppSpecification"]["ImageUri"] in {each.uri for each in plan.images_of(facts(spec=spec), STACK)}
    assert problems("sagemaker", "CreateProcessingJob", request) == []


@pytest.mark.parametrize(("engine", "compiled"), [("auto", {"engine": "neuron", "target": "trn1"}), ("job", None)])
def test_what_is_trained_on_trainium_is_compiled_for_it_unless_the_job_alone_is_asked_for(engine, compiled):
    spec = PipelineSpec.model_validate({"train": {"instance": "ml.trn1.2xlarge"}, "compile": {"engine": engine}})
    assert built_plan(spec=spec)["elsewhere"] == compiled


def test_where_aws_has_no_container_with_the_compiler_the_job_goes_on_alone():
    compiler = compilers.planned(CompileSpec(engine="neuron", target="inf2"), None, in_region("ap-east-1"))
    assert (compiler.engine, compiler.toolchain) == (None, None)
    assert "no container of AWS with neuronx-cc in ap-east-1" in str(compiler.refused)


def test_the_request_is_valid_for_sagemaker_and_reads_and_writes_beside_the_bundles():
    made = built_plan(spec=asked(engine="neo", target="ml_c5"))
    found = compilers.compilation(made, {"elsewhere": MADE}, STACK)
    assert problems("sagemaker", "CreateCompilationJob", found["request"]) == []
    assert problems("sagemaker", "DescribeCompilationJob", found["job"]) == []
    assert problems("sagemaker", "StopCompilationJob", found["job"]) == []
    request, bundles = found["request"], made["artifacts"]["bundles"]
    assert request["InputConfig"]["S3Uri"] == f"{bundles}neo/model.tar.gz"
    assert request["OutputConfig"]["S3OutputLocation"] == f"{bundles}neo/compiled/"
    assert json.loads(request["InputConfig"]["DataInputConfig"]) == {"input": [1, 7]}
    assert "FrameworkVersion" not in request["InputConfig"], "for other frameworks only"
    assert request["RoleArn"].endswith("-cancer-compile")
    assert request["CompilationJobName"].endswith("-a1-neo")


def test_the_longest_name_of_a_project_leaves_room_for_the_job():
    run = f"{'p' * names.PROJECT_MAX_CHARS}-20261123093000-3f9a1c07be"
    assert len(names.job(run, 99, names.NEO)) <= 63


@pytest.mark.parametrize(
    ("wanted", "report"),
    [
        pytest.param({}, {"elsewhere": MADE}, id="unasked"),
        pytest.param(
            {"engine": "neo", "target": "ml_c5"}, {"elsewhere": {"status": "failed"}}, id="nothing was packed"
        ),
        pytest.param({"engine": "neo", "target": "ml_c5"}, {}, id="a report of an older release"),
        pytest.param({"engine": "neuron", "target": "inf2"}, {"elsewhere": MADE | {"engine": "neuron"}}, id="Neuron"),
    ],
)
def test_without_a_model_for_neo_there_is_no_job(wanted, report):
    assert compilers.compilation(built_plan(spec=asked(**wanted)), report, STACK) is None


def test_a_compiled_model_is_registered_beside_the_one_that_is_served():
    entry = built_package() | compilers.beside(DONE)
    assert problems("sagemaker", "CreateModelPackage", entry) == []
    (also,) = entry["AdditionalInferenceSpecifications"]
    assert also["Containers"][0]["Image"] == DONE["InferenceImage"]
    assert all(each.startswith("ml.c5.") for each in also["SupportedRealtimeInferenceInstanceTypes"])
    assert "ml.c5.xlarge" in also["SupportedRealtimeInferenceInstanceTypes"]


def built_package() -> dict:
    return {"ModelPackageGroupName": "ebb-cancer"}


@pytest.mark.parametrize(
    "changes",
    [{"CompilationJobStatus": "FAILED"}, {"InferenceImage": None}, {"ModelArtifacts": {}}],
    ids=["it failed", "no image serves it", "it left nothing"],
)
def test_what_cannot_be_served_is_not_registered(changes):
    assert compilers.beside(DONE | changes) == {}


def test_its_time_is_counted_and_its_energy_reckoned_and_nothing_is_billed():
    fields = compilers.stage_fields(DONE, status="finished", attempt=1, region="us-east-1")
    assert (fields["duration_s"], fields["instance_type"]) == (200.0, "SageMaker Neo")
    assert fields["footprint"]["energy_kwh"]["value"] > 0
    assert fields["footprint"]["cost_usd"]["value"] == 0
    assert fields["report"]["machine_assumed"] == "ml.m5.xlarge"


@pytest.mark.parametrize(
    ("job", "error", "cause", "told"),
    [
        pytest.param(
            DONE | {"CompilationJobStatus": "FAILED", "FailureReason": "ClientError: an operator"},
            None,
            None,
            "was FAILED when the run went on: ClientError: an operator",
            id="it failed",
        ),
        pytest.param(
            DONE | {"CompilationJobStatus": "INPROGRESS", "FailureReason": ""},
            None,
            None,
            "was INPROGRESS when the run went on",
            id="it never ended",
        ),
        pytest.param({}, "SageMaker.SageMakerException", "no rights", "no compilation job: no rights", id="refused"),
    ],
)
def test_why_the_run_goes_on_without_it_is_told(job, error, cause, told):
    outcome = compilers.outcome(job, error, cause)
    assert outcome["chosen"] == "none: what the job compiled is registered and served"
    assert told in outcome["reason"]


def test_a_resolved_spec_is_read_again():
    spec = asked(engine="neo", target="ml_c5")
    assert PipelineSpec.model_validate(spec.resolved()) == spec
    with pytest.raises(ValidationError):
        CompileSpec.model_validate({"engine": "neo", "target": "ml_c5", "level": 3})
