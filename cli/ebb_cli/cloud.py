"""`ebb up` and `ebb down`: the embedded cloud, and the unmodified template deployed to it by the unmodified SAM CLI."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from botocore.exceptions import ClientError

from ebb_cli import output
from ebb_cli.problems import USAGE, CommandError
from ebb_cli.target import Json, Target, home, of_server
from ebb_local import home_lock, lifecycle
from ebb_local.settings import CHECKOUT, PROFILE, default_home, environment_python

# Everything that `sam build` and `sam deploy` read: while none of it changes there is nothing to deploy.
DEPLOYED_FROM = ("template.yaml", "samconfig.toml", "functions", "layers", "jobs", "statemachines", "containers")
ENVIRONMENTS = ("jobs", "serve", "lambda")
SETTLED = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"}


def up(
    port: Annotated[int | None, typer.Option("--port", help="Port on 127.0.0.1; a free one without it.")] = None,
    as_json: Json = False,
) -> None:
    """Start the embedded cloud on loopback and deploy template.yaml to it, unmodified."""
    target, seconds = bring_up(port)
    if as_json:
        document = {"endpoint_url": target.endpoint_url, "region": target.region, "account": target.account}
        output.emit_json({**document, "home": str(home()), "seconds": seconds, "outputs": target.outputs})
        return
    say = output.out().print
    say(f"The embedded cloud is at {target.endpoint_url}, the stack {target.stack!r} is deployed.")
    ebb = output.command()
    say(
        f"\nTry:\n  {ebb} drop TABLE.csv --project NAME --wait\n  {ebb} runs\n  {ebb} doctor\n  {ebb} down",
        markup=False,
        soft_wrap=True,
    )
    aws = home() / "aws"
    say(
        f"\nAny AWS tool speaks to it with\n  export AWS_CONFIG_FILE={aws / 'config'} "
        f"AWS_SHARED_CREDENTIALS_FILE={aws / 'credentials'} AWS_PROFILE={PROFILE}",
        soft_wrap=True,
        markup=False,
    )


def bring_up(port: int | None = None) -> tuple[Target, dict[str, float]]:
    """Return the embedded cloud with the stack deployed, and the seconds of each step that was needed."""
    _require_environments()
    seconds: dict[str, float] = {}
    try:
        server = lifecycle.running(home())
    except lifecycle.ServerBusy:
        server = None  # `start` waits for it
    if server is None:
        with _timed("start", "starting the embedded cloud", seconds):
            server = lifecycle.start(home(), port)
    elif port not in (None, server.port):
        raise CommandError(
            f"The embedded cloud already runs on port {server.port}.",
            f"ebb down stops it; then ebb up --port {port}.",
            status=USAGE,
        )
    target = of_server(server)
    output.err().print(f"target: {target.name}", style="dim", soft_wrap=True)
    wanted = fingerprint()
    if _deployed(target) == wanted:
        output.err().print("the stack is up to date", style="dim")
        return target, seconds
    build = home() / "build"
    if _read(build / "fingerprint") != wanted:
        with _timed("build", "sam build", seconds):
            folders = ["--build-dir", str(build / "stack"), "--cache-dir", str(build / "cache")]
            _sam(["build", *folders, *_parameters()], "sam-build", target)
        (build / "fingerprint").write_text(wanted)
    with _timed("deploy", "sam deploy", seconds):
        arguments = ["deploy", "--template-file", str(build / "stack/template.yaml"), *_parameters()]
        _sam([*arguments, "--no-confirm-changeset", "--no-fail-on-empty-changeset"], "sam-deploy", target)
    (home() / "deployed.json").write_text(json.dumps({"fingerprint": wanted, "stack": target.stack}))
    return target, seconds


def down(as_json: Json = False) -> None:
    """Stop the embedded cloud and every process that it started; what it holds is kept for the next `ebb up`."""
    was_running = home_lock.is_held(default_home())  # it may be too busy to answer
    killed = lifecycle.stop(home())
    if as_json:
        output.emit_json({"stopped": was_running, "killed": killed, "home": str(home())})
    elif was_running:
        output.out().print(f"Stopped. Its data stays in {home()}; make clean removes it.", soft_wrap=True)
    elif killed:
        output.out().print(f"It had been killed; {len(killed)} process(es) that it left are ended.")
    else:
        output.out().print("The embedded cloud is not running.")


def fingerprint() -> str:
    """Return a hash of everything that the deployment is made of, the parameters included."""
    digest = hashlib.sha256(json.dumps(_parameters()).encode())
    for path in _files(CHECKOUT / name for name in DEPLOYED_FROM):
        digest.update(f"{path.relative_to(CHECKOUT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _files(roots: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for root in roots:
        if root.is_file():
            found.append(root)
        found += [item for item in root.rglob("*") if item.is_file() and "__pycache__" not in item.parts]
    return sorted(found)


def _parameters() -> list[str]:
    # `sam build` needs the runtime's own Python; here that is the one which runs this command.
    runtime = f"python{sys.version_info.major}.{sys.version_info.minor}"
    architecture = "arm64" if platform.machine().lower() in {"arm64", "aarch64"} else "x86_64"
    overrides = [f"PythonRuntime={runtime}", f"Architecture={architecture}"]
    # SAM looks for its settings beside the template, and what is deployed is the built one.
    settings = ["--config-file", str(CHECKOUT / "samconfig.toml"), "--config-env", "local"]
    return [*settings, "--parameter-overrides", *overrides]


def _require_environments() -> None:
    missing = [name for name in ENVIRONMENTS if not environment_python(name).exists()]
    if missing:
        raise CommandError(f"Not installed: the environment(s) {', '.join(missing)}.", "make setup installs them.")


def _deployed(target: Target) -> str | None:
    """Return the fingerprint of what is deployed; None when the stack is not there or not settled."""
    try:
        status = target.client("cloudformation").describe_stacks(StackName=target.stack)["Stacks"][0]["StackStatus"]
    except ClientError:
        return None
    recorded = _read(home() / "deployed.json")
    return json.loads(recorded)["fingerprint"] if recorded and status in SETTLED else None


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _sam(arguments: list[str], log_name: str, target: Target) -> None:
    """Run the SAM CLI against the embedded cloud; its output goes to a log, whose end is shown when it fails."""
    log = home() / "logs" / f"{log_name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        command = [sys.executable, "-m", "samcli", *arguments]
        done = subprocess.run(command, cwd=CHECKOUT, env=sam_environment(target), stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        tail = "\n".join(log.read_text().splitlines()[-25:])
        raise CommandError(f"sam {arguments[0]} failed:\n{tail}", f"The whole log: {log}")


def sam_environment(target: Target) -> dict[str, str]:
    """Return an environment in which no AWS tool can reach anything but the embedded cloud."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAM_"))}
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "AWS_CONFIG_FILE": str(home() / "aws" / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home() / "aws" / "credentials"),
        "AWS_PROFILE": PROFILE,
        "AWS_ENDPOINT_URL": str(target.endpoint_url),
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAM_CLI_TELEMETRY": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


class _timed:
    """Tell what begins, and keep how long it took."""

    def __init__(self, name: str, told: str, seconds: dict[str, float]) -> None:
        self._name, self._told, self._seconds = name, told, seconds

    def __enter__(self) -> None:
        self._began = time.monotonic()
        console = output.err()
        self._status = console.status(self._told) if console.is_terminal else None
        if self._status:
            self._status.start()
        else:
            console.print(f"… {self._told}")

    def __exit__(self, kind: object, *_: object) -> None:
        if self._status:
            self._status.stop()
        spent = time.monotonic() - self._began
        if kind is None:
            self._seconds[self._name] = round(spent, 1)
            output.err().print(f"✓ {self._told:32}{output.duration(spent):>12}")
