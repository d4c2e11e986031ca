"""Tuning jobs: Create, Describe, List, Stop, and the search itself, whose trials are ordinary training jobs.

Proposals are drawn at random in the ranges (Grid: all combinations of values, in order), whatever strategy is asked
for: what a strategy is worth is not shown here; the life of the job and of its trials is as on AWS. A search ends by
number of trials, time, target, so many trials without an improvement of 1 %, or StopHyperParameterTuningJob.
With early stopping a trial is stopped whose best objective is below the median of the others' running averages at the
same look: https://docs.aws.amazon.com/sagemaker/latest/dg/automatic-model-tuning-early-stopping.html.
Assumed: the names of trials, that a failed trial is not repeated, that the best is one of the completed trials, and
that a search has failed when no trial brought an objective.
"""

import math
import random
import secrets
import statistics
import time
from typing import Any

from ebb_local.sagemaker import events, jobs, listing, requests, state, tags, threads, training_jobs
from ebb_local.sagemaker.errors import ServiceError, not_implemented, validation_exception

_KIND = "HyperParameter Tuning Job"
_SUMMARY = ["HyperParameterTuningJobName", "HyperParameterTuningJobArn", "HyperParameterTuningJobStatus",
            "CreationTime", "HyperParameterTuningEndTime", "LastModifiedTime", "TrainingJobStatusCounters",
            "ObjectiveStatusCounters"]  # fmt: skip
_TRIAL = ["TrainingJobName", "TrainingJobArn", "CreationTime", "TrainingStartTime", "TrainingEndTime",
          "TrainingJobStatus", "FailureReason"]  # fmt: skip
_TICK_S = 0.2
_IMPROVED_BY = 0.01  # what counts as an improvement: API_BestObjectiveNotImproving
_LEAST_LOOKS, _LEAST_TRIALS = 3, 3  # before a trial is stopped early; assumed
_ENDED = ("Completed", "Failed", "Stopped")
_TRAINED = ("Completed", "Failed", "Stopped")
_NOT_HERE = ("TrainingJobDefinitions", "WarmStartConfig", "Autotune")
_NOT_IN_DEFINITION = ("VpcConfig", "HyperParameterTuningResourceConfig", "HyperParameterRanges", "RetryStrategy")

_runs: dict[str, "TuningRun"] = {}


