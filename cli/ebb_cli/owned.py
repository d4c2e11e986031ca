"""What belongs to a stack, by its tag: the name `ebb-prod-x` would fit the stacks `ebb` and `ebb-prod` alike."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ebb_cli.target import Target


@dataclass(frozen=True)
class Owned:
    """One thing that a run made: its name, its project, and the summary in which it was listed."""

    name: str
    project: str
    summary: dict[str, Any]


def in_sagemaker(
    target: Target, operation: str, key: str, name_key: str, arn_key: str, *, also: Collection[str] = ()
) -> list[Owned]:
    """Return what a listing of SageMaker holds of this stack, and what is named in `also`, whatever its tags."""
    sagemaker = target.client("sagemaker")
    found = []
    for page in sagemaker.get_paginator(operation).paginate():
        for item in page[key]:
            if item[name_key] in also:
                found.append(Owned(item[name_key], "", item))
                continue
            pages = sagemaker.get_paginator("list_tags").paginate(ResourceArn=item[arn_key])
            owner = _owner(tag for tag_page in pages for tag in tag_page["Tags"])
            if owner.get("ebb:stack") == target.stack:
                found.append(Owned(item[name_key], owner.get("ebb:project", ""), item))
    return found


def endpoints(target: Target) -> list[Owned]:
    """Return the stack's endpoints."""
    return in_sagemaker(target, "list_endpoints", "Endpoints", "EndpointName", "EndpointArn")


def components(target: Target) -> list[Owned]:
    """Return the stack's inference components."""
    listing = ("list_inference_components", "InferenceComponents", "InferenceComponentName", "InferenceComponentArn")
    return in_sagemaker(target, *listing)


def load_tests(target: Target) -> list[Owned]:
    """Return the jobs of Inference Recommender that deployments of this stack started."""
    listing = ("list_inference_recommendations_jobs", "InferenceRecommendationsJobs", "JobName", "JobArn")
    return in_sagemaker(target, *listing)


def package_groups(target: Target) -> list[Owned]:
    """Return the stack's groups of model packages."""
    listing = ("list_model_package_groups", "ModelPackageGroupSummaryList")
    return in_sagemaker(target, *listing, "ModelPackageGroupName", "ModelPackageGroupArn")


def feature_groups(target: Target) -> list[Owned]:
    """Return the stack's feature groups."""
    listing = ("list_feature_groups", "FeatureGroupSummaries", "FeatureGroupName", "FeatureGroupArn")
    return in_sagemaker(target, *listing)


def spark_jobs(target: Target) -> list[str]:
    """Return the names of the jobs on Glue that runs of this stack made."""
    glue, account = target.client("glue"), target.client("sts").get_caller_identity()
    partition, region = str(account["Arn"]).split(":")[1], target.client("glue").meta.region_name
    found = []
    for page in glue.get_paginator("get_jobs").paginate():
        for name in (job["Name"] for job in page["Jobs"] if job["Name"].startswith(f"{target.stack}-")):
            arn = f"arn:{partition}:glue:{region}:{account['Account']}:job/{name}"
            if glue.get_tags(ResourceArn=arn)["Tags"].get("ebb:stack") == target.stack:
                found.append(name)
    return found


def alarms(target: Target, project: str | None = None) -> list[str]:
    """Return the names of the alarms that deployments of this stack, or of one of its projects, made."""
    cloudwatch = target.client("cloudwatch")
    found = []
    for page in cloudwatch.get_paginator("describe_alarms").paginate(AlarmNamePrefix=f"{target.stack}-"):
        for item in page["MetricAlarms"]:
            owner = _owner(cloudwatch.list_tags_for_resource(ResourceARN=item["AlarmArn"])["Tags"])
            if owner.get("ebb:stack") == target.stack and project in (None, owner.get("ebb:project")):
                found.append(item["AlarmName"])
    return found


def _owner(tags: Iterable[dict[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags}
