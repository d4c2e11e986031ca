"""Run the test suite, each group in the environment that its code runs in, and print one summary of them all.

    python tools/run_tests.py [GROUP ...]

Exits 1 when a group fails, when a group collects nothing, or when a group's name is unknown.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
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
    overlay: Path | None = None


GROUPS = (
    Group("unit", ("tests/unit", "--ignore=tests/unit/jobs")),
    Group("jobs", ("tests/unit/jobs",), JOBS_PYTHON, ROOT / ".venvs/jobs-test"),
    Group("integration", ("tests/integration",)),
    Group("infrastructure", ("tests/infrastructure",)),
    Group("contract", ("tests/contract",)),
    Group("e2e", ("tests/e2e",)),
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


def run(group: Group) -> Result:
    report = RESULTS / f"{group.name}.xml"
    report.unlink(missing_ok=True)
    environment = dict(os.environ)
    if group.overlay:
        environment["PYTHONPATH"] = str(group.overlay)
    print(f"\n==== {group.name}: {' '.join(group.arguments)}", flush=True)
    started = time.monotonic()
    # -P: tests must find the code through pytest's settings, not through the current directory. Not the variable of
    # the same meaning, which the job scripts that tests start would inherit: they find their package beside them.
    command = [str(group.python), "-P", "-m", "pytest", *group.arguments, "--quiet", f"--junitxml={report}"]
    command += ["-o", f"cache_dir={RESULTS.parent / group.name}"]
    code = subprocess.run(command, cwd=ROOT, env=environment).returncode
    seconds = time.monotonic() - started
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
    results = [run(known[name]) for name in names or known]
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
        f"{sum(item.skipped for item in results)} skipped in {sum(item.seconds for item in results):.0f} s: "
        f"{'passed' if ok else 'FAILED'}"
    )
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
