"""`ebb cost`: what the control plane itself has cost, item by item, and what sleeping saved net of it.

Measured units times the sourced price table (ebb/catalog/control_plane.yaml). What users' models and data cost is not
in it: runs have their own bill (`ebb show`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Annotated, Any

import typer
from boto3.dynamodb.types import TypeDeserializer
from rich.markup import escape

from ebb import addresses, control_plane
from ebb import ledger as keys
from ebb.control_plane import DAYS_PER_MONTH, How, Line
from ebb_cli import output
from ebb_cli.ledger import Ledger
from ebb_cli.problems import USAGE, CommandError
from ebb_cli.target import Json, Target

DAY_S = 86_400
LEAST_EXTRAPOLATED = timedelta(hours=24)
STANDING = {"kms_key", "cloudwatch_alarm", "ecr_storage", "s3_storage", "dynamodb_storage", "dynamodb_recovery"}
STANDING_WHAT = {"queues: data keys", "empty queues: polling"}  # asked for by AWS itself, all the time
SHOWN_USD = 0.000005  # what rounds to nothing is added up
METRICS_PER_CALL = 500
SAMPLED = 5  # executions of each state machine whose states are counted
METRICS_PER_DECISION = 3  # calls, heartbeat, requests under way: what decide_scaling asks for
LISTS_PER_SWEEP = 6 / 4  # at most five lists of metrics and one of alarms, once an hour
OBJECTS_PER_SWEEP = {"s3_read": 1.0, "s3_write": 1.0}  # its report
Since = Annotated[str, typer.Option("--since", metavar="SPAN", help="How far back: 12h, 7d, 30d.")]


def cost(target: Target, since: Since = "30d", as_json: Json = False) -> None:
    """Print what Ebb itself has cost: Lambda, Step Functions, DynamoDB, S3, SQS, KMS, CloudWatch, Scheduler, events.

    List prices of us-east-1; free tiers are told apart and not subtracted. Savings are what endpoints did not cost
    while they slept.
    """
    ledger = Ledger(target)
    known = ledger.addresses()
    until = ledger.now
    begin = max(until - _span(since), _created(target))
    output.err().print(f"reading the usage since {begin:%Y-%m-%d %H:%M} UTC", style="dim")
    lines = list(bill(Usage(target, begin, until)))
    document = as_document(lines, savings(target, known, begin, until), begin, until)
    output.emit_json(document) if as_json else show(document)


def _span(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+)\s*([hd])", text.strip().lower())
    if not found or not 0 < int(found[1]) <= 400 * (24 if found[2] == "h" else 1):
        raise CommandError(f"{text!r} is not a span of time.", "Write 12h, 7d or 30d, at most 400d.", status=USAGE)
    return timedelta(**{"hours" if found[2] == "h" else "days": int(found[1])})


def _created(target: Target) -> datetime:
    moment: datetime = target.describe_stack()["CreationTime"]
    return moment.astimezone(UTC)


@dataclass(frozen=True)
class Read:
    """One metric over the whole time: its sum."""

    namespace: str
    metric: str
    dimensions: tuple[tuple[str, str], ...]


class Usage:
    """What one stack has used between two moments, as CloudWatch and the services tell it."""

    def __init__(self, target: Target, begin: datetime, until: datetime) -> None:
        self.target, self.begin, self.until = target, begin, until
        self.months = (until - begin).total_seconds() / DAY_S / DAYS_PER_MONTH
        self._sums: dict[Read, float] = {}
        found = target.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=target.stack)
        self.resources = [
            (each["ResourceType"], each["LogicalResourceId"], each.get("PhysicalResourceId", ""))
            for page in found
            for each in page["StackResourceSummaries"]
        ]

    def of(self, kind: str) -> list[tuple[str, str]]:
        """Return (logical id, physical id) of the stack's resources of one type."""
        return [(name, physical) for type_, name, physical in self.resources if type_ == kind and physical]

    def fetch(self, reads: Iterable[Read]) -> None:
        """Read metrics, as many in one call as it takes: `sum` answers from them."""
        wanted = [read for read in reads if read not in self._sums]
        for first in range(0, len(wanted), METRICS_PER_CALL):
            batch = wanted[first : first + METRICS_PER_CALL]
            queries = [{"Id": f"m{number}", "MetricStat": _stat(read)} for number, read in enumerate(batch)]
            pages = self.target.client("cloudwatch").get_paginator("get_metric_data")
            sums = dict.fromkeys(range(len(batch)), 0.0)
            for page in pages.paginate(MetricDataQueries=queries, StartTime=self.begin, EndTime=self.until):
                for each in page["MetricDataResults"]:
                    sums[int(each["Id"][1:])] += sum(each["Values"])
            self._sums |= {read: sums[number] for number, read in enumerate(batch)}

    def sum(self, namespace: str, metric: str, **dimensions: str) -> float:
        """Return the sum of a metric over the whole time; 0 where nothing was published."""
        read = Read(namespace, metric, tuple(dimensions.items()))
        self.fetch([read])
        return self._sums[read]


