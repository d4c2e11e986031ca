"""The plan: what a run will do, as the complete request bodies that the state machine sends.

`build` is pure, so a dry run is the same call with its result printed instead of sent. It puts together what
`plan_requests`, `plan_roles` and `plan_decisions` make of the run's facts (`plan_facts`).
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from ebb import compilers, images, names, plan_training, price, requests, rightsizing, sizing, windows
from ebb.errors import DropRejectedError, NoFeasibleInstanceError, Rejection
from ebb.images import Image
from ebb.plan_decisions import builds_decision, decisions_of
from ebb.plan_facts import RunFacts, settled, spark_engine
from ebb.plan_requests import (
    Places,
    compile_request,
    compress_request,
    features_wanted,
    offers,
    process_request,
    search_request,
    spark_request,
    train_request,
)
from ebb.plan_roles import role_requests
from ebb.settings import StackSettings


@contextmanager
def _refusing() -> Iterator[None]:
    """Raise what no machine holds as a rejection of the drop: nothing has begun, and only other data or a spec help."""
    try:
        yield
    except NoFeasibleInstanceError as error:
        remedy = error.remedy[:1].upper() + error.remedy[1:] + "." if error.remedy else ""
        raise DropRejectedError(Rejection("beyond-every-machine", error.what, remedy=remedy)) from error


@_refusing()
def images_of(run: RunFacts, stack: StackSettings) -> list[Image]:
    """Return the images that the run needs: of its stages, on the instances that they get, and of the endpoint.

    Raises: DropRejectedError, as `build`.
    """
    run = settled(run)
    wanted, chosen = [images.for_endpoints(stack)], choices(run, stack)
    toolchain = compilers.planned(run.spec.compile, chosen["train"].instance, stack).toolchain
    for stage, choice in chosen.items():
        image = images.for_jobs(stack, choice.instance, toolchain=toolchain if stage == "compile" else None)
        if stage not in run.finished and image not in wanted:
            wanted.append(image)
    return wanted


@_refusing()
def build(run: RunFacts, stack: StackSettings) -> dict[str, Any]:
    """Return the plan of one attempt. What an earlier attempt finished is taken over, not repeated.

    Raises: DropRejectedError when no catalogued instance or no volume holds a stage; InvalidSpecError when what is to
    be read elsewhere does not fit a role's policy.
    """
    run = settled(run)
    chosen = choices(run, stack)
    spark = spark_engine(run)
    builds = [image for image in images_of(run, stack) if image.uri in run.missing_images]
    places = Places(run, stack)
    compiler = compilers.planned(run.spec.compile, chosen["train"].instance, stack)
    stages = {
        "process": spark_request(run, stack, spark, places)
        if spark
        else process_request(run, stack, chosen["process"].instance, places),
        "train": train_request(run, stack, chosen["train"], places),
        "compress": compress_request(run, stack, chosen["compress"], places),
        "compile": compile_request(run, stack, chosen["compile"].instance, places, compiler),
    }
    reports = {
        "process": places.process_report,
        "train": places.original + "metrics.json",
        "compress": places.candidates + "metrics.json",
        "compile": places.compile_report,
    }
    predicted = {stage: each.as_dict() for stage, each in price.of_run(run, chosen, stack.region).items()}
    carbon = run.spec.carbon
    window = windows.planned(
        predicted, created=names.created_at(run.run_id), within=carbon.deadline, signal=carbon.signal
    )
    return {
        "run_id": run.run_id,
        "attempt": run.attempt,
        "project": run.project,
        "generation": run.generation,
        "images": [requests.start_build(stack.images_project, image) for image in builds],
        "roles": role_requests(run, stack),
        "spark_job": {
            "create": requests.create_job(stack, run.project),
            "update": requests.update_job(stack, run.project),
        }
        if spark and "process" not in run.finished
        else None,
        **{
            stage: {
                "needed": stage not in run.finished,
                "request": {} if stage in run.finished else request,
                "report_uri": reports[stage],
                **offers(run, stage, chosen.get(stage)),
                **({"alarms": plan_training.alarms(run, stack, chosen["train"])} if stage == "train" else {}),
            }
            for stage, request in stages.items()
        },
        "tuning": search_request(run, stack, chosen["train"], places) if "train" not in run.finished else None,
        "features": features_wanted(run, chosen, places),
        "artifacts": {
            "manifest": run.manifest_uri,
            "curated": places.curated,
            "process_report": places.process_report,
            "original": places.original,
            "candidates": places.candidates,
            "bundles": places.bundles,
            "compile_report": places.compile_report,
        },
        "elsewhere": compiler.settings,
        "data": rightsizing.kept_data(run.data),
        "predicted": predicted,
        **({"window": window} if window else {}),
        "decisions": [
            *decisions_of(run, chosen),
            *plan_training.decisions(run, stack, chosen["train"]),
            *windows.plan_decision(window, predicted),
            *(compilers.decisions(run.spec.compile, compiler) if "compile" not in run.finished else ()),
            *builds_decision(builds),
        ],
    }


def choices(run: RunFacts, stack: StackSettings) -> dict[str, sizing.Choice]:
    """Return the instance of each stage that runs on one, and why.

    Raises: NoFeasibleInstanceError when no volume holds the data, or no instance has the memory; InvalidSpecError when
    the spec asks for an engine that cannot process the data.
    """
    on_spark = spark_engine(run) is not None
    allowed = images.accelerators(stack)
    return {
        stage: rightsizing.for_stage(
            stage, run.spec, run.data, rightsizing.read(run.measured.get(stage)), accelerators=_shared_by(run, allowed)
        )
        for stage in names.STAGES
        if not (stage == "process" and on_spark)
    }


def _shared_by(run: RunFacts, allowed: Collection[str]) -> Collection[str]:
    """Return the accelerators that can be used: Neuron cores of several machines do not train together here."""
    return [kind for kind in allowed if kind != "neuron" or run.spec.train.instances == 1]
