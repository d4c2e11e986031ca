"""The offline store of a feature group: an Iceberg table in the Glue Data Catalog, which Feature Store has made.

Rows are appended as AWS's own connector for Spark does it, without PutRecord: that takes one record a call and shows it
after 15 minutes. Source: https://docs.aws.amazon.com/sagemaker/latest/dg/batch-ingestion-spark-connector-setup.html
(FeatureStoreManager.batchIngestIntoOfflineStore of github.com/aws/sagemaker-feature-store-spark).

A file of the table goes only after no snapshot names it: a lifecycle rule would take files from below the table.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector
from pyiceberg.catalog.glue import GlueCatalog
from pyiceberg.expressions import And, BooleanExpression, EqualTo, In, LessThan, NotEqualTo
from pyiceberg.expressions.visitors import bind
from pyiceberg.io.pyarrow import expression_to_pyarrow
from pyiceberg.manifest import ManifestFile

from ebb_jobs.feature_names import CALLED, DELETED, RUN, TIME, WRITTEN

if TYPE_CHECKING:
    from pyiceberg.table import Table

_MANIFEST = re.compile(r"-m\d+\.avro$")
"""The end of a manifest's name; lists of manifests, called snap-..., hold no value of a row but the day of its run."""


class Purged(NamedTuple):
    """What no snapshot names, and is gone."""

    snapshots: int
    files: int
    bytes: int


def load(group: str, table: str | None = None) -> Table:
    """Return the table of a feature group, or the one of this name (`database.table`): it may outlive its group.

    The endpoint and the credentials are those that the SDK found: Arrow's own client of S3 reads no configuration.
    """
    session = boto3.Session()
    if table is None:
        described = session.client("sagemaker").describe_feature_group(FeatureGroupName=group)
        catalogued = described["OfflineStoreConfig"]["DataCatalogConfig"]
        table = f"{catalogued['Database']}.{catalogued['TableName']}"
    credentials = session.get_credentials()
    if credentials is None:
        raise PermissionError("the job has no credentials: it needs the network")
    held = credentials.get_frozen_credentials()
    properties = {
        "s3.endpoint": session.client("s3").meta.endpoint_url,
        "s3.region": str(session.region_name),
        "s3.access-key-id": held.access_key,
        "s3.secret-access-key": held.secret_key,
        "s3.session-token": held.token,
    }
    catalog = GlueCatalog("glue", client=session.client("glue"), **properties)
    return catalog.load_table(table)


def publish(table: Table, run_id: str, rows: Iterable[pa.RecordBatch], *, now: datetime) -> int:
    """Put the rows of a run into the table, in one commit, in place of those that an earlier attempt of it left.

    Returns how many rows there are. `rows` lack what Feature Store adds.
    """
    schema = table.schema().as_arrow()
    count = 0
    with table.transaction() as change:
        if _holds(table, EqualTo(RUN, run_id)):
            change.delete(EqualTo(RUN, run_id))
        for batch in rows:
            change.append(_stamped(batch, schema, now))
            count += batch.num_rows
    return count


def of_runs(runs: Iterable[str]) -> BooleanExpression:
    """Return which rows are those of some runs."""
    return In(RUN, sorted(runs))


def of_runs_before(moment: datetime, *, but: str) -> BooleanExpression:
    """Return which rows are those of runs that began before a moment, the run `but` left out."""
    return And(LessThan(TIME, event_time(moment)), NotEqualTo(RUN, but))


def remove(table: Table, which: BooleanExpression) -> None:
    """Take rows out of the table."""
    if _holds(table, which):
        table.delete(which)


