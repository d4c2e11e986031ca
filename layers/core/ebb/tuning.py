"""Tuning: where a search runs, and over what. In the training job, or as a SageMaker tuning job of many.

Inside the training job nothing is started twice, and data, codec and the cheaper rungs are there already: a fit there
costs seconds, and ASHA ends most after a twelfth. A training job takes minutes to start, so many of them pay only where
one fit takes long, or where a user's own script is what is searched.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ebb.carbon import Band
from ebb.errors import InvalidSpecError, Rejection
from ebb.events import timestamp
from ebb.spec import PipelineSpec
from ebb.spec_train import RANGES_EXAMPLE, RangeSpec, TuneSpec
from ebb.spec_values import CUSTOM, IMAGES, TEXTS

TRIALS = 20  # training jobs at most, where the spec names no number
LEAST_PATIENCE = 5
OBJECTIVE = "objective"
IN_JOB = "in the training job"  # where the jobs' own search says that it ran
# What a trial prints; more is better, whatever the metric. The last line of a job counts.
OBJECTIVE_REGEX = r"ebb objective (-?[0-9.eE+-]+)"
RUNG = "rung"  # the hyperparameter that says which recipe a trial fits
# Knobs of the recipes, as `ebb_jobs.knobs` has them: (low, high), whole numbers or factors searched by their logarithm.
KNOBS: Mapping[str, tuple[float, float]] = {
    "rate": (0.125, 4.0),
    "decay": (0.05, 20.0),
    "batch": (0.5, 2.0),
    "width": (0.25, 2.0),
    "depth": (1, 4),
    "leaves": (0.25, 4.0),
    "child": (0.25, 8.0),
    "penalty": (0.01, 30.0),
    "columns": (0.5, 1.4),
}
WHOLE = frozenset({"depth"})
_NETWORK = ("rate", "decay", "batch")
# Recipes with knobs by kind of data, cheapest first, and what can be turned of each.
_TABLE: dict[str, tuple[str, ...]] = {
    "trees": ("rate", "leaves", "child", "penalty", "columns"),
    "small-net": (*_NETWORK, "width", "depth"),
    "net": (*_NETWORK, "width", "depth"),
}
_TEXT: dict[str, tuple[str, ...]] = {"net": (*_NETWORK, "width")}
_IMAGE: dict[str, tuple[str, ...]] = {"small-net": _NETWORK, "net": _NETWORK}


@dataclass(frozen=True)
class Search:
    """A search that is a SageMaker tuning job: how many trials, how many at once, over what, judged by what."""

    trials: int
    jobs: int
    patience: int
    budget_s: int
    ranges: dict[str, list[dict[str, Any]]]
    metric_regex: str
    goal: str
    fixed: dict[str, str]
    """Hyperparameters that are the same in every trial."""
    own_metric: bool
    """Whether the log holds a metric of the script's own, instead of the objective that a trial of ours prints."""


def in_jobs(spec: PipelineSpec, task: str | None) -> bool:
    """Return whether a run's search is a SageMaker tuning job: several jobs are asked for, or a script is searched."""
    tune = spec.train.tune
    return tune is not None and (tune.jobs > 1 or _scripted(spec, task))


