"""Request bodies of what watches a training script: the metrics of its log, and alarms that are born with the job.

An alarm says that it may be time to stop; `ebb.training_rules` decides on the whole history. At most five stand while a
job runs, 0.10 USD a month each and by the hour: https://aws.amazon.com/cloudwatch/pricing/. Training metrics come once
a minute. Namespace and dimension of a job's own metrics: TrainingJobAnalytics of
https://github.com/aws/sagemaker-python-sdk/blob/v2.254.1/src/sagemaker/analytics.py; of its machines:
https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ebb import names
from ebb.requests.alarms import LONGEST_WINDOW_S, put_metric_alarm

NAMESPACE = "/aws/sagemaker/TrainingJobs"
METRIC, NOT_A_NUMBER = "watched", "not_a_number"
NOT_A_NUMBER_REGEX = "ebb: not a number ([0-9]+)"  # as ebb_jobs/curves.py prints it
TARGET, LOST, NAN, HISTORY, BUDGET = "target", "lost", "nan", "history", "budget"
KINDS = (TARGET, LOST, NAN, HISTORY, BUDGET)
# Stands in a plan for the job: a job that finds no machine is tried again under another name.
WATCHED_JOB = "job-that-is-watched"
LEAST_VALUES = 6  # minutes with a value after which a curve can be judged (ebb.training_rules)
HISTORY_S = LONGEST_WINDOW_S  # within which they must have come: an epoch may take four hours
LOST_WITHIN = 30  # minutes among which a metric is compared with its best

Tags = Sequence[dict[str, str]]


def alarms_of(stack: str, job: str) -> str:
    """Return what the names of a job's alarms begin with."""
    return f"{stack}-{job}-"


def alarm_name(stack: str, job: str, kind: str) -> str:
    """Return the name of one of a job's alarms."""
    return alarms_of(stack, job) + kind


def watched_job(stack: str, name: str) -> tuple[str, str] | None:
    """Return the job and the kind that an alarm's name holds, None when it was not made by `alarm_name`."""
    named, _, kind = name.rpartition("-")
    if kind not in KINDS or not named.startswith(f"{stack}-"):
        return None
    job = named.removeprefix(f"{stack}-")
    return (job, kind) if names.is_job(job) else None


def metric_definitions(regex: str) -> list[dict[str, str]]:
    """Return the MetricDefinitions of a script whose metric is watched."""
    return [{"Name": METRIC, "Regex": regex}, {"Name": NOT_A_NUMBER, "Regex": NOT_A_NUMBER_REGEX}]


def target(stack: str, job: str, *, value: float, goal: str, tags: Tags) -> dict[str, Any]:
    """Return the alarm of a metric that is as good as was asked for."""
    up = goal == "maximize"
    return _alarm(
        stack,
        job,
        TARGET,
        metric=METRIC,
        statistic="Maximum" if up else "Minimum",
        threshold=value,
        comparison="GreaterThanOrEqualToThreshold" if up else "LessThanOrEqualToThreshold",
        description=f"The metric of {job} has reached its target",
        tags=tags,
    )


def not_a_number(stack: str, job: str, *, tags: Tags) -> dict[str, Any]:
    """Return the alarm of a metric that is NaN or infinite, which Ebb's own line in the log tells."""
    return _alarm(
        stack,
        job,
        NAN,
        metric=NOT_A_NUMBER,
        statistic="SampleCount",
        threshold=1,
        description=f"The metric of {job} is no number",
        tags=tags,
    )


def lost(stack: str, job: str, *, goal: str, tags: Tags) -> dict[str, Any]:
    """Return the alarm of a metric that is far from its best: twice as much, or half, in three minutes of the last 30.

    MIN and MAX of a series are numbers, taken over the datapoints that the alarm looks at:
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html
    """
    best = "IF(m1 < MAX(m1) / 2, 1, 0)" if goal == "maximize" else "IF(m1 > MIN(m1) * 2, 1, 0)"
    stat = {"Metric": _metric(METRIC, {"TrainingJobName": job}), "Period": 60, "Stat": "Average"}
    return {
        "AlarmName": alarm_name(stack, job, LOST),
        "AlarmDescription": f"The metric of {job} is far from its best",
        "Metrics": [
            {"Id": "m1", "MetricStat": stat, "ReturnData": False},
            {"Id": "lost", "Expression": best, "Label": "far from its best", "ReturnData": True},
        ],
        "EvaluationPeriods": LOST_WITHIN,
        "DatapointsToAlarm": 3,
        "Threshold": 1,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "notBreaching",
        "ActionsEnabled": True,
        "AlarmActions": [],
        "Tags": list(tags),
    }


def history(stack: str, job: str, *, tags: Tags) -> dict[str, Any]:
    """Return the alarm of a metric with so many values that its curve can be judged, again and again from then on."""
    return _alarm(
        stack,
        job,
        HISTORY,
        metric=METRIC,
        statistic="SampleCount",
        threshold=1,
        description=f"The metric of {job} has values enough to be judged",
        tags=tags,
    ) | {"EvaluationPeriods": HISTORY_S // 60, "DatapointsToAlarm": LEAST_VALUES}


def budget(stack: str, job: str, *, seconds: float, tags: Tags) -> dict[str, Any]:
    """Return the alarm of a job whose first machine has run for so long, with interruptions up to thrice as long.

    Its machine publishes a value each minute while it runs, so the minutes with a value are those that it has run.
    """
    period_s = 60 if seconds <= LONGEST_WINDOW_S else 3600
    needed = max(1, int(seconds // period_s))
    longest = (LONGEST_WINDOW_S if period_s == 60 else 7 * LONGEST_WINDOW_S) // period_s
    return _alarm(
        stack,
        job,
        BUDGET,
        metric="CPUUtilization",
        dimensions={"Host": f"{job}/algo-1"},
        statistic="SampleCount",
        threshold=1,
        description=f"{job} has used its budget",
        tags=tags,
    ) | {"Period": period_s, "EvaluationPeriods": min(longest, 3 * needed), "DatapointsToAlarm": min(longest, needed)}


def _alarm(
    stack: str, job: str, kind: str, *, tags: Tags, dimensions: Mapping[str, str] | None = None, **body: Any
) -> dict[str, Any]:
    named = dict(dimensions or {"TrainingJobName": job})
    made = put_metric_alarm(
        name=alarm_name(stack, job, kind), dimensions=named, actions=(), period_s=60, tags=tags, **body
    )
    return made | {"Namespace": NAMESPACE}


def _metric(name: str, dimensions: Mapping[str, str]) -> dict[str, Any]:
    listed = [{"Name": key, "Value": value} for key, value in dimensions.items()]
    return {"Namespace": NAMESPACE, "MetricName": name, "Dimensions": listed}
