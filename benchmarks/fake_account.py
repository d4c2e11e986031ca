"""An AWS account of any size behind the real SDK: botocore serialises, signs, pages, retries and parses as ever.

Only the wire is replaced (`before-send`): each request is answered as the service would, with its own page size, and
counted. What it would be billed, `ebb.control_plane` says.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

from botocore.awsrequest import AWSResponse

# The most that one answer holds: botocore's model for SageMaker and Step Functions; for CloudWatch
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_ListMetrics.html (500),
# .../API_DescribeAlarms.html (100); a DynamoDB answer holds 1 MB, here of addresses of 2 KB.
PAGES = {
    "ListEndpoints": 100, "ListApps": 100, "ListSpaces": 100, "ListNotebookInstances": 100, "ListTrainingJobs": 100,
    "ListMetrics": 500, "DescribeAlarms": 100, "Query": 500, "ListExecutions": 1000,
}  # fmt: skip
ACCOUNT = "arn:aws:sagemaker:us-east-1:000000000000"


@dataclass
class FakeAccount:
    """What the account holds. `fails` maps an operation to the codes that its next calls are refused with."""

    now: datetime = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    endpoints: list[dict[str, Any]] = field(default_factory=list)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    metrics: dict[str, list[dict[str, str]]] = field(default_factory=dict)  # name -> dimensions of those with data
    alarms: list[dict[str, Any]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    notebooks: list[dict[str, Any]] = field(default_factory=list)
    apps: list[dict[str, Any]] = field(default_factory=list)
    spaces: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    executions: list[dict[str, Any]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    fails: dict[str, list[str]] = field(default_factory=dict)
    latency_s: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)
    started: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    _open: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    def endpoint(
        self,
        name: str,
        *,
        called: bool = False,
        beating: bool = True,
        age: timedelta = timedelta(days=9),
        instance_type: str = "ml.m5.large",
        tags: Mapping[str, str] | None = None,
        status: str = "InService",
        **config: Any,
    ) -> None:
        """Add a classic endpoint, or what `config` makes of it."""
        born, arn = self.now - age, f"{ACCOUNT}:endpoint/{name}"
        self.endpoints.append(
            {
                "EndpointName": name,
                "EndpointArn": arn,
                "EndpointStatus": status,
                "CreationTime": born.timestamp(),
                "LastModifiedTime": born.timestamp(),
            }
        )
        variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": instance_type}
        self.configs[name] = {
            "EndpointConfigName": name,
            "EndpointConfigArn": arn,
            "ProductionVariants": [variant],
            **config,
        }
        self.tags[arn] = dict(tags or {})
        dimensions = {"EndpointName": name, "VariantName": "AllTraffic"}
        if beating:
            self.metrics.setdefault("CPUUtilization", []).append(dimensions)
        if called:
            self.metrics.setdefault("Invocations", []).append(dimensions)

    def attach(self, client: Any) -> Any:
        """Let this account answer a boto3 client; return the client."""
        client.meta.events.register("before-send", self._answer, unique_id=f"fake-{id(self)}")
        return client

    def _answer(self, request: Any, event_name: str, **_: Any) -> AWSResponse:
        _, service, operation = event_name.split(".")
        with self._lock:
            self.calls[operation] += 1
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
            refused = self.fails.get(operation, [])
            code = refused.pop(0) if refused else None
        time.sleep(self.latency_s)
        with self._lock:
            self._open -= 1
        if service == "s3":
            return self._object(request, operation)
        if code:
            return _response(400, {"__type": code, "message": "refused by the test"})
        try:
            return _response(200, getattr(self, operation)(json.loads(request.body or b"{}")))
        except LookupError:
            return _response(400, {"__type": "ValidationException", "message": "Could not find what was asked for"})

    def _object(self, request: Any, operation: str) -> AWSResponse:
        key = request.url.partition("?")[0].rpartition("/")[2]
        if operation == "PutObject":
            body = bytes(request.body.read() if hasattr(request.body, "read") else request.body)
            chunked = "aws-chunked" in str(request.headers.get("Content-Encoding"))
            self.objects[key] = _unchunked(body) if chunked else body
            return AWSResponse(request.url, 200, {}, _Raw(b""))
        if key not in self.objects:
            text = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"
            return AWSResponse(request.url, 404, {}, _Raw(text))
        return AWSResponse(request.url, 200, {"content-length": str(len(self.objects[key]))}, _Raw(self.objects[key]))

    # ---- one method for each operation, named after it ----

    def ListEndpoints(self, given: dict[str, Any]) -> dict[str, Any]:
        """Page by page, oldest or newest first."""
        newest = given.get("SortOrder", "Descending") == "Descending"
        known = sorted(self.endpoints, key=lambda each: each["CreationTime"], reverse=newest)
        return _page("ListEndpoints", "Endpoints", known, given)

    def DescribeEndpoint(self, given: dict[str, Any]) -> dict[str, Any]:
        """With the instances that run."""
        (listed,) = [each for each in self.endpoints if each["EndpointName"] == given["EndpointName"]] or [None]
        if listed is None:
            raise LookupError
        variants = [{"VariantName": "AllTraffic", "CurrentInstanceCount": 1}]
        return {**listed, "EndpointConfigName": given["EndpointName"], "ProductionVariants": variants}

    def DescribeEndpointConfig(self, given: dict[str, Any]) -> dict[str, Any]:
        """The endpoint's own."""
        return {**self.configs[given["EndpointConfigName"]], "CreationTime": 0}

    def ListInferenceComponents(self, given: dict[str, Any]) -> dict[str, Any]:
        """None."""
        return {"InferenceComponents": []}

    def ListTags(self, given: dict[str, Any]) -> dict[str, Any]:
        """Of any resource."""
        return {"Tags": [{"Key": key, "Value": value} for key, value in self.tags[given["ResourceArn"]].items()]}

    def ListMetrics(self, given: dict[str, Any]) -> dict[str, Any]:
        """Those with data in the last three hours."""
        assert given["RecentlyActive"] == "PT3H"
        known = [
            {
                "Namespace": given["Namespace"],
                "MetricName": given["MetricName"],
                "Dimensions": [{"Name": key, "Value": value} for key, value in each.items()],
            }
            for each in self.metrics.get(given["MetricName"], [])
        ]
        return _page("ListMetrics", "Metrics", known, given)

    def GetMetricData(self, given: dict[str, Any]) -> dict[str, Any]:
        """Nothing but zeros."""
        found = [{"Id": each["Id"], "Timestamps": [], "Values": []} for each in given["MetricDataQueries"]]
        return {"MetricDataResults": found}

    def DescribeAlarms(self, given: dict[str, Any]) -> dict[str, Any]:
        """Those in ALARM."""
        return _page("DescribeAlarms", "MetricAlarms", self.alarms, given)

    def Query(self, given: dict[str, Any]) -> dict[str, Any]:
        """The addresses of the ledger's index."""
        return _page("Query", "Items", self.items, given, token="ExclusiveStartKey", answered="LastEvaluatedKey")

    def GetItem(self, given: dict[str, Any]) -> dict[str, Any]:
        """By the key."""
        key = given["Key"]["pk"]["S"].partition("#")[2]
        found = [each for each in self.items if each["address"]["S"] == key]
        return {"Item": found[0]} if found else {}

    def UpdateItem(self, given: dict[str, Any]) -> dict[str, Any]:
        """Enough for an address that is put."""
        values = given["ExpressionAttributeValues"]
        item = {name[1:]: value for name, value in values.items() if name != ":one"} | {"generation": {"N": "1"}}
        self.items = [*self.items, item]
        return {}

    def ListNotebookInstances(self, given: dict[str, Any]) -> dict[str, Any]:
        """Those in service."""
        return _page("ListNotebookInstances", "NotebookInstances", self.notebooks, given)

    def DescribeNotebookInstance(self, given: dict[str, Any]) -> dict[str, Any]:
        """By name."""
        return _one(self.notebooks, NotebookInstanceName=given["NotebookInstanceName"])

    def ListApps(self, given: dict[str, Any]) -> dict[str, Any]:
        """Of all domains, or of one space."""
        space = given.get("SpaceNameEquals")
        return _page("ListApps", "Apps", [each for each in self.apps if space in (None, each.get("SpaceName"))], given)

    def DescribeApp(self, given: dict[str, Any]) -> dict[str, Any]:
        """By its keys."""
        return _one(self.apps, **given)

    def ListSpaces(self, given: dict[str, Any]) -> dict[str, Any]:
        """Of all domains."""
        return _page("ListSpaces", "Spaces", self.spaces, given)

    def DescribeSpace(self, given: dict[str, Any]) -> dict[str, Any]:
        """By its keys."""
        return _one(self.spaces, **given)

    def ListTrainingJobs(self, given: dict[str, Any]) -> dict[str, Any]:
        """Those that run, or those that keep their machines warm."""
        warm = given.get("WarmPoolStatusEquals")
        found = [
            each
            for each in self.jobs
            if (
                each.get("WarmPoolStatus", {}).get("Status") == warm
                if warm
                else each["TrainingJobStatus"] == "InProgress"
            )
        ]
        return _page("ListTrainingJobs", "TrainingJobSummaries", found, given)

    def DescribeTrainingJob(self, given: dict[str, Any]) -> dict[str, Any]:
        """By name."""
        return _one(self.jobs, TrainingJobName=given["TrainingJobName"])

    def ListExecutions(self, given: dict[str, Any]) -> dict[str, Any]:
        """Those that run."""
        mine = [each for each in self.executions if each["stateMachineArn"] == given["stateMachineArn"]]
        return _page("ListExecutions", "executions", mine, given, token="nextToken", answered="nextToken")

    def StartExecution(self, given: dict[str, Any]) -> dict[str, Any]:
        """Note it."""
        with self._lock:
            self.started.append({**given, "input": json.loads(given["input"])})
        return {"executionArn": f"{given['stateMachineArn']}:{given['name']}", "startDate": 0}


