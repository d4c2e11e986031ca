"""The plan: what a run will do, as the complete request bodies that the state machine sends.

`build` is pure, so a dry run is the same call with its result printed instead of sent.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from ebb import capacity, catalog, engine, features, images, names, requests, rightsizing, sizing, sources, tuning
from ebb.catalog import Instance
from ebb.errors import DropRejectedError, InvalidSpecError, NoFeasibleInstanceError, Rejection
from ebb.features import Published
from ebb.images import Image
from ebb.requests import builds as build_requests
from ebb.requests import glue, roles
from ebb.requests import jobs as job_requests
from ebb.settings import StackSettings
from ebb.sources import Source
from ebb.spec import PipelineSpec

SEED = 7
ROLE_POLICY_MAX_CHARS = 10_240  # of all inline policies of a role, and ours have one (IAM quotas)


@dataclass(frozen=True)
class Champion:
    """The model that the project serves now: a new one is measured against it on the same rows."""

    run_id: str
    metric: str
    quality: Mapping[str, Any]
    bundle_uri: str
    original_uri: str | None = None  # what `train` wrote; not known of a model of an earlier version


@dataclass(frozen=True)
class RunFacts:
    """Everything that a plan depends on, besides the stack."""

    run_id: str
    attempt: int
    project: str
    spec: PipelineSpec
    sources: Sequence[Source]  # all of them when they are few, none when they are many
    data: sizing.Data  # everything that the run reads
    manifest_uri: str
    sources_uri: str  # {key: sha256} of what process verifies
    generation: int
    finished: Mapping[str, int]  # stage -> the attempt that finished it, with the same identity
    champion: Champion | None = None
    features: Published | None = None  # of another project, learned from instead of data
    pretrained: Sequence[Source] = ()  # the files of the encoder that the spec names, where they have been looked at
    missing_images: Collection[str] = ()  # of those that `images_of` names, by their URI
    measured: Mapping[str, Any] = field(default_factory=dict)  # stage -> what the last run used (`rightsizing`)
    jobs: Mapping[str, str] = field(default_factory=dict)  # finished stage -> the name of its job


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
    run = _reusing(run)
    wanted = [images.for_endpoints(stack)]
    for stage, choice in choices(run, stack).items():
        image = images.for_jobs(stack, choice.instance)
        if stage not in run.finished and image not in wanted:
            wanted.append(image)
    return wanted


@_refusing()
def build(run: RunFacts, stack: StackSettings) -> dict[str, Any]:
    """Return the plan of one attempt. What an earlier attempt finished is taken over, not repeated.

    Raises: DropRejectedError when no catalogued instance or no volume holds a stage; InvalidSpecError when what is to
    be read elsewhere does not fit a role's policy.
    """
    run = _reusing(run)
    chosen = choices(run, stack)
    spark = _spark(run)
    builds = [image for image in images_of(run, stack) if image.uri in run.missing_images]
    places = _Places(run, stack)
    stages = {
        "process": _process_on_spark(run, stack, spark, places)
        if spark
        else _process(run, stack, chosen["process"].instance, places),
        "train": _train(run, stack, chosen["train"], places),
        "compress": _compress(run, stack, chosen["compress"], places),
        "compile": _compile(run, stack, chosen["compile"].instance, places),
    }
    reports = {
        "process": places.process_report,
        "train": places.original + "metrics.json",
        "compress": places.candidates + "metrics.json",
        "compile": places.compile_report,
    }
    return {
        "run_id": run.run_id,
        "attempt": run.attempt,
        "project": run.project,
        "generation": run.generation,
        "images": [requests.start_build(stack.images_project, image) for image in builds],
        "roles": _roles(run, stack),
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
                **_offers(run, stage, chosen.get(stage)),
            }
            for stage, request in stages.items()
        },
        "tuning": _search(run, stack, chosen["train"], places) if "train" not in run.finished else None,
        "features": _features(run, chosen, places),
        "artifacts": {
            "manifest": run.manifest_uri,
            "curated": places.curated,
            "process_report": places.process_report,
            "original": places.original,
            "candidates": places.candidates,
            "bundles": places.bundles,
            "compile_report": places.compile_report,
        },
        "data": rightsizing.kept_data(run.data),
        "decisions": _decisions(run, chosen) + _building(builds),
    }


def _reusing(run: RunFacts) -> RunFacts:
    """Return a run to whom the features of another project are what `process` would have made."""
    return replace(run, finished={**run.finished, "process": run.attempt}) if run.features else run


def choices(run: RunFacts, stack: StackSettings) -> dict[str, sizing.Choice]:
    """Return the instance of each stage that runs on one, and why.

    Raises: NoFeasibleInstanceError when no volume holds the data, or no instance has the memory; InvalidSpecError when
    the spec asks for an engine that cannot process the data.
    """
    on_spark = _spark(run) is not None
    allowed = images.accelerators(stack)
    return {
        stage: rightsizing.for_stage(
            stage, run.spec, run.data, rightsizing.read(run.measured.get(stage)), accelerators=_shared_by(run, allowed)
        )
        for stage in names.STAGES
        if not (stage == "process" and on_spark)
    }


def _spark(run: RunFacts) -> engine.Engine | None:
    """Return Spark and its workers where it processes the data, None where one machine does."""
    if run.features:
        return None
    planned = engine.planned(run.spec, run.data)
    return planned if planned.name == engine.SPARK else None


def _job_of(run: RunFacts, attempt: int, stage: str) -> str:
    """Return the job that wrote a stage's results: one that was moved to another machine has a name of its own."""
    moved = run.jobs.get(stage) if stage in run.finished else None
    return moved or names.job(run.run_id, attempt, stage)


