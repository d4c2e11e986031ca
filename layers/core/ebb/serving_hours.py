"""What Ebb's own endpoints took, hour by hour, and what they did not take while they slept. Pure.

Once a day, for the 24 hours until 23:00 UTC of the day before: reading metrics costs by the metric and not by the hour,
and by then CloudWatch has the last minute. `ebb.aws.serving_hours` reads and writes.

    instance    instance seconds = samples of CPUUtilization * 60: each instance publishes one a minute
                load = its mean / (100 * vCPUs): 100 is one core
    component   of an endpoint that others use too: its copies' share of an instance, by the memory that they reserve
    serverless  the time in which requests held the memory = the sum of ModelLatency

Sources: https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html; one sample a minute and instance is
assumed from "one-minute frequency".
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict

from ebb import accounting, addresses, catalog, footprint
from ebb.accounting import Entry
from ebb.addresses import Address
from ebb.carbon import Band
from ebb.footprint import Footprint

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
LONGEST = timedelta(days=14)  # CloudWatch keeps one-minute data for 15 days
SLEPT = "slept"
SAMPLE_S = 60.0
CPU, CPU_OF_COMPONENT, LATENCY = "CPUUtilization", "CPUUtilizationNormalized", "ModelLatency"
UNKNOWN_MEMORY_MB = 3072  # of a serverless endpoint that was deployed before its size was noted; assumed
_MACHINE = ("processor power (jobs)", "memory", "embodied", "instance prices")
_SERVERLESS = ("processor power (serverless)", "memory", "embodied", "serverless price")


class Due(BaseModel):
    """Which hours are to be booked, and of which addresses this has not been done yet."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    since: datetime
    until: datetime
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hour:
    """What CloudWatch told of one hour: how many samples there were, and their mean or their sum."""

    begun: datetime
    samples: float
    value: float


@dataclass(frozen=True)
class Series:
    """The metric that tells what an address took: its mean where it is a load, its sum where it is a time."""

    namespace: str
    metric: str
    dimensions: Mapping[str, str]
    statistic: str


def due(before: Due | None, known: Iterable[Address], now: datetime) -> Due:
    """Return what is to be booked by a sweep: what was left over, or all of a day that has ended.

    What was left over of an earlier day is booked with the next one, and what stands already is not booked twice.
    """
    now = now.astimezone(UTC)
    until = now.replace(hour=0, minute=0, second=0, microsecond=0) - HOUR
    if before and before.until >= until:
        return before
    since = until - DAY
    if before:
        since = max(before.since if before.left else before.until, until - LONGEST)
    return Due(since=since, until=until, left=tuple(sorted(at.address for at in known if is_booked(at))))


def is_booked(at: Address) -> bool:
    """Return whether an address is one of Ebb's own endpoints; what runs as batch books its jobs."""
    return at.origin == "ebb" and at.project is not None and at.endpoint_name is not None and at.kind != "batch"


def series(at: Address) -> Series:
    """Return the one metric that is read of an address."""
    endpoint = {"EndpointName": str(at.endpoint_name), "VariantName": at.variant}
    if at.kind == "serverless":
        return Series("AWS/SageMaker", LATENCY, endpoint, "Sum")
    if at.kind == "shared":
        where = {"InferenceComponentName": str(at.component)}
        return Series("/aws/sagemaker/InferenceComponents", CPU_OF_COMPONENT, where, "Average")
    return Series("/aws/sagemaker/Endpoints", CPU, endpoint, "Average")


def entries(
    at: Address, hours: Sequence[Hour], happened: Sequence[Mapping[str, Any]], wanted: Due, *, region: str
) -> list[Entry]:
    """Return the entries of an address: of each hour in which it took something, of each day in which it slept.

    `happened` are the events of its sleeps, from the beginning of the hours on, oldest first.
    """
    found = [entry for hour in hours if (entry := _hour(at, hour, region))]
    return [*found, *_slept(at, happened, wanted, region)]


