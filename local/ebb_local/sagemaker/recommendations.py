"""Inference Recommender: a load test of a model's own container over a sample payload, for each type that is asked.

Here no instance is started. Each test runs the container once on this machine and sends it the payload with more and
more callers at once, at most as many as the type has vCPUs, until more callers bring no more answers, or until one in
so many takes longer than StoppingConditions allow. A rate is this machine's own, and so tells types apart by their
number of vCPUs alone. Each step takes half a second, whatever the phases say. What AWS would make with the job's role
(a model, an endpoint's configuration, an endpoint, for each test) is not made, but the role is asked for it.

Sources: https://docs.aws.amazon.com/sagemaker/latest/dg/inference-recommender-load-test.html,
https://docs.aws.amazon.com/sagemaker/latest/dg/inference-recommender-prerequisites.html (what the package must say),
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_RecommendationMetrics.html. Assumed: the texts; that
ModelLatency is in microseconds, as AWS's examples show it; that a test that fails fails the job; which permissions its
role needs, as AWS's guide asks for AmazonSageMakerFullAccess. There are no costs, as no price is known here.
"""

import http.client
import tarfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ebb_local import authorization
from ebb_local.sagemaker import (
    capacity,
    hosting,
    jobs,
    listing,
    models,
    registry,
    requests,
    roles,
    state,
    tags,
    threads,
)
from ebb_local.sagemaker.errors import HostingFailure, JobFailure, ServiceError, not_implemented, validation_exception
from ebb_local.sagemaker.hosting import Place, Server
from ebb_local.sagemaker.storage import Location

_SUMMARY = ["JobName", "JobDescription", "JobType", "JobArn", "Status", "CreationTime", "CompletionTime", "RoleArn",
            "LastModifiedTime", "FailureReason"]  # fmt: skip
_STEP_S = 0.5
_MORE = 1.1  # more callers must bring a tenth more answers, otherwise they bring none
_LOOK_EVERY_S = 0.2
_RUNS = ("PENDING", "IN_PROGRESS")
# "The names of resources [...] that are prefixed with the job name are truncated at 40 characters":
# https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateInferenceRecommendationsJob.html
_LONGEST_PREFIX = 40
# What a test does under the job's role, in this order. Assumed.
_MAKING = (
    ("CreateModel", "model"),
    ("CreateEndpointConfig", "endpoint-config"),
    ("CreateEndpoint", "endpoint-config"),
    ("CreateEndpoint", "endpoint"),
    ("DescribeEndpoint", "endpoint"),
    ("InvokeEndpoint", "endpoint"),
    ("DeleteEndpoint", "endpoint"),
    ("DeleteEndpointConfig", "endpoint-config"),
    ("DeleteModel", "model"),
)
_runs: dict[str, "RecommendationsRun"] = {}


def create(request: dict[str, Any]) -> dict[str, Any]:
    """CreateInferenceRecommendationsJob."""
    name, given = request["JobName"], request["InputConfig"]
    arn = state.arn("inference-recommendations-job", name)
    _require_known(request)
    model, package = _model(request)
    payload_uri, content_type = _payload(given, package)
    volume = {"VolumeKmsKeyId": given.get("VolumeKmsKeyId")}
    requests.require_job(arn, request, models.container_of(model)["Image"], volume)
    if name in state.inference_recommendations_jobs:
        raise ServiceError("ResourceInUse", f"Job name must be unique, and a job with this name already exists ({arn})")
    moment = state.now()
    record: state.Record = {
        **{key: value for key, value in request.items() if key not in ("Tags", "OutputConfig")},
        "JobArn": arn,
        "Status": "PENDING",
        "CreationTime": moment,
        "LastModifiedTime": moment,
        "_model": model,
        "_payload": payload_uri,
        "_content_type": content_type,
    }
    state.inference_recommendations_jobs[name] = record
    tags.put(arn, request.get("Tags"))
    RecommendationsRun(record).start()
    return {"JobArn": arn}


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeInferenceRecommendationsJob."""
    return state.public(find(request["JobName"]))


def list_jobs(request: dict[str, Any]) -> dict[str, Any]:
    """ListInferenceRecommendationsJobs."""
    records = state.inference_recommendations_jobs.values()
    rows, more = listing.page(records, request, name="JobName", status="Status", members=_SUMMARY)
    return {"InferenceRecommendationsJobs": rows, **more}


def stop(request: dict[str, Any]) -> dict[str, Any]:
    """StopInferenceRecommendationsJob."""
    record = find(request["JobName"])
    run = _runs.get(record["JobArn"])
    if record["Status"] not in _RUNS or run is None:
        raise validation_exception(f"The request was rejected because the job is in status {record['Status']}.")
    state.update(record, Status="STOPPING", LastModifiedTime=state.now())
    run.stop_asked.set()
    return {}


def find(name: str) -> state.Record:
    """Return a job's record, or raise as AWS does."""
    record = state.inference_recommendations_jobs.get(name)
    if record is None:
        raise ServiceError("ResourceNotFound", f"Could not find requested job with name: {name}")
    return record


