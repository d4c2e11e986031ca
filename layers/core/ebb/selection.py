"""Selection: which of the measured candidates is shipped, and whether it replaces the model that is served.

The smallest model that is good enough: whoever is shown to hold the quality floor and the latency asked for competes
(a lead by luck on few rows shows nothing: what counts is the bound of the loss, not the loss); a quantized
network that is slower than its own full-precision form in the same runtime has lost by measurement; among those that no
other candidate beats in every respect, the one that takes the least energy per prediction wins. The original, exported
but not compressed, competes like any other. A model that its script left without an evaluation is served as it is.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebb import footprint, ledger, serving_sizes
from ebb.errors import NoAcceptableCandidateError
from ebb.spec_parts import CompressSpec
from ebb.spec_serve import ServeSpec

LOWER_IS_BETTER = frozenset({"log_loss", "rmse", "mae"})
# Two measurements of the same model on one machine differ by this much; less is no difference. Assumed; where compile
# tells the figures of each round, an advantage must exceed their spread as well.
NOISE_SHARE = 0.05
LEAST_ROUNDS = 4
# Of JSON, all candidates together: their answer travels in a state of Step Functions, which carries 256 KiB, beside
# the plan and the requests.
MOST_VERDICTS_CHARS = 24_000
MOST_CANDIDATES_CHARS = 60_000
_ALWAYS_TOLD = ("name", "chain", "runtime", "status", "reason", "quality", "size_bytes", "latency_ms", "bundle")
_QUANTIZE = "quantize"


@dataclass(frozen=True)
class Measured:
    """One candidate with what `compile` measured of it; below the quality floor it is measured and not packed."""

    name: str
    chain: tuple[str, ...]
    runtime: str
    packed: bool
    quality: float
    interval: tuple[float, float]
    p50_ms: float
    slow_answer_ms: float  # 1 request in 20 takes longer from raw row to answer; 1 in 100 when that is what is known
    cpu_ms: float
    size_bytes: int
    memory_mib: float
    drop_bound: float  # how much worse than the original it may be, at 80 %; 0 when the report has none
    report: Mapping[str, Any]

    @classmethod
    def of(cls, candidate: Mapping[str, Any]) -> "Measured":
        """Return a candidate of compile's report."""
        quality = float(candidate["quality"]["validation"])
        answering = footprint.answering_ms(candidate)
        interval = candidate.get("quality_interval") or {"low": quality, "high": quality}
        return cls(
            name=candidate["name"],
            chain=tuple(candidate.get("chain") or ()),
            runtime=str(candidate.get("runtime") or ""),
            packed=bool(candidate.get("bundle")),
            quality=quality,
            interval=(float(interval["low"]), float(interval["high"])),
            p50_ms=float(candidate["latency_ms"]["p50"]),
            slow_answer_ms=float(answering.get("p95") or answering["p99"]),
            cpu_ms=float(candidate["cpu_ms_per_prediction"]),
            size_bytes=int(candidate["size_bytes"]),
            memory_mib=float(candidate.get("memory_mib") or 0),
            drop_bound=float(candidate.get("drop_bound") or 0),
            report=candidate,
        )


@dataclass(frozen=True)
class Selection:
    """What was chosen, and one reason in words for every candidate.

    `shipped` is the chosen candidate as compile reports it; `measured` and `floor` are None when it is served as it is.
    """

    name: str
    shipped: Mapping[str, Any]
    measured: Measured | None
    floor: float | None
    reasons: tuple[str, ...]
    verdicts: Mapping[str, str]


@dataclass(frozen=True)
class Verdict:
    """Whether the chosen model replaces the one that is served, and why."""

    deploy: bool
    reason: str


def greater_is_better(metric: str) -> bool:
    """Return the metric's direction."""
    return metric not in LOWER_IS_BETTER


def quality_floor(metric: str, original: float, max_drop: float) -> float:
    """Return the worst quality that may be shipped.

    A score within 0 to 1 may lose `max_drop` points; an error, whose unit is the target's, may grow by that share.
    """
    return original - max_drop if greater_is_better(metric) else original * (1 + max_drop)