def _hour(at: Address, hour: Hour, region: str) -> Entry | None:
    if not hour.samples:
        return None
    usage: dict[str, Any] = {"region": region, "measured": True}
    if at.kind == "serverless":
        size_mb = float(at.memory_mb or UNKNOWN_MEMORY_MB)
        seconds = hour.value / 1e6
        spent = footprint.of_serverless(seconds, memory_mb=size_mb, region=region)
        usage |= {
            "duration_s": seconds,
            "billable_s": seconds,
            "requests": hour.samples,
            "memory_mb": size_mb,
            "basis": f"{LATENCY} of {hour.samples:.0f} requests; load of its vCPUs not reported: 0 to 1"
            + ("" if at.memory_mb else f"; memory assumed: {UNKNOWN_MEMORY_MB} MB"),
        }
        return _served(at, hour.begun, spent, usage, _SERVERLESS)
    machine = catalog.instance(str(at.instance_type))
    if machine is None:
        return None
    if at.kind == "shared":
        seconds, share = min(hour.samples, 60.0) * SAMPLE_S, _share(at, machine.memory_gib)
        load = min(1.0, max(0.0, hour.value / 100))
        basis = f"samples of {CPU_OF_COMPONENT}; {share:.3g} of an instance, by the memory that it reserves"
    else:
        seconds, share = hour.samples * SAMPLE_S, 1.0
        load = min(1.0, max(0.0, hour.value / 100 / machine.vcpu))
        basis = f"samples of {CPU}: one a minute and instance"
    used = footprint.of_job(
        machine.name, duration_s=seconds * share, billable_s=seconds * share, load=Band.exact(load), region=region
    )
    usage |= {
        "duration_s": seconds,
        "billable_s": seconds * share,
        "utilization": load,
        "instance": machine.name,
        "basis": basis,
    }
    return _served(at, hour.begun, used or footprint.NOTHING, usage, _MACHINE)


def _served(at: Address, begun: datetime, spent: Footprint, usage: dict[str, Any], names: Sequence[str]) -> Entry:
    return accounting.serving_entry(
        project=str(at.project),
        endpoint=at.address,
        hour=begun,
        spent=spent,
        usage=usage | {"kind": at.kind},
        coefficients=accounting.coefficients_in_short(*names),
        run_id=at.run_id,
    )


def _share(at: Address, memory_gib: float) -> float:
    """Return which part of an instance the copies of a shared endpoint's component reserve."""
    return at.copies * min(1.0, float(at.memory_mb or 0) / (memory_gib * footprint.MIB_PER_GIB))


def _slept(at: Address, happened: Sequence[Mapping[str, Any]], wanted: Due, region: str) -> Iterator[Entry]:
    """Give what sleeping saved, day by day: an endpoint that is always on, and waits for calls all that time."""
    machine = catalog.instance(str(at.instance_type)) if at.kind in addresses.SLEEPABLE else None
    if machine is None:
        return
    share = _share(at, machine.memory_gib) if at.kind == "shared" else float(at.copies)
    spans = asleep(at, happened, until=wanted.until)
    begun = wanted.since
    while begun < wanted.until:
        ended = begun + DAY
        seconds = sum(max(0.0, (min(end, ended) - max(start, begun)).total_seconds()) for start, end in spans)
        saved = footprint.of_job(
            machine.name,
            duration_s=seconds * share,
            billable_s=seconds * share,
            load=footprint.WAITING_UTILIZATION,
            region=region,
        )
        if seconds and share and saved:
            yield accounting.avoided_entry(
                SLEPT,
                project=str(at.project),
                id=f"{at.address}#{begun:%Y-%m-%dT%H}",
                at=begun,
                instead_of="always on, waiting for calls",
                would_have=saved,
                usage={
                    "duration_s": seconds,
                    "instance": machine.name,
                    "machines": share,
                    "region": region,
                    "measured": False,
                    "basis": "time asleep as the ledger noted it; load while it waits: 0 to 0.5, 0.1 assumed",
                },
                coefficients=accounting.coefficients_in_short(*_MACHINE),
                run_id=at.run_id,
            )
        begun = ended


def asleep(at: Address, happened: Sequence[Mapping[str, Any]], *, until: datetime) -> list[tuple[datetime, datetime]]:
    """Return the times in which an address slept, as far as its events since a moment tell.

    A sleep that began before them is known by the length that its waking notes, or by the address that still sleeps.
    """
    spans: list[tuple[datetime, datetime]] = []
    open_since: datetime | None = None
    for event in happened:
        moment = datetime.fromisoformat(str(event["at"]))
        if event["what"] == "slept":
            open_since = moment
        elif event["what"] == "woke":
            spans.append((open_since or moment - timedelta(seconds=float(event.get("asleep_s") or 0.0)), moment))
            open_since = None
    if open_since is None and not spans and at.state in (addresses.ASLEEP, addresses.WAKING, addresses.FAILED):
        open_since = at.asleep_since
    if open_since is None:
        return spans
    # a deployment makes it serve without waking it
    awake = at.state in (addresses.AWAKE, addresses.FALLING_ASLEEP)
    ended = max(open_since, at.in_service_since or open_since) if awake else until
    return [*spans, (open_since, max(open_since, ended))]
