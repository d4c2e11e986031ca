"""Processing jobs: Create, Describe, List, Stop, and the run itself.

Layout: https://docs.aws.amazon.com/sagemaker/latest/dg/build-your-own-processing-container.html.
Assumed: outputs of mode EndOfJob of a job that failed are not stored; a job over MaxRuntimeInSeconds ends as Stopped;
inputs that match nothing fail the job, not the request.
"""

from pathlib import Path
from typing import Any

from ebb_local.sagemaker import containers, images, jobs, listing, requests, state, tags
from ebb_local.sagemaker.clusters import resource_config
from ebb_local.sagemaker.errors import JobFailure, ServiceError, not_implemented, validation_exception
from ebb_local.sagemaker.jobs import Ending, JobRun
from ebb_local.sagemaker.storage import Location, TreeSync, download_all

_ROOT = "/opt/ml/processing"
_SUMMARY = ["ProcessingJobName", "ProcessingJobArn", "CreationTime", "ProcessingEndTime", "LastModifiedTime",
            "ProcessingJobStatus", "FailureReason", "ExitMessage"]  # fmt: skip


def create(request: dict[str, Any]) -> dict[str, Any]:
    """CreateProcessingJob."""
    name = request["ProcessingJobName"]
    arn = state.arn("processing-job", name)
    _require_valid(request)
    cluster = request["ProcessingResources"]["ClusterConfig"]
    requests.require_job(arn, request, request["AppSpecification"]["ImageUri"], cluster)
    if name in state.processing_jobs:
        raise ServiceError(
            "ResourceInUse",
            "Job name must be unique within an AWS account and region, and a job with this name already exists "
            f"({arn})",
        )
    moment = state.now()
    record: state.Record = {
        **{key: value for key, value in request.items() if key != "Tags"},
        "ProcessingJobArn": arn,
        "ProcessingJobStatus": "InProgress",
        "CreationTime": moment,
        "LastModifiedTime": moment,
    }
    state.processing_jobs[name] = record
    tags.put(arn, request.get("Tags"))
    ProcessingRun(record).start()
    return {"ProcessingJobArn": arn}


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeProcessingJob."""
    return state.public(find(request["ProcessingJobName"]))


def list_jobs(request: dict[str, Any]) -> dict[str, Any]:
    """ListProcessingJobs."""
    rows, more = listing.page(
        state.processing_jobs.values(), request, name="ProcessingJobName", status="ProcessingJobStatus",
        members=_SUMMARY,
    )  # fmt: skip
    return {"ProcessingJobSummaries": rows, **more}


def stop(request: dict[str, Any]) -> dict[str, Any]:
    """StopProcessingJob."""
    jobs.ask_to_stop(find(request["ProcessingJobName"]), "Processing")
    return {}


def find(name: str) -> state.Record:
    """Return a job's record, or raise as AWS does."""
    record = state.processing_jobs.get(name)
    if record is None:
        raise ServiceError("ResourceNotFound", f"Could not find requested job with name: {name}")
    return record