def create(request: dict[str, Any]) -> dict[str, Any]:
    """CreateHyperParameterTuningJob."""
    name = request["HyperParameterTuningJobName"]
    arn = state.arn("hyper-parameter-tuning-job", name)
    _require_valid(request)
    definition = request["TrainingJobDefinition"]
    image = definition["AlgorithmSpecification"]["TrainingImage"]
    requests.require_job(arn, {**request, "RoleArn": definition["RoleArn"]}, image, definition["ResourceConfig"])
    if name in state.tuning_jobs:
        raise ServiceError("ResourceInUse", f"A hyperparameter tuning job with this name already exists ({arn})")
    for channel in definition.get("InputDataConfig") or []:
        requests.require_input(channel["DataSource"]["S3DataSource"], definition["RoleArn"])
    moment = state.now()
    record: state.Record = {
        **{key: value for key, value in request.items() if key != "Tags"},
        "HyperParameterTuningJobArn": arn,
        "HyperParameterTuningJobStatus": "InProgress",
        "CreationTime": moment,
        "LastModifiedTime": moment,
        "TrainingJobStatusCounters": _counted([]),
        "ObjectiveStatusCounters": {"Succeeded": 0, "Pending": 0, "Failed": 0},
        "_trials": [],
        "_tags": request.get("Tags") or [],
    }
    state.tuning_jobs[name] = record
    tags.put(arn, request.get("Tags"))
    TuningRun(record).start()
    return {"HyperParameterTuningJobArn": arn}


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeHyperParameterTuningJob."""
    return state.public(find(request["HyperParameterTuningJobName"]))


def list_jobs(request: dict[str, Any]) -> dict[str, Any]:
    """ListHyperParameterTuningJobs."""
    rows, more = listing.page(
        state.tuning_jobs.values(),
        request,
        name="HyperParameterTuningJobName",
        status="HyperParameterTuningJobStatus",
        members=[*_SUMMARY, "HyperParameterTuningJobConfig"],
    )
    for row in rows:
        config = row.pop("HyperParameterTuningJobConfig")
        row |= {"Strategy": config["Strategy"], "ResourceLimits": config["ResourceLimits"]}
    return {"HyperParameterTuningJobSummaries": rows, **more}


def list_trials(request: dict[str, Any]) -> dict[str, Any]:
    """ListTrainingJobsForHyperParameterTuningJob."""
    record = find(request["HyperParameterTuningJobName"])
    found = [_summary(record, name) for name in record["_trials"]]
    if request.get("SortBy") == "FinalObjectiveMetricValue":  # those without one are not listed
        found = [row for row in found if _value(row) is not None]
        order = {**request, "SortBy": "_value"}
        found = [{**row, "_value": _value(row)} for row in found]
        found.sort(key=lambda row: row["_value"], reverse=request.get("SortOrder", "Ascending") == "Descending")
        start = listing.position(order)
        end = start + int(request.get("MaxResults") or 10)
        rows, more = found[start:end], {"NextToken": str(end)} if end < len(found) else {}
        return {"TrainingJobSummaries": [state.public(row) for row in rows], **more}
    rows, more = listing.page(
        found,
        request,
        name="TrainingJobName",
        status="TrainingJobStatus",
        members=[*_TRIAL, "TunedHyperParameters", "FinalHyperParameterTuningJobObjectiveMetric", "ObjectiveStatus"],
    )
    return {"TrainingJobSummaries": rows, **more}


def stop(request: dict[str, Any]) -> dict[str, Any]:
    """StopHyperParameterTuningJob: its trials are stopped as well."""
    record = find(request["HyperParameterTuningJobName"])
    run = _runs.get(record["HyperParameterTuningJobArn"])
    if record["HyperParameterTuningJobStatus"] != "InProgress" or run is None:
        raise validation_exception(
            "The request was rejected because the hyperparameter tuning job is in status "
            f"{record['HyperParameterTuningJobStatus']}."
        )
    state.update(record, HyperParameterTuningJobStatus="Stopping", LastModifiedTime=state.now())
    return {}


def find(name: str) -> state.Record:
    """Return a job's record, or raise as AWS does."""
    record = state.tuning_jobs.get(name)
    if record is None:
        raise ServiceError("ResourceNotFound", f"Could not find requested job with name: {name}")
    return record


def ended(record: state.Record) -> bool:
    """Return whether a search has reached its final status."""
    return record["HyperParameterTuningJobStatus"] in _ENDED


def mark_interrupted() -> None:
    """End the searches that ran when the server was stopped: their trials ended with it."""
    for *_, record in state.everywhere(state.tuning_jobs):
        if not ended(record):
            moment = state.now()
            record |= {
                "HyperParameterTuningJobStatus": "Failed",
                "HyperParameterTuningEndTime": moment,
                "LastModifiedTime": moment,
                "FailureReason": jobs.INTERRUPTED_TEXT,
            }


