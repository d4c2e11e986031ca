"""What the fields of a spec may hold: the names to choose from, times and masses with their units."""

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationInfo

from ebb import names

IMAGES, TEXTS, CUSTOM = "image-classification", "text-classification", "custom"
REGRESSION = "tabular-regression"
TASKS = ("tabular-classification", REGRESSION, IMAGES, TEXTS, CUSTOM)
# The recipes of the jobs' ladder, from the cheapest to the dearest; not every kind of data has each.
ENCODER = "encoder"  # the one that starts from public weights (train.pretrained)
RUNGS = ("linear", "trees", "small-net", "net", ENCODER)
NETWORK_RUNGS = ("small-net", "net", ENCODER)  # what several machines can train together
CLASSIFICATION_METRICS = ("accuracy", "balanced_accuracy", "f1", "f1_macro", "auc", "roc_auc", "log_loss")
REGRESSION_METRICS = ("rmse", "mae", "r2")
METHODS = ("distill", "prune", "quantize")
AUTO, SINGLE, SPARK = ENGINES = ("auto", "single", "spark")  # that process tables
JOB, NEO, NEURON = "job", "neo", "neuron"
COMPILERS = (AUTO, JOB, NEO, NEURON)
NEURON_TARGETS = ("inf2", "trn1", "trn2")  # as neuronx-cc calls them
SERVE_KINDS = ("auto", "serverless", "async", "realtime", "shared", "batch")
SERVERLESS_MEMORY_MB = (1024, 2048, 3072, 4096, 5120, 6144)  # dg/serverless-endpoints: exactly these
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


def one_of(known: tuple[str, ...]) -> Any:
    """Return the validator that refuses what is not known, and names what is."""

    def check(value: Any) -> Any:
        if value is not None and value not in known:
            raise ValueError(f"write one of: {', '.join(known)}")
        return value

    return BeforeValidator(check)


def project(value: Any) -> Any:
    """Return the name of a project as it is. Raises: ValueError when it cannot be one."""
    if isinstance(value, str) and names.is_project(value):
        return value
    raise ValueError("write the name of a project: lower-case letters, digits and single hyphens, at most 20")


def _number(value: timedelta) -> float:
    return value.total_seconds()


Duration = Annotated[timedelta, BeforeValidator(_duration), PlainSerializer(_number, return_type=float)]
Short = Annotated[Duration, Field(ge=timedelta(0), le=timedelta(hours=1))]
Grams = Annotated[float, BeforeValidator(_grams)]
ProjectName = Annotated[str, BeforeValidator(project)]
Method = Annotated[str, one_of(METHODS)]


class Part(BaseModel):
    """A part of the spec: unknown fields are refused, and what has been read does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
