"""A run as it was recorded (the demo's digits), and what the tests of its report add to it."""

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

HOSTILE = '<script>fetch("https://evil.example/")</script>'
TEST_ROWS = 740


@cache
def _read() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("data").joinpath("digits_run.json").read_text())


def digits() -> dict[str, Any]:
    """Return the record, with a matrix of ten classes as compile counts it: 730 of 740 test rows are right."""
    run = deepcopy(_read())
    matrix = [[73 if row == column else int(column == (row + 1) % 10) for column in range(10)] for row in range(10)]
    found = {"kind": "confusion", "rows": TEST_ROWS, "labels": [*"0123456789"], "others": False, "matrix": matrix}
    run["comparison"]["shipped"]["mistakes"] = found
    return run


def residuals() -> dict[str, Any]:
    """Return the same run as if its target were a number."""
    run = digits()
    quantiles = {"p1": -9.0, "p5": -4.0, "p25": -1.5, "p50": 0.25, "p75": 1.0, "p95": 6.0, "p99": 11.0}
    found = {"kind": "residuals", "rows": 740, "quantiles": quantiles}
    found |= {"mean": 0.1, "mean_absolute": 1.75, "largest_absolute": 31.0}
    run["comparison"]["shipped"]["mistakes"] = found
    return run | {"metric": "rmse"}


def failed() -> dict[str, Any]:
    """Return a run that failed while it trained."""
    kept = ("run_id", "project", "created_at", "started_at", "ended_at", "drop", "execution_arn", "coefficients")
    run = {name: value for name, value in digits().items() if name in kept}
    error = {"type": "JobFailed", "stage": "train", "message": HOSTILE, "remedy": "Drop it again."}
    return run | {"status": "failed", "error": error, "stages": [], "decisions": []}
