"""Read what an account has: lists page by page, a closer look at few. Changes nothing.

A list that fails is reported as unread and is None from then on, also when its first pages came: half a list of calls
would make the other half look idle. The client retries what is throttled (`ebb.aws.clients`).
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import BotoCoreError, ClientError

from ebb import addresses, ledger
from ebb.addresses import Address
from ebb.aws.metrics import counters
from ebb.reaping import Resource
from ebb.sweep import Described, Listed, Looks, Seen, Unread

T = TypeVar("T")
Clients = Callable[[str], Any]
WEEK = timedelta(days=7)
METRICS_PER_CALL = 500  # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html
THREADS = 8  # SageMaker throttles its Describe and List calls per account; more at once would only be refused
ACCOUNT_NAMESPACE, ENDPOINTS, COMPONENTS = (
    "AWS/SageMaker",
    "/aws/sagemaker/Endpoints",
    "/aws/sagemaker/InferenceComponents",
)
# What is published only when somebody calls, and what is published while instances run; one list each.
# https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html, .../async-inference-monitor.html
Metric = tuple[str, str]
CALLS: dict[str, Metric] = {
    "classic": (ACCOUNT_NAMESPACE, "Invocations"),
    "component": (ACCOUNT_NAMESPACE, "InvocationsPerCopy"),
    # of each request that it took; how its count of requests is spelt is not sure (`ebb.aws.metrics.counters`)
    "async": (ACCOUNT_NAMESPACE, "TimeInBacklog"),
}
HEARTBEATS: dict[str, Metric] = {
    "instance": (ENDPOINTS, "CPUUtilization"),
    "component": (COMPONENTS, "CPUUtilizationNormalized"),
}
NAMED = ("EndpointName", "InferenceComponentName")
# What the sweep needs of an address: without the copy of its snapshot, which is larger than all the rest.
FIELDS = tuple(name for name in Address.model_fields if name != "snapshot")


class Reader:
    """Reads one account through the clients that it is given, and keeps what it could not read."""

    def __init__(self, clients: Clients):
        self._clients = clients
        self.unread: list[Unread] = []
        self.calls: dict[str, int] = {}  # how often each operation was called: what a sweep is billed for
        self._lock = threading.Lock()

    def seen(self, *, table: str, stack: str, machines: Iterable[str] = (), lists: bool = True) -> Seen:
        """Return what the account shows. Lists are read side by side; metrics and alarms only where they can decide.

        `machines` are the ARNs of the state machines that put to sleep and wake. Without `lists` metrics and alarms,
        which are billed, are left out.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            endpoints = pool.submit(self._try, "endpoints", self._endpoints)
            known = pool.submit(self._try, "addresses", lambda: self._addresses(table))
            notebooks = pool.submit(self._try, "notebook instances", self._notebooks)
            studio = pool.submit(self._try, "Studio apps and spaces", self._studio)
            jobs = pool.submit(self._try, "training jobs", self._jobs)
            pools = pool.submit(self._try, "warm pools", self._warm_pools)
            listed, found = endpoints.result(), known.result()
            sleepable = [at for at in found or () if at.kind in addresses.SLEEPABLE]
            calls, heartbeats = _metrics_for(listed, found) if lists else ((), ())
            recent = {
                each: pool.submit(self._try, f"metric {each[1]}", self._recent, *each) for each in calls + heartbeats
            }
            alarms = pool.submit(self._try, "alarms", self._ringing, stack) if lists and sleepable else None
            changing = any(at.state in (addresses.FALLING_ASLEEP, addresses.WAKING) for at in sleepable)
            running = self._try("running executions", self._running, list(machines)) if changing else frozenset()
            parts = [each.result() for each in (notebooks, studio, jobs, pools)]
            called, beating = (_union(recent[each].result() for each in some) for some in (calls, heartbeats))
            ringing = alarms.result() if alarms else {}
        return Seen(
            listed=lists,
            endpoints=None if listed is None else tuple(listed),
            called=called,
            beating=beating,
            known=None if found is None else tuple(found),
            ringing=ringing,
            running=running,
            resources=tuple(resource for part in parts for resource in part or ()),
            unread=tuple(self.unread),
        )

    def looked(self, seen: Seen, looks: Looks) -> Seen:
        """Return what was seen, with a closer look at the candidates; one that fails keeps its place, unread."""
        with ThreadPoolExecutor(THREADS) as pool:
            described = list(pool.map(self._described, looks.endpoints))
            read = list(pool.map(self._read_again, looks.resources))
        closer = {(each.kind, each.name): now for each, now in zip(looks.resources, read, strict=True)}
        resources = (closer.get((each.kind, each.name), each) for each in seen.resources)
        return seen.model_copy(
            update={
                "described": tuple(described),
                "resources": tuple(each for each in resources if each),
                "unread": tuple(self.unread),
            }
        )

    def calls_per_day(self, models: Sequence[Address], *, until: datetime) -> dict[str, float]:
        """Return how often each address was called a day, over the last week; without those that could not be read."""
        since, found = until - WEEK, {}
        together = METRICS_PER_CALL // (1 + addresses.MOST_EARLIER)
        for first in range(0, len(models), together):
            batch = models[first : first + together]
            asked = [[f"m{number}_{each}" for each, _ in enumerate(counters(at))] for number, at in enumerate(batch)]
            queries = [
                _query(name, metric, dimensions)
                for at, names in zip(batch, asked, strict=True)
                for name, (metric, dimensions) in zip(names, counters(at), strict=True)
            ]
            read = self._try("calls of a week", self._sums, queries, since, until)
            for at, names in zip(batch, asked, strict=True):
                if read is not None and all(name in read for name in names):
                    found[at.address] = sum(read[name] for name in names) / WEEK.days
                elif read is not None:
                    self.unread.append(Unread(what=f"calls of {at.address}", error="not complete"))
        return found

    def _sums(self, queries: list[dict[str, Any]], since: datetime, until: datetime) -> dict[str, float]:
        """Return the sum of each series, of those that CloudWatch calls complete: half of one is not its calls."""
        sums: dict[str, float] = {}
        complete: dict[str, bool] = {}
        request: dict[str, Any] = {"MetricDataQueries": queries, "StartTime": since, "EndTime": until}
        for each in self._pages("get_metric_data", "MetricDataResults", "cloudwatch", **request):
            sums[each["Id"]] = sums.get(each["Id"], 0.0) + sum(each["Values"])
            complete[each["Id"]] = each["StatusCode"] == "Complete"  # PartialData: the rest is on a later page
        return {name: total for name, total in sums.items() if complete[name]}

    def resource(self, kind: str, keys: Mapping[str, str]) -> Resource | None:
        """Return one resource as it is now, with its tags; None when it is gone.

        Raises: ClientError, BotoCoreError for anything else: what cannot be read is not stopped.
        """
        try:
            found = _READ[kind](self, dict(keys))
        except ClientError as error:
            if _is_gone(error):
                return None
            raise
        return found.model_copy(update={"tags": self._tags(found.arn)}) if found else None

    def _read_again(self, each: Resource) -> Resource | None:
        return self._try(f"{each.kind} {each.name}", self.resource, each.kind, each.keys, default=each)

    def _described(self, listed: Listed) -> Described:
        return self._try(
            f"endpoint {listed.name}", self._describe, listed, default=Described(name=listed.name, kind="classic")
        ) or Described(name=listed.name, kind="classic")

    def _describe(self, listed: Listed) -> Described:
        """Return what a foreign endpoint consists of."""
        found = self._call("sagemaker", "describe_endpoint", EndpointName=listed.name)
        config = self._call("sagemaker", "describe_endpoint_config", EndpointConfigName=found["EndpointConfigName"])
        variants, tags = found["ProductionVariants"], self._tags(listed.arn)
        asked = config["ProductionVariants"][0]
        parts: list[str] = []
        kind: addresses.Kind = "classic"
        if "ServerlessConfig" in asked:
            kind = "serverless"
        elif "AsyncInferenceConfig" in config:
            kind = "async"
        elif "ModelName" not in asked:
            kind = "realtime"
            pages = self._pages("list_inference_components", "InferenceComponents", EndpointNameEquals=listed.name)
            parts = [each["InferenceComponentName"] for each in pages]
        return Described(
            name=listed.name,
            kind=kind,
            variant=variants[0]["VariantName"],
            component=parts[0] if len(parts) == 1 else None,
            components=len(parts),
            model_name=asked.get("ModelName"),
            instance_type=asked.get("InstanceType"),
            instances=max(sum(int(each.get("CurrentInstanceCount") or 0) for each in variants), 1),
            tags=tags,
        )

    def _tags(self, arn: str) -> dict[str, str]:
        return {each["Key"]: each["Value"] for each in self._pages("list_tags", "Tags", ResourceArn=arn)}

    def _endpoints(self) -> list[Listed]:
        """Return every endpoint, read from both ends of the list at once: its pages only come one after the other.

        Each end stops once it has passed the moment that the other one has come to: what lies on its side of that
        moment the other one has read.
        """
        found: dict[str, Listed] = {}
        reached: dict[str, datetime] = {}
        oldest, newest = "Ascending", "Descending"

        def read(order: str) -> None:
            pages = self._clients("sagemaker").get_paginator("list_endpoints")
            for page in pages.paginate(SortBy="CreationTime", SortOrder=order, MaxResults=100):
                self._count("list_endpoints")
                found.update({each["EndpointName"]: _listed(each) for each in page["Endpoints"]})
                if page["Endpoints"]:
                    reached[order] = page["Endpoints"][-1]["CreationTime"]
                if len(reached) == 2 and reached[oldest] > reached[newest]:
                    return

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(read, (oldest, newest)))
        return sorted(found.values(), key=lambda each: (each.created_at, each.name))

    def _addresses(self, table: str) -> list[Address]:
        """Return every address of the ledger, from its index: eventually consistent, as a sweep may be."""
        request: dict[str, Any] = {
            "TableName": table,
            "IndexName": "runs",
            "KeyConditionExpression": "gsi_pk = :listed",
            "ExpressionAttributeValues": {":listed": {"S": addresses.LISTED}},
            "ProjectionExpression": ", ".join(f"#{name}" for name in FIELDS),
            "ExpressionAttributeNames": {f"#{name}": name for name in FIELDS},
        }
        plain = TypeDeserializer().deserialize
        return [
            addresses.read(ledger.from_item({name: plain(value) for name, value in item.items()}))
            for item in self._pages("query", "Items", service="dynamodb", **request)
        ]

    def _recent(self, namespace: str, metric: str) -> frozenset[str]:
        """Return the endpoints and components for which a metric has had a data point in the last three hours."""
        found = set()
        for each in self._pages(
            "list_metrics", "Metrics", "cloudwatch", Namespace=namespace, MetricName=metric, RecentlyActive="PT3H"
        ):
            found |= {pair["Value"] for pair in each["Dimensions"] if pair["Name"] in NAMED}
        return frozenset(found)

    def _ringing(self, stack: str) -> dict[str, datetime]:
        pages = self._pages(
            "describe_alarms",
            "MetricAlarms",
            "cloudwatch",
            AlarmNamePrefix=f"{stack}-",
            StateValue="ALARM",
            MaxRecords=100,
        )
        return {
            each["AlarmName"]: each.get("StateTransitionedTimestamp") or each["StateUpdatedTimestamp"]
            for each in pages
            if each["AlarmName"].endswith(("-idle", "-wake"))
        }

    def _running(self, machines: list[str]) -> frozenset[str]:
        names = set()
        for arn in machines:
            pages = self._pages(
                "list_executions",
                "executions",
                "stepfunctions",
                stateMachineArn=arn,
                statusFilter="RUNNING",
                maxResults=1000,
            )
            for each in pages:
                names |= {each["name"], each["executionArn"]}
        return frozenset(names)

    def _notebooks(self) -> list[Resource]:
        return [
            _notebook(each)
            for each in self._pages(
                "list_notebook_instances", "NotebookInstances", StatusEquals="InService", MaxResults=100
            )
        ]

    def _studio(self) -> list[Resource]:
        """Return the apps that run, each with its user's last activity, and the spaces in which none runs."""
        apps = [
            each
            for each in self._pages("list_apps", "Apps", MaxResults=100)
            if each["Status"] in ("InService", "Pending")
        ]
        billed = [each for each in apps if each["Status"] == "InService"]
        with ThreadPoolExecutor(THREADS) as pool:
            active = list(pool.map(self._active, billed))
        taken = {(each["DomainId"], each.get("SpaceName")) for each in apps}
        spaces = [
            _space(each)
            for each in self._pages("list_spaces", "Spaces", MaxResults=100)
            if (each["DomainId"], each["SpaceName"]) not in taken
        ]
        return [*active, *spaces]

    def _active(self, app: Mapping[str, Any]) -> Resource:
        """Return an app with its user's last activity; without one, when that could not be read: then it is kept."""
        keys = _app_keys(app)
        return self._try("app " + "/".join(keys.values()), self._app, keys, default=_app(app)) or _app(app)

    def _jobs(self) -> list[Resource]:
        pages = self._pages("list_training_jobs", "TrainingJobSummaries", StatusEquals="InProgress", MaxResults=100)
        return [_job(each) for each in pages]

    def _warm_pools(self) -> list[Resource]:
        pages = self._pages(
            "list_training_jobs", "TrainingJobSummaries", WarmPoolStatusEquals="Available", MaxResults=100
        )
        return [_pool(each) for each in pages]

    def _notebook(self, keys: dict[str, str]) -> Resource:
        return _notebook(self._call("sagemaker", "describe_notebook_instance", **keys))

    def _app(self, keys: dict[str, str]) -> Resource:
        return _app(self._call("sagemaker", "describe_app", **keys))

    def _space(self, keys: dict[str, str]) -> Resource | None:
        """Return a space in which no app runs; None when one has been started meanwhile."""
        only: dict[str, Any] = {"DomainIdEquals": keys["DomainId"], "SpaceNameEquals": keys["SpaceName"]}
        if any(
            each["Status"] in ("InService", "Pending")
            for each in self._pages("list_apps", "Apps", MaxResults=100, **only)
        ):
            return None
        return _space(self._call("sagemaker", "describe_space", **keys))

    def _training(self, keys: dict[str, str]) -> Resource:
        return _job(self._call("sagemaker", "describe_training_job", **keys))

    def _pool(self, keys: dict[str, str]) -> Resource:
        return _pool(self._call("sagemaker", "describe_training_job", **keys))

    def _pages(self, operation: str, part: str, service: str = "sagemaker", **request: Any) -> Iterable[dict[str, Any]]:
        for page in self._clients(service).get_paginator(operation).paginate(**request):
            self._count(operation)
            yield from page.get(part, ())

    def _call(self, service: str, operation: str, **request: Any) -> dict[str, Any]:
        self._count(operation)
        return dict(getattr(self._clients(service), operation)(**request))

    def _count(self, operation: str) -> None:
        with self._lock:
            self.calls[operation] = self.calls.get(operation, 0) + 1

    def _try(self, what: str, read: Callable[..., T | None], *given: Any, default: T | None = None) -> T | None:
        """Return what is read; what fails is noted, and gives `default`: never an empty answer."""
        try:
            return read(*given)
        except ClientError as error:
            self.unread.append(Unread(what=what, error=str(error.response["Error"]["Code"])))
        except BotoCoreError as error:
            self.unread.append(Unread(what=what, error=type(error).__name__))
        return default


