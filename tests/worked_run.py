"""One worked run, used by the unit tests and written to `events/` as the steps' inputs.

`python tests/worked_run.py` rewrites those files; a test compares them with what the code makes today.
"""

import json
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ebb import comparison, deployment, ledger, plan, selection, serving, serving_model, traffic
from ebb.plan_facts import RunFacts
from ebb.settings import StackSettings
from ebb.sizing import Data
from ebb.sources import Source
from ebb.spec import PipelineSpec

EVENTS = Path(__file__).parent.parent / "events"
ACCOUNT, REGION = "123456789012", "us-east-1"
NOW = "2026-11-23T09:30:05.120Z"
RUN_ID = "cancer-20261123093000-3f9a1c07be"
IDENTITY = "9d2b6bb0c2f5d1a8b5d6a44c4b6f14f9c1f04ec0a4b8e6f7b0e7a3f3f0e1d2c3"
EXECUTION_ARN = f"arn:aws:states:{REGION}:{ACCOUNT}:execution:ebb-run-pipeline:{RUN_ID}-a1"
LANDING, ARTIFACTS, LEDGER = "ebb-landing-123456789012", "ebb-artifacts-123456789012", "ebb-ledger"
JOBS_HASH = "5c1d9e7f30ab42d6"
DROP = {
    "kind": "object",
    "bucket": LANDING,
    "key": "cancer/data/breast_cancer.csv",
    "size_bytes": 119913,
    "etag": "b1946ac92492d2347c6235b4d2611184",
    "sequencer": "0067419F6B2C5A1E33",
    "uploaded_at": "2026-11-23T09:30:00Z",
}
STACK = StackSettings(
    stack="ebb",
    artifact_bucket=ARTIFACTS,
    data_key_arn=f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    serve_image_uri=f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/ebb/serve:0f3a9c",
    landing_bucket=LANDING,
    jobs_uri=f"s3://{ARTIFACTS}/jobs/{JOBS_HASH}",
    jobs_image_uri=f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/ebb/jobs:77b2d1",
    job_boundary_arn=f"arn:aws:iam::{ACCOUNT}:policy/ebb-job-boundary",
    notifications_topic_arn=f"arn:aws:sns:{REGION}:{ACCOUNT}:ebb-notifications",
    ledger_table=LEDGER,
    images_project="ebb-images",
    glue_security_configuration="ebb",
    jobs_context_uri=f"s3://{ARTIFACTS}/images/jobs/77b2d1",
    serve_context_uri=f"s3://{ARTIFACTS}/images/serve/0f3a9c",
)
SOURCE = Source(
    bucket=LANDING,
    key=str(DROP["key"]),
    size_bytes=119913,
    etag=str(DROP["etag"]),
    sha256="2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
)


def measure(**changes: Any) -> dict[str, Any]:
    """A plausible measurement; the defaults are those of the original in eager PyTorch."""
    base = {
        "quality": {"validation": 0.97, "test": 0.965},
        "quality_interval": {"low": 0.95, "high": 0.985},
        "latency_ms": {"p50": 0.200, "p99": 0.310},
        "throughput_rows_per_s": 90_000.0,
        "cpu_ms_per_prediction": 0.210,
        "size_bytes": 120_000,
        "memory_mib": 240.0,
    }
    return deepcopy(base) | changes


def candidate(name: str, chain: tuple[str, ...], **changes: Any) -> dict[str, Any]:
    """A measured candidate of compile's report."""
    return {
        "name": name,
        "chain": list(chain),
        "runtime": "onnxruntime",
        "status": "measured",
        "bundle": f"{name}/model.tar.gz",
        **measure(**changes),
    }


