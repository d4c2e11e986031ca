"""The part `carbon.budget` of a spec: what a run, or a project in a month, may take."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from ebb import spec_text
from ebb.spec_values import USER_TEXT, Grams, Part

EXAMPLE = "500g, 2 kWh or 5 USD for each run, or {carbon: 500g, per: month}"
_AMOUNT = re.compile(r"^(\d+(?:\.\d+)?)\s*(g|kg|kWh|Wh|USD)$")
_FIELDS = {"g": ("carbon", 1.0), "kg": ("carbon", 1000.0), "kWh": ("energy", 1.0), "Wh": ("energy", 0.001)} | {
    "USD": ("cost", 1.0)
}


def _amount(field: str, example: str) -> BeforeValidator:
    """Return the validator of an amount with its unit, which a resolved spec holds as a number of `field`'s unit."""

    def read(value: Any, info: ValidationInfo) -> Any:
        found = _AMOUNT.match(value.strip()) if isinstance(value, str) else None
        if found and _FIELDS[found[2]][0] == field:
            return float(found[1]) * _FIELDS[found[2]][1]
        if isinstance(value, int | float) and not isinstance(value, bool) and info.context != USER_TEXT:
            return value
        raise ValueError(f"write an amount with its unit: {example}")

    return BeforeValidator(read)


def read_budget(value: Any, info: ValidationInfo) -> Any:
    """Return a budget's fields: a plain amount is what each run may take."""
    if isinstance(value, str):
        found = _AMOUNT.match(value.strip())
        if not found:
            raise ValueError(f"write {EXAMPLE}")
        return {_FIELDS[found[2]][0]: value, "per": "run"}
    if isinstance(value, int | float) and not isinstance(value, bool) and info.context != USER_TEXT:
        return {"carbon": value, "per": "run"}  # as a spec of an earlier version was resolved
    if value is not None and not isinstance(value, dict | BudgetSpec):
        raise ValueError(f"write {EXAMPLE}")
    return value


class BudgetSpec(Part):
    """What may be taken, in grams, kWh and USD: by all runs and endpoints of the project in a month, or by each run.

    With `shrink: false` a run that does not fit is never made smaller: it waits, where carbon.deadline gives it time,
    or is refused.
    """

    carbon: Annotated[Grams, Field(gt=0, allow_inf_nan=False)] | None = None
    energy: Annotated[float, Field(gt=0, allow_inf_nan=False), _amount("energy", "2 kWh or 500 Wh")] | None = None
    cost: Annotated[float, Field(gt=0, allow_inf_nan=False), _amount("cost", "5 USD")] | None = None
    per: Literal["month", "run"] = "month"
    shrink: bool = Field(default=True, strict=True)

    @model_validator(mode="after")
    def _limits_something(self) -> "BudgetSpec":
        if self.carbon is None and self.energy is None and self.cost is None:
            raise spec_text.misplaced(("carbon", "budget"), f"it limits nothing; write {EXAMPLE}")
        return self
