"""What the sweep takes and costs: accounts of 10 to 10,000 endpoints behind the real SDK, billed by the price table.

    python benchmarks/sweep.py [--json FILE] [--latency-ms 120]

Counts every request that the real function makes, at the services' own page sizes, and prints what a month of it costs:
of a stack where nothing happens, of an endpoint that is only swept, of one that Ebb made. Latency is assumed and
simulated; times are measured here, and translated to the processor share that the function's memory buys on Lambda.
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / each) for each in ("layers/core", "functions", "benchmarks")]

import jsonata  # noqa: E402
import yaml  # noqa: E402

from ebb import control_plane  # noqa: E402
from ebb.control_plane import HOURS_PER_MONTH, Line, total_usd  # noqa: E402

SIZES = ((0, False), (1, False), (1, True), (10, False), (100, False), (1_000, False), (10_000, False))  # all own?
PHASES = ("first", "hourly", "quarterly")
LIMITS = {"idle_stack_usd": 5.0, "swept_endpoint_usd": 0.05, "own_endpoint_usd": 0.25, "seconds_10000": 60.0}
LIMITS["own_endpoint_asleep_at_night_usd"] = LIMITS["own_endpoint_usd"]
SWEEPS = HOURS_PER_MONTH * 4  # rate(15 minutes)
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
FULL_CORE_MB = 1769  # https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html
REACTOR_S, REACTOR_MB = 0.3, 512  # on_schedule: one call; assumed, with a cold start now and then
SWEEP_TRANSITIONS = 2  # the start and the one state
# Billed per request, by operation of the SDK; what SageMaker's own API is asked costs nothing.
BILLED = {
    "ListMetrics": "cloudwatch_request",
    "DescribeAlarms": "cloudwatch_request",
    "GetObject": "s3_read",
    "PutObject": "s3_write",
}
ADDRESS_BYTES = 2_000  # assumed; a read unit is 4 KB, half as dear when eventually consistent
WATCH = {"endpoint": "e"}
CYCLES = 21  # times a month that an endpoint falls asleep and wakes: each night before a working day


def main() -> None:
    """Measure, print, and say whether the limits hold."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    options.add_argument("--latency-ms", type=float, default=120, help="assumed of each request (default 120)")
    options.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options.add_argument("--own", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if differing := {name: count for name, count in counted_states().items() if getattr(control_plane, name) != count}:
        sys.exit(f"The state machines have changed: put these into ebb.control_plane: {differing}")
    if given.one is not None:
        print(json.dumps(measure(given.one, given.latency_ms / 1000, own=given.own)))
        return
    runs = [_in_a_process_of_its_own(size, own, given.latency_ms) for size, own in SIZES]
    figures = concluded(runs, given.latency_ms)
    show(figures)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))
    sys.exit(0 if all(each["holds"] for each in figures["limits"]) else 1)


def _in_a_process_of_its_own(size: int, own: bool, latency_ms: float) -> dict[str, Any]:
    """Peak memory is a process's: each size has one."""
    command = [sys.executable, __file__, "--one", str(size), "--latency-ms", str(latency_ms)]
    command += ["--own"] if own else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(size: int, latency_s: float, *, own: bool) -> dict[str, Any]:
    """Sweep an account: new to Ebb; once its candidates are known, with lists of metrics; and without.

    `own`: all endpoints are Ebb's. Else a tenth is.
    """
    account, handler, context = _prepared(size, own=own)

    def sweep(minutes: int, asked_by: str, latency: float) -> dict[str, Any]:
        account.calls.clear()
        account.latency_s = latency
        wall, cpu = time.perf_counter(), time.process_time()
        told = handler({"now": (NOW + timedelta(minutes=minutes)).isoformat(), "asked_by": asked_by}, context)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {
            "wall_s": wall,
            "cpu_s": cpu,
            "lambda_s": wall + max(FULL_CORE_MB / memory_mb() - 1, 0) * cpu,
            "calls": dict(account.calls),
            "told": {each: told[each] for each in ("counts", "started", "deferred", "unread_count")},
            "answer_bytes": len(json.dumps(told)),
        }

    runs = {"first": sweep(0, "schedule", latency_s)}
    catching_up = runs["first"]
    sweeps_to_know_all = 1
    while catching_up["told"]["deferred"]:
        catching_up = sweep(1, "schedule", 0)
        sweeps_to_know_all += 1
    runs |= {"hourly": sweep(2, "benchmark", latency_s), "quarterly": sweep(3, "schedule", latency_s)}
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "endpoints": size,
        "own": own,
        "peak_mib": peak_mib,
        **runs,
        "sweeps_to_know_all": sweeps_to_know_all,
        "report_bytes": len(account.objects["report.json"]),
    }


