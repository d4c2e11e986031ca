"""The record of a run: what `record_run` is told, and what goes to the ledger, to run.json and to the notification."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import Field, TypeAdapter

from ebb import catalog, deployment, events, footprint, ledger, names, payback, rungs, tuning
from ebb.errors import Rejection
from ebb.events import Message
from ebb.footprint import Footprint
from ebb.report import view
from ebb.requests import debugger

VERSION = "0.1.0"


class _Told(Message):
    run_id: str
    attempt: int = Field(ge=1)
    project: str = Field(pattern=names.PROJECT_PATTERN)
    now: datetime


class StageFinished(_Told):
    """A job ended well; its report says what it did."""

    action: Literal["stage_finished"]
    stage: Literal["process", "train", "compress", "compile", "features"]
    job: dict[str, Any]
    report_uri: str


class JobFailed(_Told):
    """A stage's job failed or was not created: perhaps only because there was no machine for it."""

    action: Literal["job_failed"]
    stage: Literal["process", "train", "compress", "compile"]
    error: str | None = None
    cause: str | None = None
    plan: dict[str, Any]


class Compiled(_Told):
    """SageMaker Neo has compiled the original, or there was a reason why it did not; the run goes on either way."""

    action: Literal["compiled"]
    job: dict[str, Any]
    error: str | None = None
    cause: str | None = None


class ImagesBuilt(_Told):
    """Images that the registry did not hold were built; of each build what `Build image` keeps of it."""

    action: Literal["images_built"]
    builds: list[dict[str, Any]]


class Succeeded(_Told):
    """Every stage ended well; the model was deployed, or there was a reason not to."""

    action: Literal["succeeded"]
    plan: dict[str, Any]
    selection: dict[str, Any]
    deployment: dict[str, Any] | None = None


class Scored(_Told):
    """What was dropped below score/ has its predictions, and the transform is over."""

    action: Literal["scored"]
    plan: dict[str, Any]
    transform: dict[str, Any]


class Ended(_Told):
    """The run ended badly: rejected is the drop's fault, failed is not."""

    action: Literal["rejected", "failed"]
    stage: str | None = None
    error: str | None = None
    cause: str | None = None


class Reused(_Told):
    """There was nothing to do."""

    action: Literal["reused"]
    outcome: Literal["reuse", "superseded"]
    reuses: str | None = None
    reason: str


RecordRequest = TypeAdapter[StageFinished | JobFailed | Compiled | ImagesBuilt | Succeeded | Scored | Ended | Reused](
    Annotated[
        StageFinished | JobFailed | Compiled | ImagesBuilt | Succeeded | Scored | Ended | Reused,
        Field(discriminator="action"),
    ]
)


# Where each kind of job says on what it ran.
_RESOURCES: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "Training": lambda job: job.get("ResourceConfig", {}),
    "Processing": lambda job: job.get("ProcessingResources", {}).get("ClusterConfig", {}),
    "Transform": lambda job: job.get("TransformResources", {}),
    "HyperParameterTuning": lambda job: (job.get("TrainingJobDefinition") or {}).get("ResourceConfig", {}),
}


def stage_fields(
    job: Mapping[str, Any], report: Mapping[str, Any], *, status: str, attempt: int, region: str, identity: str | None
) -> dict[str, Any]:
    """Return a stage's fields, from the Describe response of its job and the job's own report."""
    if _is_spark(job):
        return _spark_fields(job, report, status=status, attempt=attempt, region=region, identity=identity)
    kind = next(each for each in _RESOURCES if f"{each}JobName" in job)
    resources, tuned = _RESOURCES[kind](job), kind == "HyperParameterTuning"
    started, ended = (
        events.timestamp(job.get(name)) for name in ("CreationTime" if tuned else f"{kind}StartTime", f"{kind}EndTime")
    )
    wall_s = (ended - started).total_seconds() if started and ended else 0.0
    duration_s = tuning.machine_s(job) if tuned else float(job.get("TrainingTimeInSeconds") or wall_s)
    billable_s = float(job.get("BillableTimeInSeconds") or duration_s)
    cpu_seconds = report.get("cpu_seconds")
    load = footprint.utilization(cpu_seconds, float(report.get("duration_s") or 0), int(report.get("vcpu") or 0))
    instance_type = resources.get("InstanceType", "")
    used = footprint.of_job(instance_type, duration_s=duration_s, billable_s=billable_s, load=load, region=region)
    machines = int(resources.get("InstanceCount") or 1)
    if used and machines > 1:  # billed for each of them
        used = sum([used] * machines, start=footprint.NOTHING)
    return {
        "attempt": attempt,
        "status": status,
        "identity": identity,
        "job_name": job.get(f"{kind}JobName"),
        "job_arn": job.get(f"{kind}JobArn"),
        **tuning.best_of(job),
        "instance_type": instance_type,
        "machines": machines if machines > 1 else None,
        "spot": job.get("EnableManagedSpotTraining") or None,
        "started_at": ledger.iso(started) if started else None,
        "ended_at": ledger.iso(ended) if ended else None,
        "duration_s": duration_s,
        "billable_s": billable_s,
        "cpu_seconds": cpu_seconds,
        "utilisation": load.value if cpu_seconds is not None else None,
        "footprint": used.as_dict() if used else None,
        "report": ledger.condensed(
            rungs.with_energy(
                tuning.told(
                    job,
                    {key: value for key, value in report.items() if key not in ("decisions", "mistakes")},
                    used.energy_kwh if used else None,
                ),
                used.energy_kwh * tuning.best_share(job) if used else None,
            )
        ),
    }


