"""Which rows train, validate and test: by the hash of what is learned from, or as the user split them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import duckdb

from ebb_jobs import process_key, spelling
from ebb_jobs.rejection import RejectedError, Rejection
from ebb_jobs.report import Report
from ebb_jobs.sql import free_name, quote

SPLITS = ("train", "validation", "test")
TEST_SHARE = 0.15
HELD_OUT_SHARE = 0.30
"""Of validation and test together."""
MIN_ROWS_PER_SIDE = 3
RARE_ROWS = 1_000
"""A class with fewer rows on a side is not thinned out in a sample."""


class Own(NamedTuple):
    """The columns that the split adds to the data's."""

    key: str
    split: str
    unsettled: str


def place(
    connection: duckdb.DuckDBPyConnection,
    text: str,
    target: str,
    classes: int | None,
    own: Own,
    *,
    column: str | None,
    apart: str | None = None,
    by: process_key.Key | None = None,
) -> dict[str, int]:
    """Mark each row of `kept` train, validation or test by the hash of `text`, in the new table `placed`.

    `text` is SQL over the features, `column` is how a rejection calls the target, `by` another hash than the text's
    digest. Rows with equal features stay
    together, so that none is learned and tested at once, and a row keeps its side when data is added. Only where
    chance gives a side fewer than `fewest` groups of a class, those nearest to its threshold move over: all rows of
    such a class are unsettled, because later data can move them back.
    Where `text` is a group's name, `apart` is SQL over the features: of rows with equal features in groups on several
    sides those of the side that learns stay, and the others are left out.
    Returns the rows of each side and the `unsettled` ones. Raises RejectedError when a side or a class lacks rows.
    """
    stratum = quote(target) if classes is not None else "''"
    fewest = math.ceil(MIN_ROWS_PER_SIDE / (classes or 1))
    by = by or process_key.digest(text)
    names = [field[0] for field in connection.execute("SELECT * FROM kept LIMIT 0").description or ()]
    fields, sum_of = ", ".join(map(quote, names)), free_name(f"{own.key}_first", names)
    test, held_out = (by.below(own.key, share) for share in (TEST_SHARE, HELD_OUT_SHARE))
    connection.execute(f"""
        CREATE TABLE placed AS
        WITH first AS (SELECT *, {by.first} AS {sum_of} FROM kept),
        keyed AS (SELECT {fields}, {by.second(sum_of)} AS {own.key} FROM first),
        groups AS (SELECT {own.key}, min({stratum}) AS stratum FROM keyed GROUP BY {own.key}),
        ranked AS (SELECT {own.key}, row_number() OVER (PARTITION BY stratum ORDER BY {own.key}) AS rank,
                          count(*) OVER (PARTITION BY stratum) AS size,
                          sum(CASE WHEN {test} THEN 1 ELSE 0 END) OVER (PARTITION BY stratum) AS test,
                          sum(CASE WHEN {held_out} THEN 1 ELSE 0 END) OVER (PARTITION BY stratum) AS held_out
                   FROM groups),
        least_a_side AS (SELECT *, greatest(1, least({fewest}, size // 3)) AS fewest FROM ranked),
        tests AS (SELECT *, greatest(fewest, least(test, size - 2 * fewest)) AS tests FROM least_a_side),
        sides AS (SELECT {own.key}, least(test, held_out - test, size - held_out) < {fewest} AS {own.unsettled},
                         CASE WHEN rank <= tests THEN 'test'
                              WHEN rank <= greatest(tests + fewest, least(held_out, size - fewest)) THEN 'validation'
                              ELSE 'train' END AS {own.split} FROM tests)
        SELECT keyed.*, sides.{own.split}, sides.{own.unsettled} FROM keyed JOIN sides USING ({own.key})""")
    connection.execute("DROP TABLE kept")
    left_out = {} if apart is None else {"left_out": _take_apart(connection, apart, own)}
    return _counted(connection, target, classes, own, column) | left_out