def _prepared(size: int, *, own: bool) -> tuple[Any, Any, Any]:
    """Return an account: a tenth is Ebb's own, three fifths are called, the others have a heartbeat only."""
    import boto3
    from fake_account import FakeAccount

    from ebb import ledger
    from ebb.addresses import Address
    from ebb.aws import clients

    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
        "STACK_NAME": "ebb", "LEDGER_TABLE": "ledger", "ARTIFACT_BUCKET": "artifacts",
        "MANAGE_FOREIGN_ENDPOINTS": "yes",
    }  # fmt: skip
    for name in ("DEPLOY_MODEL", "REAP_RESOURCES", "SCALE_TO_ZERO", "WAKE_ENDPOINT"):
        os.environ[f"{name}_ARN"] = f"arn:aws:states:us-east-1:000000000000:stateMachine:{name}"
    account = FakeAccount(now=NOW)
    for number in range(size):
        name, called = f"endpoint-{number:05}", number % 5 < 3
        ours = own or number % 10 == 9
        tags = {"ebb:sleep": "allowed"} if number % 40 == 3 else {}
        age = timedelta(days=9, seconds=number)  # made one after the other
        account.endpoint(f"ebb-{name}" if ours else name, called=called, tags=tags, age=age)
        if ours:
            born = (NOW - timedelta(days=9)).isoformat()
            fields = {"address": f"ebb-{name}", "endpoint_name": f"ebb-{name}", "kind": "async", "changed_at": born}
            item = Address.model_validate(fields).model_dump(mode="json", exclude_none=True)
            account.items.append(ledger.put_action("ledger", item)["Item"])
    for service in ("sagemaker", "cloudwatch", "dynamodb", "stepfunctions", "s3"):
        account.attach(clients.client(service))
    account.attach(clients.table("ledger").meta.client)
    boto3.setup_default_session()
    logging.disable(logging.INFO)
    import sweep_account

    context = SimpleNamespace(
        function_name="ebb", memory_limit_in_mb=memory_mb(), invoked_function_arn="arn", aws_request_id="id"
    )
    return account, sweep_account.handler, context


