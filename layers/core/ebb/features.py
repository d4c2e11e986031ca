"""Features: what a run puts into Feature Store, and what other projects may learn from instead of making it again.

What is published is a set of curated rows. A project that asks for it reads the files of the run that made them: no
job stands between, so that nothing is computed twice. The feature group holds the same rows for everybody else
(Athena, Spark, notebooks), in a table whose snapshot the reusing run records. Pure.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import Field

from ebb import names
from ebb.errors import InvalidSpecError, Rejection
from ebb.events import Message

EVERYBODY = "all"
GROUP, SHARE = "features", "features_share"  # of a project's item in the ledger
_FIELD = "data.features"


class Published(Message):
    """The features that a project has published last, as its item in the ledger holds them.

    `curated_uri` is the folder with the rows, `identity` that of the run that made them; `snapshot_id` is the table's
    when they were put there. `spent` is what `process` took for them: seconds, kWh and USD.
    """

    project: str
    run_id: str
    identity: str
    curated_uri: str
    group: str
    table: str
    snapshot_id: str
    rows: int = Field(ge=0)
    published_at: datetime
    spent: dict[str, float] = Field(default_factory=dict)


def published(
    run: Mapping[str, Any], process: Mapping[str, Any], report: Mapping[str, Any], *, bucket: str, now: datetime
) -> Published:
    """Return what a run has just published, from its items in the ledger and the report of the stage."""
    run_id = str(run["run_id"])
    used = process.get("footprint") or {}
    spent = {
        "seconds": process.get("duration_s"),
        "kWh": (used.get("energy_kwh") or {}).get("value"),
        "USD": (used.get("cost_usd") or {}).get("value"),
    }
    return Published(
        project=str(run["project"]),
        run_id=run_id,
        identity=str(run["identity"]),
        curated_uri=f"s3://{bucket}/{names.curated_prefix(run_id)}a{process['attempt']}/",
        group=str(report["group"]),
        table=str(report["table"]),
        snapshot_id=str(report["snapshot_id"]),
        rows=int(report["rows"]),
        published_at=now,
        spent={name: float(value) for name, value in spent.items() if value is not None},
    )


def granted(owner: Mapping[str, Any], name: str, *, to: str, file: str) -> Published:
    """Return the features of the project `name` for the project `to`; `owner` is the former's item in the ledger.

    Raises: InvalidSpecError when there are none, or they are not shared with this project.
    """
    if name == to:
        raise _refused(
            "features-own", f"{_FIELD} names this project itself", "Drop the data, or name another project.", file
        )
    if not owner.get(GROUP):
        remedy = f"Write features: {{share: [{to}]}} into the pipeline.yaml of {name}, and drop its data again."
        raise _refused("features-missing", f"the project {name} has published no features", remedy, file)
    share = owner.get(SHARE) or ()
    if share != EVERYBODY and to not in share:
        remedy = f"Add {to} to features.share in the pipeline.yaml of {name}, and drop its data again."
        raise _refused("features-not-shared", f"the project {name} does not share its features with {to}", remedy, file)
    return Published.model_validate(owner[GROUP])


def aged(found: Published, *, file: str) -> InvalidSpecError:
    """Return the error for features whose rows have gone meanwhile, by age or by hand."""
    message = f"the rows of {found.run_id}, which {found.project} published, are there no more"
    return _refused("features-gone", message, f"Drop the data of {found.project} again.", file)


def misplaced(file: str) -> InvalidSpecError:
    """Return the error for data that comes to a project that learns from the features of another one."""
    message = f"{_FIELD} names features to learn from, and the drop brings data"
    return _refused("features-and-data", message, f"Drop pipeline.yaml alone, or remove {_FIELD}.", file)


def registering(share: str | Sequence[str]) -> dict[str, Any]:
    """Return the decision that a run registers what it learns from, and for whom."""
    lent = "every project" if share == EVERYBODY else ", ".join(share) or "nobody yet"
    return {
        "what": "features to register",
        "chosen": "in Feature Store, before training",
        "reason": f"features asks for it; {lent} may learn from them without processing them again",
        "numbers": {},
        "alternatives": ["rows that are no table are not registered"],
    }


def decision(found: Published) -> dict[str, Any]:
    """Return the decision that `ebb why` tells: whose features were reused, and what that saved."""
    return {
        "what": "features",
        "chosen": f"those of {found.project}, made by {found.run_id}",
        "reason": f"{_FIELD} asks for them and {found.project} shares them; process did not run, which took then",
        "numbers": {"rows": found.rows, **{f"{name} saved": value for name, value in found.spent.items()}},
        "alternatives": [f"the same rows in {found.table}, snapshot {found.snapshot_id}"],
        "source": found.curated_uri,
    }


def _refused(code: str, message: str, remedy: str, file: str) -> InvalidSpecError:
    return InvalidSpecError(Rejection(code, message, file=file, column=_FIELD, remedy=remedy))