def _shared_by(run: RunFacts, allowed: Collection[str]) -> Collection[str]:
    """Return the accelerators that can be used: Neuron cores of several machines do not train together here."""
    return [kind for kind in allowed if kind != "neuron" or run.spec.train.instances == 1]


class _Places:
    """Where each stage's results lie: below the attempt that made them. Prefixes end in a slash."""

    def __init__(self, run: RunFacts, stack: StackSettings):
        self.run_uri = f"s3://{stack.artifact_bucket}/{names.run_prefix(run.run_id)}"
        attempts = {stage: run.finished.get(stage, run.attempt) for stage in names.STAGES}
        self.stage = {stage: f"{self.run_uri}a{attempt}/{stage}" for stage, attempt in attempts.items()}
        self.curated = f"s3://{stack.artifact_bucket}/{names.curated_prefix(run.run_id)}a{attempts['process']}/"
        if run.features:  # the rows of the run that published them
            self.curated = run.features.curated_uri
        self.process_report = f"{self.stage['process']}/report/metrics.json"
        jobs = {stage: _job_of(run, attempts[stage], stage) for stage in ("train", "compress")}
        if tuning.in_jobs(run.spec, run.data.task) and "train" not in run.finished:
            jobs["train"] = names.BEST_TRIAL  # known when the search is over
        self.original, self.candidates = (f"{self.stage[stage]}/{job}/output/model/" for stage, job in jobs.items())
        self.bundles = f"{self.stage['compile']}/bundles/"
        self.compile_report = f"{self.stage['compile']}/report/metrics.json"

    def checkpoints(self, stage: str) -> str:
        """The same for every attempt, so that a retry resumes."""
        return f"{self.run_uri}checkpoints/{stage}"


def _previous(run: RunFacts) -> dict[str, str]:
    """Return the channel with the model to start from: the served one, when new rows are added to those it knows."""
    grows = run.spec.data.mode == "append" and run.champion and run.champion.original_uri
    return {"previous": str(run.champion.original_uri)} if grows and run.champion else {}


def _pretrained(run: RunFacts) -> dict[str, str]:
    """Return the channel with the encoder that the spec names."""
    return {"pretrained": run.spec.train.pretrained} if run.spec.train.pretrained else {}


