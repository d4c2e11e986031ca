"""The smaller parts of a spec: data, process, features, compress, retrain and carbon."""

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ebb.spec_budget import BudgetSpec, read_budget
from ebb.spec_values import (
    AUTO,
    COMPILERS,
    ENGINES,
    METHODS,
    Duration,
    Method,
    Part,
    ProjectName,
    one_of,
    project,
)

MOST_SHARED = 100


def _share(value: Any) -> Any:
    if value == "all":
        return value
    if isinstance(value, list | tuple) and len(value) <= MOST_SHARED:
        return tuple(project(each) for each in value)
    raise ValueError(f"write all, or a list of at most {MOST_SHARED} projects: [birds, bees]")


class DataSpec(Part):
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


class ProcessSpec(Part):
    """What processes the data: `single`, one machine; `spark`, several, on AWS Glue; `auto` decides by the size.

    Only plain tables can be processed by more than one machine; `spark` is refused for everything else.
    """

    engine: Annotated[str, one_of(ENGINES)] = AUTO


class FeaturesSpec(Part):
    """Whether the processed rows go into SageMaker Feature Store, and which other projects may learn from them.

    What is shared is published; `share: all` is every project of the stack.
    """

    publish: bool = Field(default=False, strict=True)
    share: Annotated[str | tuple[str, ...], BeforeValidator(_share)] = ()

    @property
    def wanted(self) -> bool:
        """Whether this run publishes."""
        return self.publish or bool(self.share)


class CompressSpec(Part):
    """How much quality may be given up: absolute for scores, relative for errors such as rmse; and what may be spent.

    `budget` is CPU time that the search for smaller networks may take; without it, four times what training took.
    """

    max_metric_drop: float = Field(default=0.01, ge=0, le=1, allow_inf_nan=False)
    methods: tuple[Method, ...] = METHODS
    budget: Annotated[Duration, Field(ge=timedelta(minutes=1), le=timedelta(days=5))] | None = None


class CompileSpec(Part):
    """What compiles besides the job's own runtimes, and for what: `target` is a device of Neo or a chip of Neuron.

    `job`: nothing else. `auto`: nothing else either, unless the network is trained on Trainium: then neuronx-cc too.
    """

    engine: Annotated[str, one_of(COMPILERS)] = AUTO
    target: str | None = Field(default=None, min_length=1, max_length=20)


class DriftSpec(Part):
    """How far the data may move before the model is trained again."""

    psi: float = Field(default=0.2, gt=0, allow_inf_nan=False)


class CaptureSpec(Part):
    """Which share of its requests and answers a serving container notes, and how long that is kept (`ebb.capture`)."""

    share: float = Field(default=0.1, gt=0, le=1, strict=True, allow_inf_nan=False)
    keep: Annotated[Duration, Field(ge=timedelta(days=1), le=timedelta(days=3653))] = timedelta(days=14)


class RetrainSpec(Part):
    """What of the requests is kept, and when it is asked whether to train again."""

    schedule: str | None = Field(default=None, pattern=r"^(rate|cron)\(.+\)$", max_length=256)
    capture: CaptureSpec | None = None
    drift: DriftSpec | None = None
    deadline: Duration | None = None


class CarbonSpec(Part):
    """What a run may take, or a project in a month: `spec_budget` says how that is written.

    `deadline` is the time, from the upload on, until which the model is wanted: within it the costliest stage waits for
    electricity that emits less (`ebb.windows`).
    """

    budget: Annotated[BudgetSpec | None, BeforeValidator(read_budget)] = None
    signal: Literal["average", "marginal"] = "average"
    deadline: Annotated[Duration, Field(ge=timedelta(minutes=30), le=timedelta(days=14))] | None = None
