"""Training jobs: Create, Describe, List, Update, Stop, and the run itself as the training agent of AWS does it.

Layout, statuses and messages: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html,
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_SecondaryStatusTransition.html.
Assumed: BillableTimeInSeconds of a spot job equals its training time (no discount is invented); a spot interruption
loses what was not yet copied to the checkpoint prefix; FastFile reads like File.
"""

import math
import re
import time
from pathlib import Path
from typing import Any

from ministack.core.responses import get_account_id, get_region, request_scope

from ebb_local.sagemaker import (
    capacity,
    clusters,
    containers,
    images,
    jobs,
    listing,
    metrics,
    requests,
    state,
    tags,
    warm_pools,
)
from ebb_local.sagemaker.errors import JobFailure, ServiceError, not_implemented, validation_exception
from ebb_local.sagemaker.jobs import Ending, JobRun
from ebb_local.sagemaker.storage import Location, Source, TreeSync, download_all, pack

_CHECKPOINTS = "/opt/ml/checkpoints"
_MESSAGES = {
    "Starting": "Preparing the instances for training",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Uploading": "Uploading generated training model",
    "Interrupted": "Training job interrupted: the spot instance was reclaimed",
    "Stopping": "Stopping the training job",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
    "MaxWaitTimeExceeded": "Training job wait time exceeded MaxWaitTimeInSeconds provided",
}
_SUMMARY = ["TrainingJobName", "TrainingJobArn", "CreationTime", "TrainingEndTime", "LastModifiedTime",
            "TrainingJobStatus", "SecondaryStatus", "WarmPoolStatus"]  # fmt: skip


def create(request: dict[str, Any]) -> dict[str, Any]:
    """CreateTrainingJob."""
    name = request["TrainingJobName"]
    arn = state.arn("training-job", name)
    _require_valid(request)
    requests.require_job(arn, request, request["AlgorithmSpecification"]["TrainingImage"], request["ResourceConfig"])
    if name in state.training_jobs:  # text: https://github.com/aws/sagemaker-python-sdk issues about ResourceInUse
        raise ServiceError(
            "ResourceInUse",
            "Training job names must be unique within an AWS account and region, and a training job with this name "
            f"already exists ({arn})",
        )
    for channel in request.get("InputDataConfig") or []:
        requests.require_input(channel["DataSource"]["S3DataSource"], request["RoleArn"])
    tags.put(arn, request.get("Tags"))
    begin(request, {})
    return {"TrainingJobArn": arn}


def begin(request: dict[str, Any], members: dict[str, Any]) -> None:
    """Start a job of a checked request, with members of its record that no request has."""
    name, moment = request["TrainingJobName"], state.now()
    arn = state.arn("training-job", name)
    record: state.Record = {
        **{key: value for key, value in request.items() if key != "Tags"},
        **members,
        "TrainingJobArn": arn,
        "TrainingJobStatus": "InProgress",
        "SecondaryStatus": "Starting",
        "SecondaryStatusTransitions": [],
        "CreationTime": moment,
        "LastModifiedTime": moment,
        "EnableNetworkIsolation": request.get("EnableNetworkIsolation", False),
        "EnableManagedSpotTraining": request.get("EnableManagedSpotTraining", False),
        "EnableInterContainerTrafficEncryption": request.get("EnableInterContainerTrafficEncryption", False),
    }
    warm_pools.take(record)
    state.training_jobs[name] = record
    TrainingRun(record).start()


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeTrainingJob."""
    return state.public(warm_pools.as_shown(find(request["TrainingJobName"])))


def list_jobs(request: dict[str, Any]) -> dict[str, Any]:
    """ListTrainingJobs."""
    pool = request.get("WarmPoolStatusEquals")
    found = [warm_pools.as_shown(record) for record in state.training_jobs.values()]
    rows, more = listing.page(
        [record for record in found if not pool or (record.get("WarmPoolStatus") or {}).get("Status") == pool],
        request,
        name="TrainingJobName",
        status="TrainingJobStatus",
        members=_SUMMARY,
    )
    return {"TrainingJobSummaries": rows, **more}


def update(request: dict[str, Any]) -> dict[str, Any]:
    """UpdateTrainingJob: how long the warm pool is kept."""
    record = find(request["TrainingJobName"])
    for member in ("ProfilerConfig", "ProfilerRuleConfigurations", "RemoteDebugConfig"):
        if request.get(member):
            raise not_implemented(f"UpdateTrainingJob with {member}")
    if request.get("ResourceConfig"):
        warm_pools.keep_for(record, request["ResourceConfig"]["KeepAlivePeriodInSeconds"])
    return {"TrainingJobArn": record["TrainingJobArn"]}


def stop(request: dict[str, Any]) -> dict[str, Any]:
    """StopTrainingJob."""
    jobs.ask_to_stop(find(request["TrainingJobName"]), "Training")
    return {}


def find(name: str) -> state.Record:
    """Return a job's record, or raise as AWS does."""
    record = state.training_jobs.get(name)
    if record is None:
        raise validation_exception("Requested resource not found.")
    return record