def take_sample(
    connection: duckdb.DuckDBPyConnection, target: str | None, own: Own, share: float, by: process_key.Key
) -> dict[str, int]:
    """Leave in `placed` a share of each side's rows, those whose hash is lowest on its side; return the rows of each.

    Fair, because the hash says nothing about a row; and nested: a row of a smaller sample is in every larger one too,
    on the same side. All rows stay of classes that are rare on a side. `target` names the column of the classes, if
    there are any; `by` is the hash that placed the rows.
    """
    ends = {"test": (0.0, TEST_SHARE), "validation": (TEST_SHARE, HELD_OUT_SHARE), "train": (HELD_OUT_SHARE, 1.0)}
    taken = " OR ".join(
        f"({own.split} = '{split}' AND {by.below(own.key, low + share * (high - low))})"
        for split, (low, high) in ends.items()
    )
    names = [field[0] for field in connection.execute("SELECT * FROM placed LIMIT 0").description or ()]
    fields, size = ", ".join(map(quote, names)), free_name("ebb_size", names)
    kind = own.split if target is None else f"{own.split}, {quote(target)}"
    connection.execute(f"""
        CREATE TABLE sampled AS
        WITH sizes AS (SELECT {kind}, count(*) AS {size} FROM placed GROUP BY {kind})
        SELECT {fields} FROM placed JOIN sizes USING ({kind}) WHERE {size} < {RARE_ROWS} OR {taken}""")
    connection.execute("DROP TABLE placed")
    connection.execute("ALTER TABLE sampled RENAME TO placed")
    return {split: scalar(connection, f"SELECT count(*) FROM placed WHERE {own.split} = '{split}'") for split in SPLITS}


def _take_apart(connection: duckdb.DuckDBPyConnection, features: str, own: Own) -> int:
    """Leave out of `placed` what is tested and learned at once, and return how many rows that were."""
    before = scalar(connection, "SELECT count(*) FROM placed")
    names = [field[0] for field in connection.execute("SELECT * FROM placed LIMIT 0").description or ()]
    side, same, first = (free_name(f"ebb_{name}", names) for name in ("side", "same", "first"))
    rank = f"CASE {own.split} WHEN 'train' THEN 0 WHEN 'validation' THEN 1 ELSE 2 END"
    connection.execute(f"""
        CREATE TABLE apart AS
        WITH ranked AS (SELECT *, {rank} AS {side}, md5({features}) AS {same} FROM placed),
        firsts AS (SELECT *, min({side}) OVER (PARTITION BY {same}) AS {first} FROM ranked)
        SELECT {", ".join(map(quote, names))} FROM firsts WHERE {side} = {first}""")
    connection.execute("DROP TABLE placed")
    connection.execute("ALTER TABLE apart RENAME TO placed")
    return before - scalar(connection, "SELECT count(*) FROM placed")


def place_as_given(
    connection: duckdb.DuckDBPyConnection, text: str, target: str, classes: int, own: Own, given: str, *, column: str
) -> dict[str, int]:
    """Mark each row as its column `given` says (train, validation or test); a side that is missing is cut from train.

    Otherwise like `place`.
    """
    present = {side for (side,) in connection.execute(f"SELECT DISTINCT {quote(given)} FROM kept").fetchall()}
    if "train" not in present:
        raise RejectedError(
            Rejection(
                "no-train-split",
                f"the data is split into {' and '.join(sorted(present))}, and nothing is left to learn from",
                remedy="Add the split train, or drop the data without splits.",
            )
        )
    learned = scalar(connection, f"SELECT count(DISTINCT {quote(target)}) FROM kept WHERE {quote(given)} = 'train'")
    if learned < classes:
        raise RejectedError(
            Rejection(
                "class-not-in-train",
                f"{classes - learned} of {classes} classes stand in validation or test and not in train",
                column=column,
                remedy="Add examples of every class to train, or drop the data without splits.",
            )
        )
    missing = [side for side in SPLITS if side not in present]
    connection.execute(f"CREATE TABLE held AS SELECT * FROM kept WHERE {quote(given)} <> 'train'")
    connection.execute(f"DELETE FROM kept WHERE {quote(given)} <> 'train'")
    if missing:
        place(connection, text, target, classes, own, column=column)
        taken = ", ".join(f"'{side}'" for side in missing)
        connection.execute(f"UPDATE placed SET {own.split} = 'train' WHERE {own.split} NOT IN ({taken})")
    else:
        connection.execute(
            f"CREATE TABLE placed AS SELECT *, md5({text}) AS {own.key}, 'train' AS {own.split}, "
            f"false AS {own.unsettled} FROM kept"
        )
        connection.execute("DROP TABLE kept")
    connection.execute(f"INSERT INTO placed SELECT *, md5({text}), {quote(given)}, false FROM held")
    connection.execute("DROP TABLE held")
    return _counted(connection, target, classes, own, column)