def _machines(run: RunFacts) -> int:
    """Return how many machines train together. Raises: InvalidSpecError when what is trained cannot be shared."""
    count = sizing.machines("train", run.spec)
    if count > 1 and sizing.trains_itself(run.spec, run.data) and not run.spec.train.distributed:
        rejection = Rejection(
            "instances-of-a-script",
            "train.instances asks for several machines, and a training script of your own runs on one",
            column="train.instances",
            remedy="Write instances: 1, or distributed: true where the script shares its work through torchrun.",
        )
        raise InvalidSpecError(rejection)
    return count


def _spot(run: RunFacts) -> tuple[bool, str]:
    """Return whether train and compress take spot capacity, and why: only what keeps checkpoints may."""
    train = run.spec.train
    if not train.spot:
        return False, "train.spot is false in the spec"
    if sizing.trains_itself(run.spec, run.data) and not train.checkpoints:
        return False, "the script promises no checkpoints (train.checkpoints), and an interruption would lose its work"
    return True, "checkpoints make an interruption cheap"


def _settings(run: RunFacts) -> dict[str, Any]:
    return {"spec": run.spec.resolved(), "seed": SEED}


def _training_settings(run: RunFacts, choice: sizing.Choice) -> dict[str, Any]:
    """Only what train and compress read: a hyperparameter holds 2,500 characters."""
    spec = run.spec.resolved()
    read = ("source", "pretrained")  # by `process`, and a channel
    train = {name: value for name, value in spec["train"].items() if name not in read}
    if train["tune"]:  # a search of many jobs is SageMaker's: a job sees what it proposes
        asked = None if tuning.in_jobs(run.spec, run.data.task) else train["tune"]
        train["tune"] = asked and {name: asked[name] for name in ("trials", "budget")}
    return {
        "spec": {
            "task": spec["task"],
            "data": {"target": spec["data"]["target"]},
            "train": train,
            "compress": spec["compress"],
        },
        "seed": SEED,
    } | ({"workers": choice.workers} if choice.workers else {})


def _digests(run: RunFacts) -> dict[str, str]:
    """Return what `train` verifies of the encoder, as `process` does of the data: {file: SHA-256}."""
    return {source.key.rpartition("/")[2]: source.sha256 for source in run.pretrained if source.sha256}


def _compile_settings(run: RunFacts) -> dict[str, Any]:
    """The run is written into each bundle, so that a model measured later as the champion is known by it."""
    served = run.champion
    champion = {"run_id": served.run_id, "metric": served.metric, "quality": dict(served.quality)} if served else None
    return _settings(run) | {"run_id": run.run_id, "champion": champion}


def _shared(run: RunFacts, stack: StackSettings, stage: str, instance: Instance) -> dict[str, Any]:
    return {
        "name": names.job(run.run_id, run.attempt, stage),
        "stage": stage,
        "role_arn": roles.role_arn(stack, run.project, stage),
        "image_uri": images.for_jobs(stack, instance).uri,
        "instance_type": instance.name,
        "volume_gib": sizing.volume_gib(run.data),
        "kms_key": stack.data_key_arn,
        "max_runtime_s": int(run.spec.train.max_runtime.total_seconds()),
        "tags": names.tags(stack.stack, run.project, run.run_id),
    }


def _process(run: RunFacts, stack: StackSettings, instance: Instance, places: _Places) -> dict[str, Any]:
    return requests.create_processing_job(
        **_shared(run, stack, "process", instance),
        inputs=[
            job_requests.processing_input("code", stack.jobs_uri + "/"),
            job_requests.processing_input("data", run.manifest_uri, manifest=True),
            job_requests.processing_input("sources", run.sources_uri),
        ],
        outputs=[
            job_requests.processing_output("curated", places.curated.rstrip("/")),
            job_requests.processing_output("report", f"{places.stage['process']}/report"),
        ],
        settings=_settings(run),
    )


