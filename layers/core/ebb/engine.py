"""Which engine processes a run's data: one machine with DuckDB, or Spark on Glue when the data outgrows it.

`choose` is the choice by size, `planned` what a plan does: the choice, or what the spec asks for instead.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ebb import sizing
from ebb.catalog import Instance
from ebb.errors import InvalidSpecError, NoFeasibleInstanceError, Rejection
from ebb.requests import glue
from ebb.spec import PipelineSpec
from ebb.spec_values import AUTO, SINGLE

DUCKDB, SPARK = "DuckDB", "Spark"
SPILL_FACTOR = 8  # times its memory that a machine may sort on disk; assumed: the tests go to four times the limit
MOST_VOLUME_GIB = (
    16_384  # of a job: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_ProcessingClusterConfig.html
)
GIB = 1024**3
TEXT_GIB_PER_WORKER = 8  # assumed: below half of a G.1X's 16 GiB, as text in memory takes about twice its bytes
MOST_WORKERS = 50  # of one type; beyond it the larger type is taken
VCPU_PER_DPU = 4  # https://docs.aws.amazon.com/glue/latest/dg/worker-types.html
START_S = 90  # until the first statement runs, Python packages and Spark itself included; assumed


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
    """Return the engine that a plan takes: the one that process.engine names, or the one that suits the data.

    Raises: NoFeasibleInstanceError when one machine is to process what no volume holds; InvalidSpecError when Spark is
    asked for where only one machine can process the data.
    """
    asked = spec.process.engine
    if asked == AUTO:
        chosen = choose(spec, data)
    elif asked == SINGLE:
        other = (f"{SPARK} on AWS Glue {glue.GLUE_VERSION}, {glue.EXECUTION_CLASS}",)
        chosen = Engine(DUCKDB, "named by process.engine in the spec", {}, other)
    elif sizing.is_plain_table(data, spec.task):
        text_gib = sizing.text_bytes(data) / GIB
        work = sizing.workload("process", data, max_runtime_s=spec.train.max_runtime.total_seconds())
        chosen = _spark(text_gib, "named by process.engine in the spec", {"text_gib": round(text_gib, 3)}, work)
    else:
        raise InvalidSpecError(
            Rejection(
                "engine-not-for-data",
                f"process.engine is {asked}, and only files of tables (CSV, JSON Lines, Parquet, not packed into an "
                "archive) that are learned as tables are processed by Spark",
                column="process.engine",
                remedy="Remove process.engine, or write process: {engine: auto}.",
            )
        )
    if chosen.name == DUCKDB:
        _refuse_beyond_volume(spec, data)
    return chosen


def _refuse_beyond_volume(spec: PipelineSpec, data: sizing.Data) -> None:
    """Raise NoFeasibleInstanceError when the volume of one machine, which sorts on disk, would be too small."""
    volume_gib = sizing.volume_gib(data)
    if volume_gib <= MOST_VOLUME_GIB:
        return
    table = sizing.is_plain_table(data, spec.task)
    text_gib = sizing.text_bytes(data) / GIB
    held = f"{text_gib:,.0f} GiB of text" if table else f"{sizing.unpacked_bytes(data) / GIB:,.0f} GiB"
    raise NoFeasibleInstanceError(
        f"process needs a volume of {volume_gib:,} GiB for {held}, and no job gets more than {MOST_VOLUME_GIB:,} GiB",
        "drop the data in parts of which each needs less, or a sample of it",
    )


def choose(spec: PipelineSpec, data: sizing.Data, offered: Iterable[Instance] | None = None) -> Engine:
    """Return the engine that suits the data.

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
        return _spark(text_gib, str(error), numbers, work)
    instance = choice.instance
    seconds = sizing.duration_s(work, sizing.processors_of(instance))
    numbers |= {
        "memory_gib": instance.memory_gib,
        "expected_duration_s": round(seconds, 1),
        "largest_text_gib": SPILL_FACTOR * instance.memory_gib,
    }
    if seconds > work.max_runtime_s:
        why = f"no machine is expected to finish within the {work.max_runtime_s:.0f} s of train.max_runtime"
        return _spark(text_gib, why, numbers, work)
    if text_gib > SPILL_FACTOR * instance.memory_gib:
        why = f"the text is more than {SPILL_FACTOR} times the {instance.memory_gib:g} GiB of {instance.name}"
        return _spark(text_gib, why, numbers, work)
    reason = (
        f"{text_gib:.3g} GiB of text fit one {instance.name}: it holds up to {SPILL_FACTOR} times its "
        f"{instance.memory_gib:g} GiB of memory, the rest of it on disk"
    )
    return Engine(DUCKDB, reason, numbers, (other,))


def _spark(text_gib: float, why: str, numbers: dict[str, Any], work: sizing.Workload) -> Engine:
    small, large = glue.WORKERS
    worker, wanted = small, math.ceil(text_gib / (TEXT_GIB_PER_WORKER * small.dpu))
    if wanted > MOST_WORKERS:
        worker, wanted = large, math.ceil(text_gib / (TEXT_GIB_PER_WORKER * large.dpu))
    workers = min(max(wanted + 1, 2), MOST_WORKERS)  # one of them drives
    return Engine(
        SPARK,
        f"{why}; {workers} workers of type {worker.name} for {text_gib:.3g} GiB of text",
        numbers
        | {
            "workers": workers,
            "dpu": workers * worker.dpu,
            "expected_duration_s": round(START_S + sizing.duration_s(work, VCPU_PER_DPU * workers * worker.dpu), 1),
        },
        (f"{DUCKDB} on one machine",),
        worker.name,
        workers,
    )
