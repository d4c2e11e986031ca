"""`ebb plan`: what a drop would do and why, from the file alone. Starts nothing and needs no cloud."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import boto3
import typer
from rich.markup import escape

from ebb import budgets, explain, footprint, names, recommendation, serving, serving_model, sizing, traffic
from ebb import engine as engines
from ebb import plan as plans
from ebb.carbon import Band
from ebb.plan_facts import RunFacts
from ebb.settings import StackSettings
from ebb.sources import Source
from ebb.spec import PipelineSpec
from ebb_cli import output
from ebb_cli.budget import read_account
from ebb_cli.drop import SpecFile
from ebb_cli.ledger import Ledger
from ebb_cli.planning_look import Look, local_sources, look, look_at_names, remote_sources
from ebb_cli.problems import USAGE, CommandError
from ebb_cli.target import DEFAULT_STACK, EndpointUrl, Json, Profile, Stack, find
from ebb_cli.upload import Contents, contents, read_spec
from ebb_jobs import infer

DEFAULT_REGION = "us-east-1"
SPOT_STAGES = {"train", "compress"}
# What a model of each task is taken for before it is trained: assumed, confidence low. A custom one may be anything.
UNTRAINED = {
    infer.IMAGES: serving_model.Model(memory_mib=150, cpu_s=0.002, answer_s=0.002, slow_answer_s=0.004),
    infer.TEXTS: serving_model.Model(memory_mib=200, cpu_s=0.002, answer_s=0.002, slow_answer_s=0.004),
    infer.CUSTOM: serving_model.Model(own_code=True),
}
UNTRAINED_TABLE = serving_model.Model(memory_mib=150, cpu_s=0.0005, answer_s=0.0005, slow_answer_s=0.001)


@dataclass(frozen=True)
class PlannedStage:
    """One stage with its machine; `at_most_usd` is what its time limit allows it to cost."""

    stage: str
    instance_type: str
    reason: str
    spot: bool
    expected_duration_s: float
    expected: dict[str, dict[str, float]]
    at_most_usd: float
    alternatives: tuple[str, ...]


LastRun = Annotated[
    str | None,
    typer.Option("--project", help="Project whose last run chooses the machines, by what it was measured to use."),
]


def plan(
    path: Annotated[Path, typer.Argument(help="What would be dropped: a file, a folder, or a pipeline.yaml.")],
    spec: SpecFile = None,
    profile: Profile = None,
    endpoint_url: EndpointUrl = None,
    region: Annotated[str | None, typer.Option("--region", help="Region whose grid and prices are counted.")] = None,
    stack: Stack = DEFAULT_STACK,
    project: LastRun = None,
    as_json: Json = False,
) -> None:
    """Say what a drop would do, what it would cost at most, and why; start nothing."""
    # Without a target nothing is asked of anybody; one is needed to see data that stays in its bucket, and what the
    # last run of a project used.
    target = (
        find(profile=profile, endpoint_url=endpoint_url, region=region, stack=stack)
        if profile or endpoint_url or project
        else None
    )
    if target:
        output.err().print(f"target: {target.name}", style="dim", markup=False, soft_wrap=True)
    region = target.region if target else require_region(region or DEFAULT_REGION)
    if path.suffix in {".yaml", ".yml"} and spec is None:
        asked = read_spec(path)
        found, known = remote_sources(path, asked, target)
        seen = look_at_names(found, asked, known=known)
    else:
        asked = read_spec(spec) if spec else PipelineSpec()
        held = _contents(path, asked)
        seen = look(held, asked)
        found = local_sources(held)
    measured = Ledger(target).project(project).get("measured") if target and project else None
    facts, settings = run_facts(found, asked, seen, measured), stand_ins(region, stack)
    stages = planned_stages(facts, settings, region)
    built = plans.build(facts, settings)
    total = footprint.sum_of(stage.expected for stage in stages).as_dict()
    account = read_account(target, project) if target and project and asked.carbon.budget else None
    budget = planned_budget(facts, settings, built, account)
    served = planned_serving(asked, seen.task.value if seen.task else asked.task, region)
    if as_json:
        output.emit_json(
            {
                "path": str(path),
                "region": region,
                "look": {
                    "files": seen.files,
                    "size_bytes": seen.size_bytes if seen.size_known else None,
                    "format": seen.form,
                    "compressed": seen.compressed,
                    "target": seen.target._asdict() if seen.target else None,
                    "task": seen.task._asdict() if seen.task else None,
                },
                "spec": asked.resolved(),
                "stages": [asdict(stage) for stage in stages],
                "plan": built,
                "expected": total,
                "at_most_usd": round(sum(stage.at_most_usd for stage in stages), 4),
                "serving": served,
                "budget": budget,
            }
        )
        return
    _print(path, region, asked, seen, stages, total)
    for decision in built["decisions"]:
        if not decision["what"].startswith(("instance for", "order of machines")):
            output.out().print(f"{decision['what']}: {decision['chosen']}, {decision['reason']}", markup=False)
    if budget:
        output.out().print(f"budget: {budget['verdict']}. {budget['arithmetic']}", markup=False, soft_wrap=True)
    print_serving(served)


def _contents(path: Path, asked: PipelineSpec) -> Contents:
    if not path.exists():
        raise CommandError(f"{path} does not exist.", status=USAGE)
    return contents(path, asked)


def require_region(name: str) -> str:
    """Return the name of a Region in which SageMaker is; its grid and prices would be guesses otherwise."""
    session = boto3.Session()
    known = [
        each for part in session.get_available_partitions() for each in session.get_available_regions("sagemaker", part)
    ]
    if name in known:
        return name
    close = difflib.get_close_matches(name, known, n=3)
    told = f"Did you mean {' or '.join(close)}?" if close else f"Known are {', '.join(known)}."
    raise CommandError(f"{name!r} is no Region with SageMaker.", told, status=USAGE)


def run_facts(
    found: list[Source], asked: PipelineSpec, seen: Look, measured: Mapping[str, Any] | None = None
) -> RunFacts:
    """Return what `plan_pipeline` would be told of the drop, with stand-ins for what only a run has."""
    now = datetime.now(UTC)
    run_id = names.run_id("plan", "LANDING", found[0].key, found[0].fingerprint, now)
    counted = seen.files if seen.form == "images" and seen.size_known else seen.inside.pictures
    return RunFacts(
        run_id=run_id,
        attempt=1,
        project="plan",
        spec=asked,
        sources=found,
        data=sizing.Data(
            size_bytes=seen.size_bytes,
            form=seen.form,
            compressed=seen.compressed,
            task=seen.task.value if seen.task else None,
            content=seen.inside.content,
            example_count=counted,
            unpacked_bytes=seen.inside.unpacked_bytes,
        ),
        manifest_uri=f"s3://ARTIFACTS/{names.manifest_key(run_id)}",
        sources_uri=f"s3://ARTIFACTS/{names.sources_key(run_id)}",
        generation=1,
        finished={},
        measured=measured or {},
    )


def stand_ins(region: str, stack_name: str) -> StackSettings:
    """Return a stack as the template deploys it when no ready images are named, with names instead of resources."""
    return StackSettings(
        stack=stack_name,
        artifact_bucket="ARTIFACTS",
        landing_bucket="LANDING",
        data_key_arn=f"arn:aws:kms:{region}:000000000000:key/DATA-KEY",
        jobs_uri="s3://ARTIFACTS/jobs/HASH",
        jobs_image_uri="JOBS-IMAGE",
        serve_image_uri="SERVE-IMAGE",
        job_boundary_arn=f"arn:aws:iam::000000000000:policy/{stack_name}-JobBoundary",
        jobs_context_uri="s3://ARTIFACTS/images/jobs/HASH",
        serve_context_uri="s3://ARTIFACTS/images/serve/HASH",
        glue_security_configuration=stack_name,
    )


def planned_stages(facts: RunFacts, stack: StackSettings, region: str) -> list[PlannedStage]:
    """Return the stages with the machine of each, and what they are expected to take."""
    asked = facts.spec
    limit_s = asked.train.max_runtime.total_seconds()
    engine = engines.planned(asked, facts.data)
    found = [_on_spark(engine, limit_s, region)] if engine.name == engines.SPARK else []
    for stage, choice in plans.choices(facts, stack).items():
        machine, numbers = choice.instance, choice.numbers
        # A job that would take longer is stopped at its limit.
        expected_s = min(numbers["expected_duration_s"], limit_s)
        load = footprint.utilization(numbers["expected_cpu_s"], numbers["expected_duration_s"], machine.vcpu)
        took = {"duration_s": expected_s, "billable_s": expected_s}
        count = sizing.machines(stage, asked)
        each = footprint.of_job(machine.name, **took, load=load, region=region)
        expected = sum([each] * count, start=footprint.NOTHING) if each else footprint.NOTHING
        found.append(
            PlannedStage(
                stage=stage,
                instance_type=machine.name if count == 1 else f"{count} x {machine.name}",
                reason=choice.reason,
                spot=asked.train.spot and stage in SPOT_STAGES,
                expected_duration_s=round(expected_s, 1),
                expected=expected.as_dict(),
                at_most_usd=round((machine.price_usd_per_hour * (count * limit_s / 3600)).high, 4),
                alternatives=choice.alternatives,
            )
        )
    return found


def _on_spark(engine: engines.Engine, limit_s: float, region: str) -> PlannedStage:
    """Return `process` on several machines of Glue."""
    workers, worker = engine.workers, str(engine.worker_type)
    expected_s = min(float(engine.numbers["expected_duration_s"]), limit_s)
    expected, most = (
        footprint.of_spark(worker, workers=workers, duration_s=seconds, region=region) or footprint.NOTHING
        for seconds in (expected_s, limit_s)
    )
    return PlannedStage(
        stage="process",
        instance_type=f"Glue, {workers} x {worker}",
        reason=engine.reason,
        spot=False,
        expected_duration_s=round(expected_s, 1),
        expected=expected.as_dict(),
        at_most_usd=round(most.cost_usd.high, 4),
        alternatives=engine.alternatives,
    )


def planned_budget(
    facts: RunFacts, stack: StackSettings, built: dict[str, Any], account: budgets.Account | None
) -> dict[str, Any] | None:
    """Return what carbon.budget would make of the run, with the arithmetic; None without one.

    Without the account of its month (no --project) it is judged against the whole of it.
    """
    asked = facts.spec.carbon.budget
    if asked is None:
        return None
    against = account or budgets.Account("")
    wanted = budgets.wanted(built["predicted"])
    lines = budgets.judge(asked, wanted, against)
    verdict = "it fits" if budgets.fits(lines) else "it does not fit"
    told = budgets.told(lines)
    if not budgets.fits(lines):
        for said, changes in budgets.smaller(facts.spec, facts.data) if asked.shrink else ():
            spec = budgets.changed(facts.spec, changes)
            if spec is None:
                continue
            less = plans.build(replace(facts, spec=spec), stack)
            smaller = budgets.judge(asked, budgets.wanted(less["predicted"]), against)
            if budgets.fits(smaller):
                verdict, told = f"a smaller run would: {said}", f"{told}. Smaller: {budgets.told(smaller)}"
                break
    unknown = asked.per == budgets.MONTH and account is None
    whole = " (of a whole month; --project NAME counts what is gone)" if unknown else ""
    return {"verdict": verdict, "fits": budgets.fits(lines), "arithmetic": told + whole, "wanted": wanted}


def planned_serving(asked: PipelineSpec, task: str | None, region: str) -> dict[str, Any]:
    """Return how the model would be served, as the decision that the run will take once it knows the model.

    Raises: NoFeasibleInstanceError when the kind or the instance that the spec names cannot hold such a model.
    """
    choice = serving.choose(
        serve=asked.serve,
        model=UNTRAINED.get(task or "", UNTRAINED_TABLE),
        traffic=traffic.expected(asked.serve.requests_per_day),
        region=region,
    )
    decision = choice.decision()
    tested = recommendation.told_by_plan(asked.serve, choice.row)
    return (
        decision
        | {"assumed": [f"the model is like others for {task or 'tables'}", *decision["assumed"]]}
        | ({"load_test": tested} if tested else {})
    )


def print_serving(decision: dict[str, Any]) -> None:
    """Print how a model is served: the kind, why, and what each kind would take."""
    say = output.out().print
    say(
        f"\n[bold]How it would be served[/]: {escape(decision['chosen'])}, {escape(decision['reason'])}", soft_wrap=True
    )
    for line in explain.kinds(decision):
        say(line, markup=False, soft_wrap=True)
    if tested := decision.get("load_test"):
        say(f"\n[bold]Right-sizing[/]: {_load_test(tested)}", soft_wrap=True)


def _load_test(tested: dict[str, Any]) -> str:
    if not tested["tested"]:
        return "serve.recommender asks for a load test, and there is only one size: Ebb's own measurement decides"
    return (
        f"Inference Recommender would load-test {', '.join(tested['tested'])} before the model is deployed, "
        f"{recommendation.priced(tested['at_most_usd'])}; where it finds nothing, Ebb's own measurement decides"
    )


def _print(
    path: Path, region: str, asked: PipelineSpec, seen: Look, stages: list[PlannedStage], total: dict[str, Any]
) -> None:
    say = output.out().print
    files = f"{seen.files} files" if seen.files > 1 else "one file"
    size = output.size(seen.size_bytes)
    told = size if seen.size_known else f"size unknown (planned as for {size}; --profile NAME looks)"
    say(f"[bold]{escape(str(path))}[/]: {files}, {told} of {seen.form}", soft_wrap=True)
    for what, inferred in (("target", seen.target), ("task", seen.task)):
        told = f"{inferred.value}, {inferred.reason}" if inferred else "read from the data by the process stage"
        say(f"{what:7}{told}", markup=False, soft_wrap=True)
    say(
        f"floor  a candidate may lose {asked.compress.max_metric_drop:g} of the metric; "
        f"methods {', '.join(asked.compress.methods)}",
        markup=False,
    )
    rows = [
        (
            stage.stage, stage.instance_type + (" spot" if stage.spot else ""),
            output.duration(stage.expected_duration_s), output.band(stage.expected["carbon_g"], "g"),
            output.band(stage.expected["cost_usd"], "USD"), f"{stage.at_most_usd:.2f} USD", escape(stage.reason),
        )
        for stage in stages
    ]  # fmt: skip
    columns = ("stage", "instance", "expected", "gCO2e (low to high)", "cost (low to high)", "at most", "why")
    output.table("\nWhat would run", columns, rows, right=("expected", "at most"))
    limit = sum(stage.at_most_usd for stage in stages)
    say(f"\nexpected: {_band_text(total)}; at most {limit:.2f} USD, by train.max_runtime", soft_wrap=True)
    say(f"Region {region}. Prices, power and grid are estimates with their bands; nothing was started.", soft_wrap=True)


def _band_text(total: dict[str, Any]) -> str:
    carbon, cost = Band.of(total["carbon_g"]).as_dict(), Band.of(total["cost_usd"]).as_dict()
    return f"{output.band(carbon, 'gCO2e')}, {output.band(cost, 'USD')}"
