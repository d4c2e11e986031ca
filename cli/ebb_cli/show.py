"""`ebb runs`, `ebb show`, `ebb why`: what ran, what came out of it, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape

from ebb import counterfactuals, explain, payback, rightsizing, rungs, tuning
from ebb_cli import output, progress
from ebb_cli.ledger import Ledger
from ebb_cli.problems import EXIT_OF_STATUS, CommandError
from ebb_cli.target import Json, Target

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run id, the beginning of one, or `latest`.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the run has ended; the exit status tells how.")]
# What a caller waits for, HTTP apart, and the part of it that is the network's.
LATENCIES = (("end_to_end_latency_ms", "row to answer"), ("latency_ms", "network alone"))


def runs(
    target: Target,
    project: Annotated[str | None, typer.Option("--project", help="Only the runs of this project.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    found = list(Ledger(target).runs(project, limit))
    if as_json:
        output.emit_json(found)
        return
    if not found:
        output.out().print("No runs yet: ebb drop PATH --project NAME starts one.")
        return
    columns = ("run", "status", "attempt", "began", "took", "chosen", "remark")
    rows = [
        (
            run["run_id"], output.status(run["status"]), run["attempt"], output.moment(run["created_at"]),
            output.duration(run["duration_s"]), run["chosen"], escape(_remark(run)),
        )
        for run in found
    ]  # fmt: skip
    output.table("", columns, rows, right=("attempt", "took"))


def _remark(run: Mapping[str, Any]) -> str:
    if run["reuses"]:
        return f"same bytes, spec and job code as {run['reuses']}"
    if error := run["error"]:
        return str(error.get("message") or error.get("type") or "").splitlines()[0][:90]
    window = run.get("window") or {}
    if run["status"] == "running" and window.get("state") == "waiting":
        return f"{window['stage']} waits for {output.moment(window['begins'])}"
    admission = run.get("admission") or {}
    if run["status"] == "running" and admission.get("outcome") == "wait":
        return f"waits until {output.moment(admission['until'])} for its budget"
    return str(run["reason"] or "")


def show(target: Target, run: Run, wait: Wait = False, as_json: Json = False) -> None:
    """Show a run: its stages with seconds, the candidates, and the model before and after."""
    ledger = Ledger(target)
    run_id = ledger.resolve(run)
    document = progress.follow(target, ledger, run_id) if wait else require(ledger, run_id)
    finish(document, as_json=as_json, with_status=wait)


def require(ledger: Ledger, run_id: str) -> dict[str, Any]:
    """Return a run's document; an id whose items have gone since is an error."""
    document = ledger.run(run_id)
    if document is None:
        raise CommandError(f"The ledger holds no run {run_id}.", "ebb runs lists them.")
    return document


def finish(document: dict[str, Any], *, as_json: bool, with_status: bool = True) -> None:
    """Print a run, and end the command with the exit status that its status asks for."""
    if as_json:
        output.emit_json(document)
    else:
        print_run(document)
    if with_status and (code := EXIT_OF_STATUS.get(document["status"], 1)):
        raise typer.Exit(code)


def print_run(run: Mapping[str, Any]) -> None:
    """Print a run for people."""
    say = output.out().print
    say(f"[bold]{escape(run['run_id'])}[/]  {output.status(run['status'])}  {output.duration(run['duration_s'])}")
    if run["task"]:
        judged = f", judged by {run['metric']}" if run["metric"] else ""
        target = f", target {run['target']}" if run["target"] else ""
        say(f"{run['task']}{target}{judged}", markup=False)
    if run["reuses"]:
        say(f"The same bytes, spec and job code as {run['reuses']}: no job was started (ebb show {run['reuses']}).")
    elif run["reason"]:
        say(str(run["reason"]), markup=False, soft_wrap=True)
    if run["error"]:
        _print_error(run)
    _print_admission(run)
    _print_window(run)
    _print_stages(run)
    _print_ladder(run)
    _print_search(run)
    _print_levers(run)
    _print_candidates(run)
    print_comparison(run)
    _print_payback(run)
    print_serving(run)
    print_right_sizing(run)
    if run.get("scored_uri"):
        say(f"\n{run['source']}, scored by the model of {run['scored_by']}: {run['scored_uri']}", soft_wrap=True)
    if run["endpoint_name"] and run["deployed"]:
        say(f"\nserved by endpoint {run['endpoint_name']}: ebb invoke {run['project']} FILE")
    elif run["deploy_reason"]:
        say(f"\nnot deployed: {run['deploy_reason']}", markup=False, soft_wrap=True)
    if run["record_uri"]:
        say(f"record {run['record_uri']}", markup=False, soft_wrap=True)