def _stat(read: Read) -> dict[str, Any]:
    dimensions = [{"Name": name, "Value": value} for name, value in read.dimensions]
    metric = {"Namespace": read.namespace, "MetricName": read.metric, "Dimensions": dimensions}
    return {"Metric": metric, "Period": 3600, "Stat": "Sum"}


def _queue_name(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]


QUEUE_METRICS = ("NumberOfMessagesSent", "NumberOfMessagesReceived", "NumberOfMessagesDeleted", "NumberOfEmptyReceives")
# type of resource, namespace, dimension, metrics, and how the dimension names the resource
FETCHED: tuple[tuple[str, str, str, tuple[str, ...], Callable[[str], str]], ...] = (
    ("AWS::Lambda::Function", "AWS/Lambda", "FunctionName", ("Invocations", "Duration"), str),
    ("AWS::StepFunctions::StateMachine", "AWS/States", "StateMachineArn", ("ExecutionsStarted",), str),
    ("AWS::SQS::Queue", "AWS/SQS", "QueueName", QUEUE_METRICS, _queue_name),
    ("AWS::Logs::LogGroup", "AWS/Logs", "LogGroupName", ("IncomingBytes",), str),
)


def bill(used: Usage) -> Iterator[Line]:
    """Yield every item of the bill."""
    _fetch_all(used)
    yield from _functions(used)
    executions = dict(_executions(used))
    yield from (
        Line("Step Functions", f"{name}: states", "states_transition", count) for name, count in executions.items()
    )
    yield from _tables(used)
    yield from _queues(used)
    yield from _standing(used)
    yield from _watching(used)
    yield from _messages(used)


def _fetch_all(used: Usage) -> None:
    """Ask for all metrics together: what is billed is the metric, what takes time is the call."""
    reads: list[Read] = []
    for kind, namespace, dimension, metrics, named in FETCHED:
        for _, physical in used.of(kind):
            reads += [Read(namespace, metric, ((dimension, named(physical)),)) for metric in metrics]
    used.fetch(reads)


def _functions(used: Usage) -> Iterator[Line]:
    for name, physical in used.of("AWS::Lambda::Function"):
        calls = used.sum("AWS/Lambda", "Invocations", FunctionName=physical)
        if not calls:
            continue
        seconds = used.sum("AWS/Lambda", "Duration", FunctionName=physical) / 1000
        memory_mb = used.target.client("lambda").get_function_configuration(FunctionName=physical)["MemorySize"]
        yield from control_plane.invocation(
            "Lambda", name, count=calls, seconds=seconds / calls, memory_mb=memory_mb, how="measured"
        )


def _executions(used: Usage) -> Iterator[tuple[str, float]]:
    """Yield the transitions of each machine: executions started, times the states of the last few."""
    states = used.target.client("stepfunctions")
    for name, arn in used.of("AWS::StepFunctions::StateMachine"):
        started = used.sum("AWS/States", "ExecutionsStarted", StateMachineArn=arn)
        if not started:
            continue
        last = states.list_executions(stateMachineArn=arn, maxResults=SAMPLED)["executions"]
        counts = [_transitions(states, each["executionArn"]) for each in last]
        yield name, started * (sum(counts) / len(counts) if counts else 0)


