"""What a run is predicted to take, before it runs: time, energy, carbon and cost of each stage that it needs.

`predict` is pure and needs no run: a spec, what is known of the data, and what the project's last run was measured to
use (`ebb.rightsizing.remembered`, the project's item in the ledger) are enough. Where the last run did the same work,
it is scaled by how much more there is to read; where only its recipe was another (fewer rungs, no search), by the two
recipes too; else the catalog's estimate stands, with a wide band. The plan keeps it as `plan["predicted"]`.

A prediction chooses, admits and waits; it is never reported as measured.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ebb import catalog, footprint, names, rightsizing, sizing, tuning
from ebb.carbon import Band
from ebb.engine import SPARK, Engine
from ebb.footprint import Footprint
from ebb.plan_facts import RunFacts, spark_engine
from ebb.rightsizing import Measured
from ebb.sizing import Choice, Data
from ebb.spec import PipelineSpec
from ebb.spec_values import ENCODER, IMAGES, METHODS, RUNGS, TEXTS

# How far the truth may lie from a prediction, as factors of its time. Estimates: the stages of the recorded run of
# digits (tests/unit/data/digits_run.json) took 0.2 to 1.8 times theirs; a quarter of room beyond. Measured: assumed.
ESTIMATED = Band(0.2, 1.0, 4.0)
REPEATED = Band(0.75, 1.0, 1.25)
UNSETTLED = 2.0  # a ladder that ended early may climb one rung more next time; assumed
# Spot capacity is up to 90 % cheaper, and a prediction counts the price on demand. Source:
# https://docs.aws.amazon.com/sagemaker/latest/dg/model-managed-spot-training.html
SPOT_LEAST = 0.1
# What the recipes take of a ladder's time. small-net to net as in the recorded run of digits, the rest assumed.
RUNG_WORK: Mapping[str, float] = dict(zip(RUNGS, (0.05, 0.2, 0.25, 0.75, 4.0), strict=True))
SEARCH_WORK = 2.0  # what a search inside the training job adds, in ladders; without a budget of its own; assumed
COMPRESS_START_S = 60.0  # of CPU time, until the first network is looked at; as in sizing's estimate
METHOD_WORK: Mapping[str, float] = {"distill": 0.5, "prune": 0.4, "quantize": 0.1}  # of compress; assumed
_TRAIN_RECIPE, _COMPRESS_RECIPE = ("train.rungs", "train.tune"), ("compress.methods", "compress.budget")


@dataclass(frozen=True)
class Predicted:
    """What one stage is predicted to take.

    `duration_s` is wall time. `at_most` is what a budget sets aside (`ebb.budgets`): the longest time at the middle of
    each coefficient, because what is spent is counted at the middle of the same coefficients.
    """

    duration_s: Band
    footprint: Footprint
    basis: str
    at_most: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the prediction as the plan holds it: durations in s, energy in kWh, carbon in g, cost in USD."""
        return {
            "duration_s": self.duration_s.as_dict(),
            **self.footprint.as_dict(),
            "basis": self.basis,
            "at_most": dict(self.at_most),
        }


def of_run(run: RunFacts, chosen: Mapping[str, Choice], region: str) -> dict[str, Predicted]:
    """Return what the stages of a run that are still to do are predicted to take."""
    return predict(
        run.spec,
        run.data,
        measured=run.measured,
        region=region,
        chosen=chosen,
        finished=run.finished,
        spark=spark_engine(run) if "process" not in run.finished else None,
    )


def predict(
    spec: PipelineSpec,
    data: Data,
    *,
    measured: Mapping[str, Any],
    region: str,
    chosen: Mapping[str, Choice] | None = None,
    finished: Collection[str] = (),
    spark: Engine | None = None,
) -> dict[str, Predicted]:
    """Return by stage what a run of this spec over this data is predicted to take; of finished stages nothing.

    `measured` is what the project remembers of its last run, empty before its first; without `chosen` the machines are
    chosen here, without accelerators.
    Raises: NoFeasibleInstanceError when no instance holds a stage.
    """
    found = {}
    for stage in names.STAGES:
        if stage in finished:
            continue
        if stage == "process" and spark is not None and spark.name == SPARK:
            found[stage] = _on_spark(spark, spec, region)
            continue
        last = rightsizing.read(measured.get(stage))
        choice = (chosen or {}).get(stage) or rightsizing.for_stage(stage, spec, data, last, accelerators=())
        found[stage] = _stage(stage, spec, data, last, choice, region)
    return found


