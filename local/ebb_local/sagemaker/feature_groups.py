"""Feature Store: feature groups with an offline store of Iceberg.

The table is a real one: in the embedded S3, through the Glue Data Catalog, made with the group's own role. Not here:
the online store, PutRecord and the other table formats, which are refused.

Sources: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateFeatureGroup.html and
https://docs.aws.amazon.com/sagemaker/latest/dg/feature-store-offline.html. Assumed: the texts of refusals, and that the
group's role makes database and table.
"""

import json
from pathlib import Path
from typing import Any

from ministack.core.responses import get_account_id, get_region

from ebb_local.sagemaker import containers, images, listing, processes, roles, settings, state, tags, threads
from ebb_local.sagemaker.errors import ServiceError, not_implemented, validation_exception

DATABASE = "sagemaker_featurestore"
_RESERVED = frozenset({"is_deleted", "write_time", "api_invocation_time"})
_PROGRAM = Path(__file__).with_name("offline_table.py")
_SUMMARY = ["FeatureGroupName", "FeatureGroupArn", "CreationTime", "FeatureGroupStatus", "OfflineStoreStatus"]
_LONGEST_REASON = 1024


def create(request: dict[str, Any]) -> dict[str, Any]:
    """CreateFeatureGroup."""
    name = request["FeatureGroupName"]
    arn = state.arn("feature-group", name)
    _require_valid(request)
    tags.require_tagging(arn, request)
    roles.require_role(request["RoleArn"])
    if name in state.feature_groups:
        raise ServiceError(
            "ResourceInUse",
            f"Resource Already Exists: FeatureGroup with name {name} already exists. Choose a different name.",
        )
    moment = state.now()
    stored = request["OfflineStoreConfig"]["S3StorageConfig"]
    place = (
        f"{stored['S3Uri'].rstrip('/')}/{get_account_id()}/sagemaker/{get_region()}/offline-store/{name}-{int(moment)}"
    )
    catalogued = {
        "TableName": f"{name}_{int(moment)}".replace("-", "_").lower(),
        "Catalog": "AwsDataCatalog",
        "Database": DATABASE,
    }
    record: state.Record = {
        **{key: value for key, value in request.items() if key != "Tags"},
        "FeatureGroupArn": arn,
        "FeatureGroupStatus": "Creating",
        "CreationTime": moment,
        "OfflineStoreConfig": {
            **request["OfflineStoreConfig"],
            "S3StorageConfig": {**stored, "ResolvedOutputS3Uri": f"{place}/data"},
            "DataCatalogConfig": catalogued,
        },
    }
    state.feature_groups[name] = record
    tags.put(arn, request.get("Tags"))
    threads.start(f"feature-group-{name}", _make, record, place)
    return {"FeatureGroupArn": arn}


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeFeatureGroup."""
    return state.public(find(request["FeatureGroupName"]))


def list_groups(request: dict[str, Any]) -> dict[str, Any]:
    """ListFeatureGroups."""
    wanted = request.get("FeatureGroupStatusEquals")
    records = [each for each in state.feature_groups.values() if not wanted or each["FeatureGroupStatus"] == wanted]
    rows, more = listing.page(records, request, name="FeatureGroupName", members=_SUMMARY)
    return {"FeatureGroupSummaries": rows, **more}


def delete(request: dict[str, Any]) -> dict[str, Any]:
    """DeleteFeatureGroup: the table and its files stay, as on AWS."""
    record = find(request["FeatureGroupName"])
    if record["FeatureGroupStatus"] == "Creating":
        raise validation_exception(f"FeatureGroup {record['FeatureGroupName']} is being created.")
    del state.feature_groups[record["FeatureGroupName"]]
    tags.forget(record["FeatureGroupArn"])
    return {}


def find(name_or_arn: str) -> state.Record:
    """Return a group's record, or raise as AWS does."""
    name = name_or_arn.rsplit("/", 1)[-1]
    record = state.feature_groups.get(name)
    if record is None:
        raise ServiceError(
            "ResourceNotFound", f"Resource Not Found: Amazon SageMaker can't find a FeatureGroup with name {name}"
        )
    return record


def mark_interrupted() -> None:
    """Let groups have failed whose tables were being made when the server ended."""
    for *_, record in state.everywhere(state.feature_groups):
        if record["FeatureGroupStatus"] == "Creating":
            record |= {
                "FeatureGroupStatus": "CreateFailed",
                "FailureReason": "the embedded cloud was stopped meanwhile",
            }


def _make(record: state.Record, place: str) -> None:
    """Make the table with the group's role; what goes wrong is the FailureReason."""
    asked = {
        "database": DATABASE,
        "table": record["OfflineStoreConfig"]["DataCatalogConfig"]["TableName"],
        "location": place,
        "features": [[each["FeatureName"], each["FeatureType"]] for each in record["FeatureDefinitions"]],
        "event_time": record["EventTimeFeatureName"],
    }
    environment = images.environment("jobs")
    base = settings.current().jobs / f"feature-group-{record['FeatureGroupName']}"
    base.mkdir(parents=True, exist_ok=True)
    env = containers.container_env(environment, base, {}, roles.credentials(record["RoleArn"], valid_s=3_600))
    process = processes.start([str(environment.python), "-I", str(_PROGRAM), json.dumps(asked)], env=env, cwd=base)
    assert process.stdout is not None
    said = process.stdout.read().decode("utf-8", "replace").strip()
    failed = process.wait() != 0
    processes.forget(process)
    moment = state.now()
    if failed:
        reason = (said.splitlines() or ["no reason was given"])[-1][:_LONGEST_REASON]
        state.update(record, FeatureGroupStatus="CreateFailed", FailureReason=reason, LastModifiedTime=moment)
    else:
        state.update(
            record,
            FeatureGroupStatus="Created",
            OfflineStoreStatus={"Status": "Active"},
            LastModifiedTime=moment,
        )


def _require_valid(request: dict[str, Any]) -> None:
    """Raise for what the service model does not hold."""
    online, offline = request.get("OnlineStoreConfig") or {}, request.get("OfflineStoreConfig")
    if online.get("EnableOnlineStore"):
        raise not_implemented("An online store")
    if offline is None:
        raise validation_exception("At least one of OnlineStoreConfig and OfflineStoreConfig must be specified.")
    if offline.get("TableFormat") != "Iceberg" or offline.get("DisableGlueTableCreation"):
        raise not_implemented("An offline store that is no Iceberg table in the Glue Data Catalog")
    if offline.get("DataCatalogConfig"):
        raise not_implemented("DataCatalogConfig: a table of one's own")
    if not request.get("RoleArn"):
        raise validation_exception("RoleArn is required when OfflineStoreConfig is specified.")
    types = {each["FeatureName"]: each for each in request["FeatureDefinitions"]}
    if len({name.lower() for name in types}) < len(request["FeatureDefinitions"]):
        raise validation_exception("Feature names must be unique, whatever their case.")
    if reserved := sorted(_RESERVED & {name.lower() for name in types}):
        raise validation_exception(f"Feature name {reserved[0]} is reserved.")
    if any(each.get("CollectionType") for each in types.values()):
        raise not_implemented("A feature that is a collection")
    for member in ("RecordIdentifierFeatureName", "EventTimeFeatureName"):
        if request[member] not in types:
            raise validation_exception(f"{member} {request[member]} is not among the FeatureDefinitions.")
    moment = types[request["EventTimeFeatureName"]]["FeatureType"]
    if moment not in ("String", "Fractional"):
        raise validation_exception("The event time must be of the type String or Fractional.")
