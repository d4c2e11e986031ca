"""Which engine processes a run's data.

`planned` is what a plan does: one machine, whose memory is bounded and whose volume takes the rest, or a refusal.
`choose` is the choice between it and Spark on Glue. No state machine starts Glue yet, so no plan follows it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ebb import sizing
from ebb.catalog import Instance
from ebb.errors import NoFeasibleInstanceError
from ebb.requests import glue
from ebb.spec import PipelineSpec

DUCKDB, SPARK = "DuckDB", "Spark"
SPILL_FACTOR = 8  # times its memory that a machine may sort on disk; assumed: the tests go to four times the limit
MOST_VOLUME_GIB = (
    16_384  # of a job: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_ProcessingClusterConfig.html
)
GIB = 1024**3
TEXT_GIB_PER_WORKER = 8  # assumed: below half of a G.1X's 16 GiB, as text in memory takes about twice its bytes
MOST_WORKERS = 50  # of one type; beyond it the larger type is taken


@dataclass(frozen=True)
class Engine:
    """The engine for `process`, and why."""

    name: str
    reason: str
    numbers: Mapping[str, Any]
    alternatives: tuple[str, ...]
    worker_type: str | None = None  # of Spark
    workers: int = 0


def planned(spec: PipelineSpec, data: sizing.Data) -> Engine:
    """Return the engine that a plan takes: one machine that sorts on its volume what its memory does not hold.

    Raises: NoFeasibleInstanceError when no volume is large enough for that.
    """
    table = sizing.is_plain_table(data, spec.task)
    text_gib, volume_gib = sizing.text_bytes(data) / GIB, sizing.volume_gib(data)
    if volume_gib > MOST_VOLUME_GIB:
        held = f"{text_gib:,.0f} GiB of text" if table else f"{sizing.unpacked_bytes(data) / GIB:,.0f} GiB"
        raise NoFeasibleInstanceError(
            f"process needs a volume of {volume_gib:,} GiB for {held}, and no job gets more than "
            f"{MOST_VOLUME_GIB:,} GiB: drop the data in parts of which each needs less, or a sample of it"
        )
    numbers = {"volume_gib": volume_gib, "largest_volume_gib": MOST_VOLUME_GIB}
    if not table:
        return Engine(DUCKDB, "only plain tables could be processed by more than one machine", numbers, ())
    reason = (
        f"one machine takes {text_gib:.3g} GiB of text: its memory is bounded, and a volume of {volume_gib:,} GiB "
        "holds what is sorted on disk"
    )
    return Engine(DUCKDB, reason, {"text_gib": round(text_gib, 3)} | numbers, ())


def choose(spec: PipelineSpec, data: sizing.Data, offered: Iterable[Instance] | None = None) -> Engine:
    """Return the engine that suits the data; no plan follows it yet.

    Everything but plain tables stays on one machine: archives, pictures, texts and scripts are read file by file there.
    A table goes to Spark when no machine has the memory, when none finishes in time, or when the machine that would be
    taken has less than an eighth of the text's size as memory.
    """
    text_gib = sizing.text_bytes(data) / GIB
    numbers: dict[str, Any] = {"text_gib": round(text_gib, 3)}
    other = f"{SPARK} on AWS Glue {glue.GLUE_VERSION}, {glue.EXECUTION_CLASS}"
    if not sizing.is_plain_table(data, spec.task):
        return Engine(DUCKDB, "only plain tables are processed by more than one machine", numbers, ())
    work = sizing.workload("process", data, max_runtime_s=spec.train.max_runtime.total_seconds())
    try:
        choice = sizing.choose("process", work, offered)
    except NoFeasibleInstanceError as error:
        return _spark(text_gib, str(error), numbers)
    instance = choice.instance
    seconds = sizing.duration_s(work, sizing.processors_of(instance))
    numbers |= {
        "memory_gib": instance.memory_gib,
        "expected_duration_s": round(seconds, 1),
        "largest_text_gib": SPILL_FACTOR * instance.memory_gib,
    }
    if seconds > work.max_runtime_s:
        why = f"no machine is expected to finish within the {work.max_runtime_s:.0f} s of train.max_runtime"
        return _spark(text_gib, why, numbers)
    if text_gib > SPILL_FACTOR * instance.memory_gib:
        why = f"the text is more than {SPILL_FACTOR} times the {instance.memory_gib:g} GiB of {instance.name}"
        return _spark(text_gib, why, numbers)
    reason = (
        f"{text_gib:.3g} GiB of text fit one {instance.name}: it holds up to {SPILL_FACTOR} times its "
        f"{instance.memory_gib:g} GiB of memory, the rest of it on disk"
    )
    return Engine(DUCKDB, reason, numbers, (other,))


def _spark(text_gib: float, why: str, numbers: dict[str, Any]) -> Engine:
    small, large = glue.WORKERS
    worker, wanted = small, math.ceil(text_gib / (TEXT_GIB_PER_WORKER * small.dpu))
    if wanted > MOST_WORKERS:
        worker, wanted = large, math.ceil(text_gib / (TEXT_GIB_PER_WORKER * large.dpu))
    workers = min(max(wanted + 1, 2), MOST_WORKERS)  # one of them drives
    return Engine(
        SPARK,
        f"{why}; {workers} workers of type {worker.name} for {text_gib:.3g} GiB of text",
        numbers | {"workers": workers, "dpu": workers * worker.dpu},
        (f"{DUCKDB} on one machine",),
        worker.name,
        workers,
    )
