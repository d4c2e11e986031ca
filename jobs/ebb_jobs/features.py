"""Stage `features`: a run's curated rows go into its project's feature group, or rows of runs go out of it.

The only stage of Ebb's own code that has the network: it reads and writes an Iceberg table through the Glue Data
Catalog. No code of a user's runs in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from pyiceberg.expressions import Or

from ebb_jobs import dataset, offline_store, paths
from ebb_jobs.feature_names import POSITION, ROW, RUN, SPLIT, TIME, called, columns_of
from ebb_jobs.process_split import SPLITS
from ebb_jobs.report import Report
from ebb_jobs.sql import literal, quote

BATCH_ROWS = 1_000_000
"""As many rows are in memory, and in one file of the table."""


def main() -> None:
    """Carry out what the settings ask for: `publish` a run, or `forget` runs."""
    settings = paths.settings("features")
    report = Report("features")
    table = offline_store.load(settings["group"], settings.get("table"))
    if settings["action"] == "forget":
        gone = offline_store.of_runs(settings["runs"])
        offline_store.remove(table, gone)
        report.fields["purged"] = offline_store.purge(table, gone)._asdict()
    else:
        publish(table, paths.channel("features", "curated"), settings, report)
    report.fields |= {"status": "finished", "group": settings["group"], **offline_store.figures(table)}
    report.write(paths.output("features", "report"))


def publish(table: Any, curated: Path, settings: dict[str, Any], report: Report) -> None:
    """Put the curated rows into the table; rows of runs that began before `keep_from` go."""
    run_id, now = settings["run_id"], datetime.fromisoformat(settings["now"])
    began = offline_store.event_time(datetime.fromisoformat(settings["event_time"]))
    schema = dataset.read_schema(curated)
    rows = offline_store.publish(table, run_id, batches(curated, schema, run_id, began), now=now)
    gone = offline_store.of_runs([run_id])  # what an earlier attempt has left
    if settings.get("keep_from"):
        old = offline_store.of_runs_before(datetime.fromisoformat(settings["keep_from"]), but=run_id)
        offline_store.remove(table, old)
        gone = Or(gone, old)
    report.fields |= {"rows": rows, "purged": offline_store.purge(table, gone)._asdict()}
    report.decide(
        "features registered",
        settings["group"],
        "features.publish is set: other projects may read these rows instead of making them again",
        numbers={"rows": rows, "columns": len(columns_of(schema))},
    )


def batches(curated: Path, schema: dict[str, Any], run_id: str, event_time: str) -> Iterator[pa.RecordBatch]:
    """Give the rows of all splits as their features, in the order of their files."""
    columns = columns_of(schema)
    names = called([name for name, _ in columns])
    types = {"Fractional": "DOUBLE", "String": "VARCHAR"}
    fields = ", ".join(f"CAST({quote(name)} AS {types[kind]}) AS {quote(names[name])}" for name, kind in columns)
    content = ", ".join(f"coalesce(CAST({quote(name)} AS VARCHAR), chr(30))" for name, _ in columns)
    with duckdb.connect() as connection:
        for split in SPLITS:
            found = connection.sql(
                f"SELECT md5(concat_ws(chr(31), {content})) AS {ROW}, {literal(event_time)} AS {TIME}, "
                f"{literal(run_id)} AS {RUN}, {literal(split)} AS {SPLIT}, "
                f"row_number() OVER () - 1 AS {POSITION}, {fields} "
                f"FROM read_parquet({literal(dataset.file_of(curated, split))})"
            )
            yield from found.to_arrow_reader(BATCH_ROWS)
