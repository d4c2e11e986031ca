"""The spec: what a user asks for in `pipeline.yaml`. Unknown fields are errors, and every error names the field."""

import re
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

from ebb import catalog, spec_text

FILE_NAME = "pipeline.yaml"
TASKS = ("tabular-classification", "tabular-regression")
TASKS_LATER = ("image-classification", "text-classification", "custom")
CLASSIFICATION_METRICS = ("accuracy", "balanced_accuracy", "f1", "f1_macro", "auc", "roc_auc", "log_loss")
REGRESSION_METRICS = ("rmse", "mae", "r2")
SERVE_KINDS = ("auto", "serverless")
SERVE_KINDS_LATER = ("realtime", "async", "batch")
SERVERLESS_MEMORY_MB = (1024, 2048, 3072, 4096, 5120, 6144)  # dg/serverless-endpoints: exactly these
_LATER = {
    "serve": ("cold_start", "requests_per_day", "idle_after"),
    "retrain": ("schedule", "drift", "deadline"),
    "carbon": ("budget", "signal"),
}
USER_TEXT = {"source": "user"}  # validation context: text that a person wrote, so units are required

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)$")


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


def _one_of(known: tuple[str, ...], later: tuple[str, ...]) -> Any:
    def check(value: Any) -> Any:
        if value in later:
            raise ValueError(f"{value} comes later; today write one of: {', '.join(known)}")
        if value is not None and value not in known:
            raise ValueError(f"write one of: {', '.join(known)}")
        return value

    return BeforeValidator(check)


def _number(value: timedelta) -> float:
    return value.total_seconds()


Duration = Annotated[timedelta, BeforeValidator(_duration), PlainSerializer(_number, return_type=float)]
Grams = Annotated[float, BeforeValidator(_grams)]
Method = Annotated[str, _one_of(("distill", "quantize"), ("prune",))]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSpec(_Part):
    """Which data, and what to predict. Without a target the last column is taken when that is unambiguous."""

    target: str | None = Field(default=None, min_length=1, max_length=200)
    uri: str | None = Field(default=None, pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+$", max_length=1100)
    mode: Literal["replace", "append"] = "replace"


class TrainSpec(_Part):
    """How to train, and when it is good enough."""

    metric: Annotated[str | None, _one_of((*CLASSIFICATION_METRICS, *REGRESSION_METRICS), ())] = None
    target: float | None = Field(default=None, allow_inf_nan=False)
    max_runtime: Annotated[Duration, Field(ge=timedelta(minutes=1), le=timedelta(days=5))] = timedelta(hours=1)
    spot: bool = True
    instance: str = "auto"
    epochs: int | None = Field(default=None, ge=1, le=10_000)
    tune: None = None

    @field_validator("instance")
    @classmethod
    def _catalogued(cls, value: str) -> str:
        known = [each.name for each in catalog.instances()]
        if value != "auto" and value not in known:
            raise ValueError(f"write auto or a catalogued instance type: {', '.join(known)}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _tuning_comes_later(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("tune") is not None:
            raise ValueError("tune comes later; remove it")
        return value


class CompressSpec(_Part):
    """How much quality may be given up: absolute for scores, relative for errors such as rmse."""

    max_metric_drop: float = Field(default=0.01, ge=0, le=1, allow_inf_nan=False)
    methods: tuple[Method, ...] = ("distill", "quantize")


class ServeSpec(_Part):
    """How the model is served."""

    kind: Annotated[str, _one_of(SERVE_KINDS, SERVE_KINDS_LATER)] = "auto"
    p95_latency: Annotated[Duration, Field(gt=timedelta(0))] | None = None
    cold_start: Literal["allowed", "avoid"] = "allowed"
    requests_per_day: int | None = Field(default=None, ge=0)
    idle_after: Annotated[Duration, Field(ge=timedelta(minutes=1))] = timedelta(minutes=15)
    memory_mb: Literal[1024, 2048, 3072, 4096, 5120, 6144] | None = None


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

    task: Annotated[str | None, _one_of(TASKS, TASKS_LATER)] = None
    data: DataSpec = DataSpec()
    train: TrainSpec = TrainSpec()
    compress: CompressSpec = CompressSpec()
    serve: ServeSpec = ServeSpec()
    retrain: RetrainSpec = RetrainSpec()
    carbon: CarbonSpec = CarbonSpec()

    @model_validator(mode="after")
    def _metric_fits_task(self) -> "PipelineSpec":
        fitting = {TASKS[0]: CLASSIFICATION_METRICS, TASKS[1]: REGRESSION_METRICS}.get(self.task or "")
        if fitting and self.train.metric and self.train.metric not in fitting:
            raise ValueError(f"train.metric {self.train.metric} does not fit {self.task}; use {', '.join(fitting)}")
        return self

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
    return [name for name in model.model_fields if name != "tune"]
