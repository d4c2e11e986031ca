"""Stage `process` on Spark, for tables that outgrow one machine: the script of the Glue job, and of its tests.

    process_spark.py --manifest URI --sources URI --curated URI --report URI --work URI --settings JSON

It runs the program of `process_tables` on Spark: what it writes is what DuckDB would have written, except that each
split is a folder of Parquet parts. Files are read and written by Spark alone, so that every URI it knows will do. A
rejection names the file and the column; the line only where the beginning of a file shows it.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from functools import reduce
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StringType, StructField, StructType

from ebb_jobs import infer, precheck, process_drop, process_tables, refusals, spark_sql, tables
from ebb_jobs.rejection import RejectedError
from ebb_jobs.report import Report
from ebb_jobs.sql import literal, quote

HEAD_BYTES = 2**20
OF_ONE_PROCESS = ("cpu_seconds", "vcpu", "peak_rss_mib")
"""What a report counts of this process alone, which is not where Spark works."""
UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""What Spark reads where bytes are no UTF-8."""


class Head(NamedTuple):
    """A dropped file and how it begins."""

    uri: str
    name: str
    format: infer.Format
    bytes: bytes
    size_bytes: int

    @property
    def complete(self) -> bool:
        """Tell that nothing follows."""
        return len(self.bytes) == self.size_bytes


def main(arguments: Sequence[str]) -> None:
    """Process the files that the arguments name; a rejection is a good end of the job and is told in the report."""
    parser = argparse.ArgumentParser()
    for name in ("manifest", "sources", "curated", "report", "work", "settings"):
        parser.add_argument(f"--{name}", required=True)
    told, _ = parser.parse_known_args(arguments)  # Glue adds arguments of its own
    settings = json.loads(told.settings)
    session = session_of()
    report = Report("process")
    try:
        uris = listed(read_text(session, told.manifest))
        verify(session, uris, json.loads(read_text(session, told.sources)))
        process(
            session,
            uris,
            told.curated,
            settings.get("spec") or {},
            report,
            told.work,
            settings.get("learn_share", 1.0),
        )
        report.fields.update(status="finished", rejection=None)
    except RejectedError as rejected:
        _remove(session, told.curated)
        report.fields.update(status="rejected", rejection=rejected.rejection.as_dict())
    finally:
        _remove(session, told.work)
    document = report.as_dict() | {"engine": f"Spark {session.version}"}
    for name in OF_ONE_PROCESS:
        del document[name]
    write_text(session, f"{told.report.rstrip('/')}/metrics.json", json.dumps(document, indent=1, allow_nan=False))


def session_of(**options: str) -> SparkSession:
    """Return the session, made of what the job was started with and of `options`.

    The clock is UTC and nothing else, so that a moment of a Parquet file has one text; and not ANSI, whose casts stop
    the job where DuckDB's TRY_CAST gives NULL.
    """
    builder = SparkSession.builder.appName("ebb-process").config("spark.sql.session.timeZone", "UTC")
    builder = builder.config("spark.sql.ansi.enabled", "false")
    for name, value in options.items():
        builder = builder.config(name.replace("__", "."), value)
    return builder.getOrCreate()


def process(
    session: SparkSession,
    uris: Sequence[str],
    curated: str,
    spec: dict[str, Any],
    report: Report,
    work: str,
    learn_share: float = 1.0,
) -> None:
    """Write the splits of the tables and their schema.json below the URI `curated`. Raises RejectedError."""
    heads = [_head(session, uri) for uri in sorted(uris)]
    connection = spark_sql.Connection(session, work.rstrip("/"))
    loaded = load(session, connection, heads, (spec.get("data") or {}).get("target"))
    place = curated.rstrip("/")

    def write_json(name: str, document: Any) -> None:
        write_text(session, f"{place}/{name}", json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False))

    nowhere = process_tables.Dropped(Path(), [])
    into = process_tables.Curated(place, write_json)
    process_tables.judge_and_write(connection, loaded, nowhere, into, spec, report, learn_share)


def load(
    session: SparkSession, connection: spark_sql.Connection, heads: Sequence[Head], asked_target: str | None
) -> tables.Loaded:
    """Fill the table `raw` with trimmed texts, as `tables.load` does for DuckDB. Raises RejectedError."""
    kinds = {head.format.name for head in heads}
    if len(kinds) > 1:
        raise RejectedError(refusals.mixed_formats(kinds))
    form = kinds.pop()
    columns: list[str] = []
    target = infer.Inferred("", "")
    for head in heads:
        header = _header(session, head, asked_target)
        if not columns:
            columns, target = header, infer.target(header, asked_target, None)
            if target.value not in columns:
                raise RejectedError(refusals.target_missing(head.name, target.value, columns))
        tables.check_same_columns(head.name, header, columns)
    # A cell with a line break in it forbids to cut a file into parts, and one machine then reads all of it: only where
    # the lines by themselves are no rows.
    for whole in (False, True):
        texts = [_texts(session, connection, head, columns, target.value, whole=whole) for head in heads]
        try:
            connection.put("raw", reduce(DataFrame.unionByName, texts))
            break
        except Py4JJavaError as error:
            if "MALFORMED_RECORD_IN_PARSING" not in str(error):
                raise
            if whole or form != "csv":
                raise RejectedError(refusals.malformed(form)) from error
    if form != "parquet":
        _refuse_broken_text(connection, columns)
    return tables.Loaded(columns, tables.told_form(form, [head.name for head in heads]), target)


def listed(manifest: str) -> list[str]:
    """Return the URIs that a manifest names, as SageMaker spells one: a prefix, and what follows it in each URI.

    Source: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_S3DataSource.html
    """
    first, *names = json.loads(manifest)
    return [first["prefix"] + name for name in names]


