"""What Ebb itself costs: billed units times sourced prices. Pure; `ebb cost` and the benchmark of the sweep use it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from ebb import catalog, pace

HOURS_PER_MONTH = 730.0
DAYS_PER_MONTH = HOURS_PER_MONTH / 24
# measured: by a metric of AWS; counted: by Ebb, or in its template; assumed: written down in the price table
How = Literal["measured", "counted", "assumed"]


@dataclass(frozen=True)
class Price:
    """What one unit costs, what a month brings free, and who says so."""

    name: str
    usd: float
    unit: str
    free: float
    source: str


@dataclass(frozen=True)
class Line:
    """One item of a bill."""

    service: str
    what: str
    price: str
    units: float
    how: How = "counted"

    @property
    def usd(self) -> float:
        """Return what it costs, no free tier subtracted."""
        return self.units * price(self.price).usd

    def as_dict(self) -> dict[str, Any]:
        """Return the line with its price, for a JSON document."""
        known = price(self.price)
        return {
            "service": self.service,
            "what": self.what,
            "units": self.units,
            "unit": known.unit,
            "usd_per_unit": known.usd,
            "usd": self.usd,
            "how": self.how,
            "free_per_month": known.free,
            "source": known.source,
        }


def price(name: str) -> Price:
    """Return one price of the table.

    Raises: KeyError for a price that the table lacks: what is billed must not be counted as nothing.
    """
    entry = _facts()["prices"][name]
    return Price(name, float(entry["usd"]), entry["unit"], float(entry.get("free", 0)), entry["source"])


def prices() -> list[Price]:
    """Return the whole table."""
    return [price(name) for name in _facts()["prices"]]


def facts() -> dict[str, str]:
    """Return where and when the prices hold."""
    return {name: str(_facts()[name]) for name in ("region", "date", "confidence")}


def assumed(name: str) -> Any:
    """Return one of the table's assumptions about what AWS's services do by themselves."""
    return _facts()["assumed"][name]


def total_usd(lines: Iterable[Line]) -> float:
    """Return the sum of a bill, no free tier subtracted."""
    return sum(line.usd for line in lines)


def free_usd(lines: Iterable[Line], months: float = 1.0) -> float:
    """Return what the free tiers would take off, were this stack all that the account runs."""
    used: dict[str, float] = {}
    for line in lines:
        used[line.price] = used.get(line.price, 0.0) + line.units
    known = {name: price(name) for name in used}
    return sum(min(units, known[name].free * months) * known[name].usd for name, units in used.items())


def instance_usd_per_hour(instance_type: str) -> float | None:
    """Return the price of an instance type, None when neither table knows it."""
    known = catalog.instance(instance_type)
    if known is not None:
        return known.price_usd_per_hour.value
    found = _facts()["instances"]["usd_per_hour"].get(instance_type)
    return None if found is None else float(found)


def volume_usd_per_gib_month() -> float:
    """Return the price of keeping a notebook's or a space's volume."""
    return float(_facts()["volume"]["usd_per_gib_month"])


def invocation(service: str, what: str, *, count: float, seconds: float, memory_mb: int, how: How) -> list[Line]:
    """Return what calls of a Lambda function cost: the requests, and the memory that they held, in GB-s.

        GB-s = count * seconds * memory_mb / 1024
    Source: https://aws.amazon.com/lambda/pricing/
    """
    return [
        Line(service, f"{what}: requests", "lambda_request", count, how),
        Line(service, f"{what}: memory", "lambda_gb_second", count * seconds * memory_mb / 1024, how),
    ]


# State transitions along the ways that an endpoint takes through statemachines/, the start of an execution among them.
# benchmarks/sweep.py counts them in the machines as they are, and refuses to run, as does a test, where they differ.
SLEEP_STATES = 22  # noted, decided again, its capacity and alarms changed, one look until that is done, noted, told
WAKE_STATES = 16  # noted, capacity asked for, one look until it is there, its alarms put back, noted
# An alarm went off, it was waited for the window to end, and a call had come. Where the next end is less than 20
# minutes away it waits for that too, four times at most, of 4 states each.
LOOK_STATES = 8
SLEEPING_CALLS = 2  # of an endpoint that Ebb made: the alarm that wakes it, and its capacity
WAKE_S = 300.0  # until it answers; AWS: "several minutes" (dg/endpoint-auto-scaling-zero-instances)
GOING_S = 60.0  # until its last instance is given back; assumed
METRICS_PER_DECISION = 4  # its history, calls, requests under way, heartbeat
STEP_S, STEP_MB = 0.5, 512  # each step asks a function; assumed, with a cold start now and then


def cycle(wake_s: float = WAKE_S) -> list[Line]:
    """Return what one sleep with its wake costs: states entered, functions called, metrics read.

    Each further look until AWS is done is one transition more: a retry of the state that looks (`ebb.pace`).
    """
    more_looks = pace.looks_until(wake_s) - 1 + pace.looks_until(GOING_S, pace.SLEEPING_S) - 1
    return _executions(SLEEP_STATES + WAKE_STATES + more_looks, steps=1 + 3 + 2, decisions=2)


def look() -> list[Line]:
    """Return what it costs when an alarm goes off for a silence and a call comes before it may sleep."""
    return _executions(LOOK_STATES, steps=1 + 2, decisions=2)


def _executions(states: int, *, steps: int, decisions: int) -> list[Line]:
    return [
        Line("Step Functions", "states", "states_transition", states),
        Line("CloudWatch", "decisions", "cloudwatch_metric_read", decisions * METRICS_PER_DECISION),
        *invocation("Lambda", "steps", count=steps, seconds=STEP_S, memory_mb=STEP_MB, how="assumed"),
    ]


def standing(resources: Mapping[str, Mapping[str, Any]]) -> list[Line]:
    """Return what a month of a deployed stack costs while nobody does anything: every resource of the template.

    `resources` are the template's. Schedules are left out: what they start is counted by who knows what it does.
    Raises: KeyError for a kind of resource that is not known here: a new one must be counted or named as free.
    """
    lines: list[Line] = []
    for name, resource in resources.items():
        kind, properties = resource["Type"], resource.get("Properties", {})
        lines += _STANDING[kind](name, properties)
    return lines


def _nothing(name: str, properties: Mapping[str, Any]) -> list[Line]:
    return []


def _key(name: str, properties: Mapping[str, Any]) -> list[Line]:
    return [Line("KMS", name, "kms_key", 1)]


def _alarm(name: str, properties: Mapping[str, Any]) -> list[Line]:
    return [Line("CloudWatch", name, "cloudwatch_alarm", max(1, len(properties.get("Metrics", ()))))]


def _function(name: str, properties: Mapping[str, Any]) -> list[Line]:
    """A function costs nothing until it is called; the queue that feeds it is polled all the time."""
    lines = []
    for event, source in properties.get("Events", {}).items():
        if source["Type"] == "SQS":
            polls = assumed("queue_polls_per_minute") * 60 * HOURS_PER_MONTH
            lines.append(Line("SQS", f"{name}.{event}: polling", "sqs_request", polls, "assumed"))
    return lines


def _queue(name: str, properties: Mapping[str, Any]) -> list[Line]:
    if "KmsMasterKeyId" not in properties:
        return []
    periods = HOURS_PER_MONTH * 3600 / float(properties.get("KmsDataKeyReusePeriodSeconds", 300))
    requests = periods * assumed("queue_key_requests_per_period")
    return [Line("KMS", f"{name}: data keys", "kms_request", requests, "assumed")]


def _table(name: str, properties: Mapping[str, Any]) -> list[Line]:
    stored = assumed("ledger_gb")
    lines = [Line("DynamoDB", f"{name}: storage", "dynamodb_storage", stored, "assumed")]
    if properties.get("PointInTimeRecoverySpecification"):
        lines.append(Line("DynamoDB", f"{name}: recovery", "dynamodb_recovery", stored, "assumed"))
    return lines


def _bucket(name: str, properties: Mapping[str, Any]) -> list[Line]:
    """Users' data and models are theirs, not the control plane's: only the code and its records are counted."""
    return [Line("S3", f"{name}: code and records", "s3_storage", assumed("code_gb"), "assumed")]


def _repository(name: str, properties: Mapping[str, Any]) -> list[Line]:
    sizes = assumed("image_gb")
    size = next((size for image, size in sizes.items() if name.lower().startswith(image)), max(sizes.values()))
    return [Line("ECR", f"{name}: image", "ecr_storage", size, "assumed")]


_STANDING: dict[str, Any] = {
    "AWS::KMS::Key": _key,
    "AWS::CloudWatch::Alarm": _alarm,
    "AWS::Serverless::Function": _function,
    "AWS::SQS::Queue": _queue,
    "AWS::DynamoDB::Table": _table,
    "AWS::S3::Bucket": _bucket,
    "AWS::ECR::Repository": _repository,
    # Billed by use only, or not at all.
    **dict.fromkeys(
        (
            "AWS::CodeBuild::Project",
            "AWS::Events::Rule",
            "AWS::Glue::Database",  # to a million objects: https://aws.amazon.com/glue/pricing/
            "AWS::Glue::SecurityConfiguration",
            "AWS::IAM::ManagedPolicy",
            "AWS::IAM::Role",
            "AWS::Lambda::Permission",
            "AWS::Lambda::Url",
            "AWS::Logs::LogGroup",
            "AWS::S3::BucketPolicy",
            "AWS::SNS::Subscription",
            "AWS::SNS::Topic",
            "AWS::SNS::TopicPolicy",
            "AWS::SQS::QueuePolicy",
            "AWS::Scheduler::Schedule",
            "AWS::Scheduler::ScheduleGroup",
            "AWS::Serverless::LayerVersion",
            "AWS::Serverless::StateMachine",
            "Custom::PublishedCode",
        ),
        _nothing,
    ),
}


@cache
def _facts() -> dict[str, Any]:
    facts: dict[str, Any] = yaml.safe_load(files("ebb.catalog").joinpath("control_plane.yaml").read_text("utf-8"))
    return facts