def _transitions(states: Any, execution_arn: str) -> int:
    """Count the states that an execution entered, and its start.

    Source: https://aws.amazon.com/step-functions/pricing/ (a transition each time a step of the workflow is executed)
    """
    pages = states.get_paginator("get_execution_history").paginate(
        executionArn=execution_arn, includeExecutionData=False
    )
    return 1 + sum(event["type"].endswith("StateEntered") for page in pages for event in page["events"])


def _tables(used: Usage) -> Iterator[Line]:
    for name, physical in used.of("AWS::DynamoDB::Table"):
        for what, price in (("Read", "dynamodb_read"), ("Write", "dynamodb_write")):
            metric = f"Consumed{what}CapacityUnits"
            units = used.sum("AWS/DynamoDB", metric, TableName=physical)
            units += used.sum("AWS/DynamoDB", metric, TableName=physical, GlobalSecondaryIndexName="runs")
            yield Line("DynamoDB", f"{name}: {what.lower()}s", price, units, "measured")
        found = used.target.client("dynamodb").describe_table(TableName=physical)["Table"]
        gb_months = found.get("TableSizeBytes", 0) / 1e9 * used.months
        yield Line("DynamoDB", f"{name}: storage", "dynamodb_storage", gb_months, "measured")
        yield Line("DynamoDB", f"{name}: recovery", "dynamodb_recovery", gb_months, "measured")


def _queues(used: Usage) -> Iterator[Line]:
    """A request may carry ten messages; each is counted as one of its own, so that this is the most it can be."""
    polled = 0.0
    for name, url in used.of("AWS::SQS::Queue"):
        counts = [used.sum("AWS/SQS", metric, QueueName=_queue_name(url)) for metric in QUEUE_METRICS]
        polled += counts[-1]
        yield Line("SQS", f"{name}: requests", "sqs_request", sum(counts), "measured")
    if not polled:  # nobody has published how often Lambda polled in vain
        sources = len(used.of("AWS::Lambda::EventSourceMapping"))
        minutes = (used.until - used.begin).total_seconds() / 60
        polls = sources * minutes * control_plane.assumed("queue_polls_per_minute")
        yield Line("SQS", "empty queues: polling", "sqs_request", polls, "assumed")


def _standing(used: Usage) -> Iterator[Line]:
    """What is billed by the month, for the part of it that has passed."""
    for name, _ in used.of("AWS::KMS::Key"):
        yield Line("KMS", name, "kms_key", used.months)
    queues = len(used.of("AWS::SQS::Queue"))
    hours = (used.until - used.begin).total_seconds() / 3600
    requests = queues * hours * control_plane.assumed("queue_key_requests_per_period")
    yield Line("KMS", "queues: data keys", "kms_request", requests, "assumed")
    alarms = used.target.client("cloudwatch").get_paginator("describe_alarms")
    prefix = f"{used.target.stack}-"
    born = sum(len(page["MetricAlarms"]) for page in alarms.paginate(AlarmNamePrefix=prefix))
    stack = sum(not name.startswith(prefix) for _, name in used.of("AWS::CloudWatch::Alarm"))
    yield Line("CloudWatch", "alarms", "cloudwatch_alarm", (born + stack) * used.months)
    for name, repository in used.of("AWS::ECR::Repository"):
        pages = used.target.client("ecr").get_paginator("describe_images").paginate(repositoryName=repository)
        size = sum(image.get("imageSizeInBytes", 0) for page in pages for image in page["imageDetails"])
        yield Line("ECR", f"{name}: images", "ecr_storage", size / 1e9 * used.months, "measured")
    for name, _ in used.of("AWS::S3::Bucket"):
        gb_months = control_plane.assumed("code_gb") * used.months
        yield Line("S3", f"{name}: code and records", "s3_storage", gb_months, "assumed")


