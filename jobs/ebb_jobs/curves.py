"""What a user's script prints of its metric: remembered for the next run, and told aloud where it is no number.

CloudWatch gets what `MetricDefinitions` find in the log, which is numbers only: `NaN` leaves no trace there. So a line
is printed that does, and an alarm hears it (`ebb/requests/training_alarms.py` has the same words).
"""

from __future__ import annotations

import math
import re
from typing import Any

NOT_A_NUMBER = "ebb: not a number"
MOST_KEPT = 64
"""Values of a curve that the record keeps: as many as its lists may hold."""
_ANYTHING_ELSE = r"([+-]?(?:nan|inf(?:inity)?))"


class Curve:
    """Reads a metric off a script's lines, as `metric_regex` finds it: the best of each line is the last one."""

    def __init__(self, regex: str, goal: str) -> None:
        self._found = re.compile(regex)
        self._broken = broken(regex)
        self._goal = goal
        self.values: list[float] = []
        self.not_numbers = 0

    @classmethod
    def of(cls, stop: dict[str, Any] | None) -> Curve | None:
        """Return the curve that a spec's `train.stop` asks to watch, None where it names no metric."""
        return cls(stop["metric_regex"], stop.get("goal") or "maximize") if stop and stop.get("metric_regex") else None

    def hear(self, line: str) -> None:
        """Take one line of the script in."""
        found = self._found.search(line)
        value = _number(found[1]) if found else None
        if value is not None and math.isfinite(value):
            self.values.append(value)
        elif value is not None or (self._broken and self._broken.search(line)):
            self.not_numbers += 1
            print(f"{NOT_A_NUMBER} {self.not_numbers}", flush=True)

    def fields(self) -> dict[str, Any]:
        """Return what the report keeps: how many values there were, the best one, and the best up to each of some."""
        if not self.values:
            return {"count": 0, "goal": self._goal, "not_numbers": self.not_numbers}
        choose = max if self._goal == "maximize" else min
        best: list[float] = []
        for value in self.values:
            best.append(choose(best[-1], value) if best else value)
        kept = min(MOST_KEPT, len(best))
        places = [round((number + 1) * len(best) / kept) - 1 for number in range(kept)]
        return {
            "count": len(best),
            "goal": self._goal,
            "best": best[-1],
            "best_so_far": [float(f"{best[place]:.6g}") for place in places],
            "not_numbers": self.not_numbers,
        }


def broken(regex: str) -> re.Pattern[str] | None:
    """Return the pattern that finds NaN or an infinity where `regex` looks for its number; None where it cannot be had.

    The only capturing group of `val_loss=([-+0-9.eE]+)` gives way to `(nan|inf...)`, its surroundings stay.
    """
    place = _group(regex)
    if place is None:
        return None
    try:
        return re.compile(regex[: place[0]] + _ANYTHING_ELSE + regex[place[1] :], re.IGNORECASE)
    except re.error:
        return None


def _group(regex: str) -> tuple[int, int] | None:
    """Return where the first capturing group begins and ends."""
    begin, depth, at = None, 0, 0
    while at < len(regex):
        letter = regex[at]
        if letter == "\\":
            at += 1
        elif letter == "[":
            at = _class_end(regex, at)
        elif letter == "(":
            depth += 1
            if begin is None and (regex[at + 1 : at + 2] != "?" or regex.startswith("(?P<", at)):
                begin, outer = at, depth
        elif letter == ")":
            if begin is not None and depth == outer:
                return begin, at + 1
            depth -= 1
        at += 1
    return None


def _class_end(regex: str, at: int) -> int:
    """Return where a set of characters ends that begins at `at`; a bracket right behind its beginning is a member."""
    at += 1
    if regex[at : at + 1] == "^":
        at += 1
    if regex[at : at + 1] == "]":
        at += 1
    while at < len(regex) and regex[at] != "]":
        at += 2 if regex[at] == "\\" else 1
    return at


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
