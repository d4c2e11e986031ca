"""Builds: StartBuild and StopBuild, the run itself, and Step Functions' `.sync` integration.

Sources: https://docs.aws.amazon.com/codebuild/latest/userguide/build-spec-ref.html,
https://docs.aws.amazon.com/codebuild/latest/APIReference/API_Build.html,
https://docs.aws.amazon.com/step-functions/latest/dg/connect-codebuild.html. Assumed: the texts of refusals, and
that the Cause of a failed build is the Build as JSON.
"""

import copy
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import yaml
from ministack.core.responses import error_response_json, json_response
from ministack.services import codebuild

from ebb_local import authorization, sync_tasks
from ebb_local.gaps.sync_integrations import managed_rule_permissions
from ebb_local.sagemaker import processes, roles, settings, threads
from ebb_local.sagemaker.logs import LogStream

SERVICE = "codebuild.amazonaws.com"
RESOURCE = "arn:aws:states:::codebuild:startBuild.sync"
_RULE = "StepFunctionsGetEventForCodeBuildStartBuildRule"
_KNOWN_MEMBERS = {"projectName", "environmentVariablesOverride"}
_PHASES = ("install", "pre_build", "build", "post_build")
_PROGRAMS = ("aws", "docker")
_POLL_S = 0.1
_CREDENTIALS_S = 12 * 3600
_running: dict[str, subprocess.Popen] = {}
_stopped: set[str] = set()
_lock = threading.Lock()


class Refused(Exception):
    """A project or request that the embedded cloud does not run; the text names what."""


def install() -> None:
    """Replace MiniStack's answer that every build has succeeded at once. Repeating it changes nothing."""
    codebuild._start_build = _start_build
    codebuild._stop_build = _stop_build
    sync_tasks.register(RESOURCE, start=_start_task, wait=_wait, stop=_stop_task, permissions=_permissions)


def _start_build(data: dict[str, Any]) -> tuple[int, dict, bytes]:
    name = str(data.get("projectName", ""))
    project = codebuild._projects.get(name)
    if project is None:
        return error_response_json("ResourceNotFoundException", f"Project cannot be found: {name}", 400)
    try:
        _refuse_unknown(data.keys() - _KNOWN_MEMBERS, "in StartBuild")
        commands = _commands(project)
    except Refused as refused:
        return error_response_json("InvalidInputException", str(refused), 400)
    build = codebuild._make_build_record(project, codebuild._build_id(name))
    del build["endTime"]
    given = {each["name"]: each["value"] for each in data.get("environmentVariablesOverride", [])}
    environment = _variables(project) | given
    variables = [{"name": key, "value": value, "type": "PLAINTEXT"} for key, value in environment.items()]
    build |= {
        "buildStatus": "IN_PROGRESS",
        "currentPhase": "BUILD",
        "buildComplete": False,
        "phases": [],
        "serviceRole": project["serviceRole"],
        "environment": project["environment"] | {"environmentVariables": variables},
    }
    codebuild._builds[build["id"]] = build
    threads.start(f"build-{build['id']}", _run, build, commands, environment)
    return json_response({"build": copy.deepcopy(build)})


def _stop_build(data: dict[str, Any]) -> tuple[int, dict, bytes]:
    identifier = str(data.get("id", ""))
    build = codebuild._builds.get(identifier)
    if build is None:
        return error_response_json("ResourceNotFoundException", f"Build cannot be found: {identifier}", 400)
    with _lock:
        _stopped.add(identifier)
        process = _running.get(identifier)
    if process is not None:
        processes.end(process, settings.current().stop_grace_s)
    return json_response({"build": copy.deepcopy(build)})


def _refuse_unknown(found: Any, where: str) -> None:
    if found:
        raise Refused(
            f"The embedded cloud does not know {', '.join(sorted(found))} {where}: it builds Ebb's images only."
        )


def _commands(project: dict[str, Any]) -> list[str]:
    """Return the commands of the project's buildspec, of all phases in their order.

    Raises: Refused when the project asks for more than that.
    """
    source, environment = project["source"], project["environment"]
    if source.get("type") != "NO_SOURCE" or not source.get("buildspec"):
        raise Refused("The embedded cloud runs projects without a source, whose buildspec stands in the project.")
    if not environment.get("privilegedMode"):
        raise Refused("Cannot connect to the Docker daemon: the project has no PrivilegedMode.")
    spec = yaml.safe_load(source["buildspec"])
    _refuse_unknown(spec.keys() - {"version", "phases"}, "in a buildspec")
    _refuse_unknown(spec["phases"].keys() - set(_PHASES), "among the phases of a buildspec")
    commands: list[str] = []
    for phase in _PHASES:
        steps = spec["phases"].get(phase, {})
        _refuse_unknown(steps.keys() - {"commands"}, f"in the phase {phase} of a buildspec")
        commands += steps.get("commands", [])
    return commands


def _variables(project: dict[str, Any]) -> dict[str, str]:
    given = project["environment"].get("environmentVariables") or []
    return {each["name"]: str(each["value"]) for each in given}


