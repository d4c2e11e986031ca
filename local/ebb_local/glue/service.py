"""Jobs and their runs: CreateJob, UpdateJob, StartJobRun, GetJobRun, GetJobRuns and BatchStopJobRun.

Sources: https://docs.aws.amazon.com/glue/latest/dg/aws-glue-api-jobs-job.html, .../aws-glue-api-jobs-runs.html,
.../job-run-statuses.html. Every request is checked against botocore's model. Assumed: the texts of refusals, and that a
job which the embedded cloud could not run is refused when it is made.
"""

import copy
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from ministack.core.responses import error_response_json, json_response
from ministack.services import glue

from ebb_local import authorization
from ebb_local.glue import runs
from ebb_local.sagemaker import threads
from ebb_local.sagemaker.errors import ServiceError
from ebb_local.sagemaker.validation import operation, problems_of

SERVICE = "glue.amazonaws.com"
VERSION = "5.1"  # what the environment `spark` holds: Spark 3.5.6
DEFAULT_TIMEOUT_MIN = 480
ENDED = ("SUCCEEDED", "FAILED", "STOPPED", "TIMEOUT", "ERROR")
_DEFAULT_RUNS_AT_ONCE = 1
# What a job may ask for; anything else would be taken and not done.
_KNOWN = {
    "Name", "Description", "Role", "ExecutionProperty", "Command", "DefaultArguments", "MaxRetries", "Timeout",
    "GlueVersion", "NumberOfWorkers", "WorkerType", "SecurityConfiguration", "ExecutionClass", "Tags",
}  # fmt: skip
_KNOWN_OF_RUN = {
    "JobName", "Arguments", "Timeout", "SecurityConfiguration", "WorkerType", "NumberOfWorkers", "ExecutionClass",
}  # fmt: skip
_lock = threading.RLock()

Reply = tuple[int, dict[str, str], bytes]


def install() -> None:
    """Replace MiniStack's jobs. Repeating it changes nothing."""
    glue._create_job = _answering("CreateJob", create_job)
    glue._update_job = _answering("UpdateJob", update_job)
    glue._start_job_run = _answering("StartJobRun", start_job_run)
    glue._get_job_run = _answering("GetJobRun", get_job_run)
    glue._batch_stop_job_run = _answering("BatchStopJobRun", batch_stop_job_run)
    load = glue.load_persisted_state

    def load_and_end(data: Any) -> Any:
        found = load(data)
        _end_interrupted()
        return found

    glue.load_persisted_state = load_and_end


