"""Ports of model containers: each has one of its own, also when somebody else takes it first."""

import http.server
import json
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from contract.sagemaker.lab import SERVER, environments
from contract.support import free_port
from ebb_local.sagemaker import hosting, settings
from ebb_local.sagemaker.errors import HostingFailure
from ebb_local.sagemaker.hosting import Place, Server

MODEL = {"PrimaryContainer": {"Image": "ebb-serve"}, "ExecutionRoleArn": "arn:aws:iam::000000000000:role/serve"}


class Log:
    """A log that nobody reads."""

    def __init__(self, *_: object):
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line)

    def flush(self) -> None:
        """There is nothing to send."""


@pytest.fixture
def serving(tmp_path: Path, monkeypatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setenv("EBB_VENVS", str(environments(tmp_path / "venvs", sys.executable)))
    monkeypatch.setenv("STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("EBB_ENDPOINT_START_S", "20")
    monkeypatch.setattr(settings, "_current", settings.Settings.from_env())
    monkeypatch.setattr(hosting, "LogStream", Log)
    made: list[Server] = []

    def make(answer: str, **more: Any) -> Server:
        server = Server(Place(answer, "production variant", tmp_path / answer, "group", answer), MODEL)
        folder = server._base / "model"
        (folder / "code").mkdir(parents=True)
        (folder / "code/serve.py").write_text(SERVER)
        (folder / "settings.json").write_text(json.dumps({"answer": answer, **more}))
        made.append(server)
        return server

    yield make
    for server in made:
        server.close(0)


@pytest.fixture
def stranger() -> Iterator[int]:
    """Somebody else's server, whose /ping answers 200; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server calls
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def found_free(monkeypatch, *ports: int) -> list[int]:
    """Let these be the ports that a look finds free; return those that are left."""
    left = list(ports)
    monkeypatch.setattr(hosting, "_free_port", lambda: left.pop(0))
    return left


def answer(server: Server) -> str:
    assert server.begin()
    return json.loads(server.invoke(b"1", {}).body)["answer"]


def test_two_containers_that_start_at_once_each_have_a_port(serving, monkeypatch):
    same = free_port()
    found_free(monkeypatch, same, same, free_port())
    servers = [serving("one"), serving("two")]
    with ThreadPoolExecutor(2) as both:
        list(both.map(Server.start, servers))
    assert [answer(each) for each in servers] == ["one", "two"]


def test_a_container_whose_port_somebody_took_first_comes_up_on_another(serving, monkeypatch, stranger):
    found_free(monkeypatch, stranger, free_port())
    server = serving("one")
    server.start()
    assert answer(server) == "one"


def test_a_container_that_fails_by_itself_is_not_started_again(serving, monkeypatch):
    left = found_free(monkeypatch, free_port(), free_port())
    with pytest.raises(HostingFailure, match="did not pass the ping health check"):
        serving("one", crash=True).start()
    assert len(left) == 1


def test_a_container_that_never_finds_a_port_fails(serving, monkeypatch, stranger):
    found_free(monkeypatch, *[stranger] * 10)
    with pytest.raises(HostingFailure):
        serving("one").start()


def test_a_port_is_free_again_when_its_container_is_closed(serving, monkeypatch):
    found_free(monkeypatch, *[free_port()] * 2)
    first = serving("one")
    first.start()
    first.close(0)
    second = serving("two")
    second.start()
    assert answer(second) == "two"