def total(predicted: Mapping[str, Predicted]) -> Footprint:
    """Return what all stages are predicted to take together."""
    return sum((each.footprint for each in predicted.values()), start=footprint.NOTHING)


def _stage(stage: str, spec: PipelineSpec, data: Data, last: Measured | None, choice: Choice, region: str) -> Predicted:
    machine, limit_s = choice.instance, spec.train.max_runtime.total_seconds()
    known = replace(data, task=data.task or spec.task)
    seconds, cpu_s, basis = _time(stage, spec, known, last, choice)
    machines, trials, most_s = sizing.machines(stage, spec), 1.0, limit_s
    if stage == "train" and tuning.in_jobs(spec, data.task):
        search = tuning.search(spec, data.task)
        machines, trials, most_s = search.jobs, search.trials / search.jobs, float(search.budget_s)
        basis += f"; {search.trials} trials of it, {search.jobs} at once"
    wall = Band(*(min(one * trials, most_s) for one in (seconds.low, seconds.value, seconds.high)))
    load = footprint.utilization(cpu_s, seconds.value, machine.vcpu)
    spot = stage in sizing.TRAINING and spec.train.spot
    return _priced(
        wall,
        lambda duration_s: footprint.of_job(
            machine.name, duration_s=duration_s * machines, billable_s=duration_s * machines, load=load, region=region
        ),
        f"{machine.name}: {basis}",
        spot=spot,
    )


def _time(stage: str, spec: PipelineSpec, data: Data, last: Measured | None, choice: Choice) -> tuple[Band, float, str]:
    """Return the time of a stage's job on its machine, its CPU time in s on each machine, and what both rest on."""
    limit_s = spec.train.max_runtime.total_seconds()
    grown = sizing.growth(stage, data, replace(last.data, task=last.data.task or spec.task)) if last else None
    ratio = _recipes_ratio(stage, last.asked, spec, data) if last else None
    before = catalog.instance(last.instance_type) if last else None
    if last is None or grown is None or ratio is None or before is None:
        work = sizing.workload(stage, data, max_runtime_s=limit_s)
        share = recipe(stage, spec, data)
        cpu_s = _within_budget(stage, spec, work.cpu_s * share) / sizing.machines(stage, spec)
        seconds = _bounded(sizing.duration_s(replace(work, cpu_s=cpu_s), sizing.processors_of(choice.instance)), spec)
        if sizing.trains_itself(spec, data) and stage in sizing.TRAINING:
            return Band(seconds.low, seconds.value, max(limit_s, seconds.high)), cpu_s, "a script's time is not known"
        told = "" if share == 1 else f", {share:.2g} of it for this recipe"
        return seconds, cpu_s, f"estimated from the data's size{told}"
    limits: dict[str, Any] = {"max_runtime_s": limit_s}
    then = rightsizing.workload(stage, data, last, before, 1.0, **limits, machines=last.instances)
    now = rightsizing.workload(stage, data, last, before, grown, **limits, machines=sizing.machines(stage, spec))
    work = replace(now, cpu_s=now.cpu_s * ratio, wait_s=now.wait_s * ratio)
    work = replace(work, cpu_s=_within_budget(stage, spec, work.cpu_s))
    overhead_s = max(0.0, last.billable_s - last.duration_s)
    # What the model of CPU time and waiting does not explain of the last run, reading and writing, takes as long again.
    unexplained = last.duration_s / max(sizing.duration_s(then, sizing.processors_of(before)), 1e-9)
    middle = sizing.duration_s(work, sizing.processors_of(choice.instance)) * unexplained
    far = max(grown * ratio, 1 / (grown * ratio)) ** 0.5  # the further from what was measured, the less is known
    high = REPEATED.high * far * (1.0 if last.settled or stage == "process" else UNSETTLED)
    seconds = Band(middle * REPEATED.low / far, middle, middle * high) + Band.exact(overhead_s)
    told = f"measured in {last.run_id}, {grown:.3g} times its data"
    return seconds, work.cpu_s, told if ratio == 1 else f"{told}, {ratio:.2g} times its recipe"


