"""The request bodies of a plan: one per stage, with where its results lie and which machines are offered to it."""

from collections.abc import Mapping
from typing import Any

from ebb import capacity, engine, images, names, plan_training, requests, sizing, tuning
from ebb.catalog import Instance
from ebb.compilers import Compiler
from ebb.errors import InvalidSpecError, Rejection
from ebb.plan_facts import RunFacts, spot_wanted
from ebb.requests import jobs as job_requests
from ebb.requests import roles
from ebb.settings import StackSettings

SEED = 7


def _job_of(run: RunFacts, attempt: int, stage: str) -> str:
    """Return the job that wrote a stage's results: one that was moved to another machine has a name of its own."""
    moved = run.jobs.get(stage) if stage in run.finished else None
    return moved or names.job(run.run_id, attempt, stage)


class Places:
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


def _settings(run: RunFacts) -> dict[str, Any]:
    return {"spec": run.spec.resolved(), "seed": SEED}


def _process_settings(run: RunFacts) -> dict[str, Any]:
    share = run.data.learn_share
    return _settings(run) | ({"learn_share": share} if share < 1 else {})


def _training_settings(run: RunFacts, choice: sizing.Choice) -> dict[str, Any]:
    """Only what train and compress read: a hyperparameter holds 2,500 characters."""
    spec = run.spec.resolved()
    read = ("source", "pretrained", "debugger", "compiler")  # by `process`, a channel, and the request
    train = {name: value for name, value in spec["train"].items() if name not in read}
    if train["stop"]:  # whoever watches from outside decides; the job hears the metric
        train["stop"] = {name: train["stop"][name] for name in ("metric_regex", "goal")}
    if train["tune"]:  # a search of many jobs is SageMaker's: a job sees what it proposes
        asked = None if tuning.in_jobs(run.spec, run.data.task) else train["tune"]
        train["tune"] = asked and {name: asked[name] for name in ("trials", "budget")}
    return (
        {
            "spec": {
                "task": spec["task"],
                "data": {"target": spec["data"]["target"]},
                "train": train,
                "compress": spec["compress"],
            },
            "seed": SEED,
        }
        | ({"workers": choice.workers} if choice.workers else {})
        | plan_training.levers(run.spec)
    )


def _digests(run: RunFacts) -> dict[str, str]:
    """Return what `train` verifies of the encoder, as `process` does of the data: {file: SHA-256}."""
    return {source.key.rpartition("/")[2]: source.sha256 for source in run.pretrained if source.sha256}


def _compile_settings(run: RunFacts, compiler: Compiler) -> dict[str, Any]:
    """The run is written into each bundle, so that a model measured later as the champion is known by it."""
    served = run.champion
    champion = {"run_id": served.run_id, "metric": served.metric, "quality": dict(served.quality)} if served else None
    beside = {"elsewhere": compiler.settings} if compiler.settings else {}
    return _settings(run) | {"run_id": run.run_id, "champion": champion} | beside


def _shared(run: RunFacts, stack: StackSettings, stage: str, instance: Instance) -> dict[str, Any]:
    return {
        "name": names.job(run.run_id, run.attempt, stage),
        "stage": stage,
        "role_arn": roles.role_arn(stack, run.project, stage),
        "image_uri": images.for_jobs(stack, instance).uri,
        "instance_type": instance.name,
        "volume_gib": sizing.volume_gib(sizing.read_by(stage, run.data)),
        "kms_key": stack.data_key_arn,
        "max_runtime_s": int(run.spec.train.max_runtime.total_seconds()),
        "tags": names.tags(stack.stack, run.project, run.run_id),
    }


def process_request(run: RunFacts, stack: StackSettings, instance: Instance, places: Places) -> dict[str, Any]:
    """Return the job that processes the data on one machine."""
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
        settings=_process_settings(run),
    )


def features_wanted(run: RunFacts, chosen: Mapping[str, sizing.Choice], places: Places) -> dict[str, Any]:
    """Return what `plan_features` needs besides the columns, which `process` finds out."""
    machine = chosen.get("process", chosen["train"]).instance
    return {
        "needed": run.spec.features.wanted and names.FEATURES not in run.finished,
        "borrowed": run.features is not None,
        "instance_type": machine.name,
        "volume_gib": sizing.volume_gib(sizing.read_by(names.FEATURES, run.data)),
        "max_runtime_s": int(run.spec.train.max_runtime.total_seconds()),
        "report_uri": f"{places.run_uri}a{run.attempt}/{names.FEATURES}/report/metrics.json",
    }


def spark_request(run: RunFacts, stack: StackSettings, spark: engine.Engine, places: Places) -> dict[str, Any]:
    """Return the run of the project's Glue job, which processes the data on several workers."""
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
        settings=_process_settings(run),
    )


def train_request(run: RunFacts, stack: StackSettings, choice: sizing.Choice, places: Places) -> dict[str, Any]:
    """Return the training job. Raises: InvalidSpecError when what is trained cannot be shared between machines."""
    request = requests.create_training_job(
        **_shared(run, stack, "train", choice.instance),
        channels={"curated": places.curated, "code": stack.jobs_uri + "/"} | _previous(run) | _pretrained(run),
        output_uri=places.stage["train"],
        checkpoint_uri=places.checkpoints("train"),
        instances=_machines(run),
        settings=_training_settings(run, choice) | ({"pretrained": _digests(run)} if run.pretrained else {}),
        spot=spot_wanted(run)[0],
    )
    return plan_training.with_parts(request, run, stack, output_uri=places.stage["train"])


def search_request(
    run: RunFacts, stack: StackSettings, choice: sizing.Choice, places: Places
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


def compress_request(run: RunFacts, stack: StackSettings, choice: sizing.Choice, places: Places) -> dict[str, Any]:
    """Return the training job that makes smaller candidates of what was trained."""
    return requests.create_training_job(
        **_shared(run, stack, "compress", choice.instance),
        channels={"curated": places.curated, "original": places.original, "code": stack.jobs_uri + "/"},
        output_uri=places.stage["compress"],
        checkpoint_uri=places.checkpoints("compress"),
        settings=_training_settings(run, choice),
        spot=spot_wanted(run)[0],
    )


def compile_request(
    run: RunFacts, stack: StackSettings, instance: Instance, places: Places, compiler: Compiler
) -> dict[str, Any]:
    """Return the job that turns the candidates into bundles and measures them beside the champion."""
    inputs = {
        "code": stack.jobs_uri + "/",
        "curated": places.curated,
        "original": places.original,
        "candidates": places.candidates,
    } | ({"champion": run.champion.bundle_uri} if run.champion else {})
    return requests.create_processing_job(
        **_shared(run, stack, "compile", instance)
        | {"image_uri": images.for_jobs(stack, instance, toolchain=compiler.toolchain).uri},
        inputs=[job_requests.processing_input(name, uri) for name, uri in inputs.items()],
        outputs=[
            job_requests.processing_output("bundles", places.bundles.rstrip("/")),
            job_requests.processing_output("report", f"{places.stage['compile']}/report"),
        ],
        settings=_compile_settings(run, compiler),
    )


def offers(run: RunFacts, stage: str, choice: sizing.Choice | None) -> dict[str, Any]:
    """Return the machines of a stage in the order in which they are tried."""
    if stage in run.finished or choice is None:
        return {}
    spot = stage in sizing.TRAINING and spot_wanted(run)[0]
    return {"offers": capacity.offers(choice.instance.name, choice.otherwise, spot=spot)}
