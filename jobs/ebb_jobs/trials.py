"""A training job as one trial of a SageMaker tuning job: knobs come as hyperparameters, the objective goes to the log.

A tuning job reads its objective from what a job prints, the last line counting, and ends a job early whose lines stay
behind those of others. More is better, whatever the metric: what is less the better is printed with a minus.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ebb_jobs import ladder, quality
from ebb_jobs.errors import JobError
from ebb_jobs.ladder import Climb, Rung, Seen

RUNG = "rung"


def told(score: float) -> None:
    """Print what the tuning job's metric definition finds."""
    print(f"ebb objective {score:.8g}", flush=True)


def objective(metric: str, found: float) -> None:
    """Print a quality as the objective."""
    told(found if quality.greater_is_better(metric) else -found)


def choose(rungs: Sequence[Rung], proposed: Mapping[str, str]) -> list[Rung]:
    """Return the rungs of a trial: the linear one, which is cheap and may be enough, and the proposed one, turned.

    Where no rung is proposed all are climbed, each with the knobs that it has. Raises JobError.
    """
    knobs = {name: value for name, value in proposed.items() if name != RUNG}
    wanted = proposed.get(RUNG)
    if wanted is not None and wanted not in [rung.name for rung in rungs]:
        raise JobError(f"the tuning job proposes the rung {wanted!r}, which this kind of data has not")
    kept = [rung for rung in rungs if wanted is None or rung.name == wanted or rung.family == ladder.LINEAR]
    return [_turned(rung, knobs) for rung in kept]


def watching(rungs: Sequence[Rung]) -> Seen:
    """Return what tells of each look, where one network is trained.

    Trees look at their loss, and a trial of many rungs at models that cannot be compared with each other.
    """
    networks = [rung for rung in rungs if rung.family != ladder.LINEAR]
    if len(networks) == 1 and networks[0].family == ladder.NETWORK:
        return lambda step, value: told(value)
    return lambda step, value: None


def tell(climb: Climb, proposed: Mapping[str, str], metric: str) -> None:
    """Print the objective of a trial: the quality of the rung that it is about, or of the best."""
    ready = [one for one in climb.climbed if one.fitted is not None]
    mine = next((one for one in ready if one.rung.name == proposed.get(RUNG)), climb.best)
    objective(metric, mine.fields["quality"]["validation"])


def typed(proposed: Mapping[str, str]) -> dict[str, Any]:
    """Return hyperparameters of a script as numbers where they are: they come as text."""
    return {name: _value(text) for name, text in proposed.items()}


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _turned(rung: Rung, proposed: Mapping[str, str]) -> Rung:
    mine = {knob.name: float(proposed[knob.name]) for knob in rung.knobs if knob.name in proposed}
    if not mine or rung.turned is None:
        return rung
    return replace(rung, fit=rung.turned(mine))