def _listed(found: Mapping[str, Any]) -> Listed:
    return Listed(
        name=found["EndpointName"],
        arn=found["EndpointArn"],
        status=found["EndpointStatus"],
        created_at=found["CreationTime"],
        modified_at=found["LastModifiedTime"],
    )


def _is_gone(error: ClientError) -> bool:
    """SageMaker answers a request for what is not there as it answers a wrong one; only the text tells them apart.

    The texts are assumed from what it answers: no page lists them.
    """
    told = error.response["Error"]
    missing = any(each in told.get("Message", "").lower() for each in ("could not find", "does not exist", "not found"))
    return told["Code"] == "ResourceNotFound" or (told["Code"] == "ValidationException" and missing)


def _metrics_for(
    listed: list[Listed] | None, known: list[Address] | None
) -> tuple[tuple[Metric, ...], tuple[Metric, ...]]:
    """Return which lists of calls and of heartbeats can tell anything: each is billed, also an empty one.

    Of which kind a foreign endpoint is nobody knows before it is looked at, so that one asks for all.
    """
    ours = {at.endpoint_name for at in known or ()}
    if known is None or any(each.name not in ours for each in listed or ()):
        return tuple(CALLS.values()), tuple(HEARTBEATS.values())
    forms = {"component" if at.component else at.kind for at in known if at.kind in addresses.SLEEPABLE}
    beats = {HEARTBEATS["component" if form == "component" else "instance"]: None for form in sorted(forms)}
    return tuple(CALLS[form] for form in sorted(forms) if form in CALLS), tuple(beats)


