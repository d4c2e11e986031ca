"""Stage `assess`: a served model, what it was asked and the newest labelled rows in; how far it has fallen behind, out.

Nothing is decided here: `ebb.retraining` weighs what this finds against what a training would cost.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ebb_jobs import bundle, capture, drift, export, newest, paths, probe, quality, serve, tabular, warm
from ebb_jobs.errors import InputMissingError
from ebb_jobs.rejection import RejectedError
from ebb_jobs.report import Report

REFERENCE = "reference.json"
SAMPLES = "samples.jsonl"
MOST_SAMPLES = 50_000
CALIBRATION = "calibration.json"
DEFAULT_PSI = 0.2


def main() -> None:
    """Assess one project's served model."""
    settings = paths.settings("assess")
    report = Report("assess")
    with tempfile.TemporaryDirectory() as work:
        channels = {name: paths.channel("assess", name) for name in ("champion", "samples", "newest", "previous")}
        assess(channels, paths.output("assess", "calibration"), settings, report, Path(work))
    report.write(paths.output("assess", "report"))


def assess(channels: dict[str, Path], calibrations: Path, settings: dict[str, Any], report: Report, work: Path) -> None:
    """Fill the report with `drift`, `implied`, `labels` and `warm`; each None where nothing tells it, with a reason.

    `settings`: spec, target, served {metric, quality, rows}, seed.
    """
    archive = next(channels["champion"].rglob("model.tar.gz"), None) if channels["champion"].exists() else None
    if archive is None:
        raise InputMissingError("the channel 'champion' holds no model.tar.gz: has the bundle been deleted?")
    folder = bundle.unpack(archive, work / "champion")
    signature = serve.read_signature(folder)
    samples = read_samples(channels["samples"], settings.get("served") or {})
    if signature.get("codec") == serve.AS_IS:
        own = "the served model is a script's own code, which only its script can judge"
        report.fields.update(drift=None, implied=None, labels=None, why={"labels": own, "drift": own}, warm=own)
        return
    file = folder / REFERENCE
    reference = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    served = serve.Model(folder)
    why: dict[str, str] = {}
    labels, rows = _labels(channels, served, signature, calibrations, settings, work, why)
    seen = samples or rows  # what was asked, or, where nothing is noted, the rows that were labelled since
    if reference is None:
        why["drift"] = "the bundle is older than the references: the next training brings one"
    elif not seen:
        why["drift"] = "nothing is noted of what was asked (retrain.capture), and no row was labelled since"
    else:
        psi = float((((settings.get("spec") or {}).get("retrain") or {}).get("drift") or {}).get("psi") or DEFAULT_PSI)
        report.fields["drift"] = drift.measure(reference, seen, psi=psi) | {
            "of": "requests" if samples else "labelled rows"
        }
    report.fields.update(
        drift=report.fields.get("drift"),
        implied=_implied(reference, settings, seen),
        labels=labels,
        warm=_warm(channels["previous"]),
        why=why,
    )
    _tell(report)