def decide(
    report: Report,
    rows: dict[str, int],
    learned_from: str,
    *,
    given: bool,
    stratified: bool,
    stays: str = "a row keeps its side when data is added",
) -> None:
    """Record how the rows were split; `learned_from` says what is hashed. Takes `unsettled` out of `rows`.

    `stays` says what becomes of a row's side when data is added.
    """
    unsettled = rows.pop("unsettled")
    rest = (
        f"; {unsettled} rows may change sides: by the hash alone a side has too few "
        f"{'of their class' if stratified else 'rows'}, and the nearest were moved there"
        if unsettled
        else ""
    )
    report.decide(
        "split",
        "as given" if given else f"about 70/15/15 by the hash of the {learned_from}",
        (
            f"the data is split already; a side that it lacks is cut from train by the hash of the {learned_from}"
            if given
            else f"equal {learned_from} never stand on two sides, and {stays}"
        )
        + rest,
        numbers={**{split: rows[split] for split in SPLITS}, "may_change_side": unsettled},
    )


def appended(spec: dict[str, Any]) -> bool:
    """Tell whether the rows are those of a run before and more, whose model may go on from its weights."""
    return bool((spec.get("data") or {}).get("mode") == "append")


def told_apart(connection: duckdb.DuckDBPyConnection, key: process_key.Key) -> bool:
    """Tell whether a key spreads the rows of `kept` well enough over the sides by itself."""
    rows, squares = connection.execute(
        "SELECT sum(CAST(size AS DOUBLE)), sum(CAST(size AS DOUBLE) * size) FROM "
        f"(SELECT count(*) AS size FROM (SELECT {key.first} AS first FROM kept) AS firsts "
        f"GROUP BY {key.second('first')}) AS sizes"
    ).fetchone() or (0, 0)
    return process_key.suffices(rows, squares)


def in_order(labels: list[str]) -> list[str]:
    """Return class labels in their order: numbers in that of numbers, texts in that of letters."""
    numeric = all(map(spelling.is_number, labels))
    return sorted(labels, key=lambda label: (float(label), label) if numeric else label)


def scalar(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    """Return the one number that a query finds."""
    return int((connection.execute(query).fetchone() or (0,))[0])


def _counted(
    connection: duckdb.DuckDBPyConnection, target: str, classes: int | None, own: Own, column: str | None
) -> dict[str, int]:
    placed = f"FROM placed WHERE {own.split} ="
    sizes = {split: scalar(connection, f"SELECT count(*) {placed} '{split}'") for split in SPLITS}
    learned = scalar(connection, f"SELECT count(DISTINCT {quote(target)}) {placed} 'train'")
    if min(sizes.values()) < MIN_ROWS_PER_SIDE or (classes is not None and learned < classes):
        raise RejectedError(
            Rejection(
                "too-few-rows",
                "too few rows differ in their features: a class or a split would be empty",
                column=column,
                remedy="Drop more rows, or columns that tell the rows apart.",
            )
        )
    return {**sizes, "unsettled": scalar(connection, f"SELECT count(*) FROM placed WHERE {own.unsettled}")}