def _print_error(run: Mapping[str, Any]) -> None:
    error = run["error"]
    where = [str(error["file"])] if error.get("file") else []
    where += [f"line {error['line']}"] if error.get("line") else []
    where += [f"column {error['column']}"] if error.get("column") else []
    where += [f"stage {error['stage']}"] if error.get("stage") and not where else []
    say = output.out().print
    message = str(error.get("message") or error.get("type"))
    prefix = f"{', '.join(where)}: " if where and not message.startswith(str(error.get("file") or where[0])) else ""
    say(f"{prefix}{message}", style="red", markup=False, soft_wrap=True)
    if error.get("remedy"):
        say(f"What to do: {error['remedy']}", markup=False, soft_wrap=True)
    elif run["status"] in {"failed", "cancelled"}:
        say(f"ebb logs {run['run_id']} shows the jobs' lines; ebb retry {run['run_id']} goes on from the failed stage.")


def _print_stages(run: Mapping[str, Any]) -> None:
    if not run["stages"]:
        return
    rows = [
        (
            stage["stage"], output.status(stage["status"]).replace("finished", "[green]finished[/]"), stage["attempt"],
            output.duration(stage["duration_s"]), output.number(stage["cpu_seconds"]), stage["instance_type"],
            output.band((stage["footprint"] or {}).get("carbon_g"), "g"), escape(progress.summary(stage)),
        )
        for stage in run["stages"]
    ]  # fmt: skip
    columns = ("stage", "status", "attempt", "took", "CPU s", "instance", "gCO2e (low to high)", "what came out")
    output.table("\nStages", columns, rows, right=("attempt", "took", "CPU s"))
    if footprint := run["footprint"]:
        units = {"energy_kwh": "kWh", "carbon_g": "gCO2e", "cost_usd": "USD on AWS"}
        told = ", ".join(output.band(footprint.get(name), unit) for name, unit in units.items())
        output.out().print(f"whole run: {told}", soft_wrap=True)
    used = [(str(stage["stage"]), rightsizing.use(stage)) for stage in run["stages"]]
    for name, words in used:
        if words:
            output.out().print(f"used by {name}: {words}", markup=False, soft_wrap=True)


def _print_ladder(run: Mapping[str, Any]) -> None:
    """Print the recipes that training tried, cheapest first: their quality, what they took, and why it went on."""
    tried, taken = rungs.of(run)
    if not tried:
        return
    rows = []
    for rung in tried:
        quality, band = (rung.get("quality") or {}).get("validation"), rung.get("quality_interval") or {}
        spread = f" ({output.number(band['low'], 4)}-{output.number(band['high'], 4)})" if band else ""
        name = f"[bold green]{rung['name']} ✓[/]" if rung["name"] == taken else str(rung["name"])
        rows.append(
            (
                name, f"{output.number(quality, 4)}{spread}", output.number(rung.get("cpu_seconds")),
                output.band(rung.get("energy_kwh"), "kWh"), str(rung.get("stop") or "-"),
                escape(str(rung.get("reason") or "")),
            )
        )  # fmt: skip
    columns = ("recipe", str(run["metric"] or "quality"), "CPU s", "energy", "ended by", "why it went on or not")
    output.table("\nTraining, a ladder", columns, rows, right=("CPU s",))


def _print_search(run: Mapping[str, Any]) -> None:
    """Print what a search over the recipe tried, each trial with what it found and took, the best one marked."""
    search = tuning.of(run)
    if not search:
        return
    best = (search.get("best") or {}).get("trial")
    rows = []
    for trial in search["trials"]:
        knobs = ", ".join(f"{name} {value}" for name, value in trial["knobs"].items())
        if trial.get("goes_on_from") is not None:
            knobs += f", from the weights of {trial['goes_on_from']}"
        number = f"[bold green]{trial['number']} ✓[/]" if trial["number"] == best else str(trial["number"])
        found = trial.get("validation", trial.get("objective"))
        took = trial.get("cpu_seconds", trial.get("seconds"))
        energy = output.band(trial.get("energy_kwh"), "kWh")
        rows.append((number, str(trial["status"]), output.number(found, 4), output.number(took), energy, escape(knobs)))
    columns = ("trial", "ended", "quality", "s", "energy", "knobs, as multiples of the recipe's")
    output.table(f"\nSearch {search['where']}", columns, rows, right=("s",))
    output.out().print(escape(tuning.in_words(search)), soft_wrap=True)


