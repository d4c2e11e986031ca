"""Batch transform: the model's own container over every object of an input, a result for each, and nothing is left.

    s3://in/a/b.csv  ->  <S3OutputPath>/a/b.csv.out

Sources: https://docs.aws.amazon.com/sagemaker/latest/dg/batch-transform.html,
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-batch-code.html (environment of the container),
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTransformJob.html. No role is passed: the job works
under that of the model. Assumed: the first payload that the model refuses ends the job (results of objects that were
done stay); one payload at a time, whatever MaxConcurrentTransforms allows.
"""

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ebb_local.sagemaker import capacity, jobs, keys, listing, models, requests, state, tags, threads
from ebb_local.sagemaker.errors import HostingFailure, JobFailure, ServiceError, not_implemented, validation_exception
from ebb_local.sagemaker.hosting import Answer, Place, Server
from ebb_local.sagemaker.storage import Location, Source, inside

_SUMMARY = ["TransformJobName", "TransformJobArn", "CreationTime", "TransformEndTime", "LastModifiedTime",
            "TransformJobStatus", "FailureReason"]  # fmt: skip
_MB = 1024 * 1024
_DEFAULT_PAYLOAD_MB = 6
_MOST_PAYLOAD_MB = 100
_DEFAULT_TIMEOUT_S = 600
_LOOK_EVERY_S = 0.5
_NOT_HERE = ("DataCaptureConfig", "ExperimentConfig")


def create(request: dict[str, Any]) -> dict[str, Any]:
    """CreateTransformJob."""
    name = request["TransformJobName"]
    arn = state.arn("transform-job", name)
    _require_valid(request)
    tags.require_tagging(arn, request)
    model = models.find(request["ModelName"])
    role_arn = model["ExecutionRoleArn"]
    keys.require_grant(request["TransformResources"].get("VolumeKmsKeyId"), role_arn=role_arn)
    requests.require_input(request["TransformInput"]["DataSource"]["S3DataSource"], role_arn)
    if name in state.transform_jobs:
        raise ServiceError(
            "ResourceInUse",
            "Job name must be unique within an AWS account and region, and a job with this name already exists "
            f"({arn})",
        )
    moment = state.now()
    record: state.Record = {
        **{key: value for key, value in request.items() if key != "Tags"},
        "TransformJobArn": arn,
        "TransformJobStatus": "InProgress",
        "CreationTime": moment,
        "LastModifiedTime": moment,
        "_role": role_arn,
        "_model": state.public(model),
    }
    state.transform_jobs[name] = record
    tags.put(arn, request.get("Tags"))
    TransformRun(record).start()
    return {"TransformJobArn": arn}


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeTransformJob."""
    return state.public(find(request["TransformJobName"]))


def list_jobs(request: dict[str, Any]) -> dict[str, Any]:
    """ListTransformJobs."""
    rows, more = listing.page(
        state.transform_jobs.values(), request, name="TransformJobName", status="TransformJobStatus", members=_SUMMARY
    )
    return {"TransformJobSummaries": rows, **more}


def stop(request: dict[str, Any]) -> dict[str, Any]:
    """StopTransformJob."""
    jobs.ask_to_stop(find(request["TransformJobName"]), "Transform")
    return {}


def find(name: str) -> state.Record:
    """Return a job's record, or raise as AWS does."""
    record = state.transform_jobs.get(name)
    if record is None:
        raise ServiceError("ResourceNotFound", f"Could not find requested job with name: {name}")
    return record


class _Stopped(Exception):
    """StopTransformJob was called."""