def select(report: Mapping[str, Any], compress: CompressSpec, serve: ServeSpec) -> Selection:
    """Return the candidate to ship.

    Raises: NoAcceptableCandidateError when none was measured within the floor and the latency asked for.
    """
    if report.get("as_is"):
        return _as_is(report, serve)
    metric = report["metric"]
    original = float(report["original"]["quality"]["validation"])
    floor = quality_floor(metric, original, compress.max_metric_drop)
    verdicts: dict[str, str] = {}
    candidates = []
    for each in report["candidates"]:
        if each.get("quality") and footprint.is_timed(each):
            candidates.append(Measured.of(each))
        else:
            verdicts[each["name"]] = f"not measured: {_reason(each)}"
    acceptable = []
    for candidate in candidates:
        refusal = _refusal(candidate, candidates, metric, floor, compress.max_metric_drop, serve)
        if refusal is None:
            acceptable.append(candidate)
        else:
            verdicts[candidate.name] = refusal
    if not acceptable:
        raise _none_acceptable(verdicts)
    front = [one for one in acceptable if not any(_dominates(other, one, metric) for other in acceptable)]
    chosen = _leanest(front, metric)
    for candidate in acceptable:
        if candidate is not chosen:
            verdicts[candidate.name] = _why_not(candidate, chosen, front)
    verdicts[chosen.name] = _why(chosen, front, metric, floor, original)
    verdicts = ledger.fitting(verdicts, MOST_VERDICTS_CHARS)
    return Selection(
        chosen.name,
        chosen.report,
        chosen,
        floor,
        reasons=(verdicts[chosen.name], *(f"{name}: {why}" for name, why in verdicts.items() if name != chosen.name)),
        verdicts=verdicts,
    )


def told(report: Mapping[str, Any], selected: Selection) -> list[dict[str, Any]]:
    """Return compile's candidates, each with its verdict, short enough to travel and to stand in the record."""
    verdicts = selected.verdicts
    found = [ledger.condensed(each) | {"verdict": verdicts.get(each["name"])} for each in report["candidates"]]
    found = ledger.fitting(found, MOST_CANDIDATES_CHARS)
    if len(json.dumps(found)) <= MOST_CANDIDATES_CHARS:
        return found
    told = (*_ALWAYS_TOLD, "verdict")
    return ledger.fitting([{key: each[key] for key in told if key in each} for each in found], MOST_CANDIDATES_CHARS)


def against_champion(
    chosen: Measured | None,
    metric: str | None,
    *,
    measured: Mapping[str, Any] | None,
    served: Mapping[str, Any] | None,
    force: bool = False,
) -> Verdict:
    """Return whether the chosen model replaces the served one: a worse model never replaces a better one.

    `measured` is a model on this run's rows, as `compile` found it; `served` what the ledger says of the one that is
    served now. Another run may have been deployed since `compile` began: then the measurement is not of its model.
    Better means beyond chance: outside the interval in which this many validation rows let the quality vary.
    `chosen` is None for a model that is served as it is: nobody can say whether it is worse than one that was measured,
    so it takes that one's place only when the drop was forced.
    """
    if served is None:
        return Verdict(True, "no model is served yet")
    about = f"the served model (run {served.get('run_id')})"
    if chosen is None or metric is None:
        return _unmeasured_against(about, served, force=force)
    if measured and measured.get("run_id") != served.get("run_id"):
        measured = None
    if measured and measured.get("quality"):
        known, how = float(measured["quality"]["validation"]), "on the same validation rows"
    elif measured and measured.get("comparable") is False:
        return Verdict(True, f"{about} cannot answer for this data: {measured.get('reason')}")
    elif not served.get("quality"):
        return Verdict(True, f"{about} has no evaluation, this one has")
    elif served.get("metric") == metric and served.get("quality"):
        known, how = float(served["quality"]["validation"]), "on its own validation rows; it could not be measured here"
    else:
        return Verdict(
            True, f"{about} is judged by {served.get('metric')}, not by {metric}: they answer other questions"
        )
    low, high = chosen.interval
    worse = known > high if greater_is_better(metric) else known < low
    numbers = f"{metric} {chosen.quality:.4g} ({low:.4g} to {high:.4g}) against {known:.4g} {how}"
    if worse:
        return Verdict(False, f"{about} is better: {numbers}")
    return Verdict(True, f"not worse than {about}: {numbers}")


