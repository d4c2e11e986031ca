"""One home, one server: a busy one is not a missing one, and what a dead one left written down harms nobody."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.support import free_port
from ebb_cli import target as targets
from ebb_cli.problems import CommandError, describe
from ebb_local import lifecycle, process_table
from ebb_local.settings import Home


@pytest.fixture
def silent(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[lifecycle.Server]:
    """A server that lives and does not answer."""
    monkeypatch.setattr(lifecycle, "ANSWER_TIMEOUT_S", 0.5)
    server = lifecycle.start(home, free_port())
    os.kill(server.pid, signal.SIGSTOP)
    yield server
    os.kill(server.pid, signal.SIGCONT)


def test_a_silent_server_is_busy_and_not_gone(silent: lifecycle.Server):
    with pytest.raises(lifecycle.ServerBusy, match=f"process {silent.pid}"):
        lifecycle.running(silent.home)
    os.kill(silent.pid, signal.SIGCONT)
    assert lifecycle.running(silent.home) == silent


def test_no_second_server_is_started_beside_a_silent_one(silent: lifecycle.Server, monkeypatch):
    monkeypatch.setattr(lifecycle, "START_TIMEOUT_S", 2)
    with pytest.raises(lifecycle.ServerBusy):
        lifecycle.start(silent.home, free_port())
    os.kill(silent.pid, signal.SIGCONT)
    assert lifecycle.start(silent.home) == silent


def test_no_command_falls_through_to_aws_while_the_server_is_silent(silent: lifecycle.Server, monkeypatch):
    monkeypatch.setenv("EBB_HOME", str(silent.home))
    with pytest.raises((CommandError, lifecycle.LifecycleError)) as told:
        targets.find()
    assert str(silent.pid) in describe(told.value).message
    assert "ebb down" in describe(told.value).remedy


@pytest.mark.parametrize("forgotten", [False, True], ids=["as it is", "with server.json removed"])
def test_the_home_of_a_running_server_is_refused_to_another(home: Path, forgotten: bool):
    first = lifecycle.start(home, free_port())
    if forgotten:
        Home(home).server_file.unlink()
    command = [sys.executable, "-m", "ebb_local.server", "--home", str(home), "--port", str(free_port())]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, env=variables)
    assert second.returncode != 0
    assert f"pid {first.pid}" in second.stderr
    assert lifecycle.stop(home) == []
    assert not process_table.alive(first.pid)


@pytest.mark.parametrize("born", [None, "another boot"], ids=["without a moment of birth", "with another one"])
def test_stop_spares_a_stranger_who_has_the_pid_of_a_dead_server(home: Path, born: str | None):
    place = Home(home)
    place.create()
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        facts = {"endpoint_url": "http://127.0.0.1:9", "pid": stranger.pid, "port": 9, "region": "r", "account_id": "0"}
        place.server_file.write_text(json.dumps(facts))
        place.lock_file.write_text(json.dumps({"pid": stranger.pid, "born": born}))
        place.children_file.write_text(json.dumps({stranger.pid: born}))
        assert lifecycle.running(home) is None
        assert lifecycle.stop(home) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
