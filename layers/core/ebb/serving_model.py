"""What is known of a model that is to be served: measured by `compile`, or by Inference Recommender."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ebb import catalog, footprint
from ebb.carbon import Band

UNKNOWN_MEMORY_MIB = 4096.0 - footprint.HEADROOM_MIB
UNTIMED_MEMORY_FACTOR = 2.0  # what it takes to answer, over what it took to load; assumed
MIB_PER_GIB = 1024


@dataclass(frozen=True)
class Model:
    """What is known of a model: measured by `compile`, or None where nobody has asked it anything."""

    memory_mib: float | None = None
    cpu_s: float | None = None  # of a prediction
    answer_s: float | None = None  # from row to answer, the median
    slow_answer_s: float | None = None  # 1 request in 20 takes longer; 1 in 100 where that is what is known
    start_s: float | None = None  # from the container's start to its first answer
    own_code: bool = False  # served on the image with PyTorch
    per_s_of: tuple[tuple[str, float], ...] = ()  # requests a second that an instance type was measured to answer
    serverless_mb: int | None = None  # the size of a serverless endpoint that was measured to be the best

    @classmethod
    def of(cls, candidate: Mapping[str, Any]) -> "Model":
        """Return what compile's report tells of a candidate, or the ledger of the model that is served."""
        memory = candidate.get("memory_mib")
        known = cls(
            memory_mib=float(memory) if memory else None,
            own_code=candidate.get("image") == "jobs",
            start_s=float(candidate["start_ms"]) / 1000 if candidate.get("start_ms") else None,
        )
        if not footprint.is_timed(candidate):
            return known
        answering = footprint.answering_ms(candidate)
        slow_ms = answering.get("p95") or answering.get("p99") or answering["p50"]
        cpu_ms = candidate.get("cpu_ms_per_prediction") or answering["p50"]
        return replace(
            known,
            cpu_s=float(cpu_ms) / 1000,
            answer_s=float(answering["p50"]) / 1000,
            slow_answer_s=float(slow_ms) / 1000,
        )

    @property
    def timed(self) -> bool:
        """Return whether it is known how long an answer takes."""
        return self.answer_s is not None

    @property
    def needed_mib(self) -> float:
        """Return the memory of its container: the model, and requests in flight."""
        known = UNKNOWN_MEMORY_MIB if self.memory_mib is None else self.memory_mib
        factor = 1.0 if self.timed or self.memory_mib is None else UNTIMED_MEMORY_FACTOR
        return known * factor + footprint.HEADROOM_MIB

    @property
    def wall_s(self) -> Band:
        """Return the time of one answer with a processor of its own, HTTP included."""
        facts = catalog.waking()
        known = facts.unknown_answer_s if self.answer_s is None else Band.exact(self.answer_s)
        return known + facts.request_s

    @property
    def busy_s(self) -> Band:
        """Return the processor time of one answer, HTTP included."""
        facts = catalog.waking()
        known = facts.unknown_answer_s if self.cpu_s is None else Band.exact(self.cpu_s)
        return known + facts.request_s

    @property
    def slow_s(self) -> float | None:
        """Return the answer that 1 in 20 exceeds, HTTP included; None where nobody has timed it."""
        return None if self.slow_answer_s is None else self.slow_answer_s + catalog.waking().request_s.value

    @property
    def loading_s(self) -> Band:
        """Return the time from the container's start to its first answer."""
        facts = catalog.waking()
        if self.start_s is not None:
            return Band.exact(self.start_s)
        return facts.large_start_s if self.own_code else facts.start_s


def recommended(model: Model, found: Iterable[Mapping[str, Any]]) -> Model:
    """Return a model with what Inference Recommender measured of it: `InferenceRecommendations` of its job.

    How many requests an instance answers takes the place of the estimate from processor time; 0 says that it answers
    none as fast as was asked for. Its latency is not taken: it is that of an instance under full load. Of serverless
    sizes, which are billed by memory and time, the one is taken that needs the least of `size * latency` (an answer's
    GB-seconds), the smaller one where two need the same. When nothing answered, the model is returned as it is. The
    service measures no energy, so that stays an estimate.
    """
    rates: dict[str, float] = {}
    sizes: list[tuple[float, int]] = []
    for each in found:
        name, per_minute, size_mb, latency = measured(each)
        if name:
            rates[name] = max(per_minute / 60, rates.get(name, 0.0))
        elif size_mb and per_minute and latency:
            sizes.append((size_mb * latency, size_mb))
    return replace(
        model,
        per_s_of=tuple(sorted(rates.items())) if any(rates.values()) else (),
        serverless_mb=min(sizes)[1] if sizes else None,
    )


def measured(found: Mapping[str, Any]) -> tuple[str | None, float, int | None, float | None]:
    """Return what one of `InferenceRecommendations` tells: instance type, requests a minute, memory, latency in us.

    A figure that is not available is NaN (https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_RecommendationMetrics.html),
    which JSON lacks: it may come as text.
    """
    setup, metrics = found["EndpointConfiguration"], found.get("Metrics") or {}
    # MemorySizeInMB, or MemorySizeInMb: how Step Functions spells capitals in a row differs
    serverless = {name.lower(): value for name, value in (setup.get("ServerlessConfig") or {}).items()}
    size = serverless.get("memorysizeinmb")
    latency = _figure(metrics.get("ModelLatency"))
    return (
        setup.get("InstanceType"),
        _figure(metrics.get("MaxInvocations")) or 0.0,
        int(size) if size else None,
        latency,
    )


def _figure(value: Any) -> float | None:
    number = float(value) if isinstance(value, int | float) else math.nan
    return number if math.isfinite(number) else None
