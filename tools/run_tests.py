"""Run the test suite, each group in the environment that its code runs in, and print one summary of them all.

    python tools/run_tests.py [GROUP ...]

The end-to-end tests wait for jobs and endpoints most of the time, and the contract tests for what the embedded cloud
does by itself, so each of them runs beside the others; what a group prints appears when it has ended. Exits 1 when a
group fails, when a group collects nothing, or when a group's name is unknown.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONTROL_PYTHON = ROOT / ".venv/bin/python"
JOBS_PYTHON = ROOT / ".venvs/jobs/bin/python"
RESULTS = ROOT / ".pytest_cache/results"


@dataclass(frozen=True)
class Group:
    """Tests that run in one process; `overlay` is put in front of the environment's own packages."""

    name: str
    arguments: tuple[str, ...]
    python: Path = CONTROL_PYTHON
    overlay: tuple[Path, ...] = ()
    waits: bool = False
    """Whether it waits more than it computes: such a group runs in a lane of its own."""


GROUPS = (
    Group("unit", ("tests/unit", "--ignore=tests/unit/jobs")),
    Group("jobs", ("tests/unit/jobs",), JOBS_PYTHON, (ROOT / ".venvs/jobs-test", ROOT / ".venvs/spark")),
    Group("integration", ("tests/integration",)),
    Group("infrastructure", ("tests/infrastructure",)),
    Group("contract", ("tests/contract",), waits=True),
    Group("e2e", ("tests/e2e",), waits=True),
)


@dataclass(frozen=True)
class Result:
    """The counts of one group's JUnit report, and how long it took."""

    name: str
    code: int
    seconds: float
    tests: int = 0
    failures: int = 0
    errors: int = 0
    skipped: int = 0

    @property
    def passed(self) -> int:
        return self.tests - self.failures - self.errors - self.skipped


def run(group: Group, *, shown_at_once: bool) -> Result:
    """Run one group; print what it says while it runs, or all of it when it has ended."""
    report = RESULTS / f"{group.name}.xml"
    report.unlink(missing_ok=True)
    # What the tests start again and again (the command line, the server) is compiled once, as where people use it.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if group.overlay:
        environment["PYTHONPATH"] = os.pathsep.join(map(str, group.overlay))
    title = f"\n==== {group.name}: {' '.join(group.arguments)}"
    print(title if shown_at_once else f"{title} (begun)", flush=True)
    started = time.monotonic()
    # -P: tests must find the code through pytest's settings, not through the current directory. Not the variable of
    # the same meaning, which the job scripts that tests start would inherit: they find their package beside them.
    command = [str(group.python), "-P", "-m", "pytest", *group.arguments, "--quiet", f"--junitxml={report}"]
    command += ["-o", f"cache_dir={RESULTS.parent / group.name}"]
    where = None if shown_at_once else subprocess.PIPE
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=where, stderr=where and subprocess.STDOUT)
    code, seconds = done.returncode, time.monotonic() - started
    if done.stdout:
        print(f"{title}\n{done.stdout.decode(errors='replace')}", flush=True)
    if not report.exists():
        return Result(group.name, code or 1, seconds)
    counts = {key: 0 for key in ("tests", "failures", "errors", "skipped")}
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        for key in counts:
            counts[key] += int(suite.get(key, "0"))
    return Result(group.name, code, seconds, **counts)


def main(names: list[str]) -> int:
    known = {group.name: group for group in GROUPS}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"unknown group {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 1
    RESULTS.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    groups = [known[name] for name in names or known]
    lanes = [lane for lane in (*([g] for g in groups if g.waits), [g for g in groups if not g.waits]) if lane]
    with ThreadPoolExecutor(len(lanes)) as pool:
        ran = pool.map(lambda lane: [run(group, shown_at_once=len(lanes) == 1) for group in lane], lanes)
        results = sorted((result for lane in ran for result in lane), key=lambda each: list(known).index(each.name))
    print(f"\n{'group':16}{'passed':>8}{'failed':>8}{'errors':>8}{'skipped':>9}{'seconds':>9}")
    for item in results:
        remark = "" if item.code == 0 else f"  FAILED (pytest exit status {item.code})"
        print(
            f"{item.name:16}{item.passed:>8}{item.failures:>8}{item.errors:>8}{item.skipped:>9}"
            f"{item.seconds:>9.1f}{remark}"
        )
    failed = sum(item.failures + item.errors for item in results)
    ok = all(item.code == 0 for item in results)
    print(
        f"==== {sum(item.passed for item in results)} passed, {failed} failed, "
        f"{sum(item.skipped for item in results)} skipped in {time.monotonic() - started:.0f} s: "
        f"{'passed' if ok else 'FAILED'}"
    )
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