def compile_report(*candidates: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What `compile` writes; without candidates, four that differ as real ones do."""
    usual = (
        candidate("original", ("compile",), latency_ms={"p50": 0.060, "p99": 0.090}, cpu_ms_per_prediction=0.060),
        candidate(
            "original-int8",
            ("quantize", "compile"),
            latency_ms={"p50": 0.075, "p99": 0.110},
            cpu_ms_per_prediction=0.075,
            size_bytes=40_000,
        ),
        candidate(
            "student",
            ("distill", "compile"),
            quality={"validation": 0.968, "test": 0.960},
            latency_ms={"p50": 0.010, "p99": 0.018},
            cpu_ms_per_prediction=0.010,
            size_bytes=20_000,
            memory_mib=60.0,
        ),
        candidate(
            "student-int8",
            ("distill", "quantize", "compile"),
            quality={"validation": 0.90, "test": 0.90},
            latency_ms={"p50": 0.008, "p99": 0.012},
            cpu_ms_per_prediction=0.008,
            size_bytes=9_000,
            memory_mib=58.0,
        ),
    )
    return {
        "stage": "compile",
        "duration_s": 12.0,
        "cpu_seconds": 18.0,
        "vcpu": 2,
        "decisions": [],
        "metric": "accuracy",
        "greater_is_better": True,
        "floor_rule": "absolute",
        "original": measure(),
        "candidates": list(candidates or usual),
        "champion": None,
        "sample_payload": {"file": "sample-payload.tar.gz", "content_type": "application/json", "requests": 32},
    } | changes


def facts(**changes: Any) -> RunFacts:
    """What the plan of the worked run depends on."""
    base: dict[str, Any] = {
        "run_id": RUN_ID,
        "attempt": 1,
        "project": "cancer",
        "spec": PipelineSpec(),
        "sources": (SOURCE,),
        "data": Data(SOURCE.size_bytes, "csv"),
        "manifest_uri": f"s3://{ARTIFACTS}/projects/cancer/runs/{RUN_ID}/manifest.json",
        "sources_uri": f"s3://{ARTIFACTS}/projects/cancer/runs/{RUN_ID}/sources.json",
        "generation": 3,
        "finished": {},
    }
    return RunFacts(**(base | changes))


def built_plan(**changes: Any) -> dict[str, Any]:
    """The worked run's plan."""
    return plan.build(facts(**changes), STACK)


def built_selection() -> dict[str, Any]:
    """What `select_candidate` answers to the worked run."""
    spec, report, made = PipelineSpec(), compile_report(), built_plan()
    picked = selection.select(report, spec.compress, spec.serve)
    verdict = selection.against_champion(picked.measured, report["metric"], measured=None, served=None)
    compared = comparison.compare(report["original"], picked.shipped, region=REGION)
    choice = serving.choose(
        serve=spec.serve, model=serving_model.Model.of(picked.shipped), traffic=traffic.UNKNOWN, region=REGION
    )
    return {
        "chosen": picked.name,
        "metric": report["metric"],
        "reasons": list(picked.reasons),
        "floor": picked.floor,
        "candidates": selection.told(report, picked),
        "comparison": compared,
        "package_group": deployment.package_group(STACK, "cancer"),
        "package": deployment.package(
            STACK,
            made,
            task="tabular-classification",
            candidate=picked.shipped,
            metric=report["metric"],
            comparison=compared,
            payload=deployment.sample_payload(made, report),
        ),
        "deploy": deployment.deploy_input(made, candidate=picked.shipped, choice=choice, serve=spec.serve),
        "deploy_reason": verdict.reason,
    }


def step_events() -> dict[str, dict[str, Any]]:
    """The inputs of the steps, by the file name that `events/` gives them."""
    asked = {"run_id": RUN_ID, "attempt": 1, "project": "cancer", "now": NOW}
    identified = {
        "outcome": "run",
        "reason": "no successful run has had these bytes, this spec and this job code",
        "identity": IDENTITY,
        "reuses": None,
        "spec": PipelineSpec().resolved(),
        "sources": [SOURCE.model_dump(mode="json")],
        "source_count": 1,
        "size_bytes": SOURCE.size_bytes,
        "compressed": False,
        "manifest_uri": facts().manifest_uri,
        "sources_uri": facts().manifest_uri.replace("manifest", "sources"),
        "format": "csv",
        "task": None,
        "force": False,
    }
    made = built_plan()
    job = {
        "ProcessingJobName": f"{RUN_ID}-a1-process",
        "ProcessingJobArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:processing-job/{RUN_ID}-a1-process",
        "ProcessingJobStatus": "Completed",
        "ProcessingStartTime": 1795426260000,
        "ProcessingEndTime": 1795426300000,
        "ProcessingResources": {
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 10}
        },
    }
    failed_job = {
        "TrainingJobName": f"{RUN_ID}-a1-train",
        "TrainingJobArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/{RUN_ID}-a1-train",
        "TrainingJobStatus": "Failed",
        "FailureReason": "AlgorithmError: training produced no finite loss, exit code: 1",
        "TrainingStartTime": 1795426320000,
        "TrainingEndTime": 1795426380000,
        "TrainingTimeInSeconds": 60,
        "BillableTimeInSeconds": 20,
        "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 10},
    }
    build = {
        "Id": "ebb-images:8e3c1f5a-0b7d-4a52-9c61-2f4de7a90b13",
        "StartTime": 1795426210000,
        "EndTime": 1795426355000,
        "ComputeType": "BUILD_GENERAL1_MEDIUM",
        "Image": STACK.serve_image_uri,
    }
    rejection = {
        "code": "one-class",
        "message": "the target 'target' has one class only",
        "file": "breast_cancer.csv",
        "line": None,
        "column": "target",
        "remedy": "Drop rows of at least two classes.",
    }
    stream = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{LEDGER}/stream/2026-11-23T09:00:00.000"
    decided = [
        ledger.put_action(LEDGER, each)["Item"] for each in ledger.decision_items(RUN_ID, "plan", made["decisions"])
    ]
    written = [
        {
            "eventID": f"{number:032x}",
            "eventName": "INSERT",
            "eventVersion": "1.1",
            "eventSource": "aws:dynamodb",
            "awsRegion": REGION,
            "dynamodb": {
                "ApproximateCreationDateTime": 1795426205,
                "Keys": {name: item[name] for name in ("pk", "sk")},
                "NewImage": item,
                "SequenceNumber": f"{4421584500000000017450439000 + number}",
                "SizeBytes": len(json.dumps(item)),
                "StreamViewType": "NEW_IMAGE",
            },
            "eventSourceARN": stream,
        }
        for number, item in enumerate(decided)
    ]
    lambda_cause = {"errorMessage": json.dumps(rejection), "errorType": "DropRejectedError", "stackTrace": []}
    return {
        "identify_dataset": asked | {"drop": DROP, "execution_arn": EXECUTION_ARN},
        "plan_pipeline": asked | {"drop": DROP, "identified": identified},
        "plan_table": asked
        | {
            "generation": made["generation"],
            "curated_uri": made["artifacts"]["curated"],
            "manifest_uri": made["artifacts"]["manifest"],
        },
        "publish_decisions": {"Records": written},
        "select_candidate": asked | {"plan": made},
        "plan_deployment": {**built_selection()["deploy"], "execution": f"{RUN_ID}-a1", "now": NOW},
        "plan_deployment_move": {"project": "cancer", "kind": "async", "execution": "move-cancer-1", "now": NOW},
        "record_run_stage_finished": asked
        | {"action": "stage_finished", "stage": "process", "job": job, "report_uri": made["process"]["report_uri"]},
        "record_run_images_built": asked | {"action": "images_built", "builds": [build]},
        "record_run_succeeded": asked
        | {
            "action": "succeeded",
            "plan": made,
            "selection": built_selection(),
            "deployment": {
                "deployed": True,
                "kind": "serverless",
                "address": "ebb-cancer",
                "endpoint_name": "ebb-cancer",
                "reason": "nothing is known of its traffic",
            },
        },
        "record_run_failed": asked
        | {"action": "failed", "stage": "train", "error": "States.TaskFailed", "cause": json.dumps(failed_job)},
        "record_run_rejected": asked
        | {"action": "rejected", "stage": "process", "error": "DropRejectedError", "cause": json.dumps(lambda_cause)},
        "record_run_reused": asked
        | {
            "action": "reused",
            "outcome": "reuse",
            "reuses": "cancer-20261122080000-aa01bb4c2d",
            "reason": "the same bytes, spec and job code as the successful run cancer-20261122080000-aa01bb4c2d",
        },
    }


def load(name: str) -> Any:
    """Return one of the recorded events."""
    return json.loads((EVENTS / f"{name}.json").read_text())


def moment(text: str) -> datetime:
    """Return an ISO moment in UTC."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


if __name__ == "__main__":
    for file_name, content in step_events().items():
        (EVENTS / f"{file_name}.json").write_text(json.dumps(content, indent=2) + "\n")
