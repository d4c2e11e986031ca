"""A project whose model learnt from dropped data, with everything that holds rows of it, on moto."""

from typing import Any

from ebb import accepted, ledger, names
from ebb.sources import Source
from ebb_cli.target import Target

RUN_ID = "churn-20261123040506-abc123"
SECOND = "churn-20261124040506-abc124"
SCORING = "churn-20261125040506-abc125"
KEY, OTHER = "churn/data/a.csv", "churn/data/b.csv"
PREFIX = names.run_prefix(RUN_ID)
CURATED = names.curated_prefix(RUN_ID) + "a1/train.parquet"
WITH_ROWS = (CURATED, PREFIX + "a1/compile/bundles/sample-payload.tar.gz", PREFIX + "checkpoints/train/small.pt")
RECORDS = ("run.json", "manifest.json", "sources.json", "a1/process/report/metrics.json")
WITHOUT_ROWS = tuple(PREFIX + each for each in RECORDS)
MODEL = PREFIX + "a1/compile/bundles/float32/model.tar.gz"
IDENTITY = "1d" * 32


def landing(target: Target) -> list[str]:
    """Return what the landing bucket holds, delete markers and old versions among it."""
    page = target.client("s3").list_object_versions(Bucket="landing")
    return [each["Key"] for each in (*page.get("Versions", []), *page.get("DeleteMarkers", []))]


def artifacts(target: Target) -> list[str]:
    """Return the keys of the artifact bucket."""
    return [each["Key"] for each in target.client("s3").list_objects_v2(Bucket="artifacts").get("Contents", [])]


def make(target: Target, put: Any, put_stage: Any) -> dict[str, Any]:
    """Make two versions of a drop and another drop, a run of each, and what they left; return the first's source."""
    s3 = target.client("s3")
    s3.put_bucket_versioning(Bucket="landing", VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket="landing", Key=KEY, Body=b"a,b\n0,0\n")
    first = put_source(target, KEY, b"a,b\n1,2\n")
    second = put_source(target, OTHER, b"a,b\n3,4\n")
    s3.put_object(Bucket="landing", Key="churn/data/a.csv.gz", Body=b"another object")
    drop = {"kind": "object", "bucket": "landing", "key": KEY, "size_bytes": 8, "etag": first["etag"]}
    put(
        sources=[first], source_count=1, drop=drop, identity=IDENTITY, chosen="float32", generation=1,
        spec={"data": {"mode": "replace"}},
    )  # fmt: skip
    put_stage("process", identity=IDENTITY, report={})
    put_stage("train", identity=IDENTITY, report={})
    appended = {**drop, "key": OTHER, "etag": second["etag"]}
    put(
        run_id=SECOND, sources=[second], source_count=1, drop=appended, chosen="int8", generation=2,
        spec={"data": {"mode": "append"}},
    )  # fmt: skip
    put_stage("train", SECOND, report={"started_from": RUN_ID})
    scored = {**drop, "key": "churn/score/new.csv"}
    put(run_id=SCORING, purpose="score", drop=scored, scored_by=SECOND, scored_uri="s3://artifacts/scored/")
    for name in (*WITH_ROWS, *WITHOUT_ROWS, MODEL):
        s3.put_object(Bucket="artifacts", Key=name, Body=b"rows")
    for name in ("requests/ebb-churn/t1", "answers/ebb-churn/t1.out", "requests/ebb-churn-2/t1"):
        s3.put_object(Bucket="artifacts", Key=name, Body=b"rows")
    write(target, ledger.identity_key(IDENTITY) | {"run_id": RUN_ID})
    served = {"run_id": SECOND, "address": "ebb-churn", "original_uri": f"s3://artifacts/{PREFIX}a1/train/"}
    write(target, ledger.project_key("churn") | {"served": served, "served_generation": 2})
    for number, (run_id, source) in enumerate(((RUN_ID, first), (SECOND, second)), start=1):
        noted = accepted.notes("churn", run_id, number, "append", [Source.model_validate(source)])
        for request in noted:
            table(target).update_item(**request)
    return first


def put_source(target: Target, key: str, body: bytes) -> dict[str, Any]:
    """Put an object of the landing bucket; return how a run's record names it."""
    answer = target.client("s3").put_object(Bucket="landing", Key=key, Body=body)
    digest = body.hex().ljust(64, "0")[:64]
    return {
        "bucket": "landing", "key": key, "size_bytes": len(body), "etag": answer["ETag"].strip('"'), "sha256": digest,
    }  # fmt: skip


def table(target: Target) -> Any:
    return target.session.resource("dynamodb").Table("ledger")


def write(target: Target, item: dict[str, Any]) -> None:
    table(target).put_item(Item=ledger.to_item(item))


def read(target: Target, key: dict[str, str]) -> dict[str, Any] | None:
    found = table(target).get_item(Key=key).get("Item")
    return ledger.from_item(found) if found else None


def serve(target: Target, *projects: str) -> None:
    """Make an endpoint for each project, with its model and configuration."""
    sagemaker = target.client("sagemaker")
    role = "arn:aws:iam::123456789012:role/ebb/ebb-model"
    for project in projects:
        name, tags = names.endpoint("ebb", project), names.tags("ebb", project)
        sagemaker.create_model(ModelName=name, ExecutionRoleArn=role, Tags=tags, PrimaryContainer={"Image": "i"})
        variant = {"ModelName": name, "VariantName": "v", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
        sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant], Tags=tags)
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name, Tags=tags)