def template() -> dict[str, Any]:
    """Return the template's resources; short forms of functions are read as what stands behind them."""

    class Loader(yaml.SafeLoader):
        pass

    def plain(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return loader.construct_scalar(node)
        many = isinstance(node, yaml.SequenceNode)
        return loader.construct_sequence(node, deep=True) if many else loader.construct_mapping(node, deep=True)

    Loader.add_multi_constructor("!", plain)
    found: dict[str, Any] = yaml.load((ROOT / "template.yaml").read_text("utf-8"), Loader)
    return found


def memory_mb() -> int:
    """Return the memory of the function that sweeps, as the template gives it."""
    known = template()
    own = known["Resources"].get("SweepAccountFunction", {}).get("Properties", {})
    return int(own.get("MemorySize", known["Globals"]["Function"]["MemorySize"]))


def sweep_lines(run: dict[str, Any]) -> list[Line]:
    """Return what a month of sweeps of one account costs: one in four lists metrics and alarms, or one in eight."""
    hourly = HOURS_PER_MONTH / (2 if run["own"] else 1)  # ebb.sweep.LISTED_EVERY_OWN
    quarterly = SWEEPS - hourly
    traced, logged = "xray_trace", 2 * SWEEPS * control_plane.assumed("log_bytes_per_invocation") / 1e9
    lines = [
        Line("Scheduler", "sweeps", "scheduler_invocation", SWEEPS),
        Line("Step Functions", "sweeps", "states_transition", SWEEPS * SWEEP_TRANSITIONS),
        Line("X-Ray", "sweeps", traced, SWEEPS, "assumed"),
        Line("CloudWatch", "logs of the sweeps", "logs_ingested", logged, "assumed"),
        *_invoked("on_schedule", SWEEPS, REACTOR_S, REACTOR_MB),
    ]
    read_units = run["hourly"]["told"]["counts"]["addresses"] * ADDRESS_BYTES / 4096 / 2 + 0.5
    lines.append(Line("DynamoDB", "addresses", "dynamodb_read", SWEEPS * read_units))
    for name, count in (("hourly", hourly), ("quarterly", quarterly)):
        lines += _invoked(f"sweep_account, {name}", count, run[name]["lambda_s"], memory_mb())
        for operation, price in BILLED.items():
            service = "S3" if "Object" in operation else "CloudWatch"
            lines.append(Line(service, operation, price, count * run[name]["calls"].get(operation, 0)))
    return lines


def _invoked(what: str, count: float, seconds: float, memory: int) -> list[Line]:
    return control_plane.invocation("Lambda", what, count=count, seconds=seconds, memory_mb=memory, how="measured")


def own_endpoint_lines(swept: float) -> list[tuple[str, float]]:
    """Return what a month of an endpoint that Ebb made costs: two alarms, its part of the sweeps, and its sleeps."""
    alarms = 2 * control_plane.price("cloudwatch_alarm").usd
    return [("two alarms", alarms), ("swept", swept), (f"{CYCLES} sleeps and wakes", CYCLES * cycle_usd())]


def cycle_usd() -> float:
    """Return what it costs to fall asleep and wake once: states passed, functions called, metrics read."""
    return total_usd(control_plane.cycle())


def counted_states() -> dict[str, int]:
    """Return how many states the machines enter, as they are, along the ways that an endpoint takes through them.

    By the names of the figures in `ebb.control_plane`; the start of an execution is a transition as well.
    """
    sleeping = [
        {"outcome": "work", "note": {}, "again": True},
        {"outcome": "work", "write": {}, "calls": [{}] * control_plane.SLEEPING_CALLS, "watch": WATCH, "again": True},
        {"outcome": "asleep", "old_alarms": ["idle"], "settle": {}, "event": {}, "notice": {}},
    ]
    waking = [
        {"outcome": "work", "write": {}, "calls": [{}], "watch": WATCH, "again": True},
        {"outcome": "awake", "old_alarms": ["wake"], "alarms": [{}], "settle": {}, "event": {}},
    ]
    looking = [{"outcome": "wait", "again": True}, {"outcome": "keep"}]
    return {
        "SLEEP_STATES": 1 + _states("scale_to_zero", "Decide scaling", sleeping),
        "LOOK_STATES": 1 + _states("scale_to_zero", "Decide scaling", looking),
        "WAKE_STATES": 1 + _states("wake_endpoint", "Plan wake", waking),
    }


def _states(name: str, first: str, steps: list[dict[str, Any]]) -> int:
    """Return how many states of a machine are entered until all steps are done; each look of it is the first one."""
    definition = yaml.safe_load((ROOT / "statemachines" / f"{name}.asl.yaml").read_text("utf-8"))
    count, ahead, current = 0, list(steps), definition["StartAt"]
    step: dict[str, Any] = {}
    while True:
        state = definition["States"][current]
        count += 1
        if current == first:
            step = {"calls": [], "old_alarms": [], "alarms": [], "again": False, **ahead.pop(0)}
        if state["Type"] == "Map":
            count += len(_value(state["Items"], step)) * _entered(state["ItemProcessor"])
        if state["Type"] == "Choice":
            current = next(
                (rule["Next"] for rule in state["Choices"] if _value(rule["Condition"], step)), state["Default"]
            )
        elif state.get("End") or state["Type"] in ("Succeed", "Fail"):
            return count
        else:
            current = state["Next"]


def _entered(processor: dict[str, Any]) -> int:
    """Return how many states one item of a Map enters: which call, and the call; or the call alone."""
    return 2 if processor["States"][processor["StartAt"]]["Type"] == "Choice" else 1


def _value(text: str, step: dict[str, Any]) -> Any:
    expression = jsonata.Jsonata.jsonata(text.removeprefix("{%").removesuffix("%}").strip())
    expression.assign("step", step)
    return expression.evaluate(None)


def concluded(runs: list[dict[str, Any]], latency_ms: float) -> dict[str, Any]:
    """Return every figure, and whether each limit holds."""
    empty = next(run for run in runs if run["endpoints"] == 0)
    idle = [*control_plane.standing(template()["Resources"]), *sweep_lines(empty)]
    base = total_usd(sweep_lines(empty))
    sizes = []
    for run in runs:
        monthly, size = total_usd(sweep_lines(run)), run["endpoints"]
        each = (monthly - base) / size if size else None
        sizes.append({**run, "sweeps_usd_per_month": monthly, "usd_per_endpoint_month": each})
    largest = max(run["endpoints"] for run in runs)
    swept = max(run["usd_per_endpoint_month"] or 0.0 for run in sizes if not run["own"])
    own = own_endpoint_lines(max(run["usd_per_endpoint_month"] or 0.0 for run in sizes if run["own"]))
    watched = sum(usd for _, usd in own[:-1])
    slowest = max(run[name]["lambda_s"] for run in runs for name in PHASES if run["endpoints"] == largest)
    measured = {
        "idle_stack_usd": total_usd(idle),
        "swept_endpoint_usd": swept,
        "own_endpoint_usd": watched,
        "own_endpoint_asleep_at_night_usd": sum(usd for _, usd in own),
        f"seconds_{largest}": slowest,
    }
    limits = [
        {"what": name, "measured": value, "limit": LIMITS[name], "holds": value <= LIMITS[name]}
        for name, value in measured.items()
        if name in LIMITS
    ]
    return {
        "prices": control_plane.facts(),
        "assumed": {"latency_ms": latency_ms, "cycles_per_month": CYCLES, "memory_mb": memory_mb()},
        "load_average": os.getloadavg()[0],  # seconds are wall-clock: what else the machine did is in them
        "idle_stack": [line.as_dict() for line in idle],
        "idle_stack_free_usd": control_plane.free_usd(idle),
        "own_endpoint": [{"what": what, "usd": usd} for what, usd in own],
        "cycle_usd": cycle_usd(),
        "cycles_within_limit": max(0.0, (LIMITS["own_endpoint_usd"] - watched) / cycle_usd()),
        "sizes": sizes,
        "naive": naive(largest),
        "limits": limits,
    }


def naive(endpoints: int) -> list[dict[str, Any]]:
    """Return what the obvious designs cost a month for as many endpoints."""
    reads = endpoints * 2 * HOURS_PER_MONTH * 12
    designs = {
        "GetMetricData, two metrics each, every 5 minutes": Line("", "", "cloudwatch_metric_read", reads),
        "one alarm each": Line("", "", "cloudwatch_alarm", endpoints),
    }
    return [{"what": what, "usd": line.usd} for what, line in designs.items()]


def show(figures: dict[str, Any]) -> None:
    """Print the tables."""
    prices = figures["prices"]
    told = f"{prices['region']}, {prices['date']}, confidence {prices['confidence']}"
    print(f"Prices: {told}. No free tier is subtracted.")
    print(f"Seconds are wall-clock, on a machine with a load of {figures['load_average']:.1f}.\n")
    print("An idle stack, by the month")
    services: dict[str, float] = {}
    for line in figures["idle_stack"]:
        services[line["service"]] = services.get(line["service"], 0.0) + line["usd"]
    for service, usd in sorted(services.items(), key=lambda pair: -pair[1]):
        print(f"  {service:16}{usd:9.4f} USD")
    total = sum(services.values())
    print(f"  {'together':16}{total:9.4f} USD  (free tiers would take off {figures['idle_stack_free_usd']:.2f})\n")
    print("endpoints          first s  hourly s  quarterly s  CPU s   MiB  requests/h  USD/month  USD/endpoint")
    for run in figures["sizes"]:
        calls = sum(run["hourly"]["calls"].values()) + 3 * sum(run["quarterly"]["calls"].values())
        each = run["usd_per_endpoint_month"]
        print(
            f"{run['endpoints']:9,}{' own' if run['own'] else '':8}{run['first']['lambda_s']:9.2f}"
            f"{run['hourly']['lambda_s']:10.2f}{run['quarterly']['lambda_s']:13.2f}{run['hourly']['cpu_s']:7.2f}"
            f"{run['peak_mib']:6.0f}{calls:12,}{run['sweeps_usd_per_month']:11.3f}"
            f"{'-' if each is None else f'{each:.5f}':>14}"
        )
    print("\nendpoints          candidates that the first sweep leaves to the next  sweeps until all are known")
    for run in figures["sizes"]:
        name = f"{run['endpoints']:9,}{' own' if run['own'] else '':8}"
        print(f"{name}{run['first']['told']['deferred']:51,}{run['sweeps_to_know_all']:28}")
    largest = figures["sizes"][-1]["endpoints"]
    print(f"\nThe obvious designs, for {largest:,} endpoints")
    for other in figures["naive"]:
        print(f"  {other['what']:50}{other['usd']:10,.0f} USD/month")
    print("\nAn endpoint that Ebb made, by the month")
    for item in figures["own_endpoint"]:
        print(f"  {item['what']:50}{item['usd']:10.4f} USD")
    print(f"  {'together':50}{sum(item['usd'] for item in figures['own_endpoint']):10.4f} USD")
    cycle, price = figures["cycle_usd"], control_plane.instance_usd_per_hour("ml.m5.large") or 0.0
    print(f"  a sleep and wake {cycle:.5f} USD: earned after {cycle / price * 60:.1f} minutes of an ml.m5.large asleep")
    crossed, limit = figures["cycles_within_limit"], LIMITS["own_endpoint_usd"]
    print(f"  the limit of {limit} USD holds up to {crossed:.1f} of them a month, for one endpoint in an account")
    print("\nLimits")
    for each in figures["limits"]:
        verdict = "holds" if each["holds"] else "BROKEN"
        print(f"  {verdict:8}{each['what']:34}{each['measured']:10.4f}  limit {each['limit']:g}")


if __name__ == "__main__":
    main()
