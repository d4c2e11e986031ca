"""The part `serve` of a spec: the kind of endpoint, how fast and how available, and which of these exclude another."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ebb import catalog, spec_text
from ebb.spec_values import SERVE_KINDS, Duration, Part, Short, one_of


class ServeSpec(Part):
    """How the model is served: which kind of endpoint, how fast it must answer, and when it may sleep.

    With `kind: auto` the kind follows from the other fields and from the traffic (`ebb.serving`). Without `idle_after`
    the time after which an endpoint sleeps follows its own traffic; a request that meets it asleep waits `queue_for` at
    most. A new model or kind is watched for `watch` before the old one goes; without it, five minutes where there are
    calls. With `recommender` a load test by SageMaker's Inference Recommender, which costs money, finds the size.
    """

    kind: Annotated[str, one_of(SERVE_KINDS)] = "auto"
    p95_latency: Annotated[Duration, Field(gt=timedelta(0))] | None = None
    cold_start: Literal["allowed", "avoid"] = "allowed"
    requests_per_day: int | None = Field(default=None, ge=0, le=10**10)
    idle_after: Annotated[Duration, Field(ge=timedelta(minutes=1))] | None = None
    memory_mb: Literal[1024, 2048, 3072, 4096, 5120, 6144] | None = None
    availability: Literal["normal", "high"] = "normal"
    instance: str = "auto"
    max_copies: int | None = Field(default=None, ge=1, le=100)
    watch: Short | None = None
    # An asynchronous endpoint keeps a request for six hours at most, and no longer than a minute at least:
    # https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpointAsync.html
    queue_for: Annotated[Duration, Field(ge=timedelta(minutes=1), le=timedelta(hours=6))] = timedelta(hours=1)
    max_payload_mb: int | None = Field(default=None, ge=1, le=1000)
    recommender: bool = Field(default=False, strict=True)

    @field_validator("instance")
    @classmethod
    def _can_serve(cls, value: str) -> str:
        fitting = [each.name for each in catalog.hosting() if each.serves_ebb]
        if value == "auto" or value in fitting:
            return value
        known = next((each for each in catalog.hosting() if each.name == value), None)
        why = f"{value} {known.why_not}; " if known else ""
        raise ValueError(f"{why}write auto or one of: {', '.join(fitting)}")

    @model_validator(mode="after")
    def _fields_fit_kind(self) -> "ServeSpec":
        for name, clash in self._clashes():
            raise spec_text.misplaced(("serve", name), clash)
        return self

    def _clashes(self) -> Iterator[tuple[str, str]]:
        """Give each field that contradicts another one, with what to write instead."""
        kind = self.kind
        if self.availability == "high":
            if kind in ("serverless", "async", "batch"):
                yield (
                    "availability",
                    f"high keeps two copies awake, {kind} has none; write kind: realtime, shared or auto",
                )
            if self.idle_after is not None:
                yield "idle_after", "with availability: high an endpoint never sleeps; remove one of the two"
            if self.max_copies == 1:
                yield "max_copies", "availability: high keeps two copies; write 2 or more, or availability: normal"
        if self.cold_start == "avoid":
            if kind in ("serverless", "batch"):
                yield (
                    "cold_start",
                    f"{kind} starts cold; write kind: auto, realtime, async or shared, or cold_start: allowed",
                )
            if self.idle_after is not None:
                yield "idle_after", "what sleeps starts cold; remove it, or write cold_start: allowed"
        if kind == "batch" and self.p95_latency is not None:
            yield "p95_latency", "batch answers whole files, not requests; remove it, or write another kind"
        if kind in ("serverless", "batch") and self.idle_after is not None:
            yield "idle_after", f"{kind} has nothing to put to sleep; remove it, or write another kind"
        yield from self._clashing_sizes()
        yield from self._clashing_recommender()

    def _clashing_recommender(self) -> Iterator[tuple[str, str]]:
        """Give why a load test would find nothing that is still to be chosen."""
        if not self.recommender:
            return
        if self.kind == "batch":
            yield "recommender", "it tests endpoints, batch has none; remove it, or write another kind"
        if self.instance != "auto":
            yield "recommender", f"it chooses the instance, and {self.instance} is asked for; write one of the two"
        if self.memory_mb is not None:
            yield "recommender", f"it chooses the memory, and {self.memory_mb} MB are asked for; write one of the two"

    def _clashing_sizes(self) -> Iterator[tuple[str, str]]:
        kind = self.kind
        if self.memory_mb is not None:
            if kind not in ("auto", "serverless"):
                yield (
                    "memory_mb",
                    f"it is a size of serverless endpoints, {kind} has an instance; write instance instead",
                )
            if self.instance != "auto":
                yield "memory_mb", "it is a size of serverless endpoints, which have no instance; write one of the two"
            if self.availability == "high":
                yield (
                    "memory_mb",
                    "it is a size of serverless endpoints, which keep no copies awake; write instance instead",
                )
        if kind == "serverless" and self.instance != "auto":
            yield "instance", "a serverless endpoint has none; write memory_mb instead, or kind: realtime"
        if kind in ("serverless", "batch") and self.max_copies is not None:
            yield "max_copies", f"{kind} keeps no copies; remove it, or write another kind"
        if kind == "batch" and self.watch is not None:
            yield "watch", "a batch job is not watched while it is replaced; remove it, or write another kind"
        if self.max_payload_mb is not None:
            most = catalog.serving_limits().payload_mb.get(kind)
            if most is not None and self.max_payload_mb > most:
                yield "max_payload_mb", f"{kind} takes {most} MB at most; write kind: auto or async, or a smaller size"