def _features(run: RunFacts, chosen: Mapping[str, sizing.Choice], places: _Places) -> dict[str, Any]:
    """Return what `plan_features` needs besides the columns, which `process` finds out."""
    machine = chosen.get("process", chosen["train"]).instance
    return {
        "needed": run.spec.features.wanted and names.FEATURES not in run.finished,
        "borrowed": run.features is not None,
        "instance_type": machine.name,
        "volume_gib": sizing.volume_gib(run.data),
        "max_runtime_s": int(run.spec.train.max_runtime.total_seconds()),
        "report_uri": f"{places.run_uri}a{run.attempt}/{names.FEATURES}/report/metrics.json",
    }


def _process_on_spark(run: RunFacts, stack: StackSettings, spark: engine.Engine, places: _Places) -> dict[str, Any]:
    return requests.start_job_run(
        job_name=names.spark_job(stack.stack, run.project),
        stream=names.job(run.run_id, run.attempt, "process"),
        worker_type=str(spark.worker_type),
        workers=spark.workers,
        max_runtime_s=int(run.spec.train.max_runtime.total_seconds()),
        manifest_uri=run.manifest_uri,
        sources_uri=run.sources_uri,
        curated_uri=places.curated,
        report_uri=f"{places.stage['process']}/report",
        work_uri=f"{places.stage['process']}/work",
        settings=_settings(run),
    )


def _train(run: RunFacts, stack: StackSettings, choice: sizing.Choice, places: _Places) -> dict[str, Any]:
    return requests.create_training_job(
        **_shared(run, stack, "train", choice.instance),
        channels={"curated": places.curated, "code": stack.jobs_uri + "/"} | _previous(run) | _pretrained(run),
        output_uri=places.stage["train"],
        checkpoint_uri=places.checkpoints("train"),
        instances=_machines(run),
        settings=_training_settings(run, choice) | ({"pretrained": _digests(run)} if run.pretrained else {}),
        spot=_spot(run)[0],
    )


def _search(
    run: RunFacts, stack: StackSettings, choice: sizing.Choice, places: _Places
) -> dict[str, dict[str, Any]] | None:
    """Return the requests of a search in jobs of its own, None where `train` is one job. Raises: InvalidSpecError."""
    if not tuning.in_jobs(run.spec, run.data.task):
        return None
    asked, shared = tuning.search(run.spec, run.data.task), _shared(run, stack, "train", choice.instance)
    name = names.tuning_job(run.run_id, run.attempt)
    return {
        "request": requests.create_hyper_parameter_tuning_job(
            asked,
            **{key: value for key, value in shared.items() if key not in ("name", "stage")},
            name=name,
            channels={"curated": places.curated, "code": stack.jobs_uri + "/"},
            output_uri=places.stage["train"],
            settings=_training_settings(run, choice) | {"trial": {"own_metric": asked.own_metric}},
            seed=SEED,
        ),
        "trials": requests.list_trials(name),
    }


def _compress(run: RunFacts, stack: StackSettings, choice: sizing.Choice, places: _Places) -> dict[str, Any]:
    return requests.create_training_job(
        **_shared(run, stack, "compress", choice.instance),
        channels={"curated": places.curated, "original": places.original, "code": stack.jobs_uri + "/"},
        output_uri=places.stage["compress"],
        checkpoint_uri=places.checkpoints("compress"),
        settings=_training_settings(run, choice),
        spot=_spot(run)[0],
    )


def _compile(run: RunFacts, stack: StackSettings, instance: Instance, places: _Places) -> dict[str, Any]:
    inputs = {
        "code": stack.jobs_uri + "/",
        "curated": places.curated,
        "original": places.original,
        "candidates": places.candidates,
    } | ({"champion": run.champion.bundle_uri} if run.champion else {})
    return requests.create_processing_job(
        **_shared(run, stack, "compile", instance),
        inputs=[job_requests.processing_input(name, uri) for name, uri in inputs.items()],
        outputs=[
            job_requests.processing_output("bundles", places.bundles.rstrip("/")),
            job_requests.processing_output("report", f"{places.stage['compile']}/report"),
        ],
        settings=_compile_settings(run),
    )


