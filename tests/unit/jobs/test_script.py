"""A training script as a process of its own: what it is told, what is told of it, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ebb_jobs import paths, script
from ebb_jobs.errors import JobError, StoppedError
from ebb_jobs.script import Places
from unit.jobs.wheels import wheel

TELL = """
import json, os, pathlib, sys
seen = [sys.argv[1:], os.getcwd(), dict(os.environ)]
(pathlib.Path(os.environ["SM_MODEL_DIR"]) / "seen").write_text(json.dumps(seen))
"""


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    for name in ("source", "data/train", "data/extra", "model", "checkpoints"):
        (tmp_path / name).mkdir(parents=True)
    return Places(tmp_path / "source", tmp_path / "data", tmp_path / "model", tmp_path / "checkpoints")


def run(places, code, **hyperparameters):
    (places.source / "train.py").write_text(code)
    return script.run(places, "train.py", hyperparameters)


def told(places, **hyperparameters):
    """Return the arguments, the directory and the variables that a script is given."""
    run(places, TELL, **hyperparameters)
    return json.loads((places.model / "seen").read_text())


def test_hyperparameters_are_arguments_in_the_toolkits_spelling(places):
    arguments, _, variables = told(places, epochs=3, lr=0.1, deep=True, k=5, name="a b", layers={"b": 2, "a": 1})
    assert arguments == [
        "--deep", "True", "--epochs", "3", "-k", "5", "--layers", "a=1,b=2", "--lr", "0.1", "--name", "a b",
    ]  # fmt: skip
    assert json.loads(variables["SM_USER_ARGS"]) == arguments
    assert json.loads(variables["SM_HPS"])["layers"] == {"a": 1, "b": 2}
    assert (variables["SM_HP_EPOCHS"], variables["SM_HP_DEEP"]) == ("3", "True")


def test_the_script_is_told_where_everything_is(places):
    _, _, variables = told(places)
    base = paths.base_dir()
    assert variables["SM_MODEL_DIR"] == str(places.model)
    assert variables["SM_CHECKPOINT_DIR"] == str(places.checkpoints)
    assert variables["SM_CHANNEL_TRAINING"] == str(places.data)
    assert variables["SM_CHANNEL_TRAIN"] == str(places.data / "train")
    assert json.loads(variables["SM_CHANNELS"]) == ["extra", "train", "training"]
    assert variables["SM_INPUT_DIR"] == str(base / "input")
    assert variables["SM_OUTPUT_DATA_DIR"] == str(base / "output/data")
    assert (base / "output/data").is_dir()
    assert json.loads(variables["SM_TRAINING_ENV"])["channel_input_dirs"]["training"] == str(places.data)


def test_the_script_is_told_of_the_machine(places, monkeypatch):
    monkeypatch.setattr(script.torch.cuda, "device_count", lambda: 2)
    (paths.base_dir() / "input/config").mkdir(parents=True)
    (paths.base_dir() / "input/config/resourceconfig.json").write_text(
        json.dumps({"current_host": "algo-2", "hosts": ["algo-2", "algo-1"], "current_instance_type": "ml.g5.xlarge"})
    )
    _, _, variables = told(places)
    assert variables["SM_NUM_GPUS"] == "2"
    assert variables["SM_NUM_CPUS"] == str(script.cpu_count())
    assert variables["SM_CURRENT_HOST"] == "algo-2"
    assert json.loads(variables["SM_HOSTS"]) == ["algo-2", "algo-1"]
    assert variables["SM_MASTER_HOSTNAME"] == "algo-1"
    assert variables["SM_CURRENT_INSTANCE_TYPE"] == "ml.g5.xlarge"


def test_nothing_of_ebbs_own_process_reaches_the_script(places, monkeypatch):
    monkeypatch.setenv("EBB_SETTINGS", "{}")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    _, _, variables = told(places)
    assert not [name for name in variables if name.startswith("EBB_") or name == "PYTHONPATH"]


def test_it_runs_in_a_copy_of_its_source(places):
    (places.source / "beside.txt").write_text("1")
    _, folder, _ = told(places)
    assert folder != str(places.source)
    run(places, "open('beside.txt', 'w').write('2'); import sys; sys.exit(0)")
    assert (places.source / "beside.txt").read_text() == "1"


def test_output_reaches_the_log_line_by_line(places, capfd):
    seen = []

    def look():
        while "first" not in "".join(seen):
            time.sleep(0.05)
            seen.append(capfd.readouterr().out)
        (places.model / "seen").touch()

    watcher = threading.Thread(target=look)
    watcher.start()
    wait = "import os, sys, time\nprint('first')\nwhile not os.path.exists(os.environ['SM_MODEL_DIR'] + '/seen'): "
    run(places, wait + "time.sleep(.01)\nprint('last', file=sys.stderr)")
    watcher.join()
    assert "last" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("code", "words"),
    [
        pytest.param(
            "def f(): return int('Mary Smith')\n\nf()",
            "train.py ended with status 1: ValueError at train.py:1;",
            id="kind and line, and not the value",
        ),
        pytest.param(
            "import json\njson.loads('Smith')",
            "train.py ended with status 1: JSONDecodeError at train.py:2;",
            id="the user's line, not the library's",
        ),
        pytest.param(
            "import pandas_of_mine",
            "train.py ended with status 1: ModuleNotFoundError at train.py:1 (No module named 'pandas_of_mine');",
            id="a missing package by its name",
        ),
        pytest.param(
            "try:\n    int('a')\nexcept ValueError as error:\n    raise KeyError('Smith') from error",
            "train.py ended with status 1: KeyError at train.py:4;",
            id="the last of a chain",
        ),
        pytest.param("import sys; sys.exit(3)", "train.py ended with status 3;", id="a status of its own"),
        pytest.param("import sys; sys.exit('Smith')", "train.py ended with status 1;", id="a last word"),
        pytest.param("def f(:", "train.py ended with status 1;", id="no Python"),
        pytest.param(
            "import os; os.kill(os.getpid(), 9)", "train.py was ended by SIGKILL: probably out of memory", id="killed"
        ),
        pytest.param("import os; os.abort()", "train.py was ended by SIGABRT;", id="crashed"),
    ],
)
def test_a_failure_is_told_without_a_value_of_the_data(places, code, words):
    with pytest.raises(JobError) as failed:
        run(places, code)
    assert words in str(failed.value)
    assert "Smith" not in str(failed.value)


@pytest.mark.parametrize("entry_point", ["train.py", "other.py", "train.sh"])
def test_a_script_that_is_not_there_is_named(places, entry_point):
    (places.source / "train.sh").touch()
    with pytest.raises(JobError, match=f"no script {entry_point}.*train.entry_point"):
        script.run(places, entry_point, {})


def stop_when(ready):
    """Send this process SIGTERM once `ready` exists."""

    def wait():
        while not ready.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


WRITES_A_CHECKPOINT = """
import os, pathlib, signal, sys, time
def stop(*_):
    (pathlib.Path(os.environ["SM_CHECKPOINT_DIR"]) / "epoch").write_text("3")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