def search(spec: PipelineSpec, task: str | None) -> Search:
    """Return the search of a spec for which `in_jobs` holds.

    Raises: InvalidSpecError when a script is to be searched and nothing is said of its hyperparameters.
    """
    tune = spec.train.tune
    assert tune is not None
    scripted = _scripted(spec, task)
    if scripted and not tune.ranges:
        raise InvalidSpecError(
            Rejection(
                "nothing-to-search",
                "train.tune: a script trains, and what of it may be turned only you know",
                column="train.tune.ranges",
                remedy=f"In train.tune, {RANGES_EXAMPLE}.",
            )
        )
    own_metric = tune.metric_regex if scripted else None  # our own trials print OBJECTIVE_REGEX and nothing else
    trials = TRIALS if not isinstance(tune.trials, int) else tune.trials
    ranges, fixed = _of_script(tune) if scripted else _of_recipes(spec, task)
    return Search(
        trials=max(trials, tune.jobs),
        jobs=tune.jobs,
        patience=max(LEAST_PATIENCE, trials // 2),
        budget_s=_budget_s(spec, tune, trials),
        ranges=ranges,
        metric_regex=own_metric or OBJECTIVE_REGEX,
        goal="Minimize" if own_metric and tune.goal == "minimize" else "Maximize",
        fixed=fixed,
        own_metric=own_metric is not None,
    )


def _scripted(spec: PipelineSpec, task: str | None) -> bool:
    return CUSTOM in (spec.task, task)


def _budget_s(spec: PipelineSpec, tune: TuneSpec, trials: int) -> int:
    """Return the seconds that the whole search may take: the spec's, or what its trials take at most. 28 days at most.

    Source: https://docs.aws.amazon.com/sagemaker/latest/dg/automatic-model-tuning-limits.html (30 days).
    """
    most = spec.train.max_runtime.total_seconds() * -(-trials // tune.jobs)
    asked = tune.budget.total_seconds() if tune.budget else most
    return int(max(120, min(asked, most, 28 * 86_400)))


def _of_script(tune: TuneSpec) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for name, asked in tune.ranges.items():
        kind, one = _range(name, asked)
        found.setdefault(kind, []).append(one)
    return found, {}


def _range(name: str, asked: RangeSpec) -> tuple[str, dict[str, Any]]:
    if asked.values is not None:
        return "CategoricalParameterRanges", {"Name": name, "Values": [_text(value) for value in asked.values]}
    assert asked.min is not None
    assert asked.max is not None
    scale = "Logarithmic" if asked.scale == "log" else "Linear"
    low, high = (f"{int(end)}" if asked.integer else f"{end!r}" for end in (asked.min, asked.max))
    kind = "IntegerParameterRanges" if asked.integer else "ContinuousParameterRanges"
    return kind, {"Name": name, "MinValue": low, "MaxValue": high, "ScalingType": scale}


def _text(value: bool | int | float | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _of_recipes(spec: PipelineSpec, task: str | None) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Return the ranges of the recipes' knobs. Of data whose kind only `process` will see, those that all have."""
    known = task or spec.task
    recipes = {TEXTS: _TEXT, IMAGES: _IMAGE}.get(known or "", _TABLE if known else {})
    asked = {name: turned for name, turned in recipes.items() if spec.train.rungs is None or name in spec.train.rungs}
    names = list(dict.fromkeys(knob for turned in asked.values() for knob in turned)) or list(_NETWORK)
    whole = [_knob(name) for name in names if name in WHOLE]
    found: dict[str, list[dict[str, Any]]] = {
        "ContinuousParameterRanges": [_knob(name) for name in names if name not in WHOLE]
    }
    if whole:
        found["IntegerParameterRanges"] = whole
    if len(asked) > 1:
        found["CategoricalParameterRanges"] = [{"Name": RUNG, "Values": list(asked)}]
    return found, {RUNG: next(iter(asked))} if len(asked) == 1 else {}


def _knob(name: str) -> dict[str, Any]:
    low, high = KNOBS[name]
    scale = "Linear" if name in WHOLE else "Logarithmic"
    return {"Name": name, "MinValue": f"{low:g}", "MaxValue": f"{high:g}", "ScalingType": scale}


# ---- What a search did: from its description and its trials' into the ledger ----

_ENDED_AS = {"Completed": "finished", "Stopped": "pruned", "Failed": "failed"}


def machine_s(job: Mapping[str, Any]) -> float:
    """Return the seconds of all machines of a search: those of its trials, which may have run at the same time.

    Of a search whose trials are not known: from its beginning to its end on as many machines as may have run at once,
    which is too much where some ended early, and on one where nothing is known of them.
    """
    trials = job.get("Trials")
    if trials is None:
        begun, ended = (timestamp(job.get(name)) for name in ("CreationTime", "HyperParameterTuningEndTime"))
        return (ended - begun).total_seconds() * _at_once(job) if begun and ended else 0.0
    return sum(_seconds(trial) for trial in trials)


def _at_once(job: Mapping[str, Any]) -> int:
    counters = job.get("TrainingJobStatusCounters")
    limits = (job.get("HyperParameterTuningJobConfig") or {}).get("ResourceLimits") or {}
    return min(int(limits.get("MaxParallelTrainingJobs") or 1), sum(counters.values())) if counters else 1


def best_of(job: Mapping[str, Any]) -> dict[str, str]:
    """Return the name and ARN of the training job whose model a search took; nothing for a job that is no search."""
    best = job.get("BestTrainingJob") or {}
    if not best.get("TrainingJobName"):
        return {}
    return {"job_name": best["TrainingJobName"], "job_arn": best.get("TrainingJobArn", "")}


def best_share(job: Mapping[str, Any]) -> float:
    """Return the best trial's share of its search's time, which its own report is about; 1 for what is no search."""
    name, whole = (job.get("BestTrainingJob") or {}).get("TrainingJobName"), machine_s(job)
    mine = [_seconds(trial) for trial in job.get("Trials") or () if trial.get("TrainingJobName") == name]
    return mine[0] / whole if mine and whole else 1.0


def told(job: Mapping[str, Any], report: Mapping[str, Any], energy_kwh: Band | None) -> dict[str, Any]:
    """Return a training report whose search tells every trial, with its part of the energy.

        energy_kwh of a trial = energy_kwh of the stage * seconds of the trial / seconds of the stage
    In a training job both are CPU seconds, and the rungs that were climbed have their part too (`rungs`).
    """
    search = report.get("tuning")
    whole = float(report.get("cpu_seconds") or 0)
    if "HyperParameterTuningJobName" in job:
        search, whole = _of_jobs(job), machine_s(job)
    if not search:
        return dict(report)
    if energy_kwh is not None and whole > 0:
        search = {**search, "trials": [_with_energy(trial, energy_kwh, whole) for trial in search["trials"]]}
    return {**report, "tuning": search}


def of(run: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the search of a run as its record holds it, None when there was none."""
    reports = (stage.get("report") or {} for stage in run.get("stages") or () if stage["stage"] == "train")
    return next((report["tuning"] for report in reports if report.get("tuning")), None)


def in_words(search: Mapping[str, Any]) -> str:
    """Return in a sentence where a search ran, what it found and why it ended."""
    best = search.get("best") or {}
    turned = ", ".join(f"{name} {value}" for name, value in (best.get("knobs") or {}).items())
    rung = f" of {search['rung']}" if search.get("rung") else ""
    nothing = "the recipe stays as it was" if search["where"] == IN_JOB else "no model was found"
    found = f"{turned} taken" if search.get("taken") else nothing
    ended = f"it ended because {search.get('stopped_because')}"
    return f"{len(search['trials'])} fits{rung} in {search['where'].removeprefix('in ')}; {found}; {ended}"


def numbers(search: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a search found and took, for people: fits, those that were ended early, seconds, energy, gain."""
    trials = search["trials"]
    best = search.get("best") or {}
    energy = [float(trial["energy_kwh"]["value"]) for trial in trials if trial.get("energy_kwh")]
    told = {
        "fits": len(trials),
        "ended early": sum(trial.get("status") == "pruned" for trial in trials),
        "usual": search.get("usual"),
        "best": best.get("validation", best.get("objective")),
        "CPU s": search.get("cpu_seconds"),
        "s": search.get("seconds"),
        "kWh": round(sum(energy), 9) if energy else None,
    }
    return {name: value for name, value in told.items() if value is not None}


def _with_energy(trial: Mapping[str, Any], energy_kwh: Band, whole_s: float) -> dict[str, Any]:
    took_s = float(trial.get("cpu_seconds") or trial.get("seconds") or 0)
    return {**trial, "energy_kwh": (energy_kwh * min(1.0, took_s / whole_s)).as_dict()}


def _of_jobs(job: Mapping[str, Any]) -> dict[str, Any]:
    config, best = job.get("HyperParameterTuningJobConfig") or {}, job.get("BestTrainingJob") or {}
    sign = -1 if (config.get("HyperParameterTuningJobObjective") or {}).get("Type") == "Minimize" else 1
    trials = [
        {
            "number": number,
            "job_name": trial.get("TrainingJobName"),
            "knobs": _tuned(trial),
            "status": _ENDED_AS.get(str(trial.get("TrainingJobStatus")), str(trial.get("TrainingJobStatus"))),
            "objective": trial.get("Value"),
            "seconds": round(_seconds(trial), 1),
        }
        for number, trial in enumerate(job.get("Trials") or ())
    ]
    taken = bool(best.get("TrainingJobName")) and job.get("HyperParameterTuningJobStatus") != "Failed"
    found = next((trial for trial in trials if trial["job_name"] == best.get("TrainingJobName")), None)
    return {
        "where": "a SageMaker tuning job",
        "job_name": job.get("HyperParameterTuningJobName"),
        "taken": taken,
        "best": {
            "trial": found["number"] if found else None,
            "job_name": best.get("TrainingJobName"),
            "knobs": found["knobs"] if found else _tuned(best),
            "objective": (best.get("FinalHyperParameterTuningJobObjectiveMetric") or {}).get("Value"),
        },
        "more_is_better": sign > 0,
        "stop": str(job.get("HyperParameterTuningJobStatus") or "completed").lower(),
        "stopped_because": str(job.get("FailureReason") or f"{len(trials)} of at most {_most(config)} training jobs"),
        "seconds": round(machine_s(job), 1),
        "trials": trials,
    }


def _most(config: Mapping[str, Any]) -> Any:
    return (config.get("ResourceLimits") or {}).get("MaxNumberOfTrainingJobs", "?")


def _tuned(trial: Mapping[str, Any]) -> dict[str, Any]:
    # SageMaker writes texts among the values in quotation marks
    return {name: str(value).strip('"') for name, value in (trial.get("TunedHyperParameters") or {}).items()}


def _seconds(trial: Mapping[str, Any]) -> float:
    begun, ended = (timestamp(trial.get(name)) for name in ("TrainingStartTime", "TrainingEndTime"))
    return max(0.0, (ended - begun).total_seconds()) if begun and ended else 0.0