class TrainingRun(JobRun):
    """One training job, spot interruptions included."""

    kind, prefix, log_group = "Training Job", "Training", "/aws/sagemaker/TrainingJobs"

    def __init__(self, record: state.Record) -> None:
        super().__init__(record)
        self._where = (get_account_id(), get_region())  # the log is read on a thread of its own

    def work(self) -> None:
        """Download, train, upload; again from the checkpoints when the machine was taken away."""
        self._wait_until = time.monotonic() + self.record["StoppingCondition"].get("MaxWaitTimeInSeconds", 1e9)
        self._move("Starting")
        capacity.provision_for_job(self.record["ResourceConfig"]["InstanceType"])
        while (ending := self._attempt()) is Ending.INTERRUPTED:
            self.interrupt_asked.clear()
            self._move("Interrupted")
            if time.monotonic() > self._wait_until:
                self.finish("Stopped", secondary="MaxWaitTimeExceeded")
                return
            self._move("Starting")
        secondary = {Ending.EXITED: "Completed", Ending.STOPPED: "Stopped", Ending.TIMED_OUT: "MaxRuntimeExceeded"}
        self.finish("Completed" if ending is Ending.EXITED else "Stopped", secondary=secondary[ending])

    def finish(self, status: str, *, secondary: str = "", **members: Any) -> None:
        """Set the final status, and the times that cost money."""
        started, moment = self.record.get("TrainingStartTime"), state.now()
        if started is not None:
            seconds = max(1, round(moment - started))
            members |= {"TrainingTimeInSeconds": seconds, "BillableTimeInSeconds": seconds}
        self._move(secondary or status, TrainingJobStatus=status, TrainingEndTime=moment, **members)
        warm_pools.leave(self.record)

    def _attempt(self) -> Ending:
        self.fresh_base("input/config", "input/data", "model", "output/data", "checkpoints")
        checkpoints = self._prepare()
        if self.stop_asked.is_set():
            return Ending.STOPPED
        container = clusters.start(self.base, self.record["ResourceConfig"], self._start_container)
        self._move("Training")
        ending = self.watch(container, [checkpoints] if checkpoints else [])
        if ending is Ending.INTERRUPTED:
            return ending
        if checkpoints:
            checkpoints.send(settled_only=False)
        code = container.poll()
        if ending is Ending.EXITED and code:
            self._upload_output()
            told = clusters.failure(self.base, self.record["ResourceConfig"])
            raise JobFailure(f"AlgorithmError: {told}, exit code: {code}")
        self._move("Uploading" if ending is Ending.EXITED else "Stopping")
        self._upload_output()
        self._upload_model()
        return ending

    def _prepare(self) -> TreeSync | None:
        """Put data, configuration and checkpoints where the container will look for them."""
        self.record.setdefault("TrainingStartTime", state.now())
        self.start_clock()
        self._move("Downloading")
        config = self.base / "input/config"
        jobs.write_json(config / "hyperparameters.json", self.record.get("HyperParameters") or {})
        jobs.write_json(config / "resourceconfig.json", clusters.resource_config(self.record["ResourceConfig"]))
        channels = self.record.get("InputDataConfig") or []
        jobs.write_json(config / "inputdataconfig.json", {c["ChannelName"]: _channel_config(c) for c in channels})
        for channel in channels:
            source = channel["DataSource"]["S3DataSource"]
            found = self.bucket.sources(source["S3DataType"], source["S3Uri"])
            directory = self.base / "input/data" / channel["ChannelName"]
            download_all(self.bucket, found, directory, self.stop_asked.is_set)
            if source["S3DataType"] == "ManifestFile":
                manifest = Source(Location.parse(source["S3Uri"]), f"{channel['ChannelName']}-manifest")
                download_all(self.bucket, [manifest], self.base / "input/data", self.stop_asked.is_set)
        return self._restore_checkpoints()

    def _restore_checkpoints(self) -> TreeSync | None:
        wanted = self.record.get("CheckpointConfig")
        if not wanted:
            return None
        directory = self.base / wanted.get("LocalPath", _CHECKPOINTS).removeprefix("/opt/ml").lstrip("/")
        download_all(self.bucket, self.bucket.sources("S3Prefix", wanted["S3Uri"].rstrip("/") + "/"), directory,
                     self.stop_asked.is_set)  # fmt: skip
        sync = TreeSync(self.bucket, directory, Location.parse(wanted["S3Uri"]))
        sync.remember()
        return sync

    def _start_container(self, base: Path, host: str, beside: int | None) -> containers.Container:
        algorithm = self.record["AlgorithmSpecification"]
        environment = images.environment(algorithm["TrainingImage"])
        isolated = self.record["EnableNetworkIsolation"]
        requested = {
            **(self.record.get("Environment") or {}),
            "TRAINING_JOB_NAME": self.name,
            "TRAINING_JOB_ARN": self.arn,
        }
        env = containers.container_env(environment, base, requested, None if isolated else self.credentials)
        entrypoint = algorithm.get("ContainerEntrypoint") or environment.train_entrypoint  # a trial names none
        return containers.Container(
            [*entrypoint, *algorithm.get("ContainerArguments", [])],
            environment=environment,
            base=base,
            env=env,
            log=self.open_log(host),
            isolated=isolated,
            beside=beside,
            on_line=self._read_metrics,
        )

    def _upload_model(self) -> None:
        """`/opt/ml/model`, as a folder (CompressionType NONE) or as model.tar.gz."""
        target, kms_key_id, as_folder = self._output()
        if as_folder:
            self.bucket.upload_tree(self.base / "model", target.below("model"), kms_key_id)
            artifact = f"{target}/model/"
        else:
            archive = pack(self.base / "model", self.base / ".tmp/model.tar.gz")
            self.bucket.upload(archive, target.below("model.tar.gz"), kms_key_id)
            artifact = f"{target}/model.tar.gz"
        state.update(self.record, ModelArtifacts={"S3ModelArtifacts": artifact})

    def _upload_output(self) -> None:
        """`/opt/ml/output/data`, also of a job that failed."""
        target, kms_key_id, as_folder = self._output()
        directory = self.base / "output/data"
        if not any(directory.iterdir()):
            return
        if as_folder:
            self.bucket.upload_tree(directory, target.below("data"), kms_key_id)
        else:
            archive = pack(directory, self.base / ".tmp/output.tar.gz")
            self.bucket.upload(archive, target.below("output.tar.gz"), kms_key_id)

    def _output(self) -> tuple[Location, str | None, bool]:
        wanted = self.record["OutputDataConfig"]
        target = Location.parse(wanted["S3OutputPath"]).below(f"{self.name}/output")
        return target, wanted.get("KmsKeyId") or None, wanted.get("CompressionType") == "NONE"

    def _move(self, secondary: str, **members: Any) -> None:
        """Enter a secondary status; a status that the user asked for (Stopping) is kept until the end."""
        moment = state.now()
        transitions = [dict(entry) for entry in self.record["SecondaryStatusTransitions"]]
        if not transitions or transitions[-1]["Status"] != secondary:
            if transitions:
                transitions[-1]["EndTime"] = moment
            transitions.append({"Status": secondary, "StartTime": moment, "StatusMessage": _MESSAGES[secondary]})
        if "TrainingJobStatus" in members:
            transitions[-1]["EndTime"] = moment
        members |= {"SecondaryStatus": secondary, "SecondaryStatusTransitions": transitions, "LastModifiedTime": moment}
        state.update(self.record, **members)
        self.publish()

    def _read_metrics(self, line: str) -> None:
        """Publish each metric that a MetricDefinition finds in the log, and keep its last value."""
        for definition in self.record["AlgorithmSpecification"].get("MetricDefinitions") or []:
            found = re.search(definition["Regex"], line)
            number = _number(found[1]) if found and found.groups() else None
            if number is None:
                continue
            value = {"MetricName": definition["Name"], "Value": number, "Timestamp": state.now()}
            kept = [m for m in self.record.get("FinalMetricDataList", []) if m["MetricName"] != value["MetricName"]]
            self.record["FinalMetricDataList"] = [*kept, value]
            with request_scope(*self._where):
                watched = {"TrainingJobName": self.name}
                metrics.put(watched, {definition["Name"]: (number, "None")}, namespace=metrics.TRAINING)
            if definition["Name"] == self.record.get("_objective"):
                self.record["_curve"] = [*(self.record.get("_curve") or []), number]