def _run(build: dict[str, Any], commands: list[str], variables: dict[str, str]) -> None:
    """Run the commands to their end, and write how they ended into the build's record."""
    identifier, began = build["id"], time.time()
    role_arn = build["serviceRole"]
    session = f"AWSCodeBuild-{identifier.rpartition(':')[2]}"
    log = LogStream(
        build["logs"]["groupName"], build["logs"]["streamName"], authorization.role_session(role_arn, session)
    )
    folder = settings.current().home / "builds" / identifier.replace(":", "-")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        status, words = _execute(build, commands, variables, folder, log, session)
    except Exception as error:
        status, words = "FAULT", f"{type(error).__name__}: {error}"
    log.flush()
    shutil.rmtree(folder, ignore_errors=True)
    with _lock:
        _running.pop(identifier, None)
        if identifier in _stopped:
            _stopped.discard(identifier)
            status, words = "STOPPED", "Build was stopped"
    phase = {
        "phaseType": "BUILD",
        "phaseStatus": status,
        "startTime": int(began),
        "endTime": int(time.time()),
        "durationInSeconds": round(time.time() - began),
        "contexts": [{"statusCode": "" if status == "SUCCEEDED" else "COMMAND_EXECUTION_ERROR", "message": words}],
    }
    build |= {
        "phases": [phase],
        "currentPhase": "COMPLETED",
        "endTime": int(time.time()),
        "buildComplete": True,
        "buildStatus": status,
    }


def _execute(
    build: dict[str, Any], commands: list[str], variables: dict[str, str], folder: Path, log: LogStream, session: str
) -> tuple[str, str]:
    role_arn = build["serviceRole"]
    source = {"aws:SourceArn": codebuild._project_arn(build["projectName"])}
    if not authorization.role_trusts(role_arn, SERVICE, source):
        return "FAULT", f"CodeBuild is not authorized to perform: sts:AssumeRole on service role {role_arn}"
    credentials = roles.credentials(role_arn, valid_s=_CREDENTIALS_S, session_name=session)
    environment = variables | {
        "PATH": os.pathsep.join([str(_programs(folder)), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "CODEBUILD_BUILD_ID": build["id"],
        "CODEBUILD_BUILD_ARN": build["arn"],
        "AWS_ACCESS_KEY_ID": credentials.access_key_id,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_access_key,
        "AWS_SESSION_TOKEN": credentials.session_token,
        "AWS_ENDPOINT_URL": settings.current().endpoint_url,
        "AWS_DEFAULT_REGION": build["arn"].split(":")[3],
        "EBB_VENVS": str(settings.current().environments),
    }
    # one shell for all commands, which ends at the first that fails, as in version 0.2 of the buildspec
    process = processes.start(["/bin/sh", "-e", "-c", "\n".join(commands)], env=environment, cwd=folder)
    with _lock:
        _running[build["id"]] = process
    timer = threading.Timer(build["timeoutInMinutes"] * 60, processes.end, (process, 0))
    timer.daemon = True
    timer.start()
    last = ""
    assert process.stdout is not None
    for raw in process.stdout:
        line = raw.decode("utf-8", errors="replace").rstrip()
        log.write(line)
        last = line or last
    code = process.wait()
    timed_out = not timer.is_alive()
    timer.cancel()
    processes.forget(process)
    if timed_out:
        return "TIMED_OUT", f"Build has timed out after {build['timeoutInMinutes']} minutes"
    return (
        ("SUCCEEDED", "")
        if code == 0
        else ("FAILED", f"Error while executing command. Reason: exit status {code}: {last}")
    )


def _programs(folder: Path) -> Path:
    """Return a folder with the programs that a build calls, each of them this Python with programs.py."""
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    for name in _PROGRAMS:
        script = place / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ebb_local.builds.programs {name} "$@"\n')
        script.chmod(0o755)
    return place


# ---- Step Functions ----


def _start_task(arguments: dict[str, Any]) -> str:
    status, _, body = _start_build(_members(arguments, str.lower))
    reply = json.loads(body)
    if status >= 400:
        raise sync_tasks.TaskError(f"CodeBuild.{reply['__type']}", reply.get("message", ""))
    return str(reply["build"]["id"])


def _wait(identifier: str, timeout_s: float) -> dict[str, Any] | None:
    deadline = time.monotonic() + timeout_s
    while codebuild._builds[identifier]["buildStatus"] == "IN_PROGRESS":
        if time.monotonic() > deadline:
            return None
        time.sleep(_POLL_S)
    result = {"Build": _members(codebuild._builds[identifier], str.upper)}
    if result["Build"]["BuildStatus"] != "SUCCEEDED":
        raise sync_tasks.TaskError("States.TaskFailed", json.dumps(result))
    return result


def _stop_task(identifier: str) -> None:
    _stop_build({"id": identifier})


def _permissions(arguments: dict[str, Any]) -> sync_tasks.Permissions:
    arn = codebuild._project_arn(arguments.get("ProjectName", "*"))
    start = [("codebuild:StartBuild", arn), ("codebuild:BatchGetBuilds", arn), *managed_rule_permissions(_RULE)]
    return sync_tasks.Permissions(start=start, stop=[("codebuild:StopBuild", arn)])


def _members(value: Any, first: Any) -> Any:
    """Return a document with the first letter of each member in another case: capitals in Step Functions."""
    if isinstance(value, dict):
        return {first(key[:1]) + key[1:]: _members(each, first) for key, each in value.items()}
    return [_members(each, first) for each in value] if isinstance(value, list) else value