def _union(parts: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    found = list(parts)
    return None if any(each is None for each in found) else frozenset().union(*(each for each in found if each))


def _notebook(found: Mapping[str, Any]) -> Resource:
    name = found["NotebookInstanceName"]
    return Resource(
        kind="notebook",
        name=name,
        keys={"NotebookInstanceName": name},
        arn=found["NotebookInstanceArn"],
        status=found["NotebookInstanceStatus"],
        instance_type=found.get("InstanceType"),
        since=_utc(found.get("LastModifiedTime")),  # starting it is the last change
    )


def _app_keys(found: Mapping[str, Any]) -> dict[str, str]:
    names = ("DomainId", "SpaceName", "UserProfileName", "AppType", "AppName")
    keys = {name: str(found[name]) for name in names if found.get(name)}
    if "SpaceName" in keys:
        keys.pop("UserProfileName", None)  # an app is named by one of the two
    return keys


def _app(found: Mapping[str, Any]) -> Resource:
    keys = _app_keys(found)
    return Resource(
        kind="app",
        name="/".join(keys.values()),
        keys=keys,
        arn=found.get("AppArn", ""),
        status=found["Status"],
        instance_type=(found.get("ResourceSpec") or {}).get("InstanceType"),
        since=_utc(found.get("CreationTime")),
        last_active=_utc(found.get("LastUserActivityTimestamp")),
    )


def _space(found: Mapping[str, Any]) -> Resource:
    keys = {"DomainId": found["DomainId"], "SpaceName": found["SpaceName"]}
    settings = found.get("SpaceSettings") or found.get("SpaceSettingsSummary") or {}
    volume = (settings.get("SpaceStorageSettings") or {}).get("EbsStorageSettings") or {}
    return Resource(
        kind="space",
        name="/".join(keys.values()),
        keys=keys,
        arn=found.get("SpaceArn", ""),
        status=found["Status"],
        volume_gib=volume.get("EbsVolumeSizeInGb"),
        since=_utc(found.get("LastModifiedTime")),
    )


def _job(found: Mapping[str, Any]) -> Resource:
    """A job in a list has no machines and has begun when it was created; looked at closely it has both."""
    machines = found.get("ResourceConfig") or {}
    stopping = found.get("StoppingCondition") or {}
    return Resource(
        kind="training-job",
        name=found["TrainingJobName"],
        keys={"TrainingJobName": found["TrainingJobName"]},
        arn=found["TrainingJobArn"],
        status=found["TrainingJobStatus"],
        instance_type=machines.get("InstanceType"),
        instances=int(machines.get("InstanceCount") or 1),
        # one that waits for capacity costs nothing, and uses up no budget
        since=_utc(found.get("TrainingStartTime") if "ResourceConfig" in found else found["CreationTime"]),
        max_runtime_s=stopping.get("MaxWaitTimeInSeconds") or stopping.get("MaxRuntimeInSeconds"),
    )


def _pool(found: Mapping[str, Any]) -> Resource:
    machines = found.get("ResourceConfig") or {}
    return Resource(
        kind="warm-pool",
        name=found["TrainingJobName"],
        keys={"TrainingJobName": found["TrainingJobName"]},
        arn=found["TrainingJobArn"],
        status=(found.get("WarmPoolStatus") or {}).get("Status", ""),
        instance_type=machines.get("InstanceType"),
        instances=int(machines.get("InstanceCount") or 1),
        since=_utc(found.get("TrainingEndTime")),
    )


def _query(name: str, metric: str, dimensions: Mapping[str, str]) -> dict[str, Any]:
    where = [{"Name": key, "Value": value} for key, value in dimensions.items()]
    stat = {
        "Metric": {"Namespace": ACCOUNT_NAMESPACE, "MetricName": metric, "Dimensions": where},
        "Period": 86_400,
        "Stat": "Sum",
    }
    return {"Id": name, "MetricStat": stat}


def _utc(moment: Any) -> datetime | None:
    return moment.astimezone(UTC) if isinstance(moment, datetime) else None


_READ: dict[str, Callable[[Reader, dict[str, str]], Resource | None]] = {
    "notebook": Reader._notebook,
    "app": Reader._app,
    "space": Reader._space,
    "training-job": Reader._training,
    "warm-pool": Reader._pool,
}
