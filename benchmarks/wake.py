"""Ebb's own delay: from the first request to a sleeping endpoint until AWS is asked for capacity. At most 5 s.

    python benchmarks/wake.py [--rounds 10] [--json FILE]

Trains a small model in an embedded cloud of its own, and lets it fall asleep and be woken by a request through the
front door: with functions that have run before, and with functions that start anew (their configuration was changed
just before). Both moments are the cloud's own: that of the request as the function URL tells it, and that at which the
state machine enters the state that calls; the ledger keeps the difference (`called_after_s`). On Lambda a cold start
takes other times than here; the steps in between are the same: one function, one execution, one function, one write.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / each) for each in ("layers/core", "cli", "local")]

import boto3  # noqa: E402

from ebb import client  # noqa: E402
from ebb_local import lifecycle  # noqa: E402

LIMIT_S = 5.0
STACK, PROJECT = "ebb", "birds"
ON_THE_WAY = ("FrontDoorFunction", "PlanWakeFunction")  # in the template
ROWS = json.dumps({"instances": [[39.1, 18.7, 181.0, 3750.0]]}).encode()
WITHIN_S = 180.0


class Cloud:
    """An embedded cloud with a model that sleeps when nobody asks."""

    def __init__(self, home: Path):
        self.environ = os.environ | {"EBB_HOME": str(home)}
        self.home = home
        self.ebb("up")

    def ebb(self, *arguments: str | Path) -> str:
        """Run a command; what fails ends the benchmark with its words."""
        command = [sys.executable, "-m", "ebb_cli.main", *map(str, arguments)]
        done = subprocess.run(command, env=self.environ, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"ebb {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
        return done.stdout

    def connect(self) -> None:
        """Make the clients, once the stack is there."""
        server = lifecycle.running(self.home)
        assert server is not None
        session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=server.region)
        self.functions = session.client("lambda", endpoint_url=server.endpoint_url)
        stacks = session.client("cloudformation", endpoint_url=server.endpoint_url)
        self.on_the_way = [
            stacks.describe_stack_resource(StackName=STACK, LogicalResourceId=name)["StackResourceDetail"][
                "PhysicalResourceId"
            ]
            for name in ON_THE_WAY
        ]
        outputs = stacks.describe_stacks(StackName=STACK)["Stacks"][0]["Outputs"]
        table = next(each["OutputValue"] for each in outputs if each["OutputKey"] == "LedgerTableName")
        self.table = session.resource("dynamodb", endpoint_url=server.endpoint_url).Table(table)
        self.runtime = client.Client(STACK, session=session, endpoint_url=server.endpoint_url)

    def serve(self, folder: Path, kind: str) -> None:
        """Train three kinds of penguins by four measures, and serve them."""
        data = ROOT / "tests/unit/jobs/data"
        shutil.copytree(data / "custom_export", folder / PROJECT)
        shutil.copyfile(data / "penguins.csv", folder / PROJECT / "penguins.csv")
        spec = folder / "pipeline.yaml"
        spec.write_text(f"task: custom\nserve: {{watch: 0s, kind: {kind}, idle_after: 15m}}\n")
        self.ebb("drop", folder / PROJECT, "--project", PROJECT, "--spec", spec, "--wait")
        self.connect()

    def address(self) -> dict[str, Any]:
        """Return the address as the ledger holds it."""
        found = self.table.get_item(Key={"pk": f"ADDRESS#{STACK}-{PROJECT}", "sk": "ADDRESS"}, ConsistentRead=True)
        return dict(found["Item"])

    def begin_anew(self) -> None:
        """Let the functions on the way start anew with their next call."""
        for name in self.on_the_way:
            known = self.functions.get_function_configuration(FunctionName=name)
            variables = known.get("Environment", {}).get("Variables", {}) | {"BEGUN": str(time.time())}
            self.functions.update_function_configuration(FunctionName=name, Environment={"Variables": variables})

    def wake(self) -> float:
        """Let it fall asleep, ask it, and return the seconds until AWS was asked for capacity."""
        self.ebb("advance", "40m")
        self._until("asleep")
        answer = self.runtime.invoke_endpoint(
            EndpointName=PROJECT, Body=ROWS, ContentType="application/json", wait_s=WITHIN_S
        )
        answer["Body"].read()
        self._until("awake")
        return float(self.address()["called_after_s"])

    def _until(self, state: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while self.address()["state"] != state:
            if time.monotonic() > deadline:
                sys.exit(f"it is not {state}: {self.address()}")
            time.sleep(0.2)


def measured(rounds: int, kind: str) -> dict[str, Any]:
    """Return the delays of so many wakes, with functions that ran before and with such as start anew."""
    folder = Path(tempfile.mkdtemp(prefix="ebb-wake-"))
    cloud = Cloud(folder / "home")
    try:
        cloud.serve(folder, kind)
        cloud.wake()  # the first one of all: not counted
        delays: dict[str, list[float]] = {"warm": [], "cold": []}
        for _ in range(rounds):
            delays["warm"].append(cloud.wake())
        for _ in range(rounds):
            cloud.begin_anew()
            delays["cold"].append(cloud.wake())
    finally:
        cloud.ebb("down")
        shutil.rmtree(folder, ignore_errors=True)
    found = {
        how: {"delays_s": each, "p50_s": statistics.median(each), "max_s": max(each)} for how, each in delays.items()
    }
    worst = max(each["max_s"] for each in found.values())
    return {
        "kind": kind,
        "rounds": rounds,
        "load_average": os.getloadavg()[0],
        **found,
        "limit_s": LIMIT_S,
        "holds": worst <= LIMIT_S,
    }


def main() -> None:
    """Measure, print, and say whether the limit holds."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--kind", choices=("async", "realtime"), default="realtime")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    given = options.parse_args()
    figures = measured(given.rounds, given.kind)
    print(f"From the first request until AWS is asked for capacity, {given.kind}, load {figures['load_average']:.1f}:")
    for how in ("warm", "cold"):
        print(f"  {how}: p50 {figures[how]['p50_s']:.2f} s, max {figures[how]['max_s']:.2f} s of {LIMIT_S:.0f} s")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(0 if figures["holds"] else 1)


if __name__ == "__main__":
    main()