def _print_levers(run: Mapping[str, Any]) -> None:
    """Print what made the training that was taken cheaper, what each lever gave, and where that is known from."""
    if used := rungs.levers(run):
        rows = [(escape(str(each["name"])), escape(str(each["gave"])), escape(str(each["from"]))) for each in used]
        output.table("\nLevers of that training", ("lever", "what it gave", "known from"), rows)


def _print_candidates(run: Mapping[str, Any]) -> None:
    """Print every candidate with what was measured and why it was or was not taken, the original first."""
    if not run["candidates"]:
        return
    rows = []
    if original := (run["comparison"] or {}).get("original"):
        # A script's model is compared with what the script exported, every other one with the network in PyTorch.
        described = str(original.get("described") or ("ONNX" if run["task"] == "custom" else ""))
        name = "as exported" if run["task"] == "custom" else "as trained"
        runtime = "onnxruntime" if "ONNX" in described else "pytorch"
        rows.append((name, *_measured({**original, "runtime": runtime}), "the baseline"))
    for item in run["candidates"]:
        chosen = item.get("name") == run["chosen"]
        name = f"[bold green]{item.get('name')} ✓[/]" if chosen else str(item.get("name"))
        told = str(item.get("verdict") or item.get("reason") or item.get("status") or "")
        if chosen:
            told = told.partition(": ")[0]  # what follows are the figures of this row; `ebb why` has them all
        measures = _measured(item) if item.get("status") == "measured" else (*_runtime(item), *["-"] * 6)
        rows.append((name, *measures, escape(told)))
    metric = str(run["metric"] or "quality")
    columns = ("candidate", "runtime", metric, "may lose", "p50 ms", "rows/s", "size", "CPU-ms", "verdict")
    output.table("\nCandidates, on validation data", columns, rows, right=columns[2:8])


def _runtime(item: Mapping[str, Any]) -> tuple[str]:
    return (str(item.get("runtime") or "-"),)