def verify(session: SparkSession, uris: Sequence[str], digests: dict[str, str]) -> None:
    """Raise RejectedError when a file is not the one whose SHA-256 the run was planned with; the driver reads it."""
    for uri in uris:
        key = uri.removeprefix("s3://").partition("/")[2]
        digest = digests.get(key) or ""
        if not process_drop.SHA256.fullmatch(digest):
            continue  # a large object is known by its checksum in S3
        system, path = _place(session, uri)
        stream = system.open(path)
        try:
            found = session.sparkContext._jvm.org.apache.commons.codec.digest.DigestUtils.sha256Hex(stream)
        finally:
            stream.close()
        if found != digest:
            raise RejectedError(process_drop.changed(key))


def read_text(session: SparkSession, uri: str) -> str:
    """Return a small file's text."""
    return _read(session, uri, None).decode()


def write_text(session: SparkSession, uri: str, text: str) -> None:
    """Write a small file."""
    system, path = _place(session, uri)
    stream = system.create(path, True)
    stream.write(bytearray(text.encode()))
    stream.close()


def _head(session: SparkSession, uri: str) -> Head:
    """Return how a file begins. Raises RejectedError when it is not what its name announces."""
    name = PurePosixPath(uri).name
    system, path = _place(session, uri)
    size = int(system.getFileStatus(path).getLen())
    stream = system.open(path)
    try:
        found = bytes(
            session.sparkContext._jvm.org.apache.commons.io.IOUtils.toByteArray(stream, min(size, HEAD_BYTES))
        )
    finally:
        stream.close()
    form = infer.file_format(name)
    if form is not None and form.name == "parquet":
        return Head(uri, name, form, b"", size)  # Spark says itself when it is none
    rejection = precheck.check(name, size, found, complete=size == len(found), alone=False)
    if rejection is not None or form is None:
        raise RejectedError(rejection) if rejection else AssertionError(name)
    return Head(uri, name, form, found, size)


def _read(session: SparkSession, uri: str, most: int | None) -> bytes:
    """Return a file's first bytes, all of them without `most`."""
    system, path = _place(session, uri)
    size = int(system.getFileStatus(path).getLen())
    stream = system.open(path)
    try:
        reader = session.sparkContext._jvm.org.apache.commons.io.IOUtils
        return bytes(reader.toByteArray(stream, size if most is None else min(size, most)))
    finally:
        stream.close()


def _header(session: SparkSession, head: Head, asked_target: str | None) -> list[str]:
    """Return a file's columns in their order. Raises RejectedError."""
    if head.format.name == "parquet":
        return session.read.parquet(head.uri).columns
    shown = io.StringIO(_shown(head), newline="")
    if head.format.name == "csv":
        header = next(precheck.records(head.name, shown, "csv", _mark(head), complete=head.complete), None)
        if header is None:
            raise RejectedError(refusals.no_rows(head.name))
        return precheck.check_header(head.name, list(header.cells), asked_target)
    rows = (row.cells for row in precheck.records(head.name, shown, "jsonl", "", complete=head.complete))
    first = dict.fromkeys(key for row in rows for key in row)
    every = session.read.option("primitivesAsString", "true").json(head.uri).columns
    return [*(key for key in first if key in every), *(key for key in every if key not in first)]


def _texts(
    session: SparkSession,
    connection: spark_sql.Connection,
    head: Head,
    columns: Sequence[str],
    target: str,
    *,
    whole: bool,
) -> DataFrame:
    """Return a file's columns as trimmed texts."""
    if head.format.name == "parquet":
        frame = session.read.parquet(head.uri)
    else:
        own = _header(session, head, None)
        reader = session.read.schema(StructType([StructField(name, StringType()) for name in own]))
        reader = reader.option("mode", "FAILFAST")
        if head.format.name == "jsonl":
            frame = reader.json(head.uri)
        else:
            reader = reader.options(header="true", sep=_mark(head), quote='"', escape='"', maxCharsPerColumn="16000000")
            frame = reader.csv(head.uri, multiLine=whole)
    kinds = {field.name: _KINDS.get(field.dataType.typeName(), "VARCHAR") for field in frame.schema.fields}
    frame.createOrReplaceTempView("ebb_file")
    fields = ", ".join(tables.text_of(name, kinds[name], target, None) for name in columns)
    return connection.query(f"SELECT {fields} FROM ebb_file")


_KINDS = {"double": "DOUBLE", "float": "FLOAT"}


def _refuse_broken_text(connection: spark_sql.Connection, columns: Sequence[str]) -> None:
    broken = " OR ".join(f"contains({quote(name)}, {literal(UNREADABLE)})" for name in columns)
    if (connection.execute(f"SELECT count(*) FROM raw WHERE {broken}").fetchone() or (0,))[0]:
        raise RejectedError(refusals.broken_text())


def _shown(head: Head) -> str:
    return precheck.head_text(head.name, head.bytes, head.format.compression, head.complete)


def _mark(head: Head) -> str:
    return infer.delimiter(_shown(head)[: 2**16]).value


def _place(session: SparkSession, uri: str) -> tuple[Any, Any]:
    """Return Hadoop's file system for a URI, and its path there."""
    hadoop = session.sparkContext._jvm.org.apache.hadoop.fs
    path = hadoop.Path(uri)
    return path.getFileSystem(session.sparkContext._jsc.hadoopConfiguration()), path


def _remove(session: SparkSession, uri: str) -> None:
    system, path = _place(session, uri)
    system.delete(path, True)


if __name__ == "__main__":
    main(sys.argv[1:])
