"""SageMaker Neo: Create, Describe, List and Stop of compilation jobs. What comes before the compiler is real.

The request is checked, role, tags and key are asked for, the archive is fetched with the job's role and must hold what
Neo's table asks of its framework. Neo's compiler is Amazon's and is not here: a job that got so far ends as FAILED and
says so, so that whoever polls it goes on as it would after a model that Neo cannot compile. Nothing is ever COMPLETED.

Sources: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateCompilationJob.html,
https://docs.aws.amazon.com/sagemaker/latest/dg/neo-supported-cloud.html,
https://docs.aws.amazon.com/sagemaker/latest/dg/neo-troubleshooting-compilation.html. Assumed: the texts, and that
a pair of framework and device that is not in the table fails the job and not the request. As on AWS no event is sent.
"""

import json
import tarfile
import threading
from pathlib import Path
from typing import Any

from ministack.core.responses import get_region

from ebb.catalog import neo
from ebb_local.sagemaker import jobs, listing, roles, settings, state, tags, threads
from ebb_local.sagemaker.errors import JobFailure, ServiceError, not_implemented, validation_exception
from ebb_local.sagemaker.storage import Bucket, Location, Source, download_all

NO_COMPILER = "InternalServerError: the compiler of SageMaker Neo is Amazon's and not part of the embedded cloud"
_ENDINGS = {"ONNX": (".onnx",), "PYTORCH": (".pt", ".pth"), "XGBOOST": (".model",), "KERAS": (".h5",)}
_VERSIONED = ("MXNET", "PYTORCH", "TENSORFLOW", "TFLITE")
_RUNS = ("STARTING", "INPROGRESS")
_SUMMARY = ["CompilationJobName", "CompilationJobArn", "CreationTime", "CompilationStartTime", "CompilationEndTime",
            "CompilationTargetDevice", "CompilationJobStatus", "LastModifiedTime"]  # fmt: skip
_stops: dict[str, threading.Event] = {}


def create(request: dict[str, Any]) -> dict[str, Any]:
    """CreateCompilationJob."""
    name = request["CompilationJobName"]
    arn = state.arn("compilation-job", name)
    _require_valid(request)
    tags.require_tagging(arn, request)
    roles.require_role(request["RoleArn"])
    if name in state.compilation_jobs:
        raise ServiceError("ResourceInUse", f"Job name must be unique, and a job with this name already exists ({arn})")
    moment = state.now()
    record: state.Record = {
        **{key: value for key, value in request.items() if key != "Tags"},
        "CompilationJobArn": arn,
        "CompilationJobStatus": "STARTING",
        "CreationTime": moment,
        "LastModifiedTime": moment,
        "FailureReason": "",
        "ModelArtifacts": {"S3ModelArtifacts": ""},
    }
    state.compilation_jobs[name] = record
    tags.put(arn, request.get("Tags"))
    _stops[arn] = threading.Event()
    threads.start(f"compilation-{name}", _run, record)
    return {"CompilationJobArn": arn}


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeCompilationJob."""
    return state.public(find(request["CompilationJobName"]))


def list_jobs(request: dict[str, Any]) -> dict[str, Any]:
    """ListCompilationJobs."""
    records = [
        {**each, "CompilationTargetDevice": each["OutputConfig"].get("TargetDevice")}
        for each in state.compilation_jobs.values()
    ]
    rows, more = listing.page(
        records, request, name="CompilationJobName", status="CompilationJobStatus", members=_SUMMARY
    )
    return {"CompilationJobSummaries": rows, **more}


def stop(request: dict[str, Any]) -> dict[str, Any]:
    """StopCompilationJob."""
    record = find(request["CompilationJobName"])
    asked = _stops.get(record["CompilationJobArn"])
    if record["CompilationJobStatus"] not in _RUNS or asked is None:
        raise validation_exception(
            f"The request was rejected because the compilation job is in status {record['CompilationJobStatus']}."
        )
    state.update(record, CompilationJobStatus="STOPPING", LastModifiedTime=state.now())
    asked.set()
    return {}


def find(name: str) -> state.Record:
    """Return a job's record, or raise as AWS does."""
    record = state.compilation_jobs.get(name)
    if record is None:
        raise ServiceError("ResourceNotFound", f"Could not find compilation job with name: {name}")
    return record