class TransformRun(jobs.JobRun):
    """One transform job."""

    kind, prefix, log_group = "Transform Job", "Transform", "/aws/sagemaker/TransformJobs"

    def work(self) -> None:
        """Start the model, send it every object, store what it answers."""
        self.publish()
        self.fresh_base("input", "output")
        capacity.provision_for_job(self.record["TransformResources"]["InstanceType"])
        server, ended = self._server(), threading.Event()
        threads.start(f"stop-{self.name}", self._end_when_asked, server, ended, counts=False)
        try:
            server.prepare()
            server.start()
            state.update(self.record, TransformStartTime=state.now(), LastModifiedTime=state.now())
            self.publish()
            for source in self._sources():
                self._transform(server, source)
        except HostingFailure as failure:
            if not self.stop_asked.is_set():
                raise JobFailure(f"AlgorithmError: {failure}") from failure
            self.finish("Stopped")
        except _Stopped:
            self.finish("Stopped")
        else:
            self.finish("Completed")
        finally:
            ended.set()
            server.close()

    def _end_when_asked(self, server: Server, ended: threading.Event) -> None:
        """End the container as soon as somebody stops the job, whatever it works on."""
        while not ended.is_set():
            if self.stop_asked.wait(_LOOK_EVERY_S):
                server.close(0)
                return

    def finish(self, status: str, **members: Any) -> None:
        """Set the final status."""
        moment = state.now()
        state.update(
            self.record, TransformJobStatus=status, TransformEndTime=moment, LastModifiedTime=moment, **members
        )
        self.publish()

    def _server(self) -> Server:
        strategy = {"SingleRecord": "SINGLE_RECORD"}.get(self.record.get("BatchStrategy", ""), "MULTI_RECORD")
        environment = {
            **(self.record.get("Environment") or {}),
            "SAGEMAKER_BATCH": "true",
            "SAGEMAKER_BATCH_STRATEGY": strategy,
            "SAGEMAKER_MAX_PAYLOAD_IN_MB": str(self._payload_mb()),
            "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": str(self.record.get("MaxConcurrentTransforms") or 1),
        }
        place = Place(self.name, "transform job", self.base, self.log_group, self.name)
        try:
            return Server(place, self.record["_model"], environment=environment)
        except ServiceError as error:
            raise JobFailure(f"ClientError: {error}") from error

    def _sources(self) -> list[Source]:
        source = self.record["TransformInput"]["DataSource"]["S3DataSource"]
        return self.bucket.sources(source["S3DataType"], source["S3Uri"])

    def _transform(self, server: Server, source: Source) -> None:
        given, made = inside(self.base / "input", source.path), inside(self.base / "output", f"{source.path}.out")
        made.parent.mkdir(parents=True, exist_ok=True)
        self.bucket.download(source.location, given)
        output = self.record["TransformOutput"]
        newline = b"\n" if output.get("AssembleWith") == "Line" else b""
        with made.open("wb") as file:
            for payload in self._payloads(given, source):
                if self.stop_asked.is_set():
                    raise _Stopped
                answer = self._ask(server, payload, source).body
                file.write(answer if answer.endswith(newline) else answer + newline)
        target = Location.parse(output["S3OutputPath"]).below(f"{source.path}.out")
        self.bucket.upload(made, target, output.get("KmsKeyId") or None)
        given.unlink()
        made.unlink()

    def _payloads(self, path: Path, source: Source) -> Iterator[bytes]:
        """Yield what is sent at once: the object, its lines one by one, or as many lines as a payload holds."""
        limit = self._payload_mb() * _MB or float("inf")
        if self.record["TransformInput"].get("SplitType", "None") == "None":
            if path.stat().st_size > limit:
                raise self._too_large(source)
            yield path.read_bytes()
            return
        single, batch = self.record.get("BatchStrategy") == "SingleRecord", b""
        with path.open("rb") as file:
            for line in file:
                if len(line) > limit:
                    raise self._too_large(source)
                if batch and (single or len(batch) + len(line) > limit):
                    yield batch
                    batch = b""
                batch += line
        if batch:
            yield batch

    def _too_large(self, source: Source) -> JobFailure:
        return JobFailure(
            f"ClientError: {source.location} holds a record that is larger than MaxPayloadInMB {self._payload_mb()}"
        )

    def _ask(self, server: Server, payload: bytes, source: Source) -> Answer:
        wanted = {
            "content-type": self.record["TransformInput"].get("ContentType"),
            "accept": self.record["TransformOutput"].get("Accept"),
        }
        client = self.record.get("ModelClientConfig") or {}
        timeout_s = float(client.get("InvocationsTimeoutInSeconds", _DEFAULT_TIMEOUT_S))
        if not server.begin():
            raise _Stopped
        try:
            answer = server.invoke(payload, {key: value for key, value in wanted.items() if value}, timeout_s)
        except (OSError, http.client.HTTPException) as error:
            if self.stop_asked.is_set():
                raise _Stopped from error
            server.log.write(f"{source.location}: {error or type(error).__name__}")
            raise JobFailure(
                "InternalServerError: the model did not answer. See job logs for more information"
            ) from error
        if answer.status >= 400:
            text = answer.body.decode("utf-8", errors="replace")
            server.log.write(f"{source.location}: Bad HTTP status received from algorithm: {answer.status}: {text}")
            kind = "ClientError" if answer.status < 500 else "AlgorithmError"
            raise JobFailure(f"{kind}: See job logs for more information")
        return answer

    def _payload_mb(self) -> int:
        return int(self.record.get("MaxPayloadInMB", _DEFAULT_PAYLOAD_MB))


def _require_valid(request: dict[str, Any]) -> None:
    """Raise for what the service model does not hold (wordings assumed)."""
    for member in _NOT_HERE:
        if request.get(member):
            raise not_implemented(f"A transform job with {member}")
    processing = request.get("DataProcessing") or {}
    if processing.get("JoinSource", "None") != "None" or any(
        processing.get(member, "$") != "$" for member in ("InputFilter", "OutputFilter")
    ):
        raise not_implemented("A transform job with DataProcessing (JoinSource, InputFilter, OutputFilter)")
    given, resources = request["TransformInput"], request["TransformResources"]
    if given.get("CompressionType", "None") != "None":
        raise not_implemented("A transform input with CompressionType")
    if given.get("SplitType", "None") not in ("None", "Line"):
        raise not_implemented(f"SplitType {given['SplitType']}")
    if resources["InstanceCount"] > 1:
        raise not_implemented(f"A transform job on {resources['InstanceCount']} instances")
    payload_mb, at_once = request.get("MaxPayloadInMB", _DEFAULT_PAYLOAD_MB), request.get("MaxConcurrentTransforms", 1)
    if payload_mb > _MOST_PAYLOAD_MB or payload_mb * max(1, at_once) > _MOST_PAYLOAD_MB:
        raise validation_exception(
            f"MaxConcurrentTransforms * MaxPayloadInMB must not be larger than {_MOST_PAYLOAD_MB} MB."
        )
    if request["TransformOutput"].get("AssembleWith") == "Line" and given.get("SplitType", "None") != "Line":
        raise validation_exception("AssembleWith Line needs SplitType Line.")