def _spark_fields(
    job: Mapping[str, Any], report: Mapping[str, Any], *, status: str, attempt: int, region: str, identity: str | None
) -> dict[str, Any]:
    """Return the fields of a stage that Glue ran, from its run as GetJobRun describes it.

    The report counts the CPU time of the driver's Python alone, so it stands for nothing.
    """
    started, ended = (events.timestamp(job.get(name)) for name in ("StartedOn", "CompletedOn"))
    worker, workers = str(job.get("WorkerType", "")), int(job.get("NumberOfWorkers") or 0)
    duration_s = float(job.get("ExecutionTime") or 0.0)  # without the wait for capacity
    dpu_s = float(job.get("DPUSeconds") or 0.0)
    used = footprint.of_spark(worker, workers=workers, duration_s=duration_s, dpu_s=dpu_s, region=region)
    known = catalog.spark_worker(worker)
    return {
        "attempt": attempt,
        "status": status,
        "identity": identity,
        "job_name": job.get("JobName"),
        "job_run": job.get("Id"),
        "instance_type": f"{workers} x {worker} of Glue {job.get('GlueVersion')}, {job.get('ExecutionClass')}",
        "started_at": ledger.iso(started) if started else None,
        "ended_at": ledger.iso(ended) if ended else None,
        "duration_s": duration_s,
        "billable_s": max(duration_s, catalog.spark_least_s()),
        "dpu_hours": (dpu_s or workers * (known[1] if known else 0) * duration_s) / 3600,
        "footprint": used.as_dict() if used else None,
        "report": ledger.condensed({key: value for key, value in report.items() if key != "decisions"}),
    }


def _is_spark(job: Mapping[str, Any]) -> bool:
    return "JobRunState" in job


def images_fields(builds: Sequence[Mapping[str, Any]], *, status: str, attempt: int, region: str) -> dict[str, Any]:
    """Return the fields of the stage `images`, from builds as CodeBuild describes them.

    Builds run at the same time: the stage lasts from the first start to the last end, and its footprint is their sum.
    """
    spans = [(events.timestamp(each.get("StartTime")), events.timestamp(each.get("EndTime"))) for each in builds]
    known = [(started, ended) for started, ended in spans if started and ended]
    started, ended = (min(each[0] for each in known), max(each[1] for each in known)) if known else (None, None)
    took_s = [(end - start).total_seconds() if start and end else 0.0 for start, end in spans]
    types = [str(each.get("ComputeType") or (each.get("Environment") or {}).get("ComputeType")) for each in builds]
    parts = [
        footprint.of_build(kind, duration_s=seconds, region=region) for kind, seconds in zip(types, took_s, strict=True)
    ]
    each_took = zip(builds, spans, types, took_s, parts, strict=True)
    return {
        "attempt": attempt,
        "status": status,
        "instance_type": ", ".join(sorted(set(types))),
        "started_at": ledger.iso(started) if started else None,
        "ended_at": ledger.iso(ended) if ended else None,
        "duration_s": (ended - started).total_seconds() if started and ended else 0.0,
        "billable_s": sum(map(footprint.billed_build_s, took_s)),
        "footprint": sum(filter(None, parts), start=footprint.NOTHING).as_dict() if any(parts) else None,
        "builds": [
            {
                "id": each.get("Id"),
                "instance_type": kind,
                "ended_at": ledger.iso(end) if end else None,
                "duration_s": seconds,
                "billable_s": footprint.billed_build_s(seconds),
                "footprint": part.as_dict() if part else None,
            }
            for each, (_, end), kind, seconds, part in each_took
        ],
        "report": {"builds": [{"id": each.get("Id"), "image": each.get("Image")} for each in builds]},
    }


