"""The decisions of a plan: what was chosen, why, by which numbers and instead of what, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ebb import capacity, catalog, engine, features, names, sizing, tuning
from ebb.images import Image
from ebb.plan_facts import RunFacts, spark_engine, spot_wanted
from ebb.plan_requests import offers
from ebb.requests import builds as build_requests
from ebb.requests import glue


def _searching(run: RunFacts) -> list[dict[str, Any]]:
    """Return where the search runs that the spec asks for, and what bounds it."""
    tune = run.spec.train.tune
    if tune is None or "train" in run.finished:
        return []
    if not tuning.in_jobs(run.spec, run.data.task):
        asked = {"fits at most": tune.trials} if tune.trials != "auto" else {}
        return [
            {
                "what": "search over the recipe",
                "chosen": "inside the training job",
                "reason": "a fit there takes seconds and most end early; it stops when the last fits gain nothing",
                "numbers": asked | ({"budget_s": tune.budget.total_seconds()} if tune.budget else {}),
                "alternatives": ["a SageMaker tuning job (train.tune.jobs above 1)", "grid search"],
                "source": "ebb/tuning.py",
            }
        ]
    asked_search = tuning.search(run.spec, run.data.task)
    knobs = [each["Name"] for kind in asked_search.ranges.values() for each in kind]
    several = (
        f"{tune.jobs} training jobs at once are asked for" if tune.jobs > 1 else "a script is searched by its jobs"
    )
    return [
        {
            "what": "search over the recipe",
            "chosen": f"a SageMaker tuning job over {', '.join(knobs)}",
            "reason": f"{several}; SageMaker ends what falls behind, and the search when nothing improves",
            "numbers": {
                "training jobs at most": asked_search.trials,
                "at once": asked_search.jobs,
                "budget_s": asked_search.budget_s,
            },
            "alternatives": ["inside the training job (train.tune.jobs: 1)"] if tune.jobs > 1 else [],
            "source": "ebb/tuning.py",
        },
        {
            "what": "capacity for the search",
            "chosen": "on demand",
            "reason": "the trials of a search share one place for checkpoints, and spot capacity could mix them",
            "numbers": {},
            "alternatives": ["spot, with the search inside the training job"],
        },
    ]


def _engine(run: RunFacts) -> dict[str, Any]:
    chosen = engine.planned(run.spec, run.data)
    most = sizing.largest_text_gib("train", replace(run.data, task=run.data.task or run.spec.task))
    limit = "" if most is None else f"; one machine trains: on {most} GiB at most, of more on a fair sample"
    return {
        "what": "engine for process",
        "chosen": chosen.name,
        "reason": chosen.reason + limit,
        "numbers": dict(chosen.numbers) | ({} if most is None else {"largest_text_gib_to_train": most}),
        "alternatives": list(chosen.alternatives),
        "source": "ebb/engine.py",
    }


def _sample(run: RunFacts) -> list[dict[str, Any]]:
    """Return why only a share of the rows is learned from, if it is so."""
    share, text_gib = run.data.learn_share, sizing.text_bytes(run.data) / 1024**3
    if share >= 1:
        return []
    return [
        {
            "what": "rows to learn from",
            "chosen": f"{share:.2%} of them, a fair sample",
            "reason": f"one machine trains, and the largest is expected to hold {share * text_gib:,.0f} GiB of text; "
            "all rows are checked, rows of rare classes all stay, and nothing that is learned is tested",
            "numbers": {"share": share, "text_gib": round(text_gib, 3)},
            "alternatives": ["all rows, on a machine named by train.instance: none is known to hold them"],
            "source": "ebb/sizing.py",
        }
    ]


def _orders(run: RunFacts, chosen: Mapping[str, sizing.Choice]) -> list[dict[str, Any]]:
    """Return in which order machines are tried for each stage, and which stages have no second one."""
    told = []
    for stage, choice in chosen.items():
        if stage in run.finished:
            continue
        if stage == "train" and tuning.in_jobs(run.spec, run.data.task):  # what a trial without a machine is: assumed
            why = "a trial that gets no machine ends as failed, and when none trains that ends the search and the run"
            told.append(_order(stage, f"{choice.instance.name} on demand", (), f"{why}; ebb retry begins it again"))
        else:
            first, *others = map(capacity.words, offers(run, stage, choice)["offers"])
            why = "where capacity is refused the next one is tried, and after the last those on demand again"
            told.append(_order(stage, first, others, why))
    spark = spark_engine(run)
    if spark and "process" not in run.finished:
        why = "Glue starts the workers when it has spare ones, until train.max_runtime is over; then the run has failed"
        workers = f"{spark.workers} x {spark.worker_type} on Glue, {glue.EXECUTION_CLASS}"
        told.append(_order("process", workers, (), f"{why}, and ebb retry begins the stage again"))
    return told


def _order(stage: str, first: str, others: Sequence[str], why: str) -> dict[str, Any]:
    return {
        "what": f"order of machines for {stage}",
        "chosen": first,
        "reason": why,
        "numbers": {},
        "alternatives": list(others),
        "source": "ebb/capacity.py",
    }


def _findings(run: RunFacts, chosen: Mapping[str, sizing.Choice]) -> list[dict[str, Any]]:
    """Return what the last run showed that its machines were not used for."""
    return [
        {
            "what": f"last {stage} was {finding.what}",
            "chosen": finding.remedy,
            "reason": finding.cause,
            "numbers": finding.numbers,
            "alternatives": [],
            "source": "ebb/rightsizing.py",
        }
        for stage, choice in chosen.items()
        if stage not in run.finished
        for finding in choice.findings
    ]


def builds_decision(builds: Sequence[Image]) -> list[dict[str, Any]]:
    """Return which images are built first, and what a minute of that costs."""
    if not builds:
        return []
    machine = catalog.build_machine(build_requests.COMPUTE_TYPE)
    per_minute = machine.price_usd_per_hour.value / 60 if machine else 0.0
    return [
        {
            "what": "images to build",
            "chosen": ", ".join(image.uri.rpartition("/")[2] for image in builds),
            "reason": "the account's registry does not hold them yet; CodeBuild builds each content hash once",
            "numbers": {"USD per minute": round(per_minute * len(builds), 4)},
            "alternatives": ["ready images, named by JobsImageUri and ServeImageUri when the stack is deployed"],
            "source": "ebb/catalog/builds.yaml",
        }
    ]


def decisions_of(run: RunFacts, chosen: Mapping[str, sizing.Choice]) -> list[dict[str, Any]]:
    """Return every decision of the plan but the images', in the order in which they are shown."""
    decisions = [
        {
            "what": f"instance for {stage}",
            "chosen": choice.instance.name,
            "reason": choice.reason,
            "numbers": choice.numbers,
            "alternatives": list(choice.alternatives),
            "source": "ebb/catalog/instances.yaml, power.yaml",
        }
        for stage, choice in chosen.items()
        if stage not in run.finished
    ]
    decisions += _findings(run, chosen)
    if "process" not in run.finished:
        decisions.append(_engine(run))
        decisions += _sample(run)
    if run.features:
        decisions.append(features.decision(run.features))
    if run.spec.features.wanted:
        decisions.append(features.registering(run.spec.features.share))
    finished = {stage: at for stage, at in run.finished.items() if not (run.features and stage == "process")}
    if finished:
        decisions.append(
            {
                "what": "stages to repeat",
                "chosen": ", ".join(stage for stage in names.STAGES if stage not in run.finished) or "none",
                "reason": "the others finished in an earlier attempt with the same spec, job code and bytes",
                "numbers": finished,
                "alternatives": [],
            }
        )
    if run.spec.train.pretrained and "train" not in run.finished:
        decisions.append(
            {
                "what": "pretrained encoder",
                "chosen": run.spec.train.pretrained,
                "reason": "train.pretrained in the spec; the ladder's last recipe starts from it, if it gets there",
                "numbers": {"bytes": sum(each.size_bytes for each in run.pretrained)} if run.pretrained else {},
                "alternatives": ["none: the ladder then ends below it"],
            }
        )
    if run.spec.train.instances > 1 and "train" not in run.finished:
        decisions.append(
            {
                "what": "machines for train",
                "chosen": str(run.spec.train.instances),
                "reason": "train.instances in the spec; each trains on its share of every batch, with the same result",
                "numbers": {},
                "alternatives": ["1, on less energy: what the machines tell each other takes time too"],
            }
        )
    spot, why = spot_wanted(run)
    decisions.append(
        {
            "what": "capacity for train and compress",
            "chosen": "spot" if spot else "on demand",
            "reason": why,
            "numbers": {},
            "alternatives": ["on demand" if spot else "spot"],
        }
    )
    decisions += _orders(run, chosen)
    decisions += _searching(run)
    unheeded = run.spec.not_acted_on()
    if unheeded:
        decisions.append(
            {
                "what": "asked for, not acted on yet",
                "chosen": ", ".join(unheeded),
                "reason": "this version checks these fields of the spec and does nothing about them",
                "numbers": {},
                "alternatives": [],
            }
        )
    return decisions
