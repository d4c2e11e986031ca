"""The spec: what a user asks for in `pipeline.yaml`. Unknown fields are errors, and every error names the field."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ebb import catalog, names, spec_text

FILE_NAME = "pipeline.yaml"
IMAGES, TEXTS, CUSTOM = "image-classification", "text-classification", "custom"
REGRESSION = "tabular-regression"
TASKS = ("tabular-classification", REGRESSION, IMAGES, TEXTS, CUSTOM)
ENTRY_POINT = "train.py"
# The recipes of the jobs' ladder, from the cheapest to the dearest; not every kind of data has each.
ENCODER = "encoder"  # the one that starts from public weights (train.pretrained)
RUNGS = ("linear", "trees", "small-net", "net", ENCODER)
NETWORK_RUNGS = ("small-net", "net", ENCODER)  # what several machines can train together
MOST_INSTANCES = 8  # beyond that their shares of a batch become too small to gain anything
# Train and compress get their part of the spec in one SageMaker hyperparameter of 2,500 characters.
HYPERPARAMETERS_MAX_CHARS = 1_500
TRIALS_MAX = 100  # what a single page of a tuning job's training jobs holds
TUNED_CHARS = 256  # of a name and of a value: ParameterKey and ParameterValue of a tuning job, each of one line
SETTINGS = "settings"  # the hyperparameter in which a job's settings travel
METRIC_EXAMPLE = "'val_loss=([0-9.]+)'"
RANGES_EXAMPLE = "name it: tune: {ranges: {lr: {min: 0.0001, max: 0.1, scale: log}}}"
CLASSIFICATION_METRICS = ("accuracy", "balanced_accuracy", "f1", "f1_macro", "auc", "roc_auc", "log_loss")
REGRESSION_METRICS = ("rmse", "mae", "r2")
AUTO, SINGLE, SPARK = ENGINES = ("auto", "single", "spark")  # that process tables
SERVE_KINDS = ("auto", "serverless", "async", "realtime", "shared", "batch")
SERVERLESS_MEMORY_MB = (1024, 2048, 3072, 4096, 5120, 6144)  # dg/serverless-endpoints: exactly these
_LATER = {
    "retrain": ("schedule", "drift", "deadline"),
    "carbon": ("budget", "signal"),
}
USER_TEXT = {"source": "user"}  # validation context: text that a person wrote, so units are required

# Beyond these JSON, JSONata and DynamoDB do not hold the same number.
_LEAST_NUMBER, _MOST_NUMBER = 1e-100, 2**53
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)$")
_SCRIPT = re.compile(r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+\.(py|zip|tgz|tar\.gz)$", re.IGNORECASE)
_FOLDER = re.compile(r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^/].*$")
_ENTRY_POINT = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.py$")
_HYPERPARAMETER = re.compile(r"^[A-Za-z][A-Za-z0-9_-]*$")  # becomes --name on a command line and SM_HP_NAME


def _duration(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str) and (found := _DURATION.match(value.strip())):
        try:
            return timedelta(seconds=float(found[1]) * _UNITS_S[found[2]])
        except OverflowError as error:
            raise ValueError("write a shorter time") from error
    if isinstance(value, int | float) and not isinstance(value, bool) and info.context != USER_TEXT:
        return timedelta(seconds=value)  # a resolved spec, as it travels between the steps
    raise ValueError("write a number with its unit: 50ms, 30s, 15m, 1h or 7d")


def _grams(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str) and (found := re.match(r"^(\d+(?:\.\d+)?)\s*(g|kg)$", value.strip())):
        return float(found[1]) * (1000 if found[2] == "kg" else 1)
    if isinstance(value, int | float) and not isinstance(value, bool) and info.context != USER_TEXT:
        return value
    raise ValueError("write a mass with its unit: 500g or 2kg")


def _one_of(known: tuple[str, ...]) -> Any:
    def check(value: Any) -> Any:
        if value is not None and value not in known:
            raise ValueError(f"write one of: {', '.join(known)}")
        return value

    return BeforeValidator(check)


def _project(value: Any) -> Any:
    if isinstance(value, str) and names.is_project(value):
        return value
    raise ValueError("write the name of a project: lower-case letters, digits and single hyphens, at most 20")


def _share(value: Any) -> Any:
    if value == "all":
        return value
    if isinstance(value, list | tuple) and len(value) <= MOST_SHARED:
        return tuple(_project(each) for each in value)
    raise ValueError(f"write all, or a list of at most {MOST_SHARED} projects: [birds, bees]")


def _trials(value: Any) -> Any:
    if value == "auto" or (type(value) is int and 2 <= value <= TRIALS_MAX):
        return value
    raise ValueError(f"write a number of fits from 2 to {TRIALS_MAX}, or auto")


def _number(value: timedelta) -> float:
    return value.total_seconds()


Duration = Annotated[timedelta, BeforeValidator(_duration), PlainSerializer(_number, return_type=float)]
Short = Annotated[Duration, Field(ge=timedelta(0), le=timedelta(hours=1))]
Grams = Annotated[float, BeforeValidator(_grams)]
ProjectName = Annotated[str, BeforeValidator(_project)]
MOST_SHARED = 100
METHODS = ("distill", "prune", "quantize")
Method = Annotated[str, _one_of(METHODS)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSpec(_Part):
    """Which data, and what to predict. Without a target the last column is taken when that is unambiguous.

    `input` names the column that holds the text, or the paths of the images in their manifest, `group` the one of a
    table whose equal values (a patient, a machine) must stand on one side of the split; it is not learned from.
    `features` names another project whose published features are learned from instead of data of one's own.
    """

    target: str | None = Field(default=None, min_length=1, max_length=200)
    input: str | None = Field(default=None, min_length=1, max_length=200)
    group: str | None = Field(default=None, min_length=1, max_length=200)
    uri: str | None = Field(default=None, pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+$", max_length=1100)
    mode: Literal["replace", "append"] = "replace"
    features: ProjectName | None = None

    @property
    def elsewhere(self) -> str | None:
        """What is learned from though it is not dropped: a spec that says so starts a run by itself."""
        return self.uri or self.features


class ProcessSpec(_Part):
    """What processes the data: `single`, one machine; `spark`, several, on AWS Glue; `auto` decides by the size.

    Only plain tables can be processed by more than one machine; `spark` is refused for everything else.
    """

    engine: Annotated[str, _one_of(ENGINES)] = AUTO


class FeaturesSpec(_Part):
    """Whether the processed rows go into SageMaker Feature Store, and which other projects may learn from them.

    What is shared is published; `share: all` is every project of the stack.
    """

    publish: bool = Field(default=False, strict=True)
    share: Annotated[str | tuple[str, ...], BeforeValidator(_share)] = ()

    @property
    def wanted(self) -> bool:
        """Whether this run publishes."""
        return self.publish or bool(self.share)


class RangeSpec(_Part):
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


class TuneSpec(_Part):
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
        try:
            if value is not None and re.compile(value).groups != 1:
                raise ValueError(f"write one group around the number: {METRIC_EXAMPLE}")
        except re.error as error:
            raise ValueError(f"it is no regular expression ({error}); write for example {METRIC_EXAMPLE}") from error
        return value

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


class TrainSpec(_Part):
    """How to train, and when it is good enough.

    `source`, `entry_point` and `hyperparameters` are for the task custom: where the user's script lies when it does not
    come with the data, its file, and what it is called with; `checkpoints` says that it writes and reads checkpoints,
    `distributed` that it shares its work with itself on other machines.
    `rungs` names the recipes that may be tried, cheapest first; all of the kind's when it is silent. With more than one
    of `instances` they train a network together, each on its share of every batch; no other recipe is tried then.
    `pretrained` is the folder of a public encoder for texts, from which the ladder's last recipe starts.
    """

    metric: Annotated[str | None, _one_of((*CLASSIFICATION_METRICS, *REGRESSION_METRICS))] = None
    target: float | None = Field(default=None, allow_inf_nan=False)
    max_runtime: Annotated[Duration, Field(ge=timedelta(minutes=1), le=timedelta(days=5))] = timedelta(hours=1)
    spot: bool = True
    instance: str = "auto"
    instances: int = Field(default=1, ge=1, le=MOST_INSTANCES)
    epochs: int | None = Field(default=None, ge=1, le=10_000)
    rungs: tuple[Annotated[str, _one_of(RUNGS)], ...] | None = Field(default=None, min_length=1, max_length=len(RUNGS))
    checkpoints: bool = False
    distributed: bool = False
    pretrained: str | None = Field(default=None, max_length=1100)
    source: str | None = Field(default=None, max_length=1100)
    entry_point: str = Field(default=ENTRY_POINT, max_length=200)
    hyperparameters: dict[str, bool | int | float | str] = Field(default_factory=dict)
    tune: TuneSpec | None = None

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


class CompressSpec(_Part):
    """How much quality may be given up: absolute for scores, relative for errors such as rmse; and what may be spent.

    `budget` is CPU time that the search for smaller networks may take; without it, four times what training took.
    """

    max_metric_drop: float = Field(default=0.01, ge=0, le=1, allow_inf_nan=False)
    methods: tuple[Method, ...] = METHODS
    budget: Annotated[Duration, Field(ge=timedelta(minutes=1), le=timedelta(days=5))] | None = None


class ServeSpec(_Part):
    """How the model is served: which kind of endpoint, how fast it must answer, and when it may sleep.

    With `kind: auto` the kind follows from the other fields and from the traffic (`ebb.serving`). Without `idle_after`
    the time after which an endpoint sleeps follows its own traffic; a request that meets it asleep waits `queue_for` at
    most. A new model or kind is watched for `watch` before the old one goes; without it, five minutes where there are
    calls. With `recommender` a load test by SageMaker's Inference Recommender, which costs money, finds the size.
    """

    kind: Annotated[str, _one_of(SERVE_KINDS)] = "auto"
    p95_latency: Annotated[Duration, Field(gt=timedelta(0))] | None = None
    cold_start: Literal["allowed", "avoid"] = "allowed"
    requests_per_day: int | None = Field(default=None, ge=0, le=10**10)
    idle_after: Annotated[Duration, Field(ge=timedelta(minutes=1))] | None = None
    memory_mb: Literal[1024, 2048, 3072, 4096, 5120, 6144] | None = None
    availability: Literal["normal", "high"] = "normal"
    instance: str = "auto"
    max_copies: int | None = Field(default=None, ge=1, le=100)
    watch: Short | None = None
    # An asynchronous endpoint keeps a request for six hours at most, and no longer than a minute at least:
    # https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpointAsync.html
    queue_for: Annotated[Duration, Field(ge=timedelta(minutes=1), le=timedelta(hours=6))] = timedelta(hours=1)
    max_payload_mb: int | None = Field(default=None, ge=1, le=1000)
    recommender: bool = Field(default=False, strict=True)

    @field_validator("instance")
    @classmethod
    def _can_serve(cls, value: str) -> str:
        fitting = [each.name for each in catalog.hosting() if each.serves_ebb]
        if value == "auto" or value in fitting:
            return value
        known = next((each for each in catalog.hosting() if each.name == value), None)
        why = f"{value} {known.why_not}; " if known else ""
        raise ValueError(f"{why}write auto or one of: {', '.join(fitting)}")

    @model_validator(mode="after")
    def _fields_fit_kind(self) -> "ServeSpec":
        for name, clash in self._clashes():
            raise spec_text.misplaced(("serve", name), clash)
        return self

    def _clashes(self) -> Iterator[tuple[str, str]]:
        """Give each field that contradicts another one, with what to write instead."""
        kind = self.kind
        if self.availability == "high":
            if kind in ("serverless", "async", "batch"):
                yield (
                    "availability",
                    f"high keeps two copies awake, {kind} has none; write kind: realtime, shared or auto",
                )
            if self.idle_after is not None:
                yield "idle_after", "with availability: high an endpoint never sleeps; remove one of the two"
            if self.max_copies == 1:
                yield "max_copies", "availability: high keeps two copies; write 2 or more, or availability: normal"
        if self.cold_start == "avoid":
            if kind in ("serverless", "batch"):
                yield (
                    "cold_start",
                    f"{kind} starts cold; write kind: auto, realtime, async or shared, or cold_start: allowed",
                )
            if self.idle_after is not None:
                yield "idle_after", "what sleeps starts cold; remove it, or write cold_start: allowed"
        if kind == "batch" and self.p95_latency is not None:
            yield "p95_latency", "batch answers whole files, not requests; remove it, or write another kind"
        if kind in ("serverless", "batch") and self.idle_after is not None:
            yield "idle_after", f"{kind} has nothing to put to sleep; remove it, or write another kind"
        yield from self._clashing_sizes()
        yield from self._clashing_recommender()

    def _clashing_recommender(self) -> Iterator[tuple[str, str]]:
        """Give why a load test would find nothing that is still to be chosen."""
        if not self.recommender:
            return
        if self.kind == "batch":
            yield "recommender", "it tests endpoints, batch has none; remove it, or write another kind"
        if self.instance != "auto":
            yield "recommender", f"it chooses the instance, and {self.instance} is asked for; write one of the two"
        if self.memory_mb is not None:
            yield "recommender", f"it chooses the memory, and {self.memory_mb} MB are asked for; write one of the two"

    def _clashing_sizes(self) -> Iterator[tuple[str, str]]:
        kind = self.kind
        if self.memory_mb is not None:
            if kind not in ("auto", "serverless"):
                yield (
                    "memory_mb",
                    f"it is a size of serverless endpoints, {kind} has an instance; write instance instead",
                )
            if self.instance != "auto":
                yield "memory_mb", "it is a size of serverless endpoints, which have no instance; write one of the two"
            if self.availability == "high":
                yield (
                    "memory_mb",
                    "it is a size of serverless endpoints, which keep no copies awake; write instance instead",
                )
        if kind == "serverless" and self.instance != "auto":
            yield "instance", "a serverless endpoint has none; write memory_mb instead, or kind: realtime"
        if kind in ("serverless", "batch") and self.max_copies is not None:
            yield "max_copies", f"{kind} keeps no copies; remove it, or write another kind"
        if kind == "batch" and self.watch is not None:
            yield "watch", "a batch job is not watched while it is replaced; remove it, or write another kind"
        if self.max_payload_mb is not None:
            most = catalog.serving_limits().payload_mb.get(kind)
            if most is not None and self.max_payload_mb > most:
                yield "max_payload_mb", f"{kind} takes {most} MB at most; write kind: auto or async, or a smaller size"


class DriftSpec(_Part):
    """How far the data may move before the model is trained again."""

    psi: float = Field(default=0.2, gt=0, allow_inf_nan=False)


class RetrainSpec(_Part):
    """When to train again. Parsed today, acted on by a later version."""

    schedule: str | None = Field(default=None, pattern=r"^(rate|cron)\(.+\)$", max_length=256)
    drift: DriftSpec | None = None
    deadline: Duration | None = None


class CarbonSpec(_Part):
    """What a run may emit. Parsed today, acted on by a later version."""

    budget: Annotated[Grams, Field(gt=0)] | None = None
    signal: Literal["average", "marginal"] = "average"


class PipelineSpec(_Part):
    """What the user asks for, with every default filled in."""

    task: Annotated[str | None, _one_of(TASKS)] = None
    data: DataSpec = DataSpec()
    process: ProcessSpec = ProcessSpec()
    features: FeaturesSpec = FeaturesSpec()
    train: TrainSpec = TrainSpec()
    compress: CompressSpec = CompressSpec()
    serve: ServeSpec = ServeSpec()
    retrain: RetrainSpec = RetrainSpec()
    carbon: CarbonSpec = CarbonSpec()

    @property
    def asks_for_script(self) -> list[str]:
        """Return the fields that only a training script of the user's own can heed."""
        train = self.train
        return [
            name
            for name, given in (
                ("source", train.source is not None),
                ("entry_point", train.entry_point != ENTRY_POINT),
                ("hyperparameters", bool(train.hyperparameters)),
                ("checkpoints", train.checkpoints),
                ("distributed", train.distributed),
            )
            if given
        ]

    @model_validator(mode="after")
    def _spot_keeps_its_work(self, info: ValidationInfo) -> "PipelineSpec":
        """Refuse spot capacity that a user asks for and that would lose a script's work; the default asks for none."""
        train = self.train
        asked = info.context == USER_TEXT and "spot" in train.model_fields_set and train.spot
        if asked and (self.task == CUSTOM or self.asks_for_script) and not train.checkpoints:
            raise spec_text.misplaced(
                ("train", "spot"),
                "spot capacity can be taken back at any moment, and a script without checkpoints then begins anew; let "
                "it write to SM_CHECKPOINT_DIR and read from there when it starts, and say checkpoints: true; or write "
                "spot: false",
            )
        return self

    @model_validator(mode="after")
    def _instances_share_a_network(self) -> "PipelineSpec":
        """Refuse several machines for what only one of them could do."""
        train = self.train
        if train.instances == 1:
            return self
        place = ("train", "instances")
        if (self.task == CUSTOM or self.asks_for_script) and not train.distributed:
            raise spec_text.misplaced(
                place,
                "a training script of your own runs on one machine; write instances: 1, or, where it calls "
                "init_process_group and leaves its model on rank 0, distributed: true",
            )
        if train.rungs is not None and not set(train.rungs) & set(NETWORK_RUNGS):
            raise spec_text.misplaced(
                place,
                f"several machines train networks only, and train.rungs names none; add one of "
                f"{', '.join(NETWORK_RUNGS)}, or write instances: 1",
            )
        named = catalog.instance(train.instance)
        if named and named.accelerator and named.accelerator.kind == "neuron":
            raise spec_text.misplaced(
                place, f"networks are not shared between machines of {train.instance}; write another instance, or 1"
            )
        if train.tune is not None:
            raise spec_text.misplaced(
                place, "the fits of a search take one machine each; write train.tune or instances, not both"
            )
        return self

    @model_validator(mode="after")
    def _fields_fit_task(self) -> "PipelineSpec":
        task, data, train = self.task, self.data, self.train
        if self.process.engine == SPARK and (task in (IMAGES, TEXTS, CUSTOM) or train.source is not None):
            what = "spark processes tables that are learned as tables, and nothing else; remove it, or write auto"
            raise spec_text.misplaced(("process", "engine"), what)
        if data.input is not None and data.input == data.target:
            raise spec_text.misplaced(("data", "input"), "it is data.target too; name two different columns")
        if task == CUSTOM or train.source is not None:
            self._leave_to_script()
        self._search_fits_task()
        if task is None:
            return self
        fitting = () if task == CUSTOM else REGRESSION_METRICS if task == REGRESSION else CLASSIFICATION_METRICS
        if train.metric and train.metric not in fitting:
            what = f"{train.metric} does not fit {task}; use {', '.join(fitting)}"
            raise spec_text.misplaced(("train", "metric"), what)
        if data.input is not None and task not in (IMAGES, TEXTS):
            what = f"{task} reads all columns; remove it, or write task: {TEXTS} or {IMAGES}"
            raise spec_text.misplaced(("data", "input"), what)
        if task != CUSTOM and self.asks_for_script:
            what = f"it is for a training script of your own; remove it, or write task: {CUSTOM}"
            raise spec_text.misplaced(("train", self.asks_for_script[0]), what)
        return self

    @model_validator(mode="after")
    def _encoder_fits(self) -> "PipelineSpec":
        """Refuse an encoder that nothing could be read by, and its recipe without one."""
        train, place = self.train, ("train", "pretrained")
        if train.pretrained is None:
            if ENCODER in (train.rungs or ()):
                what = f"{ENCODER} starts from public weights; write train.pretrained, or leave it out"
                raise spec_text.misplaced(("train", "rungs"), what)
            return self
        if self.task != TEXTS:
            raise spec_text.misplaced(place, f"a pretrained encoder reads texts; write task: {TEXTS}, or remove it")
        if train.rungs is not None and ENCODER not in train.rungs:
            raise spec_text.misplaced(
                place, f"train.rungs leaves it out; add {ENCODER} there, or remove one of the two"
            )
        if train.tune is not None and train.tune.jobs > 1:
            what = "a search in jobs of its own tries other recipes; write tune: {jobs: 1}, or remove it"
            raise spec_text.misplaced(place, what)
        return self

    @model_validator(mode="after")
    def _features_fit(self) -> "PipelineSpec":
        """Refuse what features of another project have decided already, and publishing what is no table."""
        data = self.data
        if data.features is not None:
            taken = {"uri": data.uri, "target": data.target, "input": data.input, "group": data.group}
            for name, given in (*taken.items(), ("mode", data.mode if data.mode != "replace" else None)):
                if given is not None:
                    what = f"the features of {data.features} come with it as it is; remove it, or data.features"
                    raise spec_text.misplaced(("data", name), what)
            if self.features.wanted:
                what = f"these are features of {data.features}, published already; remove it"
                raise spec_text.misplaced(("features", "publish" if self.features.publish else "share"), what)
        other = self.task in (IMAGES, TEXTS, CUSTOM) or self.train.source is not None
        if other and (data.features is not None or self.features.wanted):
            place = (
                ("data", "features") if data.features else ("features", "publish" if self.features.publish else "share")
            )
            raise spec_text.misplaced(place, "features are those of tables; remove it")
        return self

    def _search_fits_task(self) -> None:
        """Refuse a search that does not know what of a script to turn, and ranges where there is no script."""
        tune, scripted = self.train.tune, self.task == CUSTOM or self.train.source is not None
        if tune is None:
            return
        if scripted and not tune.ranges:
            raise spec_text.misplaced(
                ("train", "tune"), f"what of a script may be turned only you know; {RANGES_EXAMPLE}"
            )
        known = self.task or ("tables" if self.data.features else None)
        if known and not scripted:
            for name in tune.asks_for_script:
                what = f"the knobs and metrics of {known} are known; remove it, or write task: {CUSTOM}"
                raise spec_text.misplaced(("train", "tune", name), what)

    def _leave_to_script(self) -> None:
        """Refuse what a training script of the user's own decides itself."""
        for part, name, given in (
            ("train", "metric", self.train.metric),
            ("train", "target", self.train.target),
            ("train", "epochs", self.train.epochs),
            ("train", "rungs", self.train.rungs),
            ("data", "target", self.data.target),
            ("data", "input", self.data.input),
        ):
            if given is None:
                continue
            what = (
                "a custom model is judged by the metric that its evaluation.json names; remove it"
                if name == "metric"
                else "a custom training script decides that itself; remove it, or pass it in train.hyperparameters"
            )
            raise spec_text.misplaced((part, name), what)

    def not_acted_on(self) -> list[str]:
        """Return the fields that ask for something else than the default and that this version does nothing about."""
        asked, usual = self.resolved(), PipelineSpec().resolved()
        return [
            f"{part}.{name}"
            for part, names in _LATER.items()
            for name in names
            if asked[part][name] != usual[part][name]
        ]

    def resolved(self) -> dict[str, Any]:
        """Return the spec as JSON: every default filled in, durations in seconds, masses in grams."""
        return self.model_dump(mode="json")


def parse(text: bytes, *, file: str) -> PipelineSpec:
    """Return the spec that a `pipeline.yaml` holds; an empty file asks for the defaults.

    Raises: InvalidSpecError naming the field, its line and what to write instead.
    """
    document = spec_text.load(text, file=file)
    try:
        return PipelineSpec.model_validate(document.value, context=USER_TEXT)
    except ValidationError as error:
        raise spec_text.invalid(error, document, known=_known_fields, file=file) from error


def _known_fields(place: tuple[str | int, ...]) -> list[str]:
    """Return the fields that may stand at a place of the spec."""
    model: Any = PipelineSpec
    for part in place:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if model is None:
            return []
    return list(model.model_fields)