def call(action: str, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one action. Raises ServiceError."""
    actions = {"StartJobRun": start_job_run, "BatchStopJobRun": batch_stop_job_run}
    _require_valid(action, request)
    return actions[action](request)


def create_job(request: dict[str, Any]) -> dict[str, Any]:
    """CreateJob."""
    name = request["Name"]
    with _lock:
        if name in glue._jobs:
            raise ServiceError("AlreadyExistsException", f"Job {name} already exists")
        _require_runnable(request)
        moment = time.time()
        glue._jobs[name] = {
            **{key: value for key, value in request.items() if key != "Tags"},
            "CreatedOn": moment,
            "LastModifiedOn": moment,
        }
        glue._job_runs[name] = []
    if request.get("Tags"):
        glue._tags[glue._arn("job", name)] = dict(request["Tags"])
    return {"Name": name}


def update_job(request: dict[str, Any]) -> dict[str, Any]:
    """UpdateJob: what is not named goes back to its default."""
    name, update = request["JobName"], request["JobUpdate"]
    with _lock:
        before = _job(name)
        _require_runnable(update)
        glue._jobs[name] = {
            "Name": name,
            **update,
            "CreatedOn": before["CreatedOn"],
            "LastModifiedOn": time.time(),
        }
    return {"JobName": name}


def start_job_run(request: dict[str, Any]) -> dict[str, Any]:
    """StartJobRun."""
    _refuse_unknown(request.keys() - _KNOWN_OF_RUN, "StartJobRun")
    name = request["JobName"]
    with _lock:
        job = _job(name)
        _require_role(job["Role"])
        most = (job.get("ExecutionProperty") or {}).get("MaxConcurrentRuns", _DEFAULT_RUNS_AT_ONCE)
        if sum(each["JobRunState"] not in ENDED for each in glue._job_runs[name]) >= most:
            raise ServiceError("ConcurrentRunsExceededException", f"Concurrent runs exceeded for {name}")
        run = _run_of(job, request)
        runs.begin(run)
        glue._job_runs[name].append(run)
    threads.start(f"glue-{run['Id'][:11]}", runs.run, run, copy.deepcopy(job))
    return {"JobRunId": run["Id"]}


def get_job_run(request: dict[str, Any]) -> dict[str, Any]:
    """GetJobRun."""
    return {"JobRun": copy.deepcopy(find(request["JobName"], request["RunId"]))}


def batch_stop_job_run(request: dict[str, Any]) -> dict[str, Any]:
    """BatchStopJobRun: STOPPING now, STOPPED when its processes have ended."""
    stopped: list[dict[str, str]] = []
    errors: list[dict[str, Any]] = []
    for identifier in request["JobRunIds"]:
        told = {"JobName": request["JobName"], "JobRunId": identifier}
        try:
            run = find(request["JobName"], identifier)
            if not runs.ask_to_stop(run):
                raise ServiceError("InvalidInputException", f"Job run {identifier} is in state {run['JobRunState']}")
            stopped.append(told)
        except ServiceError as error:
            detail = {"ErrorCode": error.code, "ErrorMessage": error.message}
            errors.append({**told, "ErrorDetail": detail})
    return {"SuccessfulSubmissions": stopped, "Errors": errors}


def find(job_name: str, identifier: str) -> dict[str, Any]:
    """Return a run's record. Raises ServiceError."""
    found: dict[str, Any] | None = next(
        (each for each in glue._job_runs.get(job_name, []) if each["Id"] == identifier), None
    )
    if found is None:
        raise ServiceError("EntityNotFoundException", f"Job run {identifier} of {job_name} not found")
    return found


def arn_of(name: str) -> str:
    """Return a job's ARN."""
    return str(glue._arn("job", name))


def _run_of(job: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    moment = time.time()
    told = {**job, **request}
    workers, worker = int(told.get("NumberOfWorkers", 2)), str(told.get("WorkerType", "G.1X"))
    return {
        "Id": f"jr_{secrets.token_hex(32)}",
        "Attempt": 0,
        "JobName": job["Name"],
        "StartedOn": moment,
        "LastModifiedOn": moment,
        "JobRunState": "STARTING",
        "Arguments": dict(request.get("Arguments") or {}),
        "PredecessorRuns": [],
        "ExecutionTime": 0,
        "Timeout": int(told.get("Timeout") or DEFAULT_TIMEOUT_MIN),
        "WorkerType": worker,
        "NumberOfWorkers": workers,
        "MaxCapacity": float(workers * int(worker.removeprefix("G.").removesuffix("X"))),
        "GlueVersion": job["GlueVersion"],
        "ExecutionClass": told.get("ExecutionClass", "STANDARD"),
        **({"SecurityConfiguration": found} if (found := told.get("SecurityConfiguration")) else {}),
        "LogGroupName": "/aws-glue/jobs",
    }


def _answering(action: str, act: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, Any]], Reply]:
    def answer(request: dict[str, Any]) -> Reply:
        try:
            _require_valid(action, request)
            return json_response(act(request))
        except ServiceError as error:
            return error_response_json(error.code, error.message, error.status)
        except authorization.AccessDenied as denied:
            return error_response_json("AccessDeniedException", str(denied), 400)

    return answer


def _require_valid(action: str, request: dict[str, Any]) -> None:
    model = operation(action, "glue")
    assert model is not None
    assert model.input_shape is not None
    if text := problems_of(model.input_shape, request):
        raise ServiceError("InvalidInputException", text)


def _require_runnable(job: dict[str, Any]) -> None:
    """Raise ServiceError unless the job is one that the embedded cloud runs."""
    _refuse_unknown(job.keys() - _KNOWN, "a job")
    if job["Command"].get("Name") != "glueetl" or job.get("GlueVersion") != VERSION:
        raise ServiceError(
            "InvalidInputException",
            f"The embedded cloud runs glueetl of Glue {VERSION} only, not {job['Command'].get('Name')} of Glue "
            f"{job.get('GlueVersion', '(the default)')}.",
        )
    configuration = job.get("SecurityConfiguration")
    if configuration and configuration not in glue._security_configs:
        raise ServiceError("EntityNotFoundException", f"SecurityConfiguration {configuration} not found")
    authorization.authorize_pass_role(job["Role"], SERVICE)
    _require_role(job["Role"])


def _require_role(role_arn: str) -> None:
    # https://docs.aws.amazon.com/glue/latest/dg/glue-troubleshooting-errors.html
    if not authorization.role_trusts(role_arn, SERVICE):
        raise ServiceError(
            "InvalidInputException", f"Role {role_arn} should be given assume role permissions for Glue Service."
        )


def _refuse_unknown(found: Any, where: str) -> None:
    if found:
        raise ServiceError(
            "InvalidInputException",
            f"The embedded cloud does not know {', '.join(sorted(found))} of {where}: it runs Ebb's jobs only.",
        )


def _job(name: str) -> dict[str, Any]:
    job: dict[str, Any] | None = glue._jobs.get(name)
    if job is None:
        raise ServiceError("EntityNotFoundException", f"Job {name} not found")
    return job


def _end_interrupted() -> None:
    """Give the runs that a server's end has cut short the state that AWS gives to what it lost."""
    for found in glue._job_runs._data.values():
        for run in found:
            if run["JobRunState"] not in ENDED:
                run.update(JobRunState="FAILED", ErrorMessage=runs.INTERRUPTED_TEXT, CompletedOn=time.time())