def decisions(selected: Selection, metric: str | None, verdict: Verdict) -> list[dict[str, Any]]:
    """Return the choice and the verdict as the ledger keeps them."""
    measured = selected.measured
    numbers = (
        {
            f"{metric}_validation": measured.quality,
            "floor": selected.floor,
            "p50_ms": measured.p50_ms,
            "cpu_ms_per_prediction": measured.cpu_ms,
            "size_bytes": measured.size_bytes,
        }
        if measured
        else {name: selected.shipped.get(name) for name in ("size_bytes", "memory_mib")}
    )
    return [
        {
            "what": "candidate to ship",
            "chosen": selected.name,
            "reason": selected.reasons[0],
            "numbers": numbers,
            "alternatives": list(selected.reasons[1:]),
            "source": "measured by compile, alternately on one machine" if measured else "the script's own model",
        },
        {
            "what": "replacing the served model",
            "chosen": "yes" if verdict.deploy else "no",
            "reason": verdict.reason,
            "numbers": {},
            "alternatives": [],
        },
    ]


def _as_is(report: Mapping[str, Any], serve: ServeSpec) -> Selection:
    """Return what a script left without an evaluation: there is nothing to choose from and nothing to compare."""
    packed = [each for each in report["candidates"] if each.get("bundle")]
    if not packed:
        raise _none_acceptable({each["name"]: _without_bundle(each) for each in report["candidates"]})
    shipped = packed[0]
    memory_mib = float(shipped.get("memory_mib") or 0)
    too_large = _too_large(memory_mib, _most_mib(serve, [memory_mib]))
    if too_large:
        raise _none_acceptable({shipped["name"]: too_large})
    reason = f"served without a comparison: {shipped.get('reason') or 'it has no evaluation'}"
    if serve.p95_latency:
        reason += "; whether it answers within serve.p95_latency is not known, its alarm will tell"
    return Selection(shipped["name"], shipped, None, None, reasons=(reason,), verdicts={shipped["name"]: reason})


def _unmeasured_against(about: str, served: Mapping[str, Any], *, force: bool) -> Verdict:
    if not served.get("quality"):
        return Verdict(True, f"{about} has no evaluation either: the newer one is served")
    known = f"{served.get('metric')} {float(served['quality']['validation']):.4g}"
    if force:
        return Verdict(True, f"forced: {about} has {known}, this one has no evaluation")
    return Verdict(
        False,
        f"{about} has {known}, this one has no evaluation and may be worse; "
        "let the script write evaluation.json, or serve it anyway with ebb drop --force",
    )


def _none_acceptable(verdicts: Mapping[str, str]) -> NoAcceptableCandidateError:
    verdicts = ledger.fitting(verdicts, MOST_VERDICTS_CHARS)
    told = "; ".join(f"{name}: {why}" for name, why in sorted(verdicts.items()))
    return NoAcceptableCandidateError(f"no candidate is acceptable: {told}")


def _without_bundle(candidate: Mapping[str, Any]) -> str:
    return f"has no bundle to deploy: {_reason(candidate)}"


def _reason(candidate: Mapping[str, Any]) -> str:
    return str(ledger.shortened(candidate.get("reason") or candidate.get("status")))


def _refusal(
    candidate: Measured,
    all_measured: Sequence[Measured],
    metric: str,
    floor: float,
    max_drop: float,
    serve: ServeSpec,
) -> str | None:
    holds = candidate.quality >= floor if greater_is_better(metric) else candidate.quality <= floor
    if not holds:
        side = "below" if greater_is_better(metric) else "above"
        return f"{metric} {candidate.quality:.4g} is {side} the floor {floor:.4g}"
    if candidate.drop_bound > max_drop:
        rows = candidate.report.get("validation_rows")
        return (
            f"{metric} {candidate.quality:.4g} holds the floor, but {rows} validation rows leave a loss of "
            f"{candidate.drop_bound:.2g} possible; at most {max_drop:.2g} may be lost"
        )
    if not candidate.packed:
        return _without_bundle(candidate.report)
    limit_ms = serve.p95_latency.total_seconds() * 1000 if serve.p95_latency else None
    if limit_ms is not None and candidate.slow_answer_ms > limit_ms:
        return f"{candidate.slow_answer_ms:.3g} ms from row to answer is above the {limit_ms:.3g} ms asked for"
    too_large = _too_large(candidate.memory_mib, _most_mib(serve, [each.memory_mib for each in all_measured]))
    if too_large:
        return too_large
    full = _unquantized(candidate, all_measured)
    if full is not None and candidate.p50_ms > full.p50_ms * (1 + NOISE_SHARE):
        return f"slower than {full.name}, its full-precision form: {candidate.p50_ms:.3g} against {full.p50_ms:.3g} ms"
    return None


