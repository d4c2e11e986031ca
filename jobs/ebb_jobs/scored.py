"""Scored files: what was sent, with a prediction beside each row. Travels in every bundle; standard library only.

CSV comes back as CSV, JSON Lines as JSON Lines: the rows as they came, and the columns `prediction`, `probability` and,
where rows could not be read, `error`. A file is read in slices, so that a long one takes no more memory in the network
than a short one, and a row that cannot be read does not cost the others their prediction.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

if __package__:
    from ebb_jobs.bad_request import BadRequestError  # inside the jobs
else:
    from bad_request import BadRequestError  # type: ignore[import-not-found,no-redef]  # beside this file, in a bundle

SLICE_ROWS = 1024
LONGEST_CELL = 2_000_000
CSV, LINES = "text/csv", "application/jsonlines"
ADDED = ("prediction", "probability", "error")

Predict = Callable[[bytes, str], Sequence[Mapping[str, Any]]]
"""From a body and its content type to one prediction per row. Raises BadRequestError."""


def form_of(content_type: str, accept: str) -> str | None:
    """Return the form in which a file is to come back, None when an answer as usual is asked for."""
    sent, wanted = (text.partition(";")[0].strip().lower() for text in (content_type, accept))
    return wanted if wanted in (CSV, LINES) and sent == wanted else None


def answer(body: bytes, form: str, predict: Predict) -> bytes:
    """Return the scored file. Raises BadRequestError when no row can be read."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequestError("the file is not UTF-8", remedy="Encode it as UTF-8.") from error
    return _csv(text, predict) if form == CSV else _lines(text, predict)


def columns(prediction: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return a prediction as the cells `prediction` and `probability`; the second is None where there is none."""
    if "label" in prediction:
        return prediction["label"], (prediction.get("probabilities") or {}).get(prediction["label"])
    return (prediction["value"], None) if "value" in prediction else (json.dumps(dict(prediction)), None)


def _csv(text: str, predict: Predict) -> bytes:
    try:
        csv.field_size_limit(LONGEST_CELL)  # the module's own 128 KiB are less than a long mail
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise BadRequestError(f"the file is not CSV: {error}", remedy="Close every quoted cell.") from error
    if len(rows) < 2:
        raise BadRequestError("the file needs a header and rows", remedy="Name the columns in the first line.")
    header, rows = rows[0], rows[1:]
    results = list(_results(rows, lambda part: predict(_written([header, *part]).encode(), CSV)))
    added = ADDED if any(error for *_, error in results) else ADDED[:2]
    names = [_free(name, header) for name in added]
    cells = ([*row, *("" if cell is None else cell for cell in found[: len(added)])] for row, found in
             zip(rows, results, strict=True))  # fmt: skip
    return _written([[*header, *names], *cells]).encode()


def _lines(text: str, predict: Predict) -> bytes:
    rows = [line for line in text.split("\n") if line.strip()]
    if not rows:
        raise BadRequestError("the file is empty", remedy="Write an object per line.")
    results = _results(rows, lambda part: predict("\n".join(part).encode(), LINES))
    return "".join(_line(row, found) for row, found in zip(rows, results, strict=True)).encode()


def _line(row: str, found: tuple[Any, Any, str | None]) -> str:
    try:
        sent = json.loads(row)
    except (ValueError, RecursionError):
        sent = row
    sent = sent if isinstance(sent, dict) else {"input": sent}
    added = {_free(name, sent): cell for name, cell in zip(ADDED, found, strict=True) if cell is not None}
    return json.dumps({**sent, **added}, ensure_ascii=False) + "\n"


def _results(
    rows: Sequence[Any], predict: Callable[[Sequence[Any]], Sequence[Mapping[str, Any]]]
) -> Iterator[tuple[Any, Any, str | None]]:
    """Yield prediction, probability and error of each row; a slice that is refused is asked row by row."""
    for start in range(0, len(rows), SLICE_ROWS):
        part = rows[start : start + SLICE_ROWS]
        try:
            yield from ((*columns(each), None) for each in predict(part))
        except BadRequestError as refused:
            found = [_alone(row, predict) for row in part]
            if start == 0 and all(error for *_, error in found):
                raise refused  # not this row or that one: the file is not what the model takes
            yield from found


def _alone(row: Any, predict: Callable[[Sequence[Any]], Sequence[Mapping[str, Any]]]) -> tuple[Any, Any, str | None]:
    try:
        return (*columns(predict([row])[0]), None)
    except BadRequestError as refused:
        return None, None, str(refused.body.get("error"))


def _free(name: str, taken: Any) -> str:
    while name in taken:
        name += "_"
    return name


def _written(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
