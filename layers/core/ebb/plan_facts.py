"""What a plan depends on: the facts of one run, and what follows from them for several stages at once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ebb import engine, sizing
from ebb.features import Published
from ebb.sources import Source
from ebb.spec import PipelineSpec


@dataclass(frozen=True)
class Champion:
    """The model that the project serves now: a new one is measured against it on the same rows."""

    run_id: str
    metric: str
    quality: Mapping[str, Any]
    bundle_uri: str
    original_uri: str | None = None  # what `train` wrote; not known of a model of an earlier version


@dataclass(frozen=True)
class RunFacts:
    """Everything that a plan depends on, besides the stack."""

    run_id: str
    attempt: int
    project: str
    spec: PipelineSpec
    sources: Sequence[Source]  # all of them when they are few, none when they are many
    data: sizing.Data  # everything that the run reads
    manifest_uri: str
    sources_uri: str  # {key: sha256} of what process verifies
    generation: int
    finished: Mapping[str, int]  # stage -> the attempt that finished it, with the same identity
    champion: Champion | None = None
    features: Published | None = None  # of another project, learned from instead of data
    pretrained: Sequence[Source] = ()  # the files of the encoder that the spec names, where they have been looked at
    missing_images: Collection[str] = ()  # of those that `images_of` names, by their URI
    measured: Mapping[str, Any] = field(default_factory=dict)  # stage -> what the last run used (`rightsizing`)
    jobs: Mapping[str, str] = field(default_factory=dict)  # finished stage -> the name of its job
    curve: Mapping[str, Any] | None = None  # of the metric that the project's last script printed


def settled(run: RunFacts) -> RunFacts:
    """Return a run with what follows before any request: what it borrows, or how many of its rows it can learn from.

    The features of another project are what `process` would have made.
    """
    if run.features:
        return replace(run, finished={**run.finished, "process": run.attempt})
    return replace(run, data=sizing.thinned(run.data, run.spec))


def spark_engine(run: RunFacts) -> engine.Engine | None:
    """Return Spark and its workers where it processes the data, None where one machine does."""
    if run.features:
        return None
    planned = engine.planned(run.spec, run.data)
    return planned if planned.name == engine.SPARK else None


def spot_wanted(run: RunFacts) -> tuple[bool, str]:
    """Return whether train and compress take spot capacity, and why: only what keeps checkpoints may."""
    train = run.spec.train
    if not train.spot:
        return False, "train.spot is false in the spec"
    if sizing.trains_itself(run.spec, run.data) and not train.checkpoints:
        return False, "the script promises no checkpoints (train.checkpoints), and an interruption would lose its work"
    return True, "checkpoints make an interruption cheap"
