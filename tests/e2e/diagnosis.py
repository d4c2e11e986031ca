"""What the cloud shows when an end-to-end test has failed: enough to find the cause from the record of one run.

Reads only, says in at most `MOST_LINES` lines what it found, and never fails itself: what cannot be read is told in its
place, and what takes too long is left out.
"""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MOST_LINES, MOST_CHARS = 150, 300
MOST_S = 40.0
EXECUTIONS, EVENTS = 8, 4
LOG_S = 900  # of the cloud's time: what the functions logged before that belongs to other tests
LOG_BYTES = 1 << 20
_TROUBLE = re.compile(r"WARNING|ERROR|CRITICAL|Traceback|^\w*(Error|Exception)\b|failed|timed out|died")
_QUEUES = (
    "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed",
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """The cloud as its owner reads it: clients by service, the stack's outputs, its own status and log where it has."""

    client: Callable[[str], Any]
    outputs: dict[str, str]
    status: dict[str, Any]
    log: Path | None = None

    @property
    def now_s(self) -> float:
        return float(self.status.get("Now") or time.time())


def report(look: Callable[[], Seen], most_s: float = MOST_S) -> str:
    """Return what there is to say, whatever happens: `look` may fail, and so may everything that it returns."""
    lines: list[str] = []
    work = threading.Thread(target=_collect, args=(look, lines), name="diagnosis", daemon=True)
    work.start()
    work.join(most_s)
    told = [_clipped(line) for line in list(lines)[:MOST_LINES]]
    return "\n".join([*told, *([f"… not within {most_s:g} s"] if work.is_alive() else [])])


def _collect(look: Callable[[], Seen], lines: list[str]) -> None:
    lines.extend(_machine())
    try:
        seen = look()
    except BaseException as problem:  # pytest.fail is no Exception
        lines.append(f"the cloud cannot be looked at: {_told(problem)}")
        return
    for title, section, most in SECTIONS:
        lines.append(f"---- {title}")
        found: list[str] = []
        try:
            for line in section(seen):
                found.append(line)
                if len(found) >= most:
                    break
        except Exception as problem:
            found.append(f"(not readable: {_told(problem)})")
        lines.extend(found or ["(nothing)"])


def _machine() -> Iterator[str]:
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    yield f"load average {load} on {os.cpu_count()} CPUs"
    memory = Path("/proc/meminfo")
    if memory.exists():
        yield ", ".join(line for line in memory.read_text().splitlines() if line.startswith(("MemTotal", "MemAvail")))


def _status(seen: Seen) -> Iterator[str]:
    if not seen.status:
        return
    shown = {
        name: value for name, value in seen.status.items() if name not in ("Queues", "Home", "AccountId", "Region")
    }
    workers = {name.split(":")[2]: count for name, count in shown.get("LambdaWorkers", {}).items()}
    moment = datetime.fromtimestamp(seen.now_s, UTC)
    for name, value in {**shown, "Now": f"{moment:%Y-%m-%d %H:%M:%S}", "LambdaWorkers": workers}.items():
        yield f"{name}: {value}"


def _executions(seen: Seen) -> Iterator[str]:
    """Those that run or did not succeed, newest first, each with its last events."""
    states, found = seen.client("stepfunctions"), []
    for name, arn in seen.outputs.items():
        if name.endswith("StateMachineArn"):
            listed = states.list_executions(stateMachineArn=arn, maxResults=100)["executions"]
            found += [each for each in listed if each["status"] != "SUCCEEDED"]
    for each in sorted(found, key=lambda each: each["startDate"], reverse=True)[:EXECUTIONS]:
        described = states.describe_execution(executionArn=each["executionArn"])
        why = " ".join(str(described.get(name) or "") for name in ("error", "cause"))
        yield f"{each['executionArn'].rpartition(':stateMachine:')[2].split(':execution:')[-1]} {each['status']} {why}"
        history = states.get_execution_history(
            executionArn=each["executionArn"], maxResults=EVENTS, reverseOrder=True
        )["events"]  # fmt: skip
        yield from (f"    {event['timestamp']:%H:%M:%S} {event['type']} {_details(event)}" for event in history)


def _details(event: dict[str, Any]) -> str:
    (found,) = [value for name, value in event.items() if name.endswith("EventDetails")][:1] or ({},)
    kept = {name: found[name] for name in ("name", "resource", "error", "cause") if found.get(name)}
    return " ".join(f"{name}={value}" for name, value in kept.items())


def _queues(seen: Seen) -> Iterator[str]:
    """Every queue that holds something: how much, and (in the embedded cloud) what, and when it comes into sight."""
    sqs = seen.client("sqs")
    for url in sqs.list_queues().get("QueueUrls", []):
        counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(_QUEUES))["Attributes"]
        if any(int(count) for count in counts.values()):
            told = ", ".join(f"{name.removeprefix('ApproximateNumberOf')} {counts.get(name, 0)}" for name in _QUEUES)
            yield f"{url.rpartition('/')[2]}: {told}"
    for name, held in (seen.status.get("Queues") or {}).items():
        yield from (f"    {name}: {json.dumps(each)}" for each in held)


