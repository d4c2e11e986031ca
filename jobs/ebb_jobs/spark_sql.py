"""Runs the SQL that the stage `process` writes for DuckDB on Spark: one program, two engines.

sqlglot translates each statement. What SQL has no word for is done by Spark's own means: a table is what a query gave,
stored as Parquet in a folder of work, so that no later statement computes it again, and COPY writes a folder of Parquet
parts. In the jobs image there is neither Spark nor sqlglot: nothing but `process_spark` imports this module.
"""

from __future__ import annotations

import re
from typing import Any

import sqlglot
from pyspark.sql import DataFrame, SparkSession
from sqlglot import exp

CREATE = re.compile(r"\s*CREATE TABLE (\w+) AS\b(.*)", re.DOTALL)
DROP = re.compile(r"\s*DROP TABLE (?:IF EXISTS )?(\w+)\s*")
RENAME = re.compile(r"\s*ALTER TABLE (\w+) RENAME TO (\w+)\s*")
COPY = re.compile(r"\s*COPY \((.*)\)\s+TO '((?:[^']|'')*)' \(FORMAT parquet, COMPRESSION (\w+)\)\s*", re.DOTALL)


class Connection:
    """As much of a DuckDB connection as the program uses, on a Spark session."""

    def __init__(self, session: SparkSession, work: str) -> None:
        """Keep tables below the URI `work`, which whoever started the session removes."""
        self._session = session
        self._work = work
        self._made = 0

    def execute(self, statement: str) -> Result:
        """Run one statement. Raises ValueError for one that the program has no use for, and Spark's own errors."""
        if create := CREATE.fullmatch(statement):
            self.put(create[1], self.query(create[2]))
        elif drop := DROP.fullmatch(statement):
            self._session.catalog.dropTempView(drop[1])
        elif rename := RENAME.fullmatch(statement):
            self._session.table(rename[1]).createOrReplaceTempView(rename[2])
            self._session.catalog.dropTempView(rename[1])
        elif copy := COPY.fullmatch(statement):
            frame = self.query(copy[1])
            frame.write.mode("overwrite").option("compression", copy[3]).parquet(copy[2].replace("''", "'"))
        elif re.match(r"\s*(WITH|SELECT)\b", statement):
            return Result(self.query(statement))
        else:
            raise ValueError(f"no statement for both engines: {statement[:60]!r}")
        return Result(None)

    def put(self, name: str, frame: DataFrame) -> None:
        """Store a frame as the table `name`."""
        self._made += 1
        place = f"{self._work}/{self._made}-{name}"
        frame.write.parquet(place)
        self._session.read.schema(frame.schema).parquet(place).createOrReplaceTempView(name)

    def query(self, statement: str) -> DataFrame:
        """Return what a query in DuckDB's words finds."""
        return self._session.sql(translate(statement))


class Result:
    """What a query found, as a DuckDB cursor gives it."""

    def __init__(self, frame: DataFrame | None) -> None:
        self._frame = frame

    @property
    def description(self) -> list[tuple[str]]:
        """The columns' names, each in a tuple of one."""
        return [(name,) for name in self._frame.columns] if self._frame is not None else []

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the first row, None where there is none."""
        found = self._frame.first() if self._frame is not None else None
        return tuple(found) if found is not None else None

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return all rows, which the driver holds."""
        return [tuple(row) for row in self._frame.collect()] if self._frame is not None else []


def translate(statement: str) -> str:
    """Return a query in DuckDB's words in Spark's."""
    tree = sqlglot.parse_one(statement, dialect="duckdb")
    return tree.transform(_in_sparks_words).sql(dialect="spark")


def _in_sparks_words(node: exp.Expression) -> exp.Expression:
    if isinstance(node, exp.RegexpFullMatch):
        return exp.RegexpLike(this=node.this, expression=exp.Literal.string(f"^(?:{node.expression.name})\\z"))
    if isinstance(node, exp.Anonymous) and node.name.lower() == "strlen":  # bytes, not characters
        return exp.Anonymous(this="octet_length", expressions=node.expressions)
    return node