def event_time(moment: datetime) -> str:
    """Return a moment as Feature Store takes it: ISO 8601, UTC, whole seconds; such texts sort by time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def purge(table: Table, which: BooleanExpression) -> Purged:
    """Forget every snapshot but the current one, and delete the files that only those named.

    Data files hold rows, and manifests hold the smallest and largest value of each column in a file. Of the files that
    no snapshot has ever named those go that hold such rows: a job that ended before its commit left them. All others
    stay, because another writer may be about to commit them. So the runs of `which` must not be at work.

    The snapshot that took rows out tells of their files, with those values. The next one does so no more: an empty one
    is made. Source: `_FastAppendFiles` of pyiceberg, and https://iceberg.apache.org/spec/#manifests (status 2).
    """
    table.refresh()
    last = table.current_snapshot()
    if last and any(each.deleted_files_count for each in last.manifests(table.io)):
        table.append(table.schema().as_arrow().empty_table())
        table.refresh()
    current = table.current_snapshot()
    old = [each.snapshot_id for each in table.snapshots() if current and each.snapshot_id != current.snapshot_id]
    before = _files(table)
    if old:
        table.maintenance.expire_snapshots().by_ids(old).commit()
    table.refresh()
    kept = _files(table)
    unnamed = {place: size for place, size in before.items() if place not in kept}
    unnamed |= _left_behind(table, which, named=before.keys() | kept.keys())
    for place in unnamed:
        table.io.delete(place)
    return Purged(len(old), len(unnamed), sum(unnamed.values()))


def figures(table: Table) -> dict[str, Any]:
    """Return what the table holds now: rows, files, bytes, and the snapshot that tells them."""
    table.refresh()
    snapshot = table.current_snapshot()
    files = list(_data_files(table, snapshot)) if snapshot else []
    return {
        "table": ".".join(table.name()),
        "snapshot_id": str(snapshot.snapshot_id) if snapshot else None,
        "table_rows": sum(each.record_count for each in files),
        "table_files": len(files),
        "table_bytes": sum(each.file_size_in_bytes for each in files),
    }


def _holds(table: Table, which: BooleanExpression) -> bool:
    return table.scan(row_filter=which, selected_fields=(RUN,), limit=1).to_arrow().num_rows > 0


def _stamped(batch: pa.RecordBatch, schema: pa.Schema, now: datetime) -> pa.Table:
    """Return rows as the table has them, with what Feature Store adds."""
    table = pa.Table.from_batches([batch])
    moment = pa.array([now] * batch.num_rows, pa.timestamp("us", tz="UTC"))
    added = {WRITTEN: moment, CALLED: moment, DELETED: pa.array([False] * batch.num_rows)}
    for name, values in added.items():
        table = table.append_column(name, values)
    return table.select(schema.names).cast(schema)


def _files(table: Table) -> dict[str, int]:
    """Return every file that a snapshot of the table names, with its size in bytes."""
    found: dict[str, int] = {}
    for snapshot in table.snapshots():
        found[snapshot.manifest_list] = 0
        for manifest in snapshot.manifests(table.io):
            found[manifest.manifest_path] = manifest.manifest_length
        for each in _data_files(table, snapshot):
            found[each.file_path] = each.file_size_in_bytes
    return found


def _data_files(table: Table, snapshot: Any) -> Iterator[Any]:
    for manifest in snapshot.manifests(table.io):
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
            yield entry.data_file


def _left_behind(table: Table, which: BooleanExpression, *, named: Collection[str]) -> dict[str, int]:
    """Return files with such rows that no snapshot names, and manifests of such files, with their sizes in bytes.

    A manifest goes that tells of a file which goes now, or went when an earlier call was cut short. Manifests are
    listed first: the files that they tell of are written before them.
    """
    manifests, rows = _stored(table, "metadata"), _stored(table, "data")
    wanted = expression_to_pyarrow(bind(table.schema(), which, case_sensitive=True))
    found = {}
    for place, size in rows.items():
        if place not in named and place.endswith(".parquet"):
            file = table.io.new_input(place).open()
            if pq.read_table(file, columns=[RUN, TIME]).filter(wanted).num_rows:
                found[place] = size
    there = rows.keys() - found.keys()
    for place, size in manifests.items():
        if place not in named and _MANIFEST.search(place) and not _told_by(table, place, size) <= there:
            found[place] = size
    return found


def _stored(table: Table, folder: str) -> dict[str, int]:
    """Return every file that lies in a folder of the table, with its size in bytes."""
    location = f"{table.location().rstrip('/')}/{folder}"
    scheme, bucket, path = table.io.parse_location(location)
    store = table.io.fs_by_scheme(scheme, bucket)
    listed = store.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    return {location + each.path.removeprefix(path): each.size for each in listed if each.is_file}


def _told_by(table: Table, place: str, size: int) -> set[str]:
    """Return the files that a manifest tells of, those too that it tells to be gone."""
    manifest = ManifestFile.from_args(
        manifest_path=place, manifest_length=size, partition_spec_id=table.spec().spec_id, sequence_number=0
    )
    entries = manifest.fetch_manifest_entry(table.io, discard_deleted=False)
    return {each.data_file.file_path for each in entries}