def _most_mib(serve: ServeSpec, memories_mib: Iterable[float]) -> float:
    """Return the memory that a candidate's container may take.

    With `kind: auto` that is what a serverless endpoint has, as long as any candidate fits into one: a larger one would
    keep an instance up. Only when all are larger an instance may serve.
    """
    serverless = serving_sizes.most_memory_mib(serve, serverless=True)
    if serve.kind == "serverless" or serve.memory_mb is not None:
        return serverless
    free = serve.kind == "auto" and serve.instance == "auto" and serve.availability == "normal"
    if free and any(each + footprint.HEADROOM_MIB <= serverless for each in memories_mib):
        return serverless
    return serving_sizes.most_memory_mib(serve, serverless=False)


def _too_large(memory_mib: float, most_mib: float) -> str | None:
    needed_mib = memory_mib + footprint.HEADROOM_MIB
    if needed_mib > most_mib:
        return f"needs {needed_mib:.0f} MiB with room for requests, and the endpoint has {most_mib:.0f} MB"
    return None


def _unquantized(candidate: Measured, others: Sequence[Measured]) -> Measured | None:
    """Return the same network in full precision and the same runtime: another runtime's speed says nothing about it."""
    if _QUANTIZE not in candidate.chain:
        return None
    full = tuple(step for step in candidate.chain if step != _QUANTIZE)
    return next((one for one in others if (one.chain, one.runtime) == (full, candidate.runtime)), None)


def _dominates(one: Measured, other: Measured, metric: str) -> bool:
    """Return whether `one` is at least as good in every respect and clearly better in one."""
    if one is other:
        return False
    sign = -1 if greater_is_better(metric) else 1
    mine = (sign * one.quality, one.p50_ms, one.cpu_ms, float(one.size_bytes))
    its = (sign * other.quality, other.p50_ms, other.cpu_ms, float(other.size_bytes))
    return all(a <= b for a, b in zip(mine, its, strict=True)) and mine != its


def _leanest(front: Sequence[Measured], metric: str) -> Measured:
    """Return the front's least energy per prediction; within the noise of it, the smallest, then the better one."""
    leanest = min(front, key=lambda one: one.cpu_ms)
    near = [one for one in front if not _clearly_leaner(leanest, one)]
    sign = -1 if greater_is_better(metric) else 1
    return min(near, key=lambda one: (one.size_bytes, sign * one.quality, one.name))


def _clearly_leaner(one: Measured, other: Measured) -> bool:
    """Return whether `one` takes less energy than `other` beyond noise.

    Compared round by round, because in a round both met the same machine: the median of the ratios must exceed 1 by
    more than NOISE_SHARE and by more than half of the range in which the middle half of the ratios lies.
    """
    mine, its = (list((each.report.get("rounds") or {}).get("cpu_ms") or ()) for each in (one, other))
    if len(mine) != len(its) or len(mine) < LEAST_ROUNDS or min(mine, default=0.0) <= 0:
        return other.cpu_ms > one.cpu_ms * (1 + NOISE_SHARE)
    ratios = [b / a for a, b in zip(mine, its, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle - 1 > max(NOISE_SHARE, (high - low) / 2)


def _why(chosen: Measured, front: Sequence[Measured], metric: str, floor: float, original: float) -> str:
    others = f", of {len(front)} that no other beats in every respect" if len(front) > 1 else ""
    return (
        f"{chosen.name} takes the least energy{others}: {chosen.cpu_ms:.3g} CPU-ms per prediction, "
        f"{metric} {chosen.quality:.4g} (original {original:.4g}, floor {floor:.4g}), "
        f"p50 {chosen.p50_ms:.3g} ms, {chosen.size_bytes} bytes"
    )


def _why_not(candidate: Measured, chosen: Measured, front: Sequence[Measured]) -> str:
    if candidate not in front:
        return "matched or beaten by another in every respect"
    if not _clearly_leaner(chosen, candidate):
        return f"as lean as {chosen.name} within measurement noise, and larger: {candidate.size_bytes} bytes"
    return f"takes {candidate.cpu_ms / chosen.cpu_ms:.2g} times the energy of {chosen.name} per prediction"