def _watching(used: Usage) -> Iterator[Line]:
    """What sweeps and decisions ask CloudWatch for, S3 keeps of them, and the logs and traces of everything."""
    sweeps = _started(used, "SweepAccountStateMachine")
    decisions = _called(used, "DecideScalingFunction")
    yield Line("Scheduler", "sweeps", "scheduler_invocation", sweeps, "measured")
    yield Line("CloudWatch", "sweeps: lists", "cloudwatch_request", sweeps * LISTS_PER_SWEEP, "assumed")
    yield Line(
        "CloudWatch", "decisions: metrics read", "cloudwatch_metric_read", decisions * METRICS_PER_DECISION, "assumed"
    )
    for price, each in OBJECTS_PER_SWEEP.items():
        yield Line("S3", f"sweeps: {price.removeprefix('s3_')}s", price, sweeps * each)
    logged = [used.sum("AWS/Logs", "IncomingBytes", LogGroupName=name) for _, name in used.of("AWS::Logs::LogGroup")]
    calls = sum(
        used.sum("AWS/Lambda", "Invocations", FunctionName=name) for _, name in used.of("AWS::Lambda::Function")
    )
    size, how = sum(logged) / 1e9, "measured"
    if not size:
        size, how = calls * control_plane.assumed("log_bytes_per_invocation") / 1e9, "assumed"
    yield Line("CloudWatch", "logs: ingested", "logs_ingested", size, _how(how))
    yield Line("CloudWatch", "logs: stored", "logs_stored", size * used.months / 2, "assumed")
    yield Line("X-Ray", "traces", "xray_trace", calls, "assumed")


def _messages(used: Usage) -> Iterator[Line]:
    for name, arn in used.of("AWS::SNS::Topic"):
        told = used.sum("AWS/SNS", "NumberOfMessagesPublished", TopicName=arn.rpartition(":")[2])
        yield Line("SNS", f"{name}: messages", "sns_publish", told, "measured")
    for name, rule in used.of("AWS::Events::Rule"):
        if name == "UploadsRule":  # S3 sends its events only to who opts in, and those are billed
            matched = used.sum("AWS/Events", "MatchedEvents", RuleName=rule.rpartition("/")[2])
            yield Line("EventBridge", "uploads", "events_opt_in", matched, "measured")


def _how(how: str) -> How:
    return "measured" if how == "measured" else "assumed"


def _started(used: Usage, logical_id: str) -> float:
    return sum(
        used.sum("AWS/States", "ExecutionsStarted", StateMachineArn=arn)
        for name, arn in used.of("AWS::StepFunctions::StateMachine")
        if name == logical_id
    )


def _called(used: Usage, logical_id: str) -> float:
    return sum(
        used.sum("AWS/Lambda", "Invocations", FunctionName=physical)
        for name, physical in used.of("AWS::Lambda::Function")
        if name == logical_id
    )


# ---- Savings ----


def savings(target: Target, known: list[addresses.Address], begin: datetime, until: datetime) -> list[dict[str, Any]]:
    """Return what each address saved by sleeping since then: by its events, and by the sleep that still goes on."""
    found = []
    for at in known:
        events = list(_events(target, at.address, begin))
        woke = [each for each in events if each.get("what") == "woke"]
        usd = sum(float(each.get("saved_usd") or 0) for each in woke)
        hours = sum(float(each.get("asleep_s") or 0) for each in woke) / 3600
        if at.state in (addresses.ASLEEP, addresses.WAKING) and (since := at.asleep_since or at.changed_at):
            still = max((until - max(since, begin)).total_seconds() / 3600, 0.0)
            hours += still
            usd += still * (at.awake_usd_per_hour or 0.0)
        if hours:
            slept = sum(each.get("what") == "slept" for each in events)
            found.append({"address": at.address, "hours_asleep": hours, "times_asleep": slept, "usd": usd})
    return sorted(found, key=lambda each: -each["usd"])


