"""Look at a training job while it runs: what SageMaker says of it, its metric so far, and which alarms watch it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ebb.aws import metrics
from ebb.aws.clients import client
from ebb.aws.metrics import Query
from ebb.errors import JobUnreadableError
from ebb.events import timestamp
from ebb.requests import training_alarms
from ebb.training_rules import Point, Rules, Seen
from ebb.training_watch import LONGEST_LOOK, last_begun, used_s

IN_PROGRESS = "InProgress"
# SageMaker answers every mistake with ValidationException; only the text tells of what is not there. Texts: assumed.
_GONE_CODES, _GONE = ("ValidationException", "ResourceNotFound"), ("could not find", "does not exist", "not found")


def describe(job: str) -> dict[str, Any] | None:
    """Return what SageMaker says of a job, None where it was never created. Raises: JobUnreadableError."""
    try:
        return dict(client("sagemaker").describe_training_job(TrainingJobName=job))
    except ClientError as error:
        told = error.response["Error"]
        if told["Code"] in _GONE_CODES and any(each in told.get("Message", "").lower() for each in _GONE):
            return None
        raise JobUnreadableError(f"DescribeTrainingJob of {job}: {told['Code']}") from error
    except BotoCoreError as error:
        raise JobUnreadableError(f"DescribeTrainingJob of {job}: {type(error).__name__}") from error


def alarms_of(stack: str, job: str) -> list[str]:
    """Return the names of the alarms that watch a job. Raises: JobUnreadableError."""
    asked = [training_alarms.alarm_name(stack, job, kind) for kind in training_alarms.KINDS]
    try:
        found = client("cloudwatch").describe_alarms(AlarmNames=asked, AlarmTypes=["MetricAlarm"])
    except (ClientError, BotoCoreError) as error:
        raise JobUnreadableError(f"DescribeAlarms of {job}: {type(error).__name__}") from error
    return sorted(each["AlarmName"] for each in found["MetricAlarms"])


def observe(job: Mapping[str, Any], rules: Rules, *, watched: bool, now: datetime) -> Seen:
    """Return what is known of a running job. Raises: MetricsUnavailableError."""
    used = used_s(job, now)
    age_s = (now - (timestamp(job.get("CreationTime")) or now)).total_seconds()
    if not watched:
        return Seen(now, (), used, age_s=age_s)
    begun = last_begun(job) or now
    where = {"TrainingJobName": str(job["TrainingJobName"])}
    best = "Maximum" if rules.goal == "maximize" else "Minimum"
    asked = {
        "best": (training_alarms.METRIC, best),
        "mean": (training_alarms.METRIC, "Average"),
        "count": (training_alarms.METRIC, "SampleCount"),
        "broken": (training_alarms.NOT_A_NUMBER, "SampleCount"),
    }
    queries = [Query(name, training_alarms.NAMESPACE, metric, where, stat) for name, (metric, stat) in asked.items()]
    found = metrics.read(queries, since=max(begun, now - LONGEST_LOOK), now=now)
    means, counts = dict(found["mean"]), dict(found["count"])
    points = [
        Point(moment, value, means.get(moment, value), int(counts.get(moment, 1))) for moment, value in found["best"]
    ]
    broken = [moment for moment, count in found["broken"] if count]
    return Seen(now, points, used, broken[-1] if broken else None, age_s)
