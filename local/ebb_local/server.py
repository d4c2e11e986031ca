"""The server of the embedded cloud: `python -m ebb_local.server --home DIR [--port N]`, in the foreground.

MiniStack reads its settings from the environment when it is imported, and Lambda workers inherit that environment,
so `main` writes a small environment of its own before the first import: real AWS keys, profiles and proxies of the
user never reach the cloud or a function.
"""

import argparse
import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO

from ebb_local import clock, home_lock
from ebb_local.settings import ACCOUNT_ID, PREFERRED_PORT, PROFILE, REGION, Home, default_home

# Services that Ebb and `sam deploy` call. Others answer that they are not part of the embedded cloud.
SERVICES = (
    "cloudformation,cloudwatch,codebuild,dynamodb,ecr,events,glue,iam,kms,lambda,logs,s3,scheduler,sns,sqs,ssm,states,"
    "sts,tagging"
)
_KEPT_VARIABLES = (
    "PATH", "LANG", "LC_ALL", "TZ", "LOG_LEVEL", "SSL_CERT_FILE", "EBB_VENVS", "EBB_HOME",
    "EBB_KEEP_JOBS", "EBB_STOP_GRACE_S", "EBB_SERVERLESS_IDLE_S", "EBB_ENDPOINT_START_S",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then save the state and end every child."""
    parser = argparse.ArgumentParser(prog="ebb_local.server", description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=None, help="folder of the cloud's state (default: .ebb)")
    parser.add_argument("--port", type=int, default=None, help=f"(default: {PREFERRED_PORT}, or any free one)")
    options = parser.parse_args(arguments)
    home = Home(options.home.absolute()) if options.home else default_home()
    lock = _own(home)  # held until this process ends, however it ends
    home.server_file.unlink(missing_ok=True)
    shutil.rmtree(home.scratch, ignore_errors=True)
    home.create()
    door = listen(options.port)
    variables = environment(home, door.getsockname()[1])
    os.environ.clear()
    os.environ.update(variables)
    _raise_open_files_limit()
    _serve(home, door)
    lock.close()


def listen(port: int | None = None) -> socket.socket:
    """Return a socket that listens on loopback: on this port, without one on the preferred or else on any free one.

    The server takes its port itself and keeps it: one that somebody else has looked for may be taken by the time.
    Raises: SystemExit when the port that was asked for is not free.
    """
    for each in (PREFERRED_PORT, 0) if port is None else (port,):
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the server before may linger
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            found.bind(("127.0.0.1", each))
            found.listen()  # two may bind one port as long as neither listens
        except OSError as problem:
            found.close()
            taken = problem
        else:
            return found
    raise SystemExit(f"127.0.0.1:{port} cannot be had: {taken.strerror}")


def _own(home: Home) -> IO[str]:
    """Return the home's lock: two servers on one home would overwrite each other's state."""
    lock = home_lock.take(home)
    if lock is None:
        holder = home_lock.last_holder(home)
        whose = f"pid {holder.pid}" if holder else "a pid that it has not written yet"
        raise SystemExit(f"{home.root} belongs to the running server with {whose}: stop that one first")
    return lock


def environment(home: Home, port: int) -> dict[str, str]:
    """Return the whole environment of the server process."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {
        **kept,
        "HOME": str(home.scratch),  # so that no SDK reads the user's ~/.aws
        "TMPDIR": str(home.scratch),
        "AWS_EC2_METADATA_DISABLED": "true",
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_REGION": REGION,
        "MINISTACK_ACCOUNT_ID": ACCOUNT_ID,
        "AUTH": "true",
        "SERVICES": SERVICES,
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": "unix:///nonexistent",  # with Docker present MiniStack would remove containers at its end
        "PERSIST_STATE": "1",
        "STATE_DIR": str(home.root / "state"),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(home.root / "objects"),
    }


def _serve(home: Home, door: socket.socket) -> None:
    port = door.getsockname()[1]
    clock.start(home.root)  # before MiniStack is imported: it must never see the real time
    # Imported here: MiniStack must see the environment written above.
    from hypercorn.asyncio import serve
    from hypercorn.config import Config
    from ministack import app

    from ebb_local import builds, control, gaps, glue, persistence, sagemaker, scaling, shutdown

    gaps.install()
    sagemaker.install()
    scaling.install()
    builds.install()
    glue.install()
    control.install(home, port)
    config = Config()
    config.bind = [f"fd://{door.detach()}"]
    config.keep_alive_timeout = 75
    config.graceful_timeout = 2  # long polls would hold the end back

    async def until_stopped() -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        announced = asyncio.create_task(_announce(home, port))
        with persistence.saving_periodically():
            await serve(app.app, config, shutdown_trigger=stopped.wait)
        announced.cancel()

    try:
        asyncio.run(_then_end(until_stopped(), home, shutdown.run))
    finally:
        home.server_file.unlink(missing_ok=True)


async def _then_end(serving: Awaitable[None], home: Home, end_children: Callable[[], None]) -> None:
    """Serve, end the children, then leave without waiting for threads.

    Executions wait in threads (a Wait of hours, a poll); joining those would hold the process for as long.
    """
    code = 0
    try:
        await serving
    except Exception:
        logging.getLogger("ebb.server").exception("the embedded cloud ended with an error")
        code = 1
    end_children()
    home.server_file.unlink(missing_ok=True)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


async def _announce(home: Home, port: int) -> None:
    """Write the files by which others find the server, once it answers."""
    from ebb_local import interrupted

    # the port has listened from the first moment on; what counts is an answer
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /_ministack/health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    await reader.readline()
    writer.close()
    write_profile(home, port)
    facts = {
        "endpoint_url": endpoint_url(port),
        "pid": os.getpid(),
        "port": port,
        "region": REGION,
        "account_id": ACCOUNT_ID,
    }
    draft = home.server_file.with_suffix(".tmp")
    draft.write_text(json.dumps(facts, indent=2))
    draft.replace(home.server_file)
    await asyncio.to_thread(interrupted.start_again)


def endpoint_url(port: int) -> str:
    """Return the one URL under which every service answers."""
    return f"http://127.0.0.1:{port}"


def write_profile(home: Home, port: int) -> None:
    """Write AWS config and credentials files with the profile `ebb`; the user's own files stay untouched."""
    (home.root / "aws" / "config").write_text(
        f"[profile {PROFILE}]\nregion = {REGION}\noutput = json\nendpoint_url = {endpoint_url(port)}\n"
    )
    # `test` is the account's root here; the embedded cloud accepts any secret for it.
    (home.root / "aws" / "credentials").write_text(
        f"[{PROFILE}]\naws_access_key_id = test\naws_secret_access_key = test\n"
    )


def _raise_open_files_limit() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with_limit = hard if hard != resource.RLIM_INFINITY else 65536
        resource.setrlimit(resource.RLIMIT_NOFILE, (with_limit, hard))


if __name__ == "__main__":
    main()