def _events(target: Target, address: str, begin: datetime) -> Iterator[dict[str, Any]]:
    request = {
        "TableName": target.outputs["LedgerTableName"],
        "KeyConditionExpression": "pk = :pk AND sk BETWEEN :first AND :last",
        "ExpressionAttributeValues": {
            ":pk": {"S": addresses.key(address)["pk"]},
            ":first": {"S": f"EVENT#{keys.iso(begin)}"},
            ":last": {"S": "EVENT#9999"},
        },
    }
    plain = TypeDeserializer().deserialize
    for page in target.client("dynamodb").get_paginator("query").paginate(**request):
        for item in page["Items"]:
            yield keys.from_item({name: plain(value) for name, value in item.items()})


# ---- Printing ----


def as_document(lines: list[Line], saved: list[dict[str, Any]], begin: datetime, until: datetime) -> dict[str, Any]:
    """Return the bill and the savings as plain values."""
    months = (until - begin).total_seconds() / DAY_S / DAYS_PER_MONTH
    total, gross = control_plane.total_usd(lines), sum(each["usd"] for each in saved)
    standing = sum(line.usd for line in lines if _stands(line))
    return {
        "since": begin,
        "until": until,
        "prices": control_plane.facts(),
        "items": [line.as_dict() | {"standing": _stands(line)} for line in lines if line.units],
        "total_usd": total,
        "standing_usd": standing,
        "used_usd": total - standing,
        # what is billed by the month whether it is used or not; use is not extrapolated from less than a day
        "standing_usd_per_month": standing / months if months else None,
        "per_month_usd": total / months if until - begin >= LEAST_EXTRAPOLATED else None,
        "free_tiers_usd": control_plane.free_usd(lines, months),
        "savings": saved,
        "saved_usd": gross,
        "net_saved_usd": gross - total,
    }


def _stands(line: Line) -> bool:
    """Return whether it is billed by time, without anything being done."""
    return line.price in STANDING or line.what in STANDING_WHAT


def _rows(items: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each item, dearest first, by service; those that round to nothing share one."""
    ordered = sorted(items, key=lambda item: (item["service"], -item["usd"]))
    for service, group in groupby(ordered, key=lambda item: item["service"]):
        small: list[dict[str, Any]] = []
        for item in group:
            if item["usd"] < SHOWN_USD:
                small.append(item)
                continue
            units = output.number(item["units"])
            yield service, escape(item["what"]), units, item["unit"], f"{item['usd']:.5f}", item["how"]
        if small:
            usd = sum(item["usd"] for item in small)
            told = f"{usd:.5f}" if usd >= SHOWN_USD else f"< {2 * SHOWN_USD:.5f}"
            yield service, f"{len(small)} others", "", "", told, ""


def show(document: dict[str, Any]) -> None:
    """Print the bill by service, then its items."""
    say, prices = output.out().print, document["prices"]
    rows = list(_rows(document["items"]))
    if rows:
        output.table("", ("service", "what", "units", "", "USD", "how known"), rows, right=("units", "USD"))
    begin, until = document["since"], document["until"]
    say(f"\nEbb itself, {begin:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC: [bold]{document['total_usd']:.4f} USD[/]")
    by_month = document["standing_usd_per_month"]
    if by_month is not None:
        say(f"of it {document['standing_usd']:.4f} USD stand: {by_month:.2f} USD a month, alarms and storage as now")
        say(f"and {document['used_usd']:.4f} USD were for what was done; models, jobs and users' data are not in it")
    if document["per_month_usd"] is not None:
        say(f"at this rate {document['per_month_usd']:.2f} USD a month together")
    say(f"free tiers, were nothing else in the account, would take off {document['free_tiers_usd']:.4f} USD")
    say(f"prices: {prices['region']}, {prices['date']}, confidence {prices['confidence']}", style="dim")
    if document["savings"]:
        saved = [
            (escape(each["address"]), each["times_asleep"], f"{each['hours_asleep']:,.1f}", f"{each['usd']:,.4f}")
            for each in document["savings"]
        ]
        output.table(
            "\nSaved by sleeping", ("address", "times", "hours", "USD"), saved, right=("times", "hours", "USD")
        )
    say(
        f"\nsaved by sleeping {document['saved_usd']:,.4f} USD, net of Ebb itself "
        f"[bold]{document['net_saved_usd']:,.4f} USD[/]"
    )
