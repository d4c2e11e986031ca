"""What a restart does: jobs that ran have failed, endpoints answer again, nothing outlives the server."""

import os
import signal
from pathlib import Path

from contract.sagemaker.lab import Lab
from contract.support import Cloud, free_port, wait_until
from ebb_local import lifecycle, process_table

SLEEPS = """
    import os, pathlib, subprocess, sys, time
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("pid", os.getpid(), flush=True)
    time.sleep(600)
"""


def test_state_survives_and_work_in_flight_does_not(home: Path) -> None:
    lab = Lab(Cloud(lifecycle.start(home, port=free_port())))
    done = lab.train("pass")["TrainingJobName"]
    endpoint = lab.endpoint(answer="still here")
    running = _start_sleeping(lab)
    family = process_table.family(lab.cloud.server.pid)
    assert len(family) >= 3, "the job, its child and the endpoint"

    assert lifecycle.stop(home) == [], "the server ends its children itself"
    assert not [pid for pid in family if _alive(pid)]

    again = Cloud(lifecycle.start(home, port=free_port()))
    client = again.client("sagemaker")
    assert client.describe_training_job(TrainingJobName=done)["TrainingJobStatus"] == "Completed"
    interrupted = client.describe_training_job(TrainingJobName=running)
    assert (interrupted["TrainingJobStatus"], interrupted["SecondaryStatus"]) == ("Failed", "Failed")
    assert "interrupted" in interrupted["FailureReason"]

    runtime = again.client("sagemaker-runtime")
    assert b"still here" in runtime.invoke_endpoint(EndpointName=endpoint, Body=b"1")["Body"].read()


def test_children_of_a_killed_server_are_ended_by_the_next_one(home: Path) -> None:
    lab = Lab(Cloud(lifecycle.start(home, port=free_port())))
    _start_sleeping(lab)
    family = process_table.family(lab.cloud.server.pid)
    os.kill(lab.cloud.server.pid, signal.SIGKILL)
    assert [pid for pid in family if _alive(pid)], "they outlive a server that was killed"
    lifecycle.start(home, port=free_port())
    wait_until(lambda: not [pid for pid in family if _alive(pid)])


def test_stop_ends_what_a_killed_server_left(home: Path) -> None:
    lab = Lab(Cloud(lifecycle.start(home, port=free_port())))
    lab.endpoint(answer="left behind")
    _start_sleeping(lab)
    family = process_table.family(lab.cloud.server.pid)
    assert len(family) >= 3, "the job, its child and the endpoint"
    os.kill(lab.cloud.server.pid, signal.SIGKILL)
    wait_until(lambda: lifecycle.running(home) is None)
    assert [pid for pid in family if _alive(pid)], "they outlive a server that was killed"
    assert lifecycle.stop(home) != []
    wait_until(lambda: not [pid for pid in family if _alive(pid)], timeout_s=5)


def _start_sleeping(lab: Lab) -> str:
    request = lab.training(SLEEPS)
    name = request["TrainingJobName"]
    lab.sagemaker.create_training_job(**request)
    wait_until(lambda: lab.sagemaker.describe_training_job(TrainingJobName=name)["SecondaryStatus"] == "Training")
    wait_until(lambda: lab.log_lines("TrainingJobs", name))
    return name


def _alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