def mark_interrupted() -> None:
    """Fail what ran when the server ended."""
    for *_, record in state.everywhere(state.inference_recommendations_jobs):
        if record["Status"] in (*_RUNS, "STOPPING"):
            moment = state.now()
            record |= {"Status": "FAILED", "CompletionTime": moment, "LastModifiedTime": moment}
            record["FailureReason"] = jobs.INTERRUPTED_TEXT


class _Stopped(Exception):
    """StopInferenceRecommendationsJob was called."""


class RecommendationsRun(jobs.JobRun):
    """One job: a test after the other, whatever MaxParallelOfTests allows, so that none takes another's processor."""

    log_group = "/aws/sagemaker/InferenceRecommendationsJobs"

    def start(self) -> None:
        """Begin in the background."""
        _runs[self.arn] = self
        super().start()

    def work(self) -> None:
        """Test each configuration, and note what it answered."""
        self.fresh_base("payload")
        package_arn = self.record["InputConfig"].get("ModelPackageVersionArn")
        if package_arn:
            self._may("sagemaker:DescribeModelPackage", package_arn)
        state.update(self.record, Status="IN_PROGRESS", LastModifiedTime=state.now())
        payloads = self._payloads()
        found: list[dict[str, Any]] = []
        try:
            for asked in self.record["InputConfig"]["EndpointConfigurations"]:
                found.append(self._tested(asked, payloads))
                state.update(self.record, InferenceRecommendations=list(found), LastModifiedTime=state.now())
        except HostingFailure as failure:
            raise JobFailure(f"AlgorithmError: {failure}") from failure
        except _Stopped:
            self.finish("Stopped")
        else:
            self.finish("Completed")
        finally:
            _runs.pop(self.arn, None)

    def finish(self, status: str, **members: Any) -> None:
        """Set the final status."""
        _runs.pop(self.arn, None)
        moment = state.now()
        state.update(self.record, Status=status.upper(), CompletionTime=moment, LastModifiedTime=moment, **members)

    def _payloads(self) -> list[bytes]:
        archive = self.base / "payload.tar.gz"
        self.bucket.download(Location.parse(self.record["_payload"]), archive)
        try:
            hosting.extract(archive, self.base / "payload")
        except (tarfile.TarError, OSError, EOFError) as error:
            raise JobFailure(f"ClientError: {self.record['_payload']} is no tar.gz of payloads: {error}") from error
        files = [path for path in sorted((self.base / "payload").rglob("*")) if path.is_file()]
        if not files:
            raise JobFailure(f"ClientError: {self.record['_payload']} holds no payload")
        return [path.read_bytes() for path in files]

    def _tested(self, asked: dict[str, Any], payloads: list[bytes]) -> dict[str, Any]:
        if self.stop_asked.is_set():
            raise _Stopped
        kind, made = asked.get("InstanceType"), f"{self.name[:_LONGEST_PREFIX].rstrip('-')}-{uuid.uuid4().hex[:8]}"
        self._may("iam:PassRole", self.record["RoleArn"], **{"iam:PassedToService": roles.SERVICE})
        for action, resource in _MAKING:
            self._may(f"sagemaker:{action}", state.arn(resource, made))
        if kind:
            capacity.provision_for_job(kind)
        place = Place(self.name, "recommendations job", self.base, self.log_group, self.name)
        server, ended, began = Server(place, self.record["_model"]), threading.Event(), state.now()
        threads.start(f"stop-{self.name}", self._end_when_asked, server, ended, counts=False)
        try:
            server.prepare()
            setup_s = server.start()
            callers = int(capacity.size(kind).cpus) if kind else asked["ServerlessConfig"]["MaxConcurrency"]
            per_s, latency_s = self._loaded(server, payloads, callers)
        except HostingFailure as failure:
            if self.stop_asked.is_set():
                raise _Stopped from failure
            raise
        finally:
            ended.set()
            server.close(0)
        metrics = {"MaxInvocations": round(per_s * 60), "ModelLatency": round(latency_s * 1e6)}
        deployed: dict[str, Any] = {"EndpointName": made, "VariantName": "AllTraffic"}
        if kind:
            deployed |= {"InstanceType": kind, "InitialInstanceCount": 1}
        else:
            deployed["ServerlessConfig"] = asked["ServerlessConfig"]
            metrics["ModelSetupTime"] = round(setup_s)
        return {
            "RecommendationId": f"{self.name}/{uuid.uuid4().hex[:8]}",
            "Metrics": metrics,
            "EndpointConfiguration": deployed,
            "ModelConfiguration": {},
            "InvocationStartTime": began,
            "InvocationEndTime": state.now(),
        }

    def _may(self, action: str, resource: str, **context: str) -> None:
        """Fail the job unless its role may do this: AWS finds out while it runs, too."""
        try:
            authorization.authorize(action, resource, principal=self.credentials.principal, context=dict(context))
        except authorization.AccessDenied as denied:
            raise JobFailure(f"AccessDeniedException: {denied}") from denied

    def _loaded(self, server: Server, payloads: list[bytes], most: int) -> tuple[float, float]:
        """Return the most answers a second that keep within the limits, and the median of their latency in seconds."""
        self._ask(server, payloads[0])  # the first one may be slow, on AWS too it does not count
        best, callers = (0.0, 0.0), 1
        while True:
            took, lasted_s = self._step(server, payloads, callers)
            per_s, within = len(took) / lasted_s, self._is_within(took)
            better = per_s > best[0] * (_MORE if best[0] else 1.0)
            if better and within:
                best = (per_s, took[len(took) // 2])
            flat = not better and self.record.get("StoppingConditions", {}).get("FlatInvocations", "Stop") == "Stop"
            if callers >= most or flat or not within:
                return best
            callers = min(callers * 2, most)

    def _step(self, server: Server, payloads: list[bytes], callers: int) -> tuple[list[float], float]:
        """Return how long each answer took, in order of size, and how long the step lasted, in seconds."""
        began = time.monotonic()

        def call(number: int) -> list[float]:
            took: list[float] = []
            while not took or time.monotonic() < began + _STEP_S:
                took.append(self._ask(server, payloads[(number + len(took)) % len(payloads)]))
            return took

        with ThreadPoolExecutor(callers) as pool:
            found = [each for took in pool.map(call, range(callers)) for each in took]
        return sorted(found), time.monotonic() - began

    def _ask(self, server: Server, payload: bytes) -> float:
        if self.stop_asked.is_set() or not server.begin():
            raise _Stopped
        try:
            answer = server.invoke(payload, {"content-type": self.record["_content_type"]})
        except (OSError, http.client.HTTPException) as error:
            if self.stop_asked.is_set():
                raise _Stopped from error
            raise JobFailure("InternalServerError: the model did not answer. See job logs") from error
        if answer.status >= 400:
            raise JobFailure(f"ClientError: the model answered the sample payload with {answer.status}. See job logs")
        return answer.model_s

    def _is_within(self, took: list[float]) -> bool:
        for limit in self.record.get("StoppingConditions", {}).get("ModelLatencyThresholds") or []:
            share = int(limit["Percentile"].removeprefix("P")) / 100
            if took[min(len(took) - 1, int(share * len(took)))] * 1000 > limit["ValueInMilliseconds"]:
                return False
        return True

    def _end_when_asked(self, server: Server, ended: threading.Event) -> None:
        while not ended.is_set():
            if self.stop_asked.wait(_LOOK_EVERY_S):
                server.close(0)
                return


def _require_known(request: dict[str, Any]) -> None:
    given = request["InputConfig"]
    if request["JobType"] != "Advanced" or not given.get("EndpointConfigurations"):
        raise not_implemented("A recommendations job that chooses the instance types itself (JobType Default)")
    for member in ("Endpoints", "VpcConfig"):
        if given.get(member):
            raise not_implemented(f"A recommendations job with {member}")
    asked = given["EndpointConfigurations"]
    if len({"InstanceType" in each for each in asked}) > 1:
        raise validation_exception("Instance types and serverless configurations cannot be tested by one job.")
    if any(each.get("EnvironmentParameterRanges") for each in asked):
        raise not_implemented("A recommendations job with EnvironmentParameterRanges")
    for limit in (request.get("StoppingConditions") or {}).get("ModelLatencyThresholds") or []:
        if not limit.get("Percentile", "").removeprefix("P").isdigit() or "ValueInMilliseconds" not in limit:
            raise validation_exception(f"{limit} is no latency threshold.")


def _model(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the model to test, and what its package says of it."""
    given = request["InputConfig"]
    if given.get("ModelName"):
        return state.public(models.find(given["ModelName"])), {}
    if not given.get("ModelPackageVersionArn"):
        raise validation_exception("Give ModelPackageVersionArn or ModelName.")
    package = registry.find(given["ModelPackageVersionArn"])
    container = {"ModelPackageName": package["ModelPackageArn"]}
    return {"PrimaryContainer": container, "ExecutionRoleArn": request["RoleArn"]}, package


def _payload(given: dict[str, Any], package: dict[str, Any]) -> tuple[str, str]:
    """Return where the sample payload lies and what it is; the job's own word counts before that of the package."""
    own = given.get("ContainerConfig") or {}
    told = own.get("PayloadConfig") or {}
    uri = told.get("SamplePayloadUrl") or package.get("SamplePayloadUrl")
    for member, value in (
        ("SamplePayloadUrl", uri),
        ("Domain", own.get("Domain") or package.get("Domain")),
        ("Task", own.get("Task") or package.get("Task")),
    ):
        if not value:
            raise validation_exception(f"{member} is needed, in the model package or in ContainerConfig.")
    types = told.get("SupportedContentTypes") or package.get("InferenceSpecification", {}).get("SupportedContentTypes")
    return str(uri), str((types or ["application/octet-stream"])[0])