def _bounded(seconds: float, spec: PipelineSpec) -> Band:
    """Return an estimate's band; a job is stopped at its limit."""
    limit_s = spec.train.max_runtime.total_seconds()
    return Band(*(min(seconds * factor, limit_s) for factor in (ESTIMATED.low, ESTIMATED.value, ESTIMATED.high)))


def _within_budget(stage: str, spec: PipelineSpec, cpu_s: float) -> float:
    """Return the CPU time of compress no longer than what compress.budget leaves it, its own start beside it."""
    if stage != "compress" or spec.compress.budget is None:
        return cpu_s
    return min(cpu_s, COMPRESS_START_S + spec.compress.budget.total_seconds())


def recipe(stage: str, spec: PipelineSpec, data: Data) -> float:
    """Return the work of a spec's recipe as a multiple of that of the usual one, which the estimates are of."""
    if stage == "train":
        return _train_recipe(spec.train.rungs, spec.resolved()["train"]["tune"], spec, data)
    if stage == "compress":
        return _compress_recipe(spec.compress.methods)
    return 1.0


def _train_recipe(rungs: Any, tune: Any, spec: PipelineSpec, data: Data) -> float:
    if sizing.trains_itself(spec, data):
        return 1.0
    usual = ladder(spec, data)
    asked = [name for name in usual if name in (rungs or usual)] or list(usual)
    plain = [name for name in usual if name != ENCODER]
    share = sum(RUNG_WORK[name] for name in asked) / sum(RUNG_WORK[name] for name in plain)
    inside = tune and int(tune.get("jobs") or 1) == 1
    return share * (1 + SEARCH_WORK) if inside else share


def ladder(spec: PipelineSpec, data: Data) -> tuple[str, ...]:
    """Return the recipes that a spec's training may try, cheapest first: `ebb_jobs.kinds` has those of each kind."""
    encoder = (ENCODER,) if spec.train.pretrained else ()
    kinds = {IMAGES: ("small-net", "net"), TEXTS: ("linear", "net", *encoder)}
    return kinds.get(spec.task or data.task or "", tuple(name for name in RUNGS if name != ENCODER))


def _compress_recipe(methods: Any) -> float:
    return sum(METHOD_WORK[name] for name in METHODS if name in (methods or ()))


def _recipes_ratio(stage: str, asked: str, spec: PipelineSpec, data: Data) -> float | None:
    """Return the work of today's recipe per that of the last run's; None when more than the recipe has changed."""
    now, then = json.loads(rightsizing.asked(stage, spec)), json.loads(asked or "null")
    if then is None:
        return None
    changed = {name for name in now.keys() | then.keys() if now.get(name) != then.get(name)}
    if not changed:
        return 1.0
    if not changed <= {*_TRAIN_RECIPE, *_COMPRESS_RECIPE}:
        return None
    if stage == "train":
        before = _train_recipe(then.get("train.rungs"), then.get("train.tune"), spec, data)
        return recipe(stage, spec, data) / before
    if stage == "compress":
        return recipe(stage, spec, data) / max(_compress_recipe(then.get("compress.methods")), 0.1)
    return 1.0


def _on_spark(spark: Engine, spec: PipelineSpec, region: str) -> Predicted:
    seconds = _bounded(float(spark.numbers["expected_duration_s"]), spec)
    return _priced(
        seconds,
        lambda duration_s: footprint.of_spark(
            str(spark.worker_type), workers=spark.workers, duration_s=duration_s, region=region
        ),
        f"Glue, {spark.workers} x {spark.worker_type}: estimated from the data's size",
        spot=False,
    )


def _priced(seconds: Band, priced: Any, basis: str, *, spot: bool) -> Predicted:
    """Return the prediction of a time: each bound of it at the same bound of every coefficient."""
    low, value, high = (priced(each) or footprint.NOTHING for each in (seconds.low, seconds.value, seconds.high))
    bands = {
        each.name: Band(
            getattr(low, each.name).low * (SPOT_LEAST if spot and each.name == "cost_usd" else 1.0),
            getattr(value, each.name).value,
            getattr(high, each.name).high,
        )
        for each in fields(Footprint)
    }
    most = {name: getattr(high, name).value for name in ("energy_kwh", "carbon_g", "cost_usd")}
    return Predicted(seconds, Footprint(**bands), basis, most)
