"""`ebb doctor`: what is missing on this machine or in this account, each with what to do about it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.markup import escape

from ebb_cli import account, cloud, output
from ebb_cli.problems import FAILURE, CommandError, describe
from ebb_cli.target import DEFAULT_STACK, EndpointUrl, Json, Profile, Region, Stack, Target, find, home
from ebb_local import home_lock, lifecycle
from ebb_local.settings import PREFERRED_PORT, default_home, environment_python

OK, WARN, FAIL = "ok", "warn", "fail"
COLOURS = {OK: "green", WARN: "yellow", FAIL: "red"}
GIB = 1024**3
# State, the build, and a run's artifacts; a little more than the demo leaves behind.
DISK_FAIL_BYTES, DISK_WARN_BYTES = 1 * GIB, 4 * GIB
# The control plane stays below 1 GiB, a training job on a small table takes about as much again.
MEMORY_WARN_BYTES = 2 * GIB


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was looked at, how it is, and what to do when it is not well."""

    check: str
    state: str
    detail: str
    remedy: str = ""


def doctor(
    profile: Profile = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    stack: Stack = DEFAULT_STACK,
    as_json: Json = False,
) -> None:
    """Say what is missing on this machine, or in the AWS account that --profile names."""
    found: list[Finding] = []
    checks = () if profile else MACHINE
    for finding in (*_run(checks), *_of_target(profile, endpoint_url, region, stack)):
        found.append(finding)
        if not as_json:
            mark = f"[{COLOURS[finding.state]}]{finding.state:5}[/]"
            output.out().print(f"{mark}{finding.check:22}{escape(finding.detail)}", soft_wrap=True)
            if finding.state != OK and finding.remedy:
                output.out().print(f"{'':27}{finding.remedy}", style="dim", markup=False)
    if as_json:
        output.emit_json([asdict(finding) for finding in found])
    if any(finding.state == FAIL for finding in found):
        raise typer.Exit(FAILURE)


def _run(checks: tuple[Callable[[], Finding], ...]) -> Iterator[Finding]:
    for check in checks:
        yield check()


def python() -> Finding:
    """Judge the Python that runs this command."""
    told = f"Python {'.'.join(map(str, sys.version_info[:3]))} at {sys.executable}"
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    if good and not hasattr(tarfile, "data_filter"):
        return Finding("python", WARN, f"{told} unpacks archives without tarfile's filter", "Install 3.11.4 or newer.")
    return Finding("python", OK if good else FAIL, told, "Install Python 3.11, 3.12 or 3.13; make distclean setup.")


def sam() -> Finding:
    """Judge the SAM CLI."""
    try:
        return Finding("sam", OK, f"SAM CLI {version('aws-sam-cli')}")
    except PackageNotFoundError:
        return Finding("sam", FAIL, "the SAM CLI is not installed in this environment", "make setup installs it.")


def environments() -> Finding:
    """Judge the environments that stand for container images."""
    missing = [name for name in cloud.ENVIRONMENTS if not environment_python(name).exists()]
    if missing:
        return Finding("environments", FAIL, f"not installed: {', '.join(missing)}", "make setup installs them.")
    cuda = list(environment_python("jobs").parents[1].glob("lib/python*/site-packages/nvidia"))
    if cuda:
        remedy = "make distclean, then follow the README's line about PyTorch's CPU wheels."
        return Finding("environments", WARN, "the jobs environment holds a CUDA build of PyTorch, several GB", remedy)
    return Finding("environments", OK, ", ".join(cloud.ENVIRONMENTS) + " are installed")


def port() -> Finding:
    """Judge the port of the embedded cloud."""
    try:
        server = lifecycle.running(home())
    except lifecycle.ServerBusy as busy:
        told = describe(busy)
        return Finding("port", WARN, told.message, told.remedy)
    if server:
        return Finding("port", OK, f"the embedded cloud answers on 127.0.0.1:{server.port} (process {server.pid})")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PREFERRED_PORT))
        except OSError:
            detail = f"127.0.0.1:{PREFERRED_PORT} is taken by another program"
            return Finding("port", WARN, detail, "ebb up takes a free port instead.")
    return Finding("port", OK, f"127.0.0.1:{PREFERRED_PORT} is free; the embedded cloud is not running (ebb up)")


def disk() -> Finding:
    """Judge the free space where the embedded cloud keeps its state."""
    place = next(folder for folder in (home(), *home().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    state = FAIL if free < DISK_FAIL_BYTES else WARN if free < DISK_WARN_BYTES else OK
    return Finding("disk", state, f"{output.size(free)} free at {place}", "Free some space, or set EBB_HOME elsewhere.")


def memory() -> Finding:
    """Judge the memory that is left."""
    free = _available_memory_bytes()
    if free is None:
        return Finding("memory", WARN, "this system does not say how much memory is free", "2 GiB are enough.")
    state = WARN if free < MEMORY_WARN_BYTES else OK
    return Finding("memory", state, f"{output.size(free)} available", "Close something: a run takes up to 2 GiB.")


def _available_memory_bytes() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no /proc: macOS, where the total must do
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


MACHINE = (python, sam, environments, port, disk, memory)


def _of_target(profile: str | None, endpoint_url: str | None, region: str | None, stack: str) -> Iterator[Finding]:
    if not (profile or endpoint_url or home_lock.is_held(default_home())):
        return  # nobody asked about an account
    try:
        target = find(profile=profile, endpoint_url=endpoint_url, region=region, stack=stack)
    except (CommandError, lifecycle.LifecycleError, ClientError, BotoCoreError) as problem:
        told = describe(problem)
        yield Finding("credentials", FAIL, told.message, told.remedy)
        return
    yield Finding("credentials", OK, target.name)
    checks = [("stack", _stack), ("images", account.images)]
    if not target.embedded:
        checks += [
            ("region", account.region), ("serverless quota", account.serverless_quota),
            ("job quotas", account.job_quotas), ("build quota", account.build_quota),
            ("permissions", account.permissions),
        ]  # fmt: skip
    for name, check in checks:
        try:
            state, detail, remedy = check(target)
            yield Finding(name, state, detail, remedy)
        except (CommandError, ClientError, BotoCoreError) as problem:
            told = describe(problem)
            yield Finding(name, WARN, f"could not be looked at: {told.message}", told.remedy)


def _stack(target: Target) -> tuple[str, str, str]:
    try:
        status = target.describe_stack()["StackStatus"]
    except CommandError as problem:
        return FAIL, problem.message, problem.remedy
    state = OK if status in cloud.SETTLED else WARN if status.endswith("IN_PROGRESS") else FAIL
    return state, f"{target.stack}: {status}", f"aws cloudformation describe-stack-events --stack-name {target.stack}"
