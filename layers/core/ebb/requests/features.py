"""Request bodies of Feature Store: CreateFeatureGroup, and the jobs that put rows into its table and out of it."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ebb import names
from ebb.requests import jobs, roles
from ebb.settings import StackSettings

# What each row has besides its columns, as `ebb_jobs.feature_names` calls them.
ROW, EVENT_TIME = "ebb_row", "ebb_event_time"


def create_feature_group(
    stack: StackSettings, project: str, *, digest: str, definitions: Sequence[Mapping[str, str]], target: str
) -> dict[str, Any]:
    """Return the body of CreateFeatureGroup for a curated table: offline only, Iceberg, below the project's prefix.

    An online store would cost while nobody asks; an offline one costs its storage.
    """
    return {
        "FeatureGroupName": names.feature_group(stack.stack, project, digest),
        "RecordIdentifierFeatureName": ROW,
        "EventTimeFeatureName": EVENT_TIME,
        "FeatureDefinitions": list(definitions),
        "OfflineStoreConfig": {
            "S3StorageConfig": {
                "S3Uri": f"s3://{stack.artifact_bucket}/{names.features_prefix(project)}".rstrip("/"),
                "KmsKeyId": stack.data_key_arn,
            },
            "TableFormat": "Iceberg",
            "DisableGlueTableCreation": False,
        },
        "RoleArn": roles.role_arn(stack, project, names.FEATURES),
        "Description": f"Ebb: what {project} learns from, to predict {target}"[:128],
        "Tags": names.tags(stack.stack, project),
    }


def publish_features(
    stack: StackSettings, plan: Mapping[str, Any], group: str, *, now: datetime, retention_days: int
) -> dict[str, Any]:
    """Return the body of CreateProcessingJob that puts a run's curated rows into its project's feature group.

    The only job with the network: it reaches S3, the Glue Data Catalog and SageMaker, and runs no code of a user's.
    `retention_days`: rows of older runs go with it, 0 keeps them.
    """
    run_id, project, wanted = plan["run_id"], plan["project"], plan["features"]
    order = {
        "action": "publish",
        "group": group,
        "run_id": run_id,
        "event_time": names.created_at(run_id).isoformat(),
        "now": now.isoformat(),
        "keep_from": (now - timedelta(days=retention_days)).isoformat() if retention_days else None,
    }
    request = jobs.create_processing_job(
        name=names.job(run_id, plan["attempt"], names.FEATURES),
        stage=names.FEATURES,
        role_arn=roles.role_arn(stack, project, names.FEATURES),
        image_uri=stack.jobs_image_uri,
        instance_type=wanted["instance_type"],
        volume_gib=wanted["volume_gib"],
        inputs=[
            jobs.processing_input("code", stack.jobs_uri + "/"),
            jobs.processing_input("curated", plan["artifacts"]["curated"]),
        ],
        outputs=[jobs.processing_output("report", wanted["report_uri"].rpartition("/")[0])],
        settings=order,
        kms_key=stack.data_key_arn,
        max_runtime_s=wanted["max_runtime_s"],
        tags=names.tags(stack.stack, project, run_id),
    )
    return request | {"NetworkConfig": {"EnableNetworkIsolation": False}}


def forget_features(
    described: Mapping[str, Any], group: str, table: str | None, runs: Sequence[str], *, name: str, report_uri: str
) -> dict[str, Any]:
    """Return the body of CreateProcessingJob that takes rows of runs out of the table of a feature group.

    It is the job that published them, as DescribeProcessingJob tells it, with another order.
    """
    kept = ("AppSpecification", "NetworkConfig", "ProcessingResources", "RoleArn", "StoppingCondition")
    order = {"action": "forget", "group": group, "table": table, "runs": sorted(runs)}
    key = described["ProcessingOutputConfig"].get("KmsKeyId")
    return {
        **{member: described[member] for member in kept},
        "ProcessingJobName": name,
        "ProcessingInputs": [each for each in described["ProcessingInputs"] if each["InputName"] == "code"],
        "ProcessingOutputConfig": {
            "Outputs": [jobs.processing_output("report", report_uri)],
            **({"KmsKeyId": key} if key else {}),
        },
        "Environment": jobs.settings_environment(order),
    }
