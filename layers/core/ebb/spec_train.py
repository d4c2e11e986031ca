"""The part `train` of a spec: the recipes or the script, the machines, and what a search may turn."""

import json
import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ebb import catalog, spec_text
from ebb.spec_stop import AUTO, COMPILERS, DebuggerSpec, StopSpec, finds_one_number
from ebb.spec_values import CLASSIFICATION_METRICS, REGRESSION_METRICS, RUNGS, Duration, Part, one_of

ENTRY_POINT = "train.py"
MOST_INSTANCES = 8  # beyond that their shares of a batch become too small to gain anything
# Train and compress get their part of the spec in one SageMaker hyperparameter of 2,500 characters.
HYPERPARAMETERS_MAX_CHARS = 1_500
TRIALS_MAX = 100  # what a single page of a tuning job's training jobs holds
TUNED_CHARS = 256  # of a name and of a value: ParameterKey and ParameterValue of a tuning job, each of one line
SETTINGS = "settings"  # the hyperparameter in which a job's settings travel
RANGES_EXAMPLE = "name it: tune: {ranges: {lr: {min: 0.0001, max: 0.1, scale: log}}}"

# Beyond these JSON, JSONata and DynamoDB do not hold the same number.
_LEAST_NUMBER, _MOST_NUMBER = 1e-100, 2**53
_SCRIPT = re.compile(r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+\.(py|zip|tgz|tar\.gz)$", re.IGNORECASE)
_FOLDER = re.compile(r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^/].*$")
_ENTRY_POINT = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.py$")
_HYPERPARAMETER = re.compile(r"^[A-Za-z][A-Za-z0-9_-]*$")  # becomes --name on a command line and SM_HP_NAME


def _trials(value: Any) -> Any:
    if value == "auto" or (type(value) is int and 2 <= value <= TRIALS_MAX):
        return value
    raise ValueError(f"write a number of fits from 2 to {TRIALS_MAX}, or auto")


class RangeSpec(Part):
    """Where a search may look for one hyperparameter of a script: between two numbers, or among values.

    Between whole numbers only whole ones are tried, unless `integer` says otherwise.
    """

    min: float | None = Field(default=None, allow_inf_nan=False)
    max: float | None = Field(default=None, allow_inf_nan=False)
    scale: Literal["linear", "log"] = "linear"
    integer: bool = False
    values: tuple[bool | int | float | str, ...] | None = Field(default=None, min_length=2, max_length=30)

    @model_validator(mode="before")
    @classmethod
    def _whole_between_whole(cls, value: Any) -> Any:
        if isinstance(value, dict) and "integer" not in value:
            ends = [value.get("min"), value.get("max")]
            return {**value, "integer": all(isinstance(end, int) and not isinstance(end, bool) for end in ends)}
        return value

    @model_validator(mode="after")
    def _is_a_range(self) -> "RangeSpec":
        if self.values is not None:
            if self.min is not None or self.max is not None:
                raise ValueError("values are tried as they stand; write either values, or min and max")
            if any(len(str(each)) > TUNED_CHARS or "\n" in str(each) for each in self.values):
                raise ValueError(f"write values of one line and at most {TUNED_CHARS} characters, a tuning job's limit")
            return self
        if self.min is None or self.max is None or self.min >= self.max:
            raise ValueError("write min and max, the smaller one first, or values: {min: 0.0001, max: 0.1, scale: log}")
        if self.scale == "log" and self.min <= 0:
            raise ValueError("scale: log needs a min above 0; write one, or scale: linear")
        if self.integer and (self.min % 1 or self.max % 1):
            raise ValueError("integer: true needs whole ends; write them, or integer: false")
        return self


class TuneSpec(Part):
    """A search over a recipe's knobs, or over a script's hyperparameters; `tune: true` asks for the defaults.

    `trials` is how many fits there may be, `budget` the time that the search may take. With `jobs: 1` it runs inside
    the training job; with more, and always for a script, it is a SageMaker tuning job with so many trials at once.
    `ranges` name what of a script to search. A script is judged by the metric of its evaluation.json, or by what
    `metric_regex` finds in its log, which `goal` says to maximize or to minimize.
    """

    trials: Annotated[int | str, BeforeValidator(_trials)] = "auto"
    budget: Annotated[Duration, Field(ge=timedelta(minutes=2), le=timedelta(days=28))] | None = None
    jobs: int = Field(default=1, ge=1, le=10)
    ranges: dict[str, RangeSpec] = Field(default_factory=dict, max_length=10)
    metric_regex: str | None = Field(default=None, min_length=1, max_length=500)
    goal: Literal["maximize", "minimize"] = "maximize"

    @property
    def asks_for_script(self) -> list[str]:
        """Return the fields that only a training script of the user's own can heed."""
        return [name for name, given in (("ranges", self.ranges), ("metric_regex", self.metric_regex)) if given]

    @field_validator("ranges", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        for name in value if isinstance(value, dict) else ():
            if not isinstance(name, str) or not _HYPERPARAMETER.match(name):
                raise ValueError(f"{name!r} is no name; write letters, digits, - and _, a letter first")
            if len(name) > TUNED_CHARS:
                raise ValueError(f"a name has {len(name)} characters; write at most {TUNED_CHARS} characters")
            if name == SETTINGS:
                raise ValueError(f"{name} is how Ebb's own settings travel; call the hyperparameter otherwise")
        return value

    @field_validator("metric_regex")
    @classmethod
    def _finds_one_number(cls, value: str | None) -> str | None:
        return finds_one_number(value)

    @model_validator(mode="after")
    def _fields_fit(self) -> "TuneSpec":
        if isinstance(self.trials, int) and self.trials < self.jobs:
            raise spec_text.misplaced(
                ("train", "tune", "trials"),
                f"{self.trials} fits do not need {self.jobs} jobs at once; write more trials, or fewer jobs",
            )
        if self.goal != "maximize" and self.metric_regex is None:
            raise spec_text.misplaced(
                ("train", "tune", "goal"),
                "without metric_regex Ebb's own metric is the objective; remove it, or write metric_regex",
            )
        return self


class TrainSpec(Part):
    """How to train, and when it is good enough.

    `source`, `entry_point` and `hyperparameters` are for the task custom: where the user's script lies when it does not
    come with the data, its file, and what it is called with; `checkpoints` says that it writes and reads checkpoints,
    `distributed` that it shares its work with itself on other machines.
    `rungs` names the recipes that may be tried, cheapest first; all of the kind's when it is silent. With more than one
    of `instances` they train a network together, each on its share of every batch; no other recipe is tried then.
    `pretrained` is the folder of a public encoder for texts, from which the ladder's last recipe starts.
    `stop` watches a script from outside; `debugger` and `compiler` are SageMaker's own, off unless asked for.
    """

    metric: Annotated[str | None, one_of((*CLASSIFICATION_METRICS, *REGRESSION_METRICS))] = None
    target: float | None = Field(default=None, allow_inf_nan=False)
    max_runtime: Annotated[Duration, Field(ge=timedelta(minutes=1), le=timedelta(days=5))] = timedelta(hours=1)
    spot: bool = True
    instance: str = "auto"
    instances: int = Field(default=1, ge=1, le=MOST_INSTANCES)
    epochs: int | None = Field(default=None, ge=1, le=10_000)
    rungs: tuple[Annotated[str, one_of(RUNGS)], ...] | None = Field(default=None, min_length=1, max_length=len(RUNGS))
    checkpoints: bool = False
    distributed: bool = False
    pretrained: str | None = Field(default=None, max_length=1100)
    source: str | None = Field(default=None, max_length=1100)
    entry_point: str = Field(default=ENTRY_POINT, max_length=200)
    hyperparameters: dict[str, bool | int | float | str] = Field(default_factory=dict)
    tune: TuneSpec | None = None
    stop: StopSpec | None = None
    debugger: DebuggerSpec | None = None
    compiler: Annotated[str, one_of(COMPILERS)] = AUTO

    @field_validator("tune", mode="before")
    @classmethod
    def _plainly_asked(cls, value: Any) -> Any:
        if value is False:
            return None
        if value is True or value == "auto":
            return {}
        if value is not None and not isinstance(value, dict | TuneSpec):
            raise ValueError("write true, false, or fields: {trials: 20, budget: 30m, jobs: 1}")
        return value

    @field_validator("instance")
    @classmethod
    def _catalogued(cls, value: str) -> str:
        known = [each.name for each in catalog.instances()]
        if value != "auto" and value not in known:
            raise ValueError(f"write auto or a catalogued instance type: {', '.join(known)}")
        return value

    @field_validator("pretrained")
    @classmethod
    def _a_folder_in_s3(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not _FOLDER.match(value) or value.endswith((".json", ".safetensors", ".whl", ".zip")):
            raise ValueError("write the folder that config.json lies in: s3://bucket/path/")
        return value.rstrip("/") + "/"

    @field_validator("source")
    @classmethod
    def _a_script_in_s3(cls, value: str | None) -> str | None:
        if value is not None and not _SCRIPT.match(value):
            raise ValueError("write the place of a script: s3://bucket/path/train.py, or of a .zip or .tar.gz with it")
        return value

    @field_validator("entry_point")
    @classmethod
    def _a_file_at_the_top(cls, value: str) -> str:
        if not _ENTRY_POINT.match(value):
            raise ValueError("write the name of a Python file beside the others, without folders: train.py")
        return value

    @field_validator("hyperparameters", mode="before")
    @classmethod
    def _plain_hyperparameters(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError("write names and values, for example {epochs: 5, lr: 0.01}")
        for name, each in value.items():
            if not isinstance(name, str) or not _HYPERPARAMETER.match(name):
                raise ValueError(f"{name!r} is no name; write letters, digits, - and _, a letter first")
            if not isinstance(each, bool | int | float | str):
                raise ValueError(f"the value of {name} is neither a number, nor a text, nor true or false")
            if not isinstance(each, str) and each and not _LEAST_NUMBER <= abs(each) <= _MOST_NUMBER:
                raise ValueError(f"the number of {name} does not travel unchanged; write it in quotation marks")
        chars = len(json.dumps(value, separators=(",", ":")))
        if chars > HYPERPARAMETERS_MAX_CHARS:
            raise ValueError(f"{chars} characters as JSON; keep them below {HYPERPARAMETERS_MAX_CHARS}, use a file")
        return value

    @model_validator(mode="after")
    def _search_fits(self) -> "TrainSpec":
        tune = self.tune
        if tune is None:
            return self
        both = [name for name in tune.ranges if name in self.hyperparameters]
        if both:
            what = f"{both[0]} is fixed in train.hyperparameters; remove it there, or here"
            raise spec_text.misplaced(("train", "tune", "ranges", both[0]), what)
        if tune.budget is not None and tune.jobs == 1 and not tune.ranges and tune.budget > self.max_runtime:
            raise spec_text.misplaced(
                ("train", "tune", "budget"),
                "the search is part of the training job and ends with train.max_runtime; write less, or raise that",
            )
        return self
