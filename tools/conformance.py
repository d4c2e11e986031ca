"""Run the end-to-end tests, unchanged, against one cloud and write down what they saw: `make conformance`.

    python tools/conformance.py                                        the embedded cloud
    python tools/conformance.py --profile NAME --cost-cap-usd 20       a real account
    python tools/conformance.py --compare                              only compare what is written down already

Each run writes <target>.json below --out (.conformance): the outcome of every test, the shapes of what the services
answered, and what the runs cost. When both targets have been run, differences.md beside them tells where the embedded
cloud and the account disagree.

A real account is billed. The run deploys a stack of its own (--stack; refused when a stack of that name is there
already), refuses to start when the cap is below what the same tests are expected to cost, skips what is left once the
cap is reached, and destroys the stack at the end, also after a failure. The cap counts what the stack's ledger counts,
finished runs with their jobs: not the jobs still going, nor the endpoints' requests, the key, logs and storage. A
budget of the account is the only hard limit.
Exits 1 when a test failed, 2 when the run may not start.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / ".conformance"
EMBEDDED, ACCOUNT = "embedded", "aws"
STACK = "ebb-conformance"
# Jobs on AWS are billed for minutes of start-up that the embedded cloud does not have. Assumed until an account says.
ACCOUNT_COSTS_TIMES = 5.0


class RefusedError(Exception):
    """The run may not start; the message says what to give."""


@dataclass(frozen=True)
class Result:
    """What one target showed."""

    target: str
    about: Mapping[str, Any]
    tests: Mapping[str, Mapping[str, Any]]
    observed: Mapping[str, Any]
    cost_usd: float | None

    @classmethod
    def read(cls, file: Path) -> Result | None:
        """Return the result that an earlier run wrote, None when there is none."""
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None

    def write(self, file: Path) -> None:
        """Write the result as JSON."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(vars(self), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def outcomes(report: Path) -> dict[str, dict[str, Any]]:
    """Return what became of each test of a JUnit report: passed, failed or skipped, the seconds, and why."""
    found = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        bad, skipped = [each for each in case if each.tag in ("failure", "error")], case.find("skipped")
        outcome = "failed" if bad else "skipped" if skipped is not None else "passed"
        entry: dict[str, Any] = {"outcome": outcome, "seconds": round(float(case.get("time", "0")), 1)}
        if bad or skipped is not None:
            entry["reason"] = ((bad[0] if bad else skipped).get("message") or "").splitlines()[0][:300]  # type: ignore[union-attr]
        found[name] = entry
    return found