class ProcessingRun(JobRun):
    """One processing job."""

    kind, prefix, log_group = "Processing Job", "Processing", "/aws/sagemaker/ProcessingJobs"

    def work(self) -> None:
        """Download the inputs, run the container, store the outputs."""
        self.publish()
        self.fresh_base("config", "output", "processing")
        self._prepare()
        if self.stop_asked.is_set():
            self.finish("Stopped")
            return
        continuous = [self._sync(output) for output in self._outputs() if _mode(output) == "Continuous"]
        container = self._start_container()
        state.update(self.record, ProcessingStartTime=state.now(), LastModifiedTime=state.now())
        self.publish()
        ending = self.watch(container, continuous)
        for sync in continuous:
            sync.send(settled_only=False)
        message = jobs.text_of(self.base / "output/message") or None
        if ending is not Ending.EXITED:
            self.finish("Stopped", ExitMessage=message)
        elif container.poll():
            state.update(self.record, ExitMessage=message)
            raise JobFailure("AlgorithmError: See job logs for more information")
        else:
            for output in self._outputs():
                if _mode(output) == "EndOfJob":
                    self._sync(output).send(settled_only=False)
            self.finish("Completed", ExitMessage=message)

    def finish(self, status: str, **members: Any) -> None:
        """Set the final status."""
        moment = state.now()
        state.update(
            self.record, ProcessingJobStatus=status, ProcessingEndTime=moment, LastModifiedTime=moment, **members
        )
        self.publish()

    def _prepare(self) -> None:
        self.start_clock()
        config = self.base / "config"
        jobs.write_json(config / "processingjobconfig.json", self._job_config())
        jobs.write_json(
            config / "resourceconfig.json", resource_config(self.record["ProcessingResources"]["ClusterConfig"])
        )
        for entry in self.record.get("ProcessingInputs") or []:
            source = entry["S3Input"]
            found = self.bucket.sources(source["S3DataType"], source["S3Uri"])
            if not found:
                raise JobFailure(f"ClientError: Data download failed:No S3 objects found under {source['S3Uri']}")
            download_all(self.bucket, found, self._local(source["LocalPath"]), self.stop_asked.is_set)
        for output in self._outputs():
            self._local(output["S3Output"]["LocalPath"]).mkdir(parents=True, exist_ok=True)

    def _start_container(self) -> containers.Container:
        application = self.record["AppSpecification"]
        environment = images.environment(application["ImageUri"])
        isolated = (self.record.get("NetworkConfig") or {}).get("EnableNetworkIsolation", False)
        requested = {**(self.record.get("Environment") or {}), "PROCESSING_JOB_ARN": self.arn}
        return containers.Container(
            [*application["ContainerEntrypoint"], *application.get("ContainerArguments", [])],
            environment=environment,
            base=self.base,
            env=containers.container_env(environment, self.base, requested, None if isolated else self.credentials),
            log=self.open_log(),
            isolated=isolated,
        )

    def _outputs(self) -> list[dict[str, Any]]:
        return (self.record.get("ProcessingOutputConfig") or {}).get("Outputs") or []

    def _sync(self, output: dict[str, Any]) -> TreeSync:
        target = Location.parse(output["S3Output"]["S3Uri"])
        key = self.record["ProcessingOutputConfig"].get("KmsKeyId") or None
        return TreeSync(self.bucket, self._local(output["S3Output"]["LocalPath"]), target, key)

    def _local(self, path: str) -> Path:
        return self.base / path.removeprefix("/opt/ml").lstrip("/")

    def _job_config(self) -> dict[str, Any]:
        members = ("ProcessingJobArn", "ProcessingJobName", "AppSpecification", "Environment", "ProcessingInputs",
                   "ProcessingOutputConfig", "ProcessingResources", "RoleArn", "StoppingCondition")  # fmt: skip
        return {key: self.record[key] for key in members if key in self.record}


def _mode(output: dict[str, Any]) -> str:
    return output["S3Output"]["S3UploadMode"]


def _require_valid(request: dict[str, Any]) -> None:
    """Raise for what the service model does not hold.

    Local paths: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_ProcessingS3Input.html (wording assumed).
    """
    if not request["AppSpecification"].get("ContainerEntrypoint"):
        raise not_implemented("A processing job without ContainerEntrypoint (the image's own is not known here)")
    requests.require_one_instance(request["ProcessingResources"]["ClusterConfig"])
    paths: list[str | None] = []
    for entry in request.get("ProcessingInputs") or []:
        source = entry.get("S3Input")
        if source is None or entry.get("DatasetDefinition"):
            raise not_implemented("A processing input that is not an S3Input")
        if source.get("S3InputMode", "File") != "File" or source.get("S3CompressionType", "None") != "None":
            raise not_implemented("A processing input with S3InputMode Pipe or S3CompressionType")
        if source["S3DataType"] not in ("S3Prefix", "ManifestFile"):
            raise not_implemented(f"S3DataType {source['S3DataType']}")
        paths.append(source.get("LocalPath"))
    for output in (request.get("ProcessingOutputConfig") or {}).get("Outputs", []):
        if "S3Output" not in output:
            raise not_implemented("A processing output that is not an S3Output")
        paths.append(output["S3Output"].get("LocalPath"))
    for path in paths:
        if path is None or ".." in path or not (path == _ROOT or path.startswith(f"{_ROOT}/")):
            raise validation_exception(f"LocalPath [{path}] must be under {_ROOT}")
    if len(set(paths)) != len(paths):
        raise validation_exception("LocalPath must be unique among the inputs and outputs of a processing job")