def _measured(item: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a candidate's figures; `may lose` bounds how much worse than the original it is, chance included."""
    quality, latency = item.get("quality") or {}, item.get("latency_ms") or {}
    return (
        *_runtime(item), output.number(quality.get("validation"), 4), output.number(item.get("drop_bound"), 2),
        output.number(latency.get("p50")), output.number(item.get("throughput_rows_per_s")),
        output.size(item.get("size_bytes")), output.number(item.get("cpu_ms_per_prediction")),
    )  # fmt: skip


def print_comparison(run: Mapping[str, Any]) -> None:
    """Print the table of the original against the shipped model, each with its unit and, where known, its band."""
    comparison = run["comparison"]
    if not comparison or not comparison.get("shipped") or not comparison.get("original"):
        return  # nothing to ship, or a model that is served as its script left it
    original, shipped = comparison["original"], comparison["shipped"]
    quality = [output.number(_path(side, ("quality", "test")), 4) for side in (original, shipped)]
    rows: list[tuple[str, ...]] = [
        (f"test {run['metric']}", *quality, ""),
        ("size", output.size(original.get("size_bytes")), output.size(shipped.get("size_bytes")),
         _ratio(original.get("size_bytes"), shipped.get("size_bytes"))),
    ]  # fmt: skip
    for measure, what in LATENCIES:
        for name in ("p50", "p99"):
            before, after = (_path(side, (measure, name)) for side in (original, shipped))
            if before is None and after is None:
                continue
            rows.append((f"latency {name}, {what}", _unit(before, "ms"), _unit(after, "ms"), _ratio(before, after)))
    before, after = original.get("throughput_rows_per_s"), shipped.get("throughput_rows_per_s")
    rows.append(("throughput, batch 32", _unit(before, "rows/s"), _unit(after, "rows/s"), _ratio(after, before)))
    before, after = original.get("memory_mib"), shipped.get("memory_mib")
    rows.append(("memory", _unit(before, "MiB"), _unit(after, "MiB"), _ratio(before, after)))
    rows += _per_million(original, shipped)
    output.table("\nOriginal against shipped", ("", "original", f"shipped: {run['chosen']}", "better by"), rows)


def _print_payback(run: Mapping[str, Any]) -> None:
    """Print what compression took and when it has paid for itself."""
    if found := payback.payback(run["stages"], run["comparison"]):
        output.out().print(payback.told(found), soft_wrap=True)


def print_serving(run: Mapping[str, Any]) -> None:
    """Print the kind of serving that was chosen, why, and what each kind would take."""
    decision = run["serving"]
    if not decision:
        return  # not deployed, or by an earlier version
    say = output.out().print
    say(f"\n[bold]Served as[/] {escape(decision['chosen'])}: {escape(decision['reason'])}", soft_wrap=True)
    for line in explain.kinds(decision):
        say(line, markup=False, soft_wrap=True)


def _print_admission(run: Mapping[str, Any]) -> None:
    """Say what a budget has made of the run, where it is not what it was asked for; a refusal is its error."""
    admission = run.get("admission") or {}
    if admission.get("outcome") == "wait" and run["status"] == "running":
        told = f"waits until {output.moment(admission['until'])}: {admission['said']}"
    elif admission.get("outcome") == "shrink":
        told = f"a smaller run, {admission['said']} (ebb why {run['run_id']})"
    else:
        return
    output.out().print(f"budget: {told}", markup=False, soft_wrap=True)


def _print_window(run: Mapping[str, Any]) -> None:
    """Say what waited for electricity that emits less, or still waits, and what that is predicted to save."""
    window = run.get("window")
    if not window:
        return
    saved = float(window.get("saved_g") or 0)
    told = f"{output.number(saved, 3)} g less than at its first look" if saved > 0 else "nothing to gain by waiting"
    if window["state"] == "waiting":
        told = f"waits for {output.moment(window['begins'])}, {told}"
    output.out().print(f"{window['stage']}: {told} ({window['source']}; ebb why {run['run_id']})", markup=False)


def print_right_sizing(run: Mapping[str, Any]) -> None:
    """Print what Inference Recommender's load test found, or why it was not used."""
    found = run["right_sizing"]
    if not found:
        return
    say = output.out().print
    say(f"[bold]Right-sized to[/] {escape(found['chosen'])}: {escape(found['reason'])}", soft_wrap=True)
    for each in found.get("figures") or ():
        say(f"  {each}", markup=False)
    if found.get("job_name"):
        cost = f"at most {found['numbers']['USD at most']:.2f} USD (cap {found['at_most_usd']:.2f} USD)"
        say(f"  load test {found['job_name']}, {cost}", markup=False, soft_wrap=True)


def _per_million(original: Mapping[str, Any], shipped: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, unit in (("energy_kwh", "kWh"), ("carbon_g", "gCO2e"), ("cost_usd", "USD")):
        before, after = (_path(side, ("per_million", name)) for side in (original, shipped))
        if before is None and after is None:
            continue
        label = "USD on AWS per million" if unit == "USD" else f"{unit} per million"
        rows.append((f"{label} predictions", output.band(before, ""), output.band(after, ""), _ratio(before, after)))
    return rows


def _path(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _unit(value: Any, unit: str) -> str:
    return "-" if value is None else f"{output.number(value)} {unit}"


def _ratio(large: Any, small: Any) -> str:
    """Return how many times better, from figures with or without a band."""
    more, less = (item.get("value") if isinstance(item, Mapping) else item for item in (large, small))
    return f"{float(more) / float(less):.1f}x" if more is not None and less else "-"


def why(target: Target, run: Run, as_json: Json = False) -> None:
    """Tell why a run did what it did, from the upload to the grams."""
    ledger = Ledger(target)
    run_id = ledger.resolve(run)
    document = require(ledger, run_id)
    decisions, entries = ledger.decisions(run_id), ledger.entries(document)
    if as_json:
        told = [{**each, "would_change": list(counterfactuals.of(each))} for each in decisions]
        output.emit_json({"run_id": run_id, "run": document, "decisions": told, "entries": entries})
        return
    for line in explain.lines(document, decisions, entries):
        output.out().print(line, markup=False, soft_wrap=True)