(pathlib.Path(os.environ["SM_MODEL_DIR"]) / "ready").touch()
time.sleep(60)
"""


def test_sigterm_is_passed_on_and_checkpoints_are_kept(places):
    stop_when(places.model / "ready")
    with pytest.raises(StoppedError, match="stopped by SIGTERM and ended with status 0; checkpoints are kept"):
        run(places, WRITES_A_CHECKPOINT)
    assert (places.checkpoints / "epoch").read_text() == "3"


def test_a_script_that_does_not_stop_is_killed_in_time(places, monkeypatch):
    monkeypatch.setattr(script, "GRACE_S", 0.5)
    stop_when(places.model / "ready")
    with pytest.raises(StoppedError, match="status -9"):
        run(
            places, WRITES_A_CHECKPOINT.replace("sys.exit(0)", "pass").replace("sleep(60)", "sleep(60); time.sleep(60)")
        )


STARTS_A_WORKER = """
import os, pathlib, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
(pathlib.Path(os.environ["SM_MODEL_DIR"]) / "worker").write_text(str(worker.pid))
"""


def test_workers_end_with_the_script(places):
    run(places, STARTS_A_WORKER)
    pid = int((places.model / "worker").read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _lives(pid):
        time.sleep(0.05)
    assert not _lives(pid)


def _lives(pid):
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(done.stdout.strip()) and not done.stdout.strip().startswith("Z")


def test_wheels_beside_the_script_are_installed_for_it_alone(places, capfd):
    wheel(places.source / "wheels", "answer_of_mine", "ANSWER = 42\n")
    run(places, "import answer_of_mine; print('answer', answer_of_mine.ANSWER)")
    assert "answer 42" in capfd.readouterr().out
    done = subprocess.run([sys.executable, "-c", "import answer_of_mine"], capture_output=True, check=False)
    assert done.returncode == 1


def test_a_wheel_for_another_machine_is_refused_in_words(places):
    wheel(places.source / "wheels", "answer_of_mine", "")
    (places.source / "wheels/answer_of_mine-1.0-py3-none-any.whl").rename(
        places.source / "wheels/answer_of_mine-1.0-cp27-cp27m-win32.whl"
    )
    with pytest.raises(JobError, match=r"wheels/ cannot be installed here .*put wheels for Python"):
        run(places, "")


def test_a_worker_that_keeps_the_output_is_not_waited_for(places, monkeypatch, capfd):
    monkeypatch.setattr(script, "DRAIN_S", 0.3)
    code = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(20)'], start_new_session=True)\n"
        "print('done')\n"
    )
    assert run(places, code) < 10
    seen = capfd.readouterr().out
    assert "\ndone\n" in seen
    assert "not waited for" in seen
