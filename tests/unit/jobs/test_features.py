"""The offline store of a feature group: what is put into its table, and what is gone when it was forgotten."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.glue import GlueCatalog
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import TruncateTransform
from pyiceberg.types import BooleanType, DoubleType, LongType, NestedField, StringType, TimestamptzType

from ebb_jobs import feature_names, features, offline_store
from ebb_jobs.report import Report

NOW = datetime(2026, 11, 23, 17, 0, tzinfo=UTC)
SCHEMA = {
    "task": "tabular-classification",
    "target": {"name": "Kind", "classes": ["adelie", "gentoo"]},
    "features": [{"name": "Wing (mm)", "kind": "numeric"}, {"name": "wing [mm]", "kind": "categorical"}],
}
TYPES = {"Integral": LongType(), "Fractional": DoubleType(), "String": StringType()}


class Missing(Exception):
    """What the catalog does not hold."""


class Glue:
    """As much of the Glue Data Catalog as a table of Iceberg needs."""

    exceptions = SimpleNamespace(EntityNotFoundException=Missing)

    def __init__(self):
        self.tables = {}

    def get_database(self, Name):
        return {"Database": {"Name": Name}}

    def get_table(self, DatabaseName, Name):
        return {"Table": self.tables[DatabaseName, Name]}

    def create_table(self, DatabaseName, TableInput):
        self.tables[DatabaseName, TableInput["Name"]] = TableInput | {"DatabaseName": DatabaseName, "VersionId": "1"}

    def update_table(self, DatabaseName, TableInput, **_):
        self.create_table(DatabaseName, TableInput)


@pytest.fixture
def table(tmp_path):
    """The table that Feature Store makes of `SCHEMA`."""
    told = [(each["FeatureName"], TYPES[each["FeatureType"]]) for each in feature_names.definitions(SCHEMA)]
    told += [("write_time", TimestamptzType()), ("api_invocation_time", TimestamptzType()),
             ("is_deleted", BooleanType())]  # fmt: skip
    fields = [NestedField(number, name, kind, required=False) for number, (name, kind) in enumerate(told, 1)]
    by_day = PartitionField(2, 1000, TruncateTransform(10), "ebb_event_time_trunc")
    catalog = GlueCatalog("glue", client=Glue())
    return catalog.create_table(
        ("sagemaker_featurestore", "birds"), Schema(*fields), f"file://{tmp_path}/table", PartitionSpec(by_day)
    )


@pytest.fixture
def plain(table):
    """The table with manifests that can be searched for text: they are packed otherwise."""
    with table.transaction() as change:
        change.set_properties({"write.avro.compression-codec": "null"})
    return table


@pytest.fixture
def curated(tmp_path):
    """Curated rows of which a secret one is to be forgotten."""
    folder = tmp_path / "curated"
    folder.mkdir()
    for split, rows in {"train": 30, "validation": 6, "test": 5}.items():
        duckdb.sql(
            f'SELECT i * 1.5 AS "Wing (mm)", \'secret\' || i AS "wing [mm]", '
            f"CASE WHEN i % 2 = 0 THEN 'adelie' ELSE 'gentoo' END AS \"Kind\" FROM range({rows}) r(i)"
        ).write_parquet(str(folder / f"{split}.parquet"))
    (folder / "schema.json").write_text(json.dumps(SCHEMA))
    return folder


def publish(table, curated, run_id, at="2026-11-23T16:59:00Z", **settings):
    report = Report("features")
    asked = {"run_id": run_id, "event_time": at, "now": NOW.isoformat(), "group": "ebb-birds", **settings}
    features.publish(table, curated, asked, report)
    return report.as_dict()


def forget(table, *runs):
    which = offline_store.of_runs(runs)
    offline_store.remove(table, which)
    return offline_store.purge(table, which)


def killed(table, run_id, at="2026-11-23T16:59:00Z"):
    """Write rows of a run as a job does that is killed before its commit: no snapshot ever names them."""
    change = table.transaction()
    given = {"ebb_event_time": at, "ebb_run": run_id, "wing_mm_2": f"secret of {run_id}"}
    change.append(pa.Table.from_pylist([given], schema=table.schema().as_arrow()))


def unseen(table, run_id):
    """The files that hold rows of a run, or the smallest and largest of their values, named by a snapshot or not."""
    rows = [path for path in files(table) if path.suffix == ".parquet"]
    rows = [path for path in rows if run_id in pq.read_table(path, columns=["ebb_run"])["ebb_run"].to_pylist()]
    bounds = [path for path in files(table) if re.search(r"-m\d+\.avro$", path.name)]
    return rows + [path for path in bounds if run_id.encode() in path.read_bytes()]


def files(table):
    place = Path(table.location().removeprefix("file://"))
    return [path for path in place.rglob("*") if path.is_file()]


def test_columns_that_would_be_called_alike_are_numbered_and_none_takes_a_name_of_the_store():
    names = feature_names.called(["Wing (mm)", "wing [mm]", "write_time", "ebb_run", "§", "x" * 90])

    assert names["Wing (mm)"] == "wing_mm"
    assert names["wing [mm]"] == "wing_mm_2"
    assert names["write_time"] == "write_time_2"
    assert names["ebb_run"] == "ebb_run_2"
    assert names["§"] == "column"
    assert max(map(len, names.values())) <= 64


def test_other_columns_or_another_target_are_other_features():
    other = SCHEMA | {"target": {"name": "Wing", "classes": ["adelie", "gentoo"]}}

    assert feature_names.digest(SCHEMA) == feature_names.digest(dict(SCHEMA))
    assert feature_names.digest(SCHEMA) != feature_names.digest(other)


def test_the_table_holds_every_row_with_its_side_and_what_feature_store_adds(table, curated):
    report = publish(table, curated, "birds-1")

    rows = table.scan().to_arrow().to_pylist()
    first = min((each for each in rows if each["ebb_split"] == "test"), key=lambda each: each["ebb_position"])
    assert report["rows"] == len(rows) == 41
    assert (first["wing_mm"], first["wing_mm_2"], first["kind"]) == (0.0, "secret0", "adelie")
    assert first["write_time"] == first["api_invocation_time"] == NOW
    assert first["is_deleted"] is False
    assert {each["ebb_event_time"] for each in rows} == {"2026-11-23T16:59:00Z"}


def test_a_run_that_is_published_again_is_there_once(table, curated):
    publish(table, curated, "birds-1")
    publish(table, curated, "birds-1")

    assert table.scan().to_arrow().num_rows == 41


def test_what_is_forgotten_is_in_no_file_and_the_table_still_reads(plain, curated):
    publish(plain, curated, "birds-1")
    publish(plain, curated, "birds-2")
    first = {path for path in files(plain) if path.suffix == ".parquet"}

    purged = forget(plain, "birds-1")

    left = {path for path in files(plain) if path.suffix == ".parquet"}
    again = plain.catalog.load_table(plain.name())
    assert set(again.scan().to_arrow()["ebb_run"].to_pylist()) == {"birds-2"}
    assert again.scan().to_arrow().num_rows == 41
    assert left < first
    assert purged.files > 0
    assert not any(b"birds-1" in path.read_bytes() for path in files(plain) if path.suffix != ".json")


def test_a_table_of_which_all_was_forgotten_reads_as_empty(table, curated):
    publish(table, curated, "birds-1")

    forget(table, "birds-1")

    assert table.catalog.load_table(table.name()).scan().to_arrow().num_rows == 0
    assert [path for path in files(table) if path.suffix == ".parquet"] == []
    assert offline_store.figures(table)["table_rows"] == 0


def test_what_was_forgotten_before_is_forgotten_again_without_harm(table, curated):
    publish(table, curated, "birds-1")

    assert forget(table, "birds-0").files == 0
    assert table.scan().to_arrow().num_rows == 41


def test_rows_that_are_too_old_go_with_the_next_run_and_the_files_with_them(table, curated):
    publish(table, curated, "birds-1", at="2026-08-01T00:00:00Z")

    report = publish(table, curated, "birds-2", keep_from="2026-08-25T00:00:00+00:00")

    assert set(table.scan().to_arrow()["ebb_run"].to_pylist()) == {"birds-2"}
    assert report["purged"]["files"] > 0


def test_what_a_job_wrote_that_was_killed_before_its_commit_is_forgotten_too(plain, curated):
    publish(plain, curated, "birds-1")
    killed(plain, "birds-2")
    assert len(unseen(plain, "birds-2")) == 2, "a file of rows, and one of their smallest and largest values"

    forget(plain, "birds-2")

    assert unseen(plain, "birds-2") == []
    assert plain.catalog.load_table(plain.name()).scan().to_arrow().num_rows == 41


def test_what_was_written_before_an_error_is_forgotten_too(plain, curated, monkeypatch):
    def cut(*given, whole=features.batches):
        yield next(whole(*given))
        raise MemoryError

    monkeypatch.setattr(features, "batches", cut)
    with pytest.raises(MemoryError):
        publish(plain, curated, "birds-1")
    assert unseen(plain, "birds-1")

    forget(plain, "birds-1")

    assert unseen(plain, "birds-1") == []


def test_what_another_run_is_about_to_commit_stays(plain, curated):
    publish(plain, curated, "birds-1")
    killed(plain, "birds-2")
    meant = set(unseen(plain, "birds-2"))

    forget(plain, "birds-1")

    assert set(unseen(plain, "birds-2")) == meant, "nobody can tell it from what was cut short"


def test_a_forgetting_that_was_cut_short_goes_on_with_what_no_snapshot_names_any_more(plain, curated, monkeypatch):
    publish(plain, curated, "birds-1")
    publish(plain, curated, "birds-2")

    with monkeypatch.context() as patch:
        patch.setattr(type(plain.io), "delete", unreachable)
        with pytest.raises(OSError, match="no network"):
            forget(plain, "birds-1")
    assert unseen(plain, "birds-1")
    again = plain.catalog.load_table(plain.name())
    forget(again, "birds-1")

    assert unseen(again, "birds-1") == []
    assert set(again.scan().to_arrow()["ebb_run"].to_pylist()) == {"birds-2"}


def unreachable(*_):
    raise OSError("no network")


def test_the_next_run_that_publishes_clears_what_its_earlier_attempt_and_aged_runs_left(plain, curated):
    killed(plain, "birds-0", at="2026-08-01T00:00:00Z")
    killed(plain, "birds-2")
    killed(plain, "birds-3")

    publish(plain, curated, "birds-2", keep_from="2026-08-25T00:00:00+00:00")

    assert unseen(plain, "birds-0") == []
    assert plain.scan().to_arrow().num_rows == 41
    assert len([each for each in unseen(plain, "birds-2") if each.suffix == ".parquet"]) == 3, "one a split"
    assert unseen(plain, "birds-3"), "another one's, which may be at work"


def test_the_manifests_are_read_twice_however_many_files_there_are(table, curated, monkeypatch):
    told, real = [], offline_store._files
    for run_id in ("birds-1", "birds-2", "birds-3"):
        publish(table, curated, run_id)
    monkeypatch.setattr(offline_store, "_files", lambda given: told.append(1) or real(given))

    assert forget(table, "birds-1").files > 3
    assert len(told) == 2