def mark_interrupted() -> None:
    """Fail what ran when the server ended."""
    for *_, record in state.everywhere(state.compilation_jobs):
        if record["CompilationJobStatus"] in (*_RUNS, "STOPPING"):
            moment = state.now()
            record |= {"CompilationJobStatus": "FAILED", "CompilationEndTime": moment, "LastModifiedTime": moment}
            record["FailureReason"] = jobs.INTERRUPTED_TEXT


def _run(record: state.Record) -> None:
    state.update(record, CompilationJobStatus="INPROGRESS", CompilationStartTime=state.now())
    try:
        _look_at(record)
        status, reason = "FAILED", NO_COMPILER
    except JobFailure as failure:
        status, reason = "FAILED", str(failure)
    if _stops.pop(record["CompilationJobArn"]).is_set():
        status, reason = "STOPPED", ""
    moment = state.now()
    state.update(
        record,
        CompilationJobStatus=status,
        FailureReason=reason[: jobs.MAX_TEXT],
        CompilationEndTime=moment,
        LastModifiedTime=moment,
    )


def _look_at(record: state.Record) -> None:
    """Raise JobFailure for what Neo refuses before it compiles."""
    given, device = record["InputConfig"], record["OutputConfig"]["TargetDevice"]
    framework = given["Framework"]
    version = given.get("FrameworkVersion") or neo.latest(framework)
    refused = neo.refusal(framework, version, device, get_region())
    if refused:
        raise JobFailure(f"ClientError: InputConfiguration: {refused}")
    location = Location.parse(given["S3Uri"])
    bucket = Bucket(roles.credentials(record["RoleArn"], valid_s=3_600))
    base = settings.current().jobs / f"compilation-{record['CompilationJobName']}"
    stopped = _stops[record["CompilationJobArn"]].is_set
    download_all(bucket, [Source(location, "model.tar.gz")], base, stopped)
    if not stopped():
        _require_model(base / "model.tar.gz", framework)


def _require_model(archive: Path, framework: str) -> None:
    try:
        with tarfile.open(archive, "r:gz") as packed:
            names = [each.name for each in packed.getmembers() if each.isfile()]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise JobFailure("ClientError: InputConfiguration: the model is not a tar.gz archive") from error
    ending = _ENDINGS.get(framework)
    if ending and len([name for name in names if name.endswith(ending)]) != 1:
        raise JobFailure(f"ClientError: InputConfiguration: {framework} expects one model file in the archive")


def _require_valid(request: dict[str, Any]) -> None:
    """Raise for what the service model does not hold."""
    given, output = request.get("InputConfig"), request["OutputConfig"]
    if request.get("ModelPackageVersionArn") or given is None:
        raise not_implemented("A compilation job of a model package")
    if request.get("VpcConfig"):
        raise not_implemented("VpcConfig")
    if ("TargetDevice" in output) == ("TargetPlatform" in output):
        raise validation_exception("Exactly one of TargetDevice and TargetPlatform must be specified.")
    if "TargetPlatform" in output:
        raise not_implemented("TargetPlatform")
    if given.get("FrameworkVersion") and given["Framework"] not in _VERSIONED:
        raise validation_exception(f"FrameworkVersion is not supported for {given['Framework']}.")
    try:
        shapes = json.loads(given.get("DataInputConfig") or "{}")
    except ValueError as error:
        raise validation_exception("DataInputConfig is not valid JSON.") from error
    if not shapes and given["Framework"] != "XGBOOST":
        raise validation_exception(f"DataInputConfig is required for {given['Framework']}.")