def _roles(run: RunFacts, stack: StackSettings) -> list[dict[str, Any]]:
    elsewhere = _elsewhere(run, stack) if not run.features else {}
    borrowed: dict[str, list[str]] = {}
    if run.features:
        bucket, _, prefix = run.features.curated_uri.removeprefix("s3://").partition("/")
        borrowed[bucket] = [prefix]
    encoder: dict[str, list[str]] = {}
    if run.spec.train.pretrained:
        bucket, _, prefix = run.spec.train.pretrained.removeprefix("s3://").partition("/")
        encoder[bucket] = [prefix]
    granted = {"elsewhere": elsewhere, "features": borrowed, "pretrained": encoder}
    wanted = [
        {
            "create": requests.create_role(stack, run.project, kind),
            "policy": requests.put_role_policy(stack, run.project, kind, **granted),
        }
        for kind in (
            *names.ROLE_KINDS,
            *((names.RECOMMEND,) if run.spec.serve.recommender else ()),
            *((names.SPARK,) if _spark(run) else ()),
            *((names.FEATURES,) if run.spec.features.wanted else ()),
        )
    ]
    if any(len(each["policy"]["PolicyDocument"]) > ROLE_POLICY_MAX_CHARS for each in wanted):
        rejection = Rejection(
            "too-many-objects",
            "data.uri has moved, and the objects read before are too many to be granted one by one",
            column="data.uri",
            remedy="Name a folder that holds old and new data, or write data: {mode: replace}.",
        )
        raise InvalidSpecError(rejection)
    return wanted


def _elsewhere(run: RunFacts, stack: StackSettings) -> dict[str, list[str]]:
    """Return what the process role cannot read by itself: the spec's place, and single objects of earlier ones."""
    places: dict[str, list[str]] = {}
    if run.spec.data.uri is not None:
        bucket, _, key = run.spec.data.uri.removeprefix("s3://").partition("/")
        if bucket != stack.landing_bucket or not key.startswith(f"{run.project}/"):
            places[bucket] = [key if sources.is_file(key) else key.rstrip("/") + "/"]
    code = run.spec.train.source
    if code is not None:
        bucket, _, key = code.removeprefix("s3://").partition("/")
        if bucket != stack.landing_bucket or not key.startswith(f"{run.project}/"):
            places.setdefault(bucket, []).append(key)
    for source in run.sources:  # of many objects none stands here: they lie in the drop or at the spec's place
        own = source.bucket == stack.landing_bucket and source.key.startswith(f"{run.project}/")
        granted = places.setdefault(source.bucket, []) if not own else []
        if not own and not any(source.key == each or source.key.startswith(_folder(each)) for each in granted):
            granted.append(source.key)
    return places


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
    limit = "" if most is None else f"; whatever processes it, one machine trains on all of it: {most} GiB at most"
    return {
        "what": "engine for process",
        "chosen": chosen.name,
        "reason": chosen.reason + limit,
        "numbers": dict(chosen.numbers) | ({} if most is None else {"largest_text_gib_to_train": most}),
        "alternatives": list(chosen.alternatives),
        "source": "ebb/engine.py",
    }


def _offers(run: RunFacts, stage: str, choice: sizing.Choice | None) -> dict[str, Any]:
    """Return the machines of a stage in the order in which they are tried."""
    if stage in run.finished or choice is None:
        return {}
    spot = stage in sizing.TRAINING and _spot(run)[0]
    return {"offers": capacity.offers(choice.instance.name, choice.otherwise, spot=spot)}


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
            first, *others = map(capacity.words, _offers(run, stage, choice)["offers"])
            why = "where capacity is refused the next one is tried, and after the last those on demand again"
            told.append(_order(stage, first, others, why))
    spark = _spark(run)
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


def _building(builds: Sequence[Image]) -> list[dict[str, Any]]:
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


def _folder(place: str) -> str:
    return place if place.endswith("/") else place + "\0"  # a key is no folder: nothing starts with it


def _decisions(run: RunFacts, chosen: Mapping[str, sizing.Choice]) -> list[dict[str, Any]]:
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
    spot, why = _spot(run)
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
