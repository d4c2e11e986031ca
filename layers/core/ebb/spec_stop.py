"""The parts `stop` and `debugger` of a spec's `train`: who watches a training script while it runs."""

import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from ebb import spec_text
from ebb.spec_values import USER_TEXT, Duration, Part, one_of

METRIC_EXAMPLE = "'val_loss=([-+0-9.eE]+)'"
AUTO, NONE, TORCH_COMPILE, TRAINING_COMPILER = COMPILERS = ("auto", "none", "torch_compile", "training_compiler")
# https://docs.aws.amazon.com/sagemaker/latest/dg/training-compiler-support.html
TRAINING_COMPILER_MACHINES = ("ml.p3.", "ml.p3dn.", "ml.p4d.", "ml.g4dn.", "ml.g5.")
# https://docs.aws.amazon.com/sagemaker/latest/dg/debugger-built-in-rules.html: those that judge any framework's tensors
DEBUGGER_RULES = (
    "ClassImbalance",
    "Confusion",
    "DeadRelu",
    "ExplodingTensor",
    "LossNotDecreasing",
    "Overfit",
    "Overtraining",
    "PoorWeightInitialization",
    "SaturatedActivation",
    "StalledTrainingRule",
    "TensorVariance",
    "UnchangedTensor",
    "VanishingGradient",
)
_BUDGET = re.compile(r"^(\d+(?:\.\d+)?)\s*(USD|kWh|Wh|m|h|d)$")
_NEEDS_METRIC = ("goal", "plateau", "target", "divergence", "loser")


def finds_one_number(value: str | None) -> str | None:
    """Return a regular expression that has one group. Raises: ValueError that says what to write."""
    try:
        if value is not None and re.compile(value).groups != 1:
            raise ValueError(f"write one group around the number: {METRIC_EXAMPLE}")
    except re.error as error:
        raise ValueError(f"it is no regular expression ({error}); write for example {METRIC_EXAMPLE}") from error
    return value


def budget_parts(text: str) -> tuple[float, str]:
    """Return amount and unit of a budget: USD, kWh, or s."""
    found = _BUDGET.match(text)
    assert found is not None
    amount, unit = float(found[1]), found[2]
    if unit in ("USD", "kWh"):
        return amount, unit
    if unit == "Wh":
        return amount / 1000, "kWh"
    return amount * {"m": 60, "h": 3600, "d": 86400}[unit], "s"


def _budget(value: Any) -> Any:
    if value is None:
        return None
    found = _BUDGET.match(value.strip()) if isinstance(value, str) else None
    if not found or not float(found[1]):
        raise ValueError("write an amount with its unit: 2 USD, 0.5 kWh, 90m or 3h")
    return f"{found[1]} {found[2]}" if found[2] in ("USD", "kWh", "Wh") else f"{found[1]}{found[2]}"


def _off(value: Any) -> Any:
    return None if value is False else value


class StopSpec(Part):
    """When a training script of the user's own is stopped from outside, by alarms on what it prints.

    `metric_regex` finds the metric in the log, which `goal` says to maximize or to minimize. `plateau` is how long
    nothing may be gained (`false`: for ever), `target` the value that is good enough, `divergence` whether a metric
    that is lost or no number stops the job, `loser` whether one does that is predicted to end below the project's last
    run, `budget` what it may use: 2 USD, 0.5 kWh or 90m.
    """

    metric_regex: str | None = Field(default=None, min_length=1, max_length=250)
    goal: Literal["maximize", "minimize"] = "maximize"
    plateau: Annotated[
        Annotated[Duration, Field(ge=timedelta(minutes=5), le=timedelta(hours=24))] | None, BeforeValidator(_off)
    ] = timedelta(minutes=30)
    target: float | None = Field(default=None, allow_inf_nan=False)
    divergence: bool = Field(default=True, strict=True)
    loser: bool = Field(default=True, strict=True)
    budget: Annotated[str | None, BeforeValidator(_budget)] = None

    @field_validator("metric_regex")
    @classmethod
    def _one_number(cls, value: str | None) -> str | None:
        return finds_one_number(value)

    @model_validator(mode="after")
    def _something_is_watched(self, info: ValidationInfo) -> "StopSpec":
        if self.metric_regex is not None:
            return self
        if info.context == USER_TEXT:
            for name in _NEEDS_METRIC:
                if name in self.model_fields_set:
                    what = f"it judges a metric; write where the log has it: metric_regex: {METRIC_EXAMPLE}"
                    raise spec_text.misplaced(("train", "stop", name), what)
        if self.budget is None:
            what = f"nothing is watched; write metric_regex: {METRIC_EXAMPLE}, or budget: 2 USD"
            raise spec_text.misplaced(("train", "stop"), what)
        return self


class DebuggerSpec(Part):
    """SageMaker Debugger's built-in rules beside the job; closed to new customers, `stop` is what does their work."""

    rules: tuple[Annotated[str, one_of(DEBUGGER_RULES)], ...] = Field(min_length=1, max_length=20)

    @field_validator("rules")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a rule stands twice; name each once")
        return value
