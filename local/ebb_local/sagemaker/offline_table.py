"""Make the Iceberg table of a feature group's offline store: a program for the jobs' Python, which has pyiceberg.

`python -I offline_table.py '{"database", "table", "location", "features": [[name, type]], "event_time"}'`, with the
credentials of the feature group's role.

Columns: https://docs.aws.amazon.com/sagemaker/latest/dg/feature-store-offline.html. Assumed: the types of the three
columns that Feature Store adds (those that AWS's connector for Spark writes), and that the table is partitioned by the
day of the event time, as the prefixes of its files are called there.
"""

import json
import sys

import boto3
from pyiceberg.catalog.glue import GlueCatalog
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform, TruncateTransform
from pyiceberg.types import BooleanType, DoubleType, LongType, NestedField, StringType, TimestamptzType

TYPES = {"Integral": LongType(), "Fractional": DoubleType(), "String": StringType()}
ADDED = {"write_time": TimestamptzType(), "api_invocation_time": TimestamptzType(), "is_deleted": BooleanType()}
DAY = 10  # characters of YYYY-MM-DD


def main(told: dict) -> None:
    """Make the database when it is not there yet, and the table."""
    session = boto3.Session()
    credentials = session.get_credentials()
    assert credentials is not None, "the environment has those of the role"
    held = credentials.get_frozen_credentials()
    catalog = GlueCatalog(
        "glue",
        client=session.client("glue"),
        **{
            "s3.endpoint": session.client("s3").meta.endpoint_url,
            "s3.region": session.region_name,
            "s3.access-key-id": held.access_key,
            "s3.secret-access-key": held.secret_key,
            "s3.session-token": held.token,
        },
    )
    types = {name.lower(): TYPES[kind] for name, kind in told["features"]} | ADDED
    fields = [NestedField(number, name, kind, required=False) for number, (name, kind) in enumerate(types.items(), 1)]
    schema, moment = Schema(*fields), told["event_time"].lower()
    source = schema.find_field(moment)
    by = TruncateTransform(DAY) if isinstance(source.field_type, StringType) else IdentityTransform()
    days = PartitionSpec(PartitionField(source.field_id, 1000, by, f"{moment}_trunc"))
    catalog.create_namespace_if_not_exists(told["database"])
    catalog.create_table((told["database"], told["table"]), schema, told["location"], days)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