def shape(value: Any) -> Any:
    """Return the shape of a JSON value: names and types without the values themselves.

    The members of a list are merged into one shape, so that a longer list is no difference.
    """
    if isinstance(value, Mapping):
        return {str(name): shape(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        merged: Any = None
        for each in value:
            merged = _merged(merged, shape(each))
        return [] if merged is None else [merged]
    if value is None:
        return "null"
    return {"bool": "boolean", "int": "number", "float": "number", "str": "string"}.get(
        type(value).__name__, type(value).__name__
    )


def _merged(one: Any, other: Any) -> Any:
    if one is None or one == other:
        return other
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: _merged(one.get(name), other.get(name, one.get(name))) for name in {**one, **other}}
    if isinstance(one, list) and isinstance(other, list):
        return [_merged((one or [None])[0], (other or one)[0])] if one or other else []
    if isinstance(one, str) and isinstance(other, str):
        return " or ".join(sorted({*one.split(" or "), *other.split(" or ")}))
    return other if isinstance(one, str) else one  # a structure tells more than the null beside it


def differences(embedded: Result, account: Result) -> list[str]:
    """Return where two targets disagree, a sentence each: tests first, then shapes."""
    told = []
    for name in sorted({*embedded.tests, *account.tests}):
        here, there = embedded.tests.get(name), account.tests.get(name)
        if here is None or there is None:
            told.append(f"test {name}: only run against {ACCOUNT if here is None else EMBEDDED}")
        elif here["outcome"] != there["outcome"]:
            why = there.get("reason") or here.get("reason") or "no reason given"
            told.append(f"test {name}: {here['outcome']} embedded, {there['outcome']} on AWS ({why})")
    for name in sorted({*embedded.observed, *account.observed}):
        if name not in account.observed or name not in embedded.observed:
            told.append(f"{name}: only seen {'embedded' if name in embedded.observed else 'on AWS'}")
        else:
            told += _shape_differences(name, embedded.observed[name], account.observed[name])
    return told


def _shape_differences(place: str, here: Any, there: Any) -> Iterator[str]:
    if isinstance(here, dict) and isinstance(there, dict):
        for name in sorted({*here, *there}):
            if name not in there:
                yield f"{place}.{name}: only embedded"
            elif name not in here:
                yield f"{place}.{name}: only on AWS"
            else:
                yield from _shape_differences(f"{place}.{name}", here[name], there[name])
    elif isinstance(here, list) and isinstance(there, list) and here and there:
        yield from _shape_differences(f"{place}[]", here[0], there[0])
    elif here != there and [] not in (here, there):
        yield f"{place}: {json.dumps(here)} embedded, {json.dumps(there)} on AWS"


def check_cap(cap_usd: float | None, embedded: Result | None) -> float:
    """Return the cap of a run against an account.

    Raises: RefusedError when none is given, when nothing tells what the tests cost, or when it is too low for them.
    """
    if cap_usd is None:
        raise RefusedError("a real account is billed: say how much it may cost with --cost-cap-usd")
    if embedded is None or embedded.cost_usd is None:
        raise RefusedError("run `make conformance` without a profile first: it tells what the tests are to cost")
    expected = embedded.cost_usd * ACCOUNT_COSTS_TIMES
    if cap_usd < expected:
        raise RefusedError(
            f"the tests are expected to cost {expected:.2f} USD ({ACCOUNT_COSTS_TIMES:g} times the "
            f"{embedded.cost_usd:.4f} USD that the embedded cloud counted): --cost-cap-usd {cap_usd:g} is too low"
        )
    return cap_usd


def account_environment(profile: str, region: str | None, stack: str, cap_usd: float) -> dict[str, str]:
    """Return what tells the tests to run against an account; tests/conftest.py keeps every other credential away."""
    told = {"EBB_CONFORMANCE_PROFILE": profile, "EBB_STACK": stack, "EBB_COST_CAP_USD": str(cap_usd)}
    return told | ({"EBB_CONFORMANCE_REGION": region} if region else {})


def run(target: str, out: Path, environment: Mapping[str, str], pytest_arguments: list[str]) -> tuple[Result, int]:
    """Run tests/e2e against a target; return what it showed and pytest's exit status."""
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    report, seen = work / f"{target}.xml", work / f"{target}-observed.json"
    for stale in (report, seen):
        stale.unlink(missing_ok=True)
    command = [sys.executable, "-P", "-m", "pytest", "tests/e2e", "-v", f"--junitxml={report}"]
    command += ["-o", f"cache_dir={work / 'pytest'}", *pytest_arguments]
    status = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment, "EBB_CONFORMANCE_OBSERVED": str(seen)}, check=False
    ).returncode
    if not report.exists():
        raise RefusedError(f"pytest ended with status {status} before any test")
    observed = json.loads(seen.read_text(encoding="utf-8")) if seen.exists() else {"shapes": {}, "cost_usd": None}
    about = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "commit": _commit(), "exit_status": status}
    about |= {name: value for name, value in environment.items() if name.startswith("EBB_")}
    return Result(target, about, outcomes(report), observed["shapes"], observed["cost_usd"]), status


def compare(out: Path) -> Path | None:
    """Write differences.md when both targets have been run; return where, None when one is missing."""
    embedded, account = (Result.read(out / f"{name}.json") for name in (EMBEDDED, ACCOUNT))
    if embedded is None or account is None:
        return None
    told = differences(embedded, account)
    lines = ["# Embedded cloud and AWS", ""]
    for result in (embedded, account):
        counts = {kind: 0 for kind in ("passed", "failed", "skipped")}
        for test in result.tests.values():
            counts[test["outcome"]] += 1
        cost = "" if result.cost_usd is None else f", {result.cost_usd:.4f} USD by the ledger"
        lines.append(
            f"- {result.target}: {', '.join(f'{number} {kind}' for kind, number in counts.items())}{cost}, "
            f"{result.about['at']}, commit {result.about['commit']}"
        )
    lines += ["", f"{len(told)} differences", "", *(f"- {each}" for each in told)]
    file = out / "differences.md"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def _commit() -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or "unknown"


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", help="AWS profile of the account to run against")
    parser.add_argument("--region", help="Region; the profile's own without it")
    parser.add_argument("--stack", default=STACK, help=f"stack to deploy and destroy there ({STACK})")
    parser.add_argument("--cost-cap-usd", type=float, help="skip what is left once the ledger counts this much")
    parser.add_argument("--out", type=Path, default=OUT, help="where results and differences go")
    parser.add_argument("--compare", action="store_true", help="run nothing, compare what is written down")
    asked, pytest_arguments = parser.parse_known_args()
    status = 0
    try:
        if not asked.compare:
            target, environment = EMBEDDED, {}
            if asked.profile:
                cap = check_cap(asked.cost_cap_usd, Result.read(asked.out / f"{EMBEDDED}.json"))
                target = ACCOUNT
                environment = account_environment(asked.profile, asked.region, asked.stack, cap)
            result, status = run(target, asked.out, environment, pytest_arguments)
            result.write(asked.out / f"{target}.json")
            print(f"wrote {asked.out / f'{target}.json'}")
        written = compare(asked.out)
    except RefusedError as refused:
        print(f"conformance: {refused}", file=sys.stderr)
        return 2
    if written:
        print(written.read_text(encoding="utf-8"))
    else:
        print("nothing to compare yet: run it against the other target too (--profile NAME --cost-cap-usd USD)")
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