def learned(stage: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a stage's report adds to the run itself."""
    known = {
        "process": ("task", "target", "rows"),
        "train": ("metric",),
        "compile": ("metric",),
    }
    return {name: report[name] for name in known.get(stage, ()) if report.get(name) is not None}


def rejection_in(report: Mapping[str, Any]) -> Rejection | None:
    """Return the rejection that `process` reported, None when it accepted the data."""
    return Rejection.of(report["rejection"]) if report.get("status") == "rejected" else None


def job_in(cause: str | None) -> dict[str, Any] | None:
    """Return the failed job's Describe response that a `.sync` task leaves as its cause."""
    told = _json(cause)
    return told if told and (_is_spark(told) or any(f"{kind}JobName" in told for kind in _RESOURCES)) else None


def has_run(job: Mapping[str, Any]) -> bool:
    """Return whether a job that was refused had a machine before, which is paid for."""
    return bool(job.get("BillableTimeInSeconds") or job.get("TrainingTimeInSeconds"))


def build_in(cause: str | None) -> dict[str, Any] | None:
    """Return the failed build that a `.sync` task leaves as its cause, wrapped as its results are or alone."""
    told = _json(cause) or {}
    build = told.get("Build", told)
    return build if isinstance(build, dict) and "BuildStatus" in build else None


def what_went_wrong(request: Ended) -> dict[str, Any]:
    """Return the ledger's error: a rejection with its place and remedy, or a failure with the job's own words."""
    told = _json(request.cause)
    if told and "errorMessage" in told:  # a Lambda's exception: class name and text
        inner = _json(told["errorMessage"])
        rejection = Rejection.of(inner) if inner and "code" in inner else None
        kind, message = told.get("errorType") or request.error, told["errorMessage"]
        return ledger.error_of(rejection, kind=str(kind), message=message, stage=request.stage)
    inner = told if told and "code" in told and "message" in told else None
    if inner:
        kind = request.error or "DropRejectedError"
        return ledger.error_of(Rejection.of(inner), kind=kind, message=inner["message"], stage=request.stage)
    job = job_in(request.cause)
    if job:  # the job's own words first; SageMaker's summary only says that it exited
        message = next(
            (str(job[name]) for name in ("ExitMessage", "FailureReason", "ErrorMessage") if job.get(name)),
            "the job ended without saying why",
        )
        return ledger.error_of(None, kind="JobFailed", message=message, stage=request.stage)
    build = build_in(request.cause)
    if build:  # an image's build; its log says more than its phases
        contexts = [context for phase in build.get("Phases") or () for context in phase.get("Contexts") or ()]
        words = [context.get("Message") for context in contexts]
        log = build.get("Logs") or {}
        where = f"log {log.get('GroupName')} {log.get('StreamName')}"
        message = f"{build.get('Id')} {build['BuildStatus']}: {'; '.join(filter(None, words)) or 'no reason'} ({where})"
        return ledger.error_of(None, kind="ImageBuildFailed", message=message, stage=request.stage)
    if told and ("executionArn" in told or "ExecutionArn" in told):  # the nested deployment
        message = f"{told.get('Error') or told.get('error')}: {told.get('Cause') or told.get('cause')}"
        return ledger.error_of(None, kind="DeploymentFailed", message=message, stage=request.stage)
    message = request.cause or request.error or "no reason was given"
    if debugger.is_refused(message):
        return ledger.error_of(None, kind="DebuggerRefused", message=debugger.REFUSED + message, stage=request.stage)
    return ledger.error_of(None, kind=request.error or "Error", message=message, stage=request.stage)


def total_footprint(stages: Iterable[Mapping[str, Any]]) -> Footprint:
    """Return what all jobs and builds of a run used, those of failed and repeated attempts included."""
    recorded = []
    for stage in stages:
        parts = [stage, *stage.get("earlier_attempts", ())]
        recorded += [part["footprint"] for part in parts if part.get("footprint")]
    return footprint.sum_of(recorded)


def success_fields(request: Succeeded) -> dict[str, Any]:
    """Return what a successful run adds to its ledger entry; a model served as it is has no metric, no comparison.

    Each of the candidates has its `verdict` in words, and as compile reports them `runtime`, `chain`, `status`,
    `reason`, `fallback` and, unless it failed, what was measured.
    """
    selection, answer = request.selection, request.deployment or {}
    deployed = bool(answer.get("deployed"))
    return {
        "chosen": selection["chosen"],
        "metric": selection["metric"],
        "candidates": selection["candidates"],
        "comparison": selection["comparison"],
        "deployed": deployed,
        "deploy_reason": answer.get("reason") or selection["deploy_reason"],
        "endpoint_name": answer.get("endpoint_name") if deployed else None,
        "address": answer.get("address") if deployed else None,
        "kind": answer.get("kind") if deployed else None,
    }


def served_fields(request: Succeeded) -> dict[str, Any] | None:
    """Return what the project's endpoint serves from now on, None when it was not deployed.

    Metric and quality are None for a model that is served as it is.
    """
    if not (request.deployment or {}).get("deployed"):
        return None
    selection = request.selection
    shipped = next(each for each in selection["candidates"] if each["name"] == selection["chosen"])
    return {
        "run_id": request.run_id,
        "candidate": selection["chosen"],
        "metric": selection["metric"],
        "quality": shipped.get("quality"),
        "bundle_uri": deployment.bundle_uri(request.plan, selection["chosen"]),
        "original_uri": request.plan["artifacts"]["original"],  # where training goes on when data grew
        "endpoint_name": (request.deployment or {}).get("endpoint_name"),
        "address": (request.deployment or {}).get("address"),
    }


def document(
    run: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]],
    decisions: Sequence[Mapping[str, Any]],
    entries: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return run.json: the whole record, readable without the ledger; `entries` are those of the footprint ledger."""
    hidden = ("pk", "sk", "gsi_pk", "gsi_sk")
    return {
        **{name: value for name, value in run.items() if name not in hidden},
        "stages": [{name: value for name, value in each.items() if name not in hidden} for each in stages],
        "decisions": [{name: value for name, value in each.items() if name not in hidden} for each in decisions],
        "entries": [{name: value for name, value in each.items() if name not in hidden} for each in entries],
        "payback": payback.payback(stages, run.get("comparison")),
        "coefficients": catalog.sources(),
        "versions": {"ebb": VERSION, **run.get("versions", {})},
    }


def notification(run_id: str, project: str, status: str, run: Mapping[str, Any], *, region: str = "") -> dict[str, str]:
    """Return the subject and text of the message that tells people; it holds no value of the data.

    The report's link leads to the object in the console, which asks who reads: a signed link would open for everybody.

    A failed job's own words may quote data, so they stay in the ledger; a rejection's are written by Ebb.
    """
    lines = [f"Run {run_id} of the project {project}: {status}."]
    error = run.get("error") or {}
    if status == "rejected" and error:
        lines.append(str(error.get("message")))
        lines += [f"{name}: {error[name]}" for name in ("file", "line", "column") if error.get(name) is not None]
        lines.append(f"What to do: {error.get('remedy') or 'see the record of the run'}")
    elif error:
        lines.append(f"{error.get('type')} in the stage {error.get('stage')}. Why: ebb show {run_id}")
    if status == "succeeded" and run.get("scored_uri"):
        lines.append(f"{run.get('source')}, scored by {run.get('scored_by')}: {run['scored_uri']}")
    elif status == "succeeded":
        served = f"served at {run.get('address')} ({run.get('kind')})"
        lines.append(f"{run.get('chosen')}: {served if run.get('deployed') else run.get('deploy_reason')}")
    if run.get("reason"):
        lines.append(str(run["reason"]))
    used = run.get("footprint")
    if used and used["energy_kwh"]["value"]:
        energy, carbon, cost = (used[name]["value"] for name in ("energy_kwh", "carbon_g", "cost_usd"))
        lines.append(f"Footprint, estimated: {energy:.3g} kWh, {carbon:.3g} gCO2e, {cost:.3g} USD.")
    lines += filter(None, [view.saved(run)])
    if run.get("report_uri"):
        lines.append(f"Report: ebb report {run_id}")
        lines += [console_link(str(run["report_uri"]), region)] if region else []
    # SNS subjects are at most 100 characters of ASCII without line breaks.
    return {"subject": f"Ebb: {project} {status}"[:100], "message": "\n".join(lines)}


def console_link(uri: str, region: str) -> str:
    """Return the address of an object in the console of the Region's partition.

    Source: https://docs.aws.amazon.com/general/latest/gr/aws-service-information.html; the form of the link is assumed.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    domains = {"cn-": "console.amazonaws.cn", "us-gov-": "console.amazonaws-us-gov.com"}
    domain = next((each for start, each in domains.items() if region.startswith(start)), "console.aws.amazon.com")
    return f"https://{region}.{domain}/s3/object/{bucket}?region={region}&prefix={quote(key)}"


def _json(text: str | None) -> dict[str, Any] | None:
    try:
        value = json.loads(text or "")
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