def read_samples(folder: Path, served: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was noted of the served model: lines of `ebb_sample`, the newest where they are too many."""
    found: dict[str, dict[str, Any]] = {}  # CloudWatch may give an event twice
    for file in sorted(folder.rglob(SAMPLES)) if folder.exists() else ():
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                try:
                    sample = json.loads(line)["ebb_sample"]
                except (ValueError, KeyError, TypeError):
                    continue  # a line that was cut
                of_it = not served.get("run_id") or sample.get("run_id") == served["run_id"]
                if of_it and not sample.get("left_out"):
                    found[str(sample.get("id") or len(found))] = sample
    return sorted(found.values(), key=lambda sample: str(sample.get("at")))[-MOST_SAMPLES:]


def _labels(
    channels: dict[str, Path],
    served: serve.Model,
    signature: dict[str, Any],
    calibrations: Path,
    settings: dict[str, Any],
    work: Path,
    why: dict[str, str],
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Return what the newest labelled rows say of the served model, and these rows as samples."""
    if not channels["newest"].exists() or not any(each.is_file() for each in channels["newest"].rglob("*")):
        why["labels"] = "no row was labelled since the served model learned"
        return None, []
    try:
        rows = newest.read(channels["newest"], settings.get("spec") or {}, str(settings["target"]), served.codec, work)
    except RejectedError as refused:
        why["labels"] = f"the newest rows cannot be read: {refused.rejection.message}"
        return None, []
    except newest.NotReadError as refused:
        why["labels"] = str(refused)
        return None, []
    total = len(rows)
    rows, encoded = newest.encode(served.codec, rows)
    if not len(rows):
        why["labels"] = f"none of {total} newest rows can be read by the served model"
        return None, []
    outputs = export.run(served, encoded)
    answers = served.codec.predictions(outputs)
    noted = [
        {"features": features, "prediction": answer}
        for features, answer in zip(capture.observed(served.codec, rows.raws, encoded), answers, strict=True)
    ]
    known, truth, predicted = _judged(rows.labels, outputs, answers, signature)
    metric = settings["served"]["metric"]
    told = {
        "rows": total,
        "unreadable": total - len(rows),
        "unknown_classes": sorted({label for label, fits in zip(rows.labels, known, strict=True) if not fits})[:20],
        "unknown": int((~known).sum()),
        "metric": metric,
    }
    if known.sum() < 2:
        why["labels"] = "the newest rows have no class that the served model knows"
        return told | {
            "quality": None,
            "loss": None,
            "gains": dict.fromkeys(("recalibrated", "learned", "beyond_calibration")),
        }, noted
    seed = int(settings.get("seed", 7))
    own = [each["features"] for each, fits in zip(noted, known, strict=True) if fits]
    found = probe.gains(metric, truth[known], predicted[known], encoded[known], own, seed=seed)
    if found["recalibrated"] is not None:
        calibration = probe.calibration(truth[known], predicted[known])
        (calibrations / CALIBRATION).write_text(json.dumps(calibration, allow_nan=False) + "\n")
    value = quality.score(metric, truth[known], predicted[known])
    band = quality.interval(metric, truth[known], predicted[known], seed=seed)
    before = settings["served"]["quality"]
    told |= {
        "quality": {"value": value, **band},
        "quality_then": before,
        "loss": loss(metric, before, int(settings["served"].get("rows") or 0), value, band, int(known.sum())),
        "gains": found,
    }
    return told, noted


def loss(
    metric: str, before: dict[str, float], rows_then: int, value: float, band: dict[str, float], rows: int
) -> dict[str, float]:
    """Return how much worse the model is on the newest rows than it was on its own, with the band of chance (95 %).

    In the floor's own measure: points of a score, a share of an error; positive is worse. `before` holds validation
    and test, whose mean is taken; its own band is that of the newest rows, scaled by the root of the rows.
    """
    then = (before["validation"] + before["test"]) / 2
    half = (band["high"] - band["low"]) / 2
    both = half * math.sqrt(1 + rows / max(1, rows_then)) if rows_then else half * math.sqrt(2)
    if quality.greater_is_better(metric):
        return {"value": then - value, "low": then - value - both, "high": then - value + both}
    unit = max(abs(then), 1e-12)
    return {"value": (value - then) / unit, "low": (value - then - both) / unit, "high": (value - then + both) / unit}


def _judged(
    labels: list[str], outputs: np.ndarray, answers: list[dict[str, Any]], signature: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which rows have an answer that the model could give, the true answers and the model's."""
    classes = signature.get("classes")
    if classes:
        places = {str(name): place for place, name in enumerate(classes)}
        truth = np.array([places.get(label, -1) for label in labels], dtype=np.int64)
        return truth >= 0, truth, np.asarray(outputs, dtype=np.float64)
    numbers = [tabular.parse_number(label) for label in labels]
    known = np.array([number is not None for number in numbers])
    truth = np.array([number or 0.0 for number in numbers], dtype=np.float64)
    return known, truth, np.array([answer["value"] for answer in answers], dtype=np.float64)


def _implied(
    reference: dict[str, Any] | None, settings: dict[str, Any], seen: list[dict[str, Any]]
) -> dict[str, float] | None:
    """Return the accuracy that the model's confidence implies; None where it is not judged by accuracy."""
    served = settings.get("served") or {}
    if reference is None or served.get("metric") != "accuracy" or len(seen) < drift.LEAST_SAMPLES:
        return None
    before = (served["quality"]["validation"] + served["quality"]["test"]) / 2
    found = drift.implied_accuracy(reference, before, seen)
    return None if math.isnan(found["value"]) else {**found, "then": before}


def _warm(previous: Path) -> str | None:
    """Return why training cannot go on from the served model's weights; None when it can."""
    if not previous.exists():
        return "what it was trained from is not kept any more"
    if not any((previous / name).exists() for name in warm.ORIGINALS):
        return "it holds no network that was trained here"
    file = previous / "preprocess.json"
    means = json.loads(file.read_text(encoding="utf-8")).get("means") if file.exists() else None
    if means:
        return "it knows categories by the mean of the target over older rows"
    return None


def _tell(report: Report) -> None:
    """Say the findings in the log, without values of the data."""
    found, labels = report.fields["drift"], report.fields["labels"]
    if found:
        print(f"{found['samples']} {found['of']}: {len(found['moved'])} of {len(found['features'])} features moved")
    if labels and labels.get("quality"):
        print(f"{labels['rows']} newest rows: {labels['metric']} {labels['quality']['value']:.4g}", flush=True)
