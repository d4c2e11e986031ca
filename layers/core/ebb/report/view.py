"""What the report of a run shows: its record, chosen, put into order and worded. Pure; `page` renders it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from ebb import figures, ledger, payback, rungs, tuning
from ebb.report import charts, greener, spent
from ebb.report.parts import Cell, Confusion, Decision, Figure, Group, Lane, Page, Problem, Residuals, Table

LESS_IS_BETTER = frozenset({"log_loss", "rmse", "mae"})
QUANTITIES = (("energy_kwh", "Energy", "kWh"), ("carbon_g", "Carbon", "gCO2e"), ("cost_usd", "Cost on AWS", "USD"))
STAGES = {
    "identify": "What was dropped",
    "plan": "The plan",
    "images": "Images",
    "process": "Processing",
    "catalog": "Data Catalog",
    "features": "Features",
    "train": "Training",
    "compress": "Compressing",
    "compile": "Compiling and measuring",
    "select": "Choosing the model",
    "deploy": "Deploying",
}
OPEN = frozenset({"select", "deploy"})  # the decisions that are unfolded when the page opens
TONES = {"succeeded": "good", "reused": "good", "failed": "bad", "rejected": "warn"}
MARKS = {
    "shipped": "shipped",
    "front": "no other beats it in every respect",
    "beaten": "beaten by another",
    "refused": "measured, not acceptable",
    "original": "the original, as it would be served without Ebb",
}
LONGEST_TEXT = 1_000


def page(record: Mapping[str, Any], *, brief: bool = False) -> Page:
    """Return what is shown of a run, from the document that run.json holds; `brief` leaves out what is longest."""
    run = ledger.shortened(dict(record), LONGEST_TEXT)
    stages, comparison = run.get("stages") or [], run.get("comparison") or {}
    floor, metric = _floor(run), str(run.get("metric") or "quality")
    bars, whole_s = charts.timeline([_span(each) for each in stages], [_energy(each) for each in stages])
    points = list(_points(run, metric))
    mistakes = (comparison.get("shipped") or {}).get("mistakes") or {}
    status = str(run.get("status") or "unknown")
    found = payback.payback(stages, run.get("comparison"))
    return Page(
        run_id=str(run.get("run_id")),
        project=str(run.get("project")),
        status=status,
        tone=TONES.get(status, "plain"),
        headline=_headline(run),
        when=_when(run),
        glance=tuple(_glance(run, metric)),
        problem=_problem(run),
        asked=_asked(run),
        spec=Table("The spec, defaults included", ("field", "value"), tuple(_flat(run.get("spec") or {}))),
        lanes=tuple(_lane(stage, bar) for stage, bar in zip(stages, bars, strict=True)),
        whole=figures.duration(whole_s),
        stages=_stages(stages),
        ladder=_ladder(run, metric),
        search=_search(run),
        pareto=charts.pareto(points, floor=floor, better_up=metric not in LESS_IS_BETTER) if points else None,
        quality=f"validation {metric}",
        legend=tuple((kind, told) for kind, told in MARKS.items() if kind in {each.kind for each in points}),
        candidates=_candidates(run, metric),
        comparison=_comparison(run, metric),
        payback=payback.told(found) if found else "",
        confusion=_confusion(mistakes) if mistakes.get("kind") == "confusion" else None,
        residuals=_residuals(mistakes) if mistakes.get("kind") == "residuals" else None,
        serving=_serving(run),
        served=_served(run),
        footprint=_footprint(run),
        reaches=spent.compared(run),
        avoided=_avoided(run),
        saved=saved(run),
        greener=tuple(greener.advice(run)),
        groups=_groups(run.get("decisions") or [], brief=brief),
        brief=brief,
        sources=_sources(run),
        made_from=tuple(_made_from(run)),
    )


def saved(run: Mapping[str, Any]) -> str:
    """Return in one sentence what was saved against what; empty when the record compares nothing.

    The counterfactual is the model as it was trained, served for the same predictions.
    """
    if run.get("status") == "reused" and run.get("reuses"):
        return f"No job was started: the same bytes, spec and job code as {run['reuses']}, whose model serves."
    before, after = (_path(run, "comparison", side, "per_million") or {} for side in ("original", "shipped"))
    if not before or not after:
        return ""
    parts = []
    for name, _, unit in QUANTITIES:
        old, new = float(before[name]["value"]), float(after[name]["value"])
        parts.append(f"{figures.number(new)} {unit} instead of {figures.number(old)}{_change(old, new)}")
    return "A million predictions take " + ", ".join(parts) + ", against the model as it was trained; estimated."


def _change(old: float, new: float) -> str:
    """Return by how much less or more, in percent, when it is a percent at least."""
    if old <= 0:
        return ""
    percent = 100 * (1 - new / old)
    if abs(percent) < 1:
        return " (the same)"
    return f" ({abs(percent):.0f} % {'less' if percent > 0 else 'more'})"


def _headline(run: Mapping[str, Any]) -> str:
    status, error = run.get("status"), run.get("error") or {}
    if error:
        return str(error.get("message") or error.get("type") or "It is not known what went wrong.")
    if status == "succeeded" and run.get("scored_uri"):
        return f"{run.get('source')} is scored by the model of {run.get('scored_by')}."
    if status == "succeeded":
        served = f"served at {run.get('address')}" if run.get("deployed") else f"not served: {run.get('deploy_reason')}"
        return f"The model {run.get('chosen')} is {served}."
    return str(run.get("reason") or "")


def _when(run: Mapping[str, Any]) -> str:
    begun, ended = (_moment(run.get(name)) for name in ("started_at", "ended_at"))
    if not ended:
        return ""
    told = f"ended {ended:%Y-%m-%d %H:%M:%S} UTC"
    return f"{told}, after {figures.duration((ended - begun).total_seconds())}" if begun else told


def _moment(text: Any) -> datetime | None:
    return datetime.fromisoformat(str(text)) if text else None


def _glance(run: Mapping[str, Any], metric: str) -> Iterator[Figure]:
    used = run.get("footprint") or {}
    comparison = run.get("comparison") or {}
    if comparison.get("shipped") and comparison.get("original"):
        original, shipped = comparison["original"], comparison["shipped"]
        test = figures.number(_path(shipped, "quality", "test"), 4)
        yield Figure(f"Test {metric}", test, f"original {figures.number(_path(original, 'quality', 'test'), 4)}")
        before, after = (float(side["per_million"]["energy_kwh"]["value"]) for side in (original, shipped))
        label, change = "Energy of a prediction", _change(before, after).strip(" ()") or "-"
        yield Figure(label, change, f"{figures.number(after)} against {figures.number(before)} kWh a million")
        size = figures.size(shipped.get("size_bytes"))
        yield Figure("Size of the model", size, f"original {figures.size(original.get('size_bytes'))}")
    for name, label, unit in QUANTITIES:
        band = used.get(name)
        if band and band["high"]:
            note = f"{figures.number(band['low'])} to {figures.number(band['high'])}, estimated"
            yield Figure(f"{label} of this run", f"{figures.number(band['value'])} {unit}", note)


def _problem(run: Mapping[str, Any]) -> Problem | None:
    error = run.get("error")
    if not error:
        return None
    where = tuple(
        f"{name} {error[name]}" for name in ("stage", "file", "line", "column") if error.get(name) is not None
    )
    commands: tuple[str, ...] = ()
    if run.get("status") in ("failed", "cancelled"):
        commands = (f"ebb logs {run.get('run_id')}", f"ebb retry {run.get('run_id')}")
    message = str(error.get("message") or "no reason was given")
    kind = error.get("type")
    return Problem(f"{kind}: {message}" if kind else message, where, str(error.get("remedy") or ""), commands)


def _asked(run: Mapping[str, Any]) -> Table:
    drop = run.get("drop") or {}
    rows: list[tuple[str, str]] = []
    if drop:
        rows.append(("dropped", f"s3://{drop.get('bucket')}/{drop.get('key')}, {figures.size(drop.get('size_bytes'))}"))
        rows.append(("at", str(drop.get("uploaded_at") or "-")))
    sources = run.get("sources") or []
    if sources:
        whole = run.get("source_count") or len(sources)
        rows.append(("data", f"{whole} object{'s' * (whole != 1)}, {figures.size(run.get('size_bytes'))}"))
    rows += [(name, str(run[name])) for name in ("format", "task", "target", "metric") if run.get(name)]
    if run.get("rows"):
        rows.append(("rows", ", ".join(f"{name} {int(each):,}" for name, each in run["rows"].items())))
    if run.get("reason"):
        rows.append(("outcome", str(run["reason"])))
    return Table("The drop, and what was found in it", ("what", "value"), tuple(rows))


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, each in value.items():
        if isinstance(each, Mapping) and each:
            yield from _flat(each, f"{prefix}{name}.")
        elif each not in ({}, []):
            yield f"{prefix}{name}", ", ".join(map(str, each)) if isinstance(each, list) else _plain(each)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return figures.number(value, 4) if isinstance(value, float) else str(value)


def _span(stage: Mapping[str, Any]) -> tuple[float, float] | None:
    begun, ended = (_moment(stage.get(name)) for name in ("started_at", "ended_at"))
    return (begun.timestamp(), ended.timestamp()) if begun and ended else None


def _energy(stage: Mapping[str, Any]) -> float | None:
    return _path(stage, "footprint", "energy_kwh", "value")


def _lane(stage: Mapping[str, Any], bar: charts.Bar | None) -> Lane:
    energy = _energy(stage)
    used = f", {figures.number(energy)} kWh" if energy is not None else ""
    share = f" ({bar.share:.0f} %)" if bar and energy is not None else ""
    return Lane(str(stage["stage"]), f"{figures.duration(stage.get('duration_s'))}{used}{share}", bar)


def _stages(stages: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for stage in stages:
        for part in (stage, *(stage.get("earlier_attempts") or ())):
            used = part.get("footprint") or {}
            load = part.get("utilisation")
            rows.append(
                (
                    str(stage["stage"]),
                    f"{part.get('status')}, attempt\u00a0{part.get('attempt')}",
                    str(part.get("instance_type") or "-"),
                    figures.duration(part.get("duration_s")),
                    figures.duration(part.get("billable_s")),
                    figures.number(part.get("cpu_seconds")),
                    "-" if load is None else f"{100 * float(load):.0f} %",
                    *(_band(used.get(name)) for name, _, _ in QUANTITIES),
                )
            )
    columns = ("stage", "status", "machine", "took", "billed", "CPU s", "load", "kWh", "gCO2e", "USD")
    return Table("Each stage with what it took", columns, tuple(rows), frozenset(range(3, 10)))


def _ladder(run: Mapping[str, Any], metric: str) -> Table | None:
    tried, taken = rungs.of(run)
    rows = tuple(
        (
            str(rung["name"]),
            str(rung.get("described") or "-"),
            figures.number((rung.get("quality") or {}).get("validation"), 4),
            figures.number(rung.get("cpu_seconds")),
            _band(rung.get("energy_kwh")),
            str(rung.get("stopped_because") or "-"),
            str(rung.get("reason") or "-"),
        )
        for rung in tried
    )
    marked = frozenset(i for i, rung in enumerate(tried) if rung["name"] == taken)
    columns = ("recipe", "network", f"validation {metric}", "CPU s", "kWh", "ended because", "why it went on or not")
    return Table("Recipes that training tried", columns, rows, frozenset({2, 3, 4}), marked) if rows else None


def _search(run: Mapping[str, Any]) -> str:
    found = tuning.of(run)
    return tuning.in_words(found) if found else ""


def _floor(run: Mapping[str, Any]) -> float | None:
    told = (each for each in run.get("decisions") or () if each.get("what") == "candidate to ship")
    floor = next(((each.get("numbers") or {}).get("floor") for each in told), None)
    return float(floor) if floor is not None else None


def _points(run: Mapping[str, Any], metric: str) -> Iterator[charts.Point]:
    original = (run.get("comparison") or {}).get("original") or {}
    sides = [("as trained", "original", original)]
    for each in run.get("candidates") or ():
        name, verdict = str(each.get("name")), str(each.get("verdict") or "")
        if name == run.get("chosen"):
            kind = "shipped"
        elif verdict.startswith("matched or beaten"):
            kind = "beaten"
        elif verdict.startswith(("as lean as", "takes ")):
            kind = "front"
        else:
            kind = "refused"
        sides.append((name, kind, each))
    for name, kind, each in sides:
        energy, quality = each.get("cpu_ms_per_prediction"), _path(each, "quality", "validation")
        if energy is not None and quality is not None:
            told = f"{name}: {figures.number(energy)} CPU-ms a prediction, {metric} {figures.number(quality, 4)}"
            yield charts.Point(name, kind, float(energy), float(quality), f"{told}, {MARKS[kind]}")


def _candidates(run: Mapping[str, Any], metric: str) -> Table | None:
    every = run.get("candidates") or []
    if not every:
        return None
    original = (run.get("comparison") or {}).get("original")
    rows = [("as trained", "-", *_measured(original), "the baseline")] if original else []
    for each in every:
        verdict = str(each.get("verdict") or each.get("reason") or each.get("status") or "-")
        rows.append((str(each.get("name")), str(each.get("runtime") or "-"), *_measured(each), verdict))
    columns = ("candidate", "runtime", metric, "may lose", "CPU-ms", "p50 ms", "rows/s", "size", "memory", "verdict")
    marked = frozenset(i for i, row in enumerate(rows) if row[0] == run.get("chosen"))
    return Table("Every candidate, measured on validation rows", columns, tuple(rows), frozenset(range(2, 9)), marked)


def _measured(each: Mapping[str, Any]) -> tuple[str, ...]:
    memory = each.get("memory_mib")
    return (
        figures.number(_path(each, "quality", "validation"), 4),
        figures.number(each.get("drop_bound"), 2),
        figures.number(each.get("cpu_ms_per_prediction")),
        figures.number(_path(each, "latency_ms", "p50")),
        figures.number(each.get("throughput_rows_per_s")),
        figures.size(each.get("size_bytes")),
        "-" if memory is None else f"{figures.number(memory)} MiB",
    )


def _comparison(run: Mapping[str, Any], metric: str) -> Table | None:
    found = run.get("comparison") or {}
    original, shipped = found.get("original"), found.get("shipped")
    if not original or not shipped:
        return None
    rows = []
    for split in ("test", "validation"):
        pair = [_path(side, "quality", split) for side in (original, shipped)]
        rows.append((f"{split} {metric}", *(figures.number(each, 4) for each in pair), ""))
    intervals = [side.get("quality_interval") or {} for side in (original, shipped)]
    if all(intervals):
        told = (f"{figures.number(each['low'], 4)} to {figures.number(each['high'], 4)}" for each in intervals)
        rows.append(("validation, within chance", *told, ""))
    pair = [original.get("size_bytes"), shipped.get("size_bytes")]
    rows.append(("size", *map(figures.size, pair), _times(*pair)))
    for measure, what in (("end_to_end_latency_ms", "row to answer"), ("latency_ms", "network alone")):
        for name in ("p50", "p95", "p99"):
            pair = [_path(side, measure, name) for side in (original, shipped)]
            rows.append((f"latency {name}, {what}", *(_unit(each, "ms") for each in pair), _times(*pair)))
    pair = [side.get("throughput_rows_per_s") for side in (original, shipped)]
    rows.append(("throughput", *(_unit(each, "rows/s") for each in pair), _times(*reversed(pair))))
    for name, label, unit in (
        ("cpu_ms_per_prediction", "CPU time of a prediction", "ms"),
        ("memory_mib", "memory", "MiB"),
    ):
        pair = [side.get(name) for side in (original, shipped)]
        rows.append((label, *(_unit(each, unit) for each in pair), _times(*pair)))
    for name, _, unit in QUANTITIES:
        bands = [_path(side, "per_million", name) for side in (original, shipped)]
        values = [_path(each, "value") for each in bands]
        rows.append((f"{unit} per million predictions", *map(_band, bands), _times(*values)))
    known = tuple(row for row in rows if row[1] != "-" or row[2] != "-")
    columns = ("", "original", f"shipped: {run.get('chosen')}", "times better")
    return Table("The model as it was trained, and the one that is shipped", columns, known, frozenset({1, 2, 3}))


def _confusion(found: Mapping[str, Any]) -> Confusion:
    """Return the matrix that compile counted: rows are the truth, columns the answers."""
    labels = tuple(str(each) for each in found["labels"])
    rows = []
    for i, (label, counts) in enumerate(zip(labels, found["matrix"], strict=True)):
        total = max(1, sum(counts))
        rows.append((label, tuple(Cell(each, round(100 * each / total), i == j) for j, each in enumerate(counts))))
    caption = f"{found['rows']:,} test rows of the shipped model: a row for each true class, a column for each answer"
    return Confusion(caption, labels, tuple(rows))


def _residuals(found: Mapping[str, Any]) -> Residuals:
    quantiles = {name: float(each) for name, each in found["quantiles"].items()}
    low, high = quantiles["p5"], quantiles["p95"]
    room = (high - low) * 0.1 or 1.0
    first, last = low - room, high + room

    def at(value: float) -> float:
        return round(100 * (value - first) / (last - first), 2)

    rows = [(f"{name[1:]} % are at most", figures.number(each, 4)) for name, each in quantiles.items()]
    rows += [("mean", figures.number(found.get("mean"), 4))]
    rows += [("mean without the sign", figures.number(found.get("mean_absolute"), 4))]
    rows += [("the farthest", figures.number(found.get("largest_absolute"), 4))]
    caption = f"Answer less truth, on {found['rows']:,} test rows of the shipped model, in the target's unit"
    return Residuals(
        Table(caption, ("of the residuals", "value"), tuple(rows), frozenset({1})),
        low=at(low),
        quarter=at(quantiles["p25"]),
        middle=at(quantiles["p50"]),
        three_quarters=at(quantiles["p75"]),
        high=at(high),
        zero=at(0.0) if first <= 0 <= last else None,
    )


def _serving(run: Mapping[str, Any]) -> Table | None:
    decision = _of(run, "kind of serving")
    every = (decision or {}).get("table") or ()
    rows = []
    for each in every:
        month = each.get("month") or {}
        why = "; ".join(f"{one.get('field')}: {one.get('why')}" for one in each.get("excluded") or ())
        cold = each.get("cold_start_s")
        rows.append(
            (
                str(each.get("kind")),
                *(_band(month.get(name)) for name, _, _ in QUANTITIES),
                _band(cold) if cold else "-",
                why or "possible",
            )
        )
    columns = ("kind", "kWh a month", "gCO2e a month", "USD a month", "cold start, s", "excluded by")
    marked = frozenset(i for i, row in enumerate(rows) if row[0] == (decision or {}).get("chosen"))
    return (
        Table("What each kind of serving would take", columns, tuple(rows), frozenset({1, 2, 3, 4}), marked)
        if rows
        else None
    )


def _served(run: Mapping[str, Any]) -> str:
    decision = _of(run, "kind of serving")
    return f"{decision['chosen']}: {decision['reason']}" if decision else ""


def _of(run: Mapping[str, Any], what: str) -> Mapping[str, Any] | None:
    return next((each for each in run.get("decisions") or () if each.get("what") == what), None)


def _footprint(run: Mapping[str, Any]) -> Table | None:
    caption = "What the whole run took, image builds and failed attempts included"
    rows = spent.rows(run)
    return Table(caption, ("quantity", "low", "middle", "high"), rows, frozenset({1, 2, 3})) if rows else None


def _avoided(run: Mapping[str, Any]) -> Table | None:
    rows = spent.saved(run)
    caption = "What was avoided, against what would have been done instead"
    return Table(caption, spent.SAVED, rows, frozenset({2, 3, 4, 5})) if rows else None


def _groups(decisions: Sequence[Mapping[str, Any]], *, brief: bool) -> tuple[Group, ...]:
    found = []
    for stage, each in groupby(decisions, key=lambda one: str(one.get("stage") or "deploy")):
        told = tuple(_decision(one, brief=brief) for one in each)
        found.append(Group(STAGES.get(stage, stage), told, stage in OPEN))
    return tuple(found)


def _decision(decision: Mapping[str, Any], *, brief: bool) -> Decision:
    what, chosen = str(decision.get("what")), str(decision.get("chosen"))
    if brief:
        return Decision(what, chosen, str(decision.get("reason") or ""))
    return Decision(
        what,
        chosen,
        str(decision.get("reason") or ""),
        tuple((str(name), _plain(value)) for name, value in (decision.get("numbers") or {}).items()),
        tuple(str(each) for each in decision.get("alternatives") or ()),
        str(decision.get("source") or ""),
    )


def _sources(run: Mapping[str, Any]) -> Table:
    rows = tuple(
        tuple(str(each.get(name) or "-") for name in ("what", "source", "year", "confidence"))
        for each in run.get("coefficients") or ()
    )
    return Table("Where the coefficients come from", ("coefficient", "source", "year", "confidence"), rows)


def _made_from(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from ((f"version of {name}", str(each)) for name, each in (run.get("versions") or {}).items())
    for name in ("identity", "generation", "endpoint_name", "record_uri", "execution_arn"):
        if run.get(name) is not None:
            yield name.replace("_", " "), str(run[name])


def _band(band: Any) -> str:
    return figures.band(band, "").strip() if band else "-"


def _unit(value: Any, unit: str) -> str:
    return "-" if value is None else f"{figures.number(value)} {unit}"


def _times(large: Any, small: Any) -> str:
    return f"{float(large) / float(small):.2f}" if large is not None and small else ""


def _path(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