def _one(known: list[dict[str, Any]], **keys: str) -> dict[str, Any]:
    found = [each for each in known if all(each.get(name) == value for name, value in keys.items())]
    return found[0]  # IndexError is a LookupError: it is not there


def _page(
    operation: str,
    part: str,
    known: list[dict[str, Any]],
    given: Mapping[str, Any],
    *,
    token: str = "NextToken",
    answered: str = "NextToken",
) -> dict[str, Any]:
    asked = given.get(token)
    if isinstance(asked, dict):
        asked = asked["pk"]["S"]
    first = int(asked or 0)
    last = first + PAGES[operation]
    page = {part: known[first:last]}
    if last < len(known):
        page[answered] = {"pk": {"S": str(last)}} if answered == "LastEvaluatedKey" else str(last)
    return page


class _Raw(BytesIO):
    """A body as urllib3 gives it."""

    def stream(self, *_: Any, **__: Any) -> Any:
        """Yield all of it."""
        yield self.read()


def _unchunked(body: bytes) -> bytes:
    """Return what a body holds that is sent in chunks with a checksum behind it.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html
    """
    held = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            break
        held, body = held + rest[:length], rest[length + 2 :]
    return held


def _response(status: int, body: dict[str, Any]) -> AWSResponse:
    return AWSResponse(
        "https://fake", status, {"content-type": "application/x-amz-json-1.1"}, _Raw(json.dumps(body).encode())
    )
