"""The ladder's last rung for texts: the public encoder of `train.pretrained`, which comes as a channel of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ebb_jobs import paths, pretrained
from ebb_jobs.errors import JobError
from ebb_jobs.kind import Kind
from ebb_jobs.ladder import Rung
from ebb_jobs.report import Report

NAME = "encoder"
CHANNEL = "pretrained"


def rungs(kind: Kind, curated: Path, schema: dict[str, Any], settings: dict[str, Any], report: Report) -> list[Rung]:
    """Return the rung of the encoder that the run was given, none without one; the report says so.

    Raises: JobError when there is one and it cannot be used.
    """
    if kind.name != "text":
        return []
    from ebb_jobs.kinds.text import PretrainedTextKind  # only where texts are

    if isinstance(kind, PretrainedTextKind):
        return []  # it is that rung
    folder = paths.channel("train", CHANNEL)
    if not folder.exists():
        report.decide(f"rung {NAME}", "left out", f"no pretrained encoder was given ({pretrained.FIELD})")
        return []
    rejection = pretrained.check_folder(folder, settings.get(CHANNEL) or {})
    if rejection is not None:
        raise JobError(f"{rejection.code}: {rejection.message}. {rejection.remedy}")
    report.decide(
        "pretrained encoder",
        "given",
        f"{pretrained.FIELD} in the spec; the last rung starts from it",
        numbers={"bytes": (folder / pretrained.WEIGHTS).stat().st_size},
    )
    return [PretrainedTextKind(folder).last_rung(curated, schema)]