class TuningRun:
    """One search, in a thread of its own."""

    def __init__(self, record: state.Record) -> None:
        self.record = record
        self.name: str = record["HyperParameterTuningJobName"]
        self.config: dict[str, Any] = record["HyperParameterTuningJobConfig"]
        self.definition: dict[str, Any] = record["TrainingJobDefinition"]
        self.random = random.Random(self.config.get("RandomSeed", 0))
        self.limits: dict[str, Any] = self.config["ResourceLimits"]
        objective = self.config["HyperParameterTuningJobObjective"]
        self.metric: str = objective["MetricName"]
        self.sign = 1 if objective["Type"] == "Maximize" else -1
        self._deadline = time.monotonic() + self.limits.get("MaxRuntimeInSeconds", 1e9)
        self._early: set[str] = set()

    def start(self) -> None:
        """Begin in the background."""
        _runs[self.record["HyperParameterTuningJobArn"]] = self
        threads.start(f"tuning-{self.name}", self._run)

    def _run(self) -> None:
        try:
            self._publish()
            self._work()
        except Exception as error:
            self._end("Failed", FailureReason=f"InternalServerError: {error}"[: jobs.MAX_TEXT])
            raise
        finally:
            _runs.pop(self.record["HyperParameterTuningJobArn"], None)

    def _work(self) -> None:
        most, together = self.limits.get("MaxNumberOfTrainingJobs", 10**6), self.limits["MaxParallelTrainingJobs"]
        left = self._proposals()
        while True:
            running = [trial for trial in self._trials() if trial["TrainingJobStatus"] not in _TRAINED]
            stopping = self._stopping()
            over = stopping or self._settled() or time.monotonic() > self._deadline
            if over:
                for trial in running:
                    self._stop(trial)
            elif len(running) < together and len(self.record["_trials"]) < most:
                if (proposed := next(left, None)) is not None:
                    self._begin(proposed)
                    continue
                over = True
            self._count()
            if not running and (over or len(self.record["_trials"]) >= most):
                break
            if self.config.get("TrainingJobEarlyStoppingType") == "Auto":
                self._stop_early(running)
            time.sleep(_TICK_S)
        best = self._best()
        if self._stopping():
            self._end("Stopped")
        elif best is None:
            reasons = {str(trial.get("FailureReason")) for trial in self._trials() if trial.get("FailureReason")}
            told = f" ({sorted(reasons)[0]})" if reasons else ""
            text = f"No training job succeeded with the objective metric {self.metric}{told}"
            self._end("Failed", FailureReason=text[: jobs.MAX_TEXT])
        else:
            self._end("Completed")

    def _begin(self, proposed: dict[str, str]) -> None:
        """Start a trial: a training job with what is proposed among its hyperparameters."""
        name = f"{self.name}-{len(self.record['_trials']) + 1:03}-{secrets.token_hex(4)}"
        definition = self.definition
        request: dict[str, Any] = {
            "TrainingJobName": name,
            "HyperParameters": {
                **(definition.get("StaticHyperParameters") or {}),
                **proposed,
                "_tuning_objective_metric": self.metric,
            },
            **{
                member: definition[member]
                for member in ("AlgorithmSpecification", "RoleArn", "InputDataConfig", "OutputDataConfig",
                               "ResourceConfig", "StoppingCondition", "EnableNetworkIsolation", "CheckpointConfig",
                               "EnableManagedSpotTraining", "EnableInterContainerTrafficEncryption", "Environment")
                if member in definition
            },
        }  # fmt: skip
        arn = self.record["HyperParameterTuningJobArn"]
        tags.put(state.arn("training-job", name), self.record["_tags"])
        training_jobs.begin(request, {"_tuned": proposed, "_objective": self.metric, "TuningJobArn": arn})
        state.update(self.record, _trials=[*self.record["_trials"], name], LastModifiedTime=state.now())

    def _proposals(self) -> Any:
        """Yield what to try, as hyperparameters are passed: text."""
        ranges = self.config.get("ParameterRanges") or {}
        grid = ranges.get("CategoricalParameterRanges") or []
        if self.config["Strategy"] == "Grid":
            yield from _combinations(grid)
            return
        while True:
            proposed: dict[str, str] = {}
            for each in ranges.get("ContinuousParameterRanges") or []:
                proposed[each["Name"]] = f"{self._between(each):.10g}"
            for each in ranges.get("IntegerParameterRanges") or []:
                proposed[each["Name"]] = str(self._whole(each))
            for each in grid:
                proposed[each["Name"]] = str(self.random.choice(each["Values"]))
            yield proposed

    def _between(self, asked: dict[str, Any]) -> float:
        low, high = float(asked["MinValue"]), float(asked["MaxValue"])
        if asked.get("ScalingType") == "Logarithmic":
            return math.exp(self.random.uniform(math.log(low), math.log(high)))
        return self.random.uniform(low, high)

    def _whole(self, asked: dict[str, Any]) -> int:
        low, high = int(asked["MinValue"]), int(asked["MaxValue"])
        if asked.get("ScalingType") == "Logarithmic":
            return min(high, max(low, round(self._between(asked))))
        return self.random.randint(low, high)

    def _trials(self) -> list[state.Record]:
        return [state.training_jobs[name] for name in self.record["_trials"]]

    def _best(self) -> state.Record | None:
        done = [
            each for each in self._trials() if each["TrainingJobStatus"] == "Completed" and _final(each) is not None
        ]
        return max(done, key=lambda trial: self.sign * (_final(trial) or 0.0), default=None)

    def _settled(self) -> bool:
        """Return whether the target is reached, or as many trials as may be brought no improvement."""
        criteria, done = self.config.get("TuningJobCompletionCriteria") or {}, []
        for trial in self._trials():
            value = _final(trial)
            if trial["TrainingJobStatus"] in _TRAINED and value is not None:
                done.append(self.sign * value)
        target = criteria.get("TargetObjectiveMetricValue")
        if target is not None and done and max(done) >= self.sign * target:
            return True
        patience = (criteria.get("BestObjectiveNotImproving") or {}).get("MaxNumberOfTrainingJobsNotImproving")
        best, since = -math.inf, 0
        for value in done:
            improved = best == -math.inf or value > best + _IMPROVED_BY * abs(best)
            best, since = (value, 0) if improved else (best, since + 1)
        return patience is not None and since >= patience

    def _stop_early(self, running: list[state.Record]) -> None:
        """Stop trials that are behind the median of the others at the same look."""
        curves = {trial["TrainingJobName"]: trial.get("_curve") or [] for trial in self._trials()}
        for trial in running:
            name, mine = trial["TrainingJobName"], curves[trial["TrainingJobName"]]
            looks = len(mine)
            others = [curve for other, curve in curves.items() if other != name and len(curve) >= looks]
            if looks < _LEAST_LOOKS or len(others) < _LEAST_TRIALS or name in self._early:
                continue
            averages = [statistics.fmean(self.sign * value for value in curve[:looks]) for curve in others]
            if max(self.sign * value for value in mine) < statistics.median(averages):
                self._early.add(name)
                self._stop(trial)

    def _stop(self, trial: state.Record) -> None:
        if trial["TrainingJobStatus"] == "InProgress":
            jobs.ask_to_stop(trial, "Training")

    def _stopping(self) -> bool:
        return bool(self.record["HyperParameterTuningJobStatus"] == "Stopping")

    def _count(self) -> None:
        trials = self._trials()
        found = {"Succeeded": 0, "Pending": 0, "Failed": 0}
        for trial in trials:
            found[_objective_status(trial)] += 1
        best = self._best()
        members = {"TrainingJobStatusCounters": _counted(trials), "ObjectiveStatusCounters": found}
        if best is not None:
            members["BestTrainingJob"] = _summary(self.record, best["TrainingJobName"])
        if any(self.record.get(name) != value for name, value in members.items()):
            state.update(self.record, **members)

    def _end(self, status: str, **members: Any) -> None:
        moment = state.now()
        self._count()
        seconds = round(moment - self.record["CreationTime"])
        state.update(
            self.record,
            HyperParameterTuningJobStatus=status,
            HyperParameterTuningEndTime=moment,
            LastModifiedTime=moment,
            ConsumedResources={"RuntimeInSeconds": seconds},
            **members,
        )
        self._publish()

    def _publish(self) -> None:
        events.state_changed(_KIND, self.record["HyperParameterTuningJobArn"], self.record)


