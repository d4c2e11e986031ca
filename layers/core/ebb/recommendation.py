"""Recommendation: whether Inference Recommender is asked about a model, what that may cost, and what it said. Pure.

It is asked once about each registered model whose spec says `serve.recommender: true`, before that model is first
deployed, and only where there is something to choose: instance types, or the size of a serverless endpoint. What its
load test finds takes the place of Ebb's estimates (`serving_model.recommended`). Where it finds nothing, is refused,
fails or takes too long, Ebb's own measurement decides, and the ledger says why.

Sources: https://docs.aws.amazon.com/sagemaker/latest/dg/inference-recommender-load-test.html,
https://docs.aws.amazon.com/sagemaker/latest/dg/inference-recommender-prerequisites.html
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field

from ebb import catalog, ledger, names, serving_model
from ebb.events import Message
from ebb.requests import recommendations, roles
from ebb.serving_kinds import Row
from ebb.serving_model import Model
from ebb.settings import StackSettings
from ebb.spec_serve import ServeSpec
from ebb.spec_values import SERVERLESS_MEMORY_MB

WHAT = "right-sizing"  # what the ledger calls it
SOURCE = "https://docs.aws.amazon.com/sagemaker/latest/dg/inference-recommender-load-test.html"
COMPLETED = "COMPLETED"
COUNTED = (COMPLETED, "STOPPED", "LATE", "UNREADABLE")  # what was measured before a job was stopped is paid for, too
NOT_ASKED = "NOT_ASKED"  # a status of ours: no job was started
LADDER = 3  # sizes of a serverless endpoint, each twice the one before


class LoadTest(Message):
    """A load test that has ended, was refused or was not asked for, as `deploy_model` and the ledger tell of it.

    `ended_at` is the job's own; a state's entry is not when its last retry looked.
    `status` is the job's own, or NOT_ASKED, REFUSED, UNREADABLE, LATE. `at_most_usd` is what the job could have cost.
    """

    model_config = ConfigDict(extra="ignore")  # the ledger's item says more, for people

    status: str
    reason: str | None = None
    job_name: str | None = None
    tested: tuple[str, ...] = ()
    at_most_usd: float = Field(default=0.0, ge=0)
    began_at: datetime | None = None
    ended_at: datetime | None = None
    found: tuple[dict[str, Any], ...] = ()  # InferenceRecommendations

    @property
    def counts(self) -> bool:
        """Return whether the test is believed: it did not fail, and something answered."""
        return self.status in COUNTED and any(serving_model.measured(each)[1] for each in self.found)

    @property
    def why_not(self) -> str:
        """Return why the test does not count, or not in full, in words."""
        if self.status == COMPLETED:
            return "nothing that was tested answered as fast as was asked for"
        said = {
            "REFUSED": "the job was refused",
            "LATE": f"the job did not end within {_hours()} and was stopped",
            "UNREADABLE": "the job could not be looked at any more and was stopped",
            NOT_ASKED: "it was not asked",
        }.get(self.status, f"the job ended in status {self.status}")
        return f"{said}: {self.reason}" if self.reason else said

    @property
    def duration_s(self) -> float:
        """Return how long the job took, from its start to its end."""
        return max(0.0, (self.ended_at - self.began_at).total_seconds()) if self.began_at and self.ended_at else 0.0


@dataclass(frozen=True)
class Question:
    """What is to be load-tested: instance types, or sizes of a serverless endpoint; two or more."""

    instance_types: tuple[str, ...] = ()
    serverless_memory_mb: tuple[int, ...] = ()
    max_concurrency: int = 1

    @property
    def tested(self) -> tuple[str, ...]:
        """Return what is tested, for people."""
        return self.instance_types or tuple(f"{size} MB" for size in self.serverless_memory_mb)

    @property
    def at_most_usd(self) -> float:
        """Return what the job can cost at most, in USD.

            cost = tests at once * dearest * time until it would be stopped
        The dearest serverless size would be busy with every caller at once for all that time.
        """
        hours = _billed_s() / 3600
        each = [self._usd_per_hour(name) for name in self.instance_types]
        price = catalog.serverless().usd_per_gib_second.value * 3600
        each += [size / serving_model.MIB_PER_GIB * price * self.max_concurrency for size in self.serverless_memory_mb]
        return round(sum(sorted(each)[-recommendations.MOST_AT_ONCE :]) * hours, 2)

    @staticmethod
    def _usd_per_hour(name: str) -> float:
        machine = catalog.instance(name)
        return machine.price_usd_per_hour.high if machine else 0.0


def question(row: Row) -> Question | None:
    """Return what a load test could still choose between for the kind that was chosen; None when there is nothing."""
    if row.kind == "serverless" and row.memory_mb:
        sizes = tuple(size for size in (row.memory_mb * 2**step for step in range(LADDER)) if _is_a_size(size))
        at_once = min(row.max_concurrency or 1, recommendations.MOST_CALLERS)
        return Question(serverless_memory_mb=sizes, max_concurrency=at_once) if len(sizes) > 1 else None
    if row.kind in ("serverless", "batch") or not row.instance_type:
        return None
    types = tuple(dict.fromkeys((row.instance_type, *row.instance_types)))[: recommendations.MOST_CONFIGURATIONS]
    return Question(instance_types=types) if len(types) > 1 else None


def told_by_plan(serve: ServeSpec, row: Row) -> dict[str, Any] | None:
    """Return, for `ebb plan`, what would be tested and what it could cost; None when the spec does not ask for it."""
    if not serve.recommender:
        return None
    asked = question(row)
    return {"tested": list(asked.tested) if asked else [], "at_most_usd": asked.at_most_usd if asked else 0.0}


def ask(
    stack: StackSettings,
    *,
    project: str,
    run_id: str,
    attempt: int,
    package_arn: str,
    payload: Mapping[str, Any] | None,
    serve: ServeSpec,
    row: Row,
) -> dict[str, Any] | LoadTest:
    """Return the plan by which `deploy_model` starts the load test, or why there is none to be started.

    `payload` is {uri, content_type} of the sample that `compile` wrote, None where it knows no rows.
    """
    asked = question(row)
    if asked is None:
        return LoadTest(status=NOT_ASKED, reason=f"as {row.kind} there is only one size that it could have")
    if payload is None:
        why = "no rows are known that could be sent to it, as of a model that is served by code of its own"
        return LoadTest(status=NOT_ASKED, reason=why)
    name = names.load_test(run_id, attempt)
    limit = serve.p95_latency
    request = recommendations.create_inference_recommendations_job(
        name=name,
        role_arn=roles.role_arn(stack, project, names.RECOMMEND),
        package_arn=package_arn,
        payload_uri=str(payload["uri"]),
        content_type=str(payload["content_type"]),
        instance_types=asked.instance_types,
        serverless_memory_mb=asked.serverless_memory_mb,
        max_concurrency=asked.max_concurrency,
        p95_ms=max(1, round(limit.total_seconds() * 1000)) if limit else None,
        kms_key=stack.data_key_arn,
        tags=names.tags(stack.stack, project, run_id),
    )
    return {
        "action": "recommend",
        "reason": f"serve.recommender asks for a load test, {priced(asked.at_most_usd)}",
        "recommendation": {
            "request": request,
            "told": {"job_name": name, "tested": list(asked.tested), "at_most_usd": asked.at_most_usd},
        },
    }


def applied(model: Model, test: LoadTest | None) -> Model:
    """Return a model with what its load test found, as it is where that does not count."""
    return serving_model.recommended(model, test.found) if test and test.counts else model


def note(stack: StackSettings, run_id: str, test: LoadTest, row: Row | None, *, now: datetime) -> dict[str, Any]:
    """Return the write of what became of the load test; without a row nothing was deployed in the end.

    A job that does not tell when it ended has done so just now.

    Its item is a decision like others (`ebb why` tells it), and holds what the next deployment reads: no second job.
    """
    test = test.model_copy(update={"ended_at": test.ended_at or now}) if test.began_at else test
    figures = [_figures(each) for each in test.found] if test.counts else []
    # The job's own price is billed elsewhere; its share of the time that it was allowed bounds it.
    usd = test.at_most_usd * min(1.0, test.duration_s / _billed_s())
    numbers = {
        "USD at most": round(usd, 4),
        "of a cap of USD": test.at_most_usd,
        "minutes": round(test.duration_s / 60, 1),
    }
    for each in figures:
        numbers[f"{each['what']}, requests a minute"] = each["per_minute"]
    item = {
        **ledger.recommendation_key(run_id),
        "stage": "deploy",
        "what": WHAT,
        "chosen": _set_up(row),
        "reason": _reason(test),
        "numbers": numbers if test.job_name else {},
        "alternatives": [_worded(each) for each in figures if each["what"] not in _set_up(row)],
        "figures": [_worded(each) for each in figures],
        "source": SOURCE,
        "status": test.status,
        "told": test.reason,
        "job_name": test.job_name,
        "tested": list(test.tested),
        "at_most_usd": test.at_most_usd,
        "began_at": test.began_at,
        "ended_at": test.ended_at,
        "found": [_kept(each) for each in test.found],
        "noted_at": now,
    }
    return ledger.put_action(stack.ledger_table, item)


def priced(at_most_usd: float) -> str:
    """Return how long a load test takes at most and how dear it is, in words."""
    return f"which takes up to {_hours()} and costs at most {at_most_usd:.2f} USD"


def read(item: Mapping[str, Any] | None) -> LoadTest | None:
    """Return the load test that an item of the ledger tells of, None without one."""
    return LoadTest.model_validate({**item, "reason": item.get("told")}) if item else None


def _reason(test: LoadTest) -> str:
    if not test.counts:
        return f"Ebb's own measurement decides; Inference Recommender's is not used: {test.why_not}"
    best = f"Inference Recommender's load test of {', '.join(test.tested)} found it the best"
    return best if test.status == COMPLETED else f"{best} of the {len(test.found)} that it measured: {test.why_not}"


def _kept(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a recommendation that is read again: floats that are no numbers do not fit into an item."""
    name, per_minute, size_mb, latency_us = serving_model.measured(found)
    setup = {"InstanceType": name} if name else {"ServerlessConfig": {"MemorySizeInMB": size_mb}}
    return {"EndpointConfiguration": setup, "Metrics": {"MaxInvocations": per_minute, "ModelLatency": latency_us}}


def _figures(found: Mapping[str, Any]) -> dict[str, Any]:
    name, per_minute, size_mb, latency_us = serving_model.measured(found)
    return {"what": name or f"{size_mb} MB", "per_minute": round(per_minute), "latency_us": latency_us}


def _worded(each: Mapping[str, Any]) -> str:
    latency = f", {each['latency_us'] / 1000:.3g} ms each" if each["latency_us"] else ""
    return f"{each['what']}: {each['per_minute']:,} requests a minute{latency}"


def _set_up(row: Row | None) -> str:
    if row is None:
        return "nothing is deployed"
    if row.kind == "serverless":
        return f"{row.memory_mb} MB, {row.max_concurrency} at once"
    return f"{row.copies} x {row.instance_type}" if row.instance_type else row.kind


def _is_a_size(size_mb: int) -> bool:
    return size_mb in SERVERLESS_MEMORY_MB


def _billed_s() -> float:
    return (recommendations.LONGEST + recommendations.GRACE).total_seconds()


def _hours() -> str:
    return f"{recommendations.LONGEST.total_seconds() / 3600:g} h"