def _number(text: str) -> float | None:
    """Return a value that CloudWatch takes: what is no number, NaN among it, is not published (assumed)."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _channel_config(channel: dict[str, Any]) -> dict[str, Any]:
    config = {
        "TrainingInputMode": channel.get("InputMode", "File"),
        "S3DistributionType": channel["DataSource"]["S3DataSource"].get("S3DataDistributionType", "FullyReplicated"),
        "RecordWrapperType": channel.get("RecordWrapperType", "None"),
    }
    return config | ({"ContentType": channel["ContentType"]} if channel.get("ContentType") else {})


def _require_valid(request: dict[str, Any]) -> None:
    """Raise for what the service model does not hold.

    MaxWaitTimeInSeconds: https://github.com/Kenza-AI/sagify/issues/111. The members that the model lets out and a
    job needs: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html (wording assumed).
    """
    for member in ("AlgorithmSpecification", "ResourceConfig", "StoppingCondition"):
        if not request.get(member):
            raise validation_exception(f"{member} is required for training jobs.")
    algorithm = request["AlgorithmSpecification"]
    if not algorithm.get("ContainerEntrypoint"):
        raise not_implemented("A training job without ContainerEntrypoint (the image's own is not known here)")
    if request.get("DebugHookConfig") or request.get("DebugRuleConfigurations"):
        # Wording assumed: https://docs.aws.amazon.com/sagemaker/latest/dg/debugger-availability-change.html
        raise validation_exception("Amazon SageMaker Debugger is no longer open to new customers.")
    require_definition(request)


def require_definition(request: dict[str, Any]) -> None:
    """Raise for what the service model does not hold of a job, or of what a tuning job makes its jobs from."""
    for member in ("AlgorithmSpecification", "ResourceConfig", "StoppingCondition"):
        if not request.get(member):
            raise validation_exception(f"{member} is required for training jobs.")
    algorithm = request["AlgorithmSpecification"]
    if not algorithm.get("TrainingImage"):
        raise not_implemented("A training job without TrainingImage")
    if "Pipe" in {algorithm["TrainingInputMode"], *(c.get("InputMode") for c in request.get("InputDataConfig") or [])}:
        raise not_implemented("TrainingInputMode Pipe")
    for channel in request.get("InputDataConfig") or []:
        if "S3DataSource" not in channel["DataSource"]:
            raise not_implemented("A channel whose DataSource is not in S3")
        if channel.get("CompressionType", "None") != "None":
            raise not_implemented("A channel with CompressionType")
    clusters.require_size(request["ResourceConfig"])
    warm_pools.require_valid(request)
    limits = request["StoppingCondition"]
    wait_s, runtime_s = limits.get("MaxWaitTimeInSeconds"), limits.get("MaxRuntimeInSeconds", 86_400)
    if not request.get("EnableManagedSpotTraining"):
        if wait_s is not None:
            raise validation_exception(
                "Invalid MaxWaitTimeInSeconds. It is only supported when EnableManagedSpotTraining is set to true"
            )
    elif wait_s is None or wait_s < runtime_s:
        raise validation_exception(
            "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds"
        )