def _combinations(ranges: list[dict[str, Any]]) -> Any:
    if not ranges:
        yield {}
        return
    for value in ranges[0]["Values"]:
        for rest in _combinations(ranges[1:]):
            yield {ranges[0]["Name"]: str(value), **rest}


def _final(trial: state.Record) -> float | None:
    """Return the last value of a trial's objective."""
    found = [each for each in trial.get("FinalMetricDataList") or [] if each["MetricName"] == trial["_objective"]]
    return float(found[0]["Value"]) if found else None


def _objective_status(trial: state.Record) -> str:
    if trial["TrainingJobStatus"] not in _TRAINED:
        return "Pending"
    return "Failed" if _final(trial) is None else "Succeeded"


def _summary(record: state.Record, name: str) -> dict[str, Any]:
    """Return a trial as a search describes it."""
    trial = state.training_jobs[name]
    objective = record["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    value = _final(trial)
    found = {"Type": objective["Type"], "MetricName": objective["MetricName"], "Value": value}
    return {
        **{member: trial[member] for member in _TRIAL if trial.get(member) is not None},
        "TunedHyperParameters": trial["_tuned"],
        "ObjectiveStatus": _objective_status(trial),
        **({"FinalHyperParameterTuningJobObjectiveMetric": found} if value is not None else {}),
    }


def _value(row: dict[str, Any]) -> float | None:
    return (row.get("FinalHyperParameterTuningJobObjectiveMetric") or {}).get("Value")


def _counted(trials: list[state.Record]) -> dict[str, int]:
    statuses = [trial["TrainingJobStatus"] for trial in trials]
    return {
        "Completed": statuses.count("Completed"),
        "InProgress": sum(status not in _TRAINED for status in statuses),
        "RetryableError": 0,
        "NonRetryableError": statuses.count("Failed"),
        "Stopped": statuses.count("Stopped"),
    }


def _require_valid(request: dict[str, Any]) -> None:
    """Raise for what the service model does not hold (wordings assumed)."""
    for member in _NOT_HERE:
        if request.get(member):
            raise not_implemented(f"A tuning job with {member}")
    config, definition = request["HyperParameterTuningJobConfig"], request.get("TrainingJobDefinition")
    if not definition:
        raise validation_exception("TrainingJobDefinition is required.")
    for member in _NOT_IN_DEFINITION:
        if definition.get(member):
            raise not_implemented(f"A tuning job's definition with {member}")
    objective = config.get("HyperParameterTuningJobObjective")
    if not objective:
        raise validation_exception("HyperParameterTuningJobObjective is required.")
    defined = [each["Name"] for each in definition["AlgorithmSpecification"].get("MetricDefinitions") or []]
    if objective["MetricName"] not in defined:
        raise validation_exception(f"The objective metric {objective['MetricName']} has no metric definition.")
    ranges = config.get("ParameterRanges") or {}
    if ranges.get("AutoParameters"):
        raise not_implemented("ParameterRanges with AutoParameters")
    numbers = [*(ranges.get("ContinuousParameterRanges") or []), *(ranges.get("IntegerParameterRanges") or [])]
    if config["Strategy"] == "Grid" and numbers:
        raise validation_exception("The Grid strategy takes categorical parameters only.")
    for each in numbers:
        low, high = float(each["MinValue"]), float(each["MaxValue"])
        if low >= high or (each.get("ScalingType") == "Logarithmic" and low <= 0):
            raise validation_exception(f"The range of {each['Name']} is not valid: {low:g} to {high:g}.")
    if config["Strategy"] == "Hyperband" and config.get("TrainingJobEarlyStoppingType") == "Auto":
        # https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_HyperParameterTuningJobConfig.html
        raise validation_exception("TrainingJobEarlyStoppingType must be Off with the Hyperband strategy.")
    training_jobs.require_definition(definition)