def healed(look: Callable[[], Seen]) -> list[str]:
    """Return the requests that were answered only because they were queued again: a cause to look for all the same."""
    try:
        late = sorted(name for name in _below(look(), "requests/") if ".late-" in name)
    except BaseException as problem:
        return [f"whether requests were queued again cannot be read: {_told(problem)}"]
    return [_clipped(f"queued again, see what the log says of that time: {name}") for name in late[:10]]


def _below(seen: Seen, prefix: str) -> set[str]:
    pages = seen.client("s3").get_paginator("list_objects_v2")
    found = pages.paginate(Bucket=seen.outputs["ArtifactBucketName"], Prefix=prefix)
    return {each["Key"].removeprefix(prefix) for page in found for each in page.get("Contents", ())}


def _tickets(seen: Seen) -> Iterator[str]:
    """Requests without an end, and how often each was queued again."""
    s3, bucket = seen.client("s3"), seen.outputs["ArtifactBucketName"]
    asked, ended = _below(seen, "requests/"), _below(seen, "answers/")
    for name in sorted(name.removesuffix(".json") for name in asked - ended if re.fullmatch(r"[^.]*\.json", name)):
        told = json.loads(s3.get_object(Bucket=bucket, Key=f"requests/{name}.json")["Body"].read())
        late = sum(each.startswith(f"{name}.late-") for each in asked)
        yield f"{name} asked {told['asked_at']}, until {told['deadline']}, queued again {late} times"


def _addresses(seen: Seen) -> Iterator[str]:
    found = seen.client("dynamodb").query(
        TableName=seen.outputs["LedgerTableName"],
        IndexName="runs",
        KeyConditionExpression="gsi_pk = :listed",
        ExpressionAttributeValues={":listed": {"S": "ADDRESSES"}},
    )
    for item in found["Items"]:
        plain = {name: next(iter(value.values())) for name, value in item.items()}
        shown = ("kind", "state", "generation", "changed_at", "wanted_at", "worked_by", "reason")
        yield f"{plain['address']}: " + ", ".join(f"{name} {plain[name]}" for name in shown if plain.get(name))


def _function_logs(seen: Seen) -> Iterator[str]:
    """What the functions logged as a warning or an error of late, newest first."""
    logs, found = seen.client("logs"), []
    since = int((seen.now_s - LOG_S) * 1000)
    for group in logs.describe_log_groups(logGroupNamePrefix="/aws/lambda/")["logGroups"]:
        events = logs.filter_log_events(logGroupName=group["logGroupName"], startTime=since)["events"]
        name = group["logGroupName"].rpartition("/")[2]
        found += [(each["timestamp"], name, each["message"]) for each in events if _TROUBLE.search(each["message"])]
    for moment, name, message in sorted(found, reverse=True):
        yield f"{datetime.fromtimestamp(moment / 1000, UTC):%H:%M:%S} {name} {_plain(message)}"


def _server_log(seen: Seen) -> Iterator[str]:
    """The last lines of the embedded cloud's own log that speak of trouble, newest first."""
    if seen.log is None:
        return
    with seen.log.open("rb") as text:
        text.seek(max(0, seen.log.stat().st_size - LOG_BYTES))
        lines = text.read().decode(errors="replace").splitlines()
    yield from (_plain(line) for line in reversed(lines) if _TROUBLE.search(line))


def _plain(message: str) -> str:
    """Return a log line of Powertools without what every line has."""
    try:
        told = json.loads(message)
    except ValueError:
        return message.rstrip()
    if not isinstance(told, dict):
        return message
    dull = ("service", "cold_start", "function_memory_size", "function_arn", "xray_trace_id", "timestamp")
    return json.dumps({name: value for name, value in told.items() if name not in dull})


def _told(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {problem}"


def _clipped(line: str) -> str:
    line = line.replace("\n", " | ")
    return line if len(line) <= MOST_CHARS else f"{line[: MOST_CHARS - 1]}…"


SECTIONS: tuple[tuple[str, Callable[[Seen], Iterator[str]], int], ...] = (
    ("the embedded cloud", _status, 14),
    ("executions that run or did not succeed, newest first", _executions, 40),
    ("addresses", _addresses, 8),
    ("queues that hold something", _queues, 20),
    ("requests without an end", _tickets, 12),
    ("functions' logs: warnings and errors, newest first", _function_logs, 22),
    ("the embedded cloud's log: warnings and errors, newest first", _server_log, 22),
)
