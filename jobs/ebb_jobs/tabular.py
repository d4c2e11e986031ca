"""From requests and raw values to the network's input, and from its outputs to answers: numpy only.

Training uses this file and every bundle carries it, so that a served row is encoded bit for bit as a training row.
Only operations whose result does not depend on how many rows are encoded at once are used (add, multiply, compare,
table look-ups), which rules out vectorised logarithms and sines.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

if __package__:
    from ebb_jobs import spelling  # inside the jobs
    from ebb_jobs.bad_request import BadRequestError
else:
    import spelling  # type: ignore[import-not-found,no-redef]  # beside this file, in a bundle
    from bad_request import BadRequestError  # type: ignore[import-not-found,no-redef]

Columns = dict[str, list[Any]]

DATE_PARTS = (
    "day_number",
    "month_sin",
    "month_cos",
    "weekday_sin",
    "weekday_cos",
    "day_of_month",
    "hour_sin",
    "hour_cos",
)
MAX_BINS = 16
MAX_CATEGORIES = 64
_TAILS = (0.001, 0.01, 0.99, 0.999)
_CIRCLE = {
    size: [(math.sin(2 * math.pi * step / size), math.cos(2 * math.pi * step / size)) for step in range(size)]
    for size in (7, 12, 24)
}


class InvalidValueError(BadRequestError):
    """A raw value that its column cannot take. `field` is the column, the message says what to send instead."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"{field}: expected {expected}", field=field, remedy=f"Send {field} as {expected}.")


def open_codec(folder: Path) -> Preprocessor:
    """Return the preprocessor that a bundle, or the original's folder, holds."""
    return Preprocessor(json.loads((folder / "preprocess.json").read_text(encoding="utf-8")))


def text_of(value: Any) -> str:
    """Return a raw value as the text that a CSV file would hold."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value).strip(" \t\r\n")


def parse_number(text: str) -> float | None:
    """Return the number that a trimmed text spells, None when it spells none."""
    if not spelling.is_number(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def parse_date(text: str, pattern: re.Pattern[str], order: str) -> tuple[float, ...] | None:
    """Return the DATE_PARTS of a trimmed text, None when it is no date in this order."""
    match = pattern.fullmatch(text)
    if match is None:
        return None
    parts = dict(zip(re.split(r"[-/.]", order), match.groups()[:3], strict=True))
    hour, minute, second = (int(part or 0) for part in match.groups()[3:])
    try:
        when = datetime(int(parts["year"]), int(parts["month"]), int(parts["day"]), hour, minute, second)
    except ValueError:
        return None
    day_number = when.toordinal() + (hour * 3600 + minute * 60 + second) / 86400
    return (day_number, *_CIRCLE[12][when.month - 1], *_CIRCLE[7][when.weekday()], float(when.day), *_CIRCLE[24][hour])


class Preprocessor:
    """Encodes rows for one network and decodes its outputs; its whole state is the JSON document `state`.

    The input of the network is `[scaled numbers | missing flags | piecewise-linear bins | one-hot categories]`,
    float32, every entry within [-1, 1], which is also what 8-bit quantization wants. The last of the numbers are the
    means of the target over the rows of a category, for columns of many (`target_means` learns them).
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)
        self.features: list[dict[str, Any]] = list(state["features"])
        self.columns = [feature["name"] for feature in self.features]
        self.file_columns: list[str] = list(state.get("columns") or self.columns)
        self._patterns = {name: re.compile(text) for name, text in spelling.DATE_PATTERNS.items()}
        numeric: list[dict[str, Any]] = state["numeric"]
        self._fill = np.array([item["fill"] for item in numeric], dtype=np.float64)
        self._center = np.array([item["center"] for item in numeric], dtype=np.float64)
        self._inverse_scale = np.array([1.0 / item["scale"] for item in numeric], dtype=np.float64)
        self._flagged = np.array([i for i, item in enumerate(numeric) if item["missing_flag"]], dtype=np.intp)
        bins = max((len(item["edges"]) - 1 for item in numeric), default=0)
        self._low = np.zeros((len(numeric), max(bins, 0)))
        self._inverse_width = np.zeros_like(self._low)
        kept = []
        for row, item in enumerate(numeric):
            edges = np.array(item["edges"], dtype=np.float64)
            for column in range(len(edges) - 1):
                self._low[row, column] = edges[column]
                self._inverse_width[row, column] = 1.0 / (edges[column + 1] - edges[column])
                kept.append(row * self._low.shape[1] + column)
        self._kept_bins = np.array(kept, dtype=np.intp)
        self.means: dict[str, dict[str, Any]] = {item["name"]: item for item in state.get("means", ())}
        self._vocabularies = [
            {text: code for code, text in enumerate(item["categories"])} for item in state["categorical"]
        ]
        sizes = [len(item["categories"]) + 2 for item in state["categorical"]]  # + other, + missing
        self._offsets = np.cumsum([0, *sizes])[:-1].astype(np.intp)
        self._numeric_width = len(numeric) + len(self._flagged) + len(self._kept_bins)
        self.width = self._numeric_width + sum(sizes)

    @classmethod
    def fit(
        cls,
        schema: Mapping[str, Any],
        columns: Mapping[str, Sequence[Any] | np.ndarray],
        target: Sequence[Any] | np.ndarray,
    ) -> Preprocessor:
        """Learn scales, bins and vocabularies from the training rows only."""
        features = [
            {key: feature[key] for key in ("name", "kind", "date_order", "lenient") if key in feature}
            for feature in schema["features"]
        ]
        state: dict[str, Any] = {
            "version": 1,
            "task": schema["task"],
            "columns": list(schema.get("columns") or ()),  # of the training file, in its order, without the target
            "features": features,
            "numeric": [],
            "categorical": [],
        }
        reader = cls({**state, "target": {}})
        for feature in features:
            values = columns[feature["name"]]
            if feature["kind"] in ("categorical", "boolean"):
                state["categorical"].append(_fit_categories(feature["name"], reader.read_texts(feature, values)))
                continue
            numbers = reader.read_numbers(feature, values)
            names = (
                [feature["name"]] if feature["kind"] == "numeric" else [f"{feature['name']}.{p}" for p in DATE_PARTS]
            )
            for name, column in zip(names, numbers.T, strict=True):
                state["numeric"].append(_fit_number(name, column))
        state["target"] = _fit_target(schema, target)
        return cls(state)

    def read_texts(self, feature: Mapping[str, Any], values: Sequence[Any] | np.ndarray) -> list[str]:
        """Return a categorical or boolean column as canonical text, '' where missing."""
        texts = []
        for value in values:
            if isinstance(value, (dict, list)):
                raise InvalidValueError(feature["name"], "a text, a number or null")
            text = text_of(value)
            if text.lower() in spelling.MISSING:
                text = ""
            elif feature["kind"] == "boolean":
                low = text.lower()
                text = "true" if low in spelling.TRUE_TOKENS else "false" if low in spelling.FALSE_TOKENS else text
            texts.append(text)
        return texts

    def read_numbers(self, feature: Mapping[str, Any], values: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Return a numeric column as float64 [rows, 1], a date column as [rows, DATE_PARTS]; NaN where missing."""
        if isinstance(values, np.ndarray) and values.dtype == np.float64:
            return values[:, None]
        width = 1 if feature["kind"] == "numeric" else len(DATE_PARTS)
        result = np.full((len(values), width), np.nan)
        cache: dict[str, Any] = {}
        for row, value in enumerate(values):
            text = text_of(value) if not isinstance(value, (dict, list, bool)) else "{}"
            if text.lower() in spelling.MISSING:
                continue
            if text not in cache:
                cache[text] = self._parse(feature, text)
            result[row] = cache[text]
        return result

    def _parse(self, feature: Mapping[str, Any], text: str) -> Any:
        if feature["kind"] == "numeric":
            parsed: Any = parse_number(text)
        else:
            parsed = parse_date(text, self._patterns[feature["date_order"]], feature["date_order"])
        if parsed is None and feature.get("lenient"):
            return np.nan  # the training data held such values too and they counted as missing
        if parsed is None:
            expected = "a number" if feature["kind"] == "numeric" else f"a date written {feature['date_order']}"
            raise InvalidValueError(feature["name"], f"{expected} or nothing")
        return parsed

    def with_means(self, means: Sequence[Mapping[str, Any]], learned: Sequence[np.ndarray]) -> Preprocessor:
        """Return a codec that knows categories by means of the target too; `learned` are those of the training rows."""
        classes = self.state["target"].get("classes", [])
        told = [f"share of {label}" for label in (classes[1:] if len(classes) == 2 else classes)] or ["mean"]
        numbers = [
            {**_fit_number(f"{item['name']}: {of}", column), "fill": overall}
            for item, rows in zip(means, learned, strict=True)
            for of, column, overall in zip(told, rows.T, item["overall"], strict=True)
        ]
        return Preprocessor({**self.state, "numeric": [*self.state["numeric"], *numbers], "means": list(means)})

    def encode(
        self,
        columns: Mapping[str, Sequence[Any] | np.ndarray],
        means: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> np.ndarray:
        """Return the network's input [rows, width] for raw columns. Raises InvalidValueError.

        `means` are those of training rows, by column, in place of the served ones, in which their own target has part.
        """
        rows = len(next(iter(columns.values())))
        encoded: np.ndarray = np.zeros((rows, self.width), dtype=np.float32)
        blocks = [
            self.read_numbers(feature, columns[feature["name"]])
            for feature in self.features
            if feature["kind"] in ("numeric", "datetime")
        ]
        texts = {
            feature["name"]: self.read_texts(feature, columns[feature["name"]])
            for feature in self.features
            if feature["kind"] in ("categorical", "boolean")
        }
        for name, item in self.means.items():
            known, overall = item["texts"], item["overall"]
            blocks.append(
                means[name] if name in means else np.array([known.get(text, overall) for text in texts[name]])
            )
        if blocks:
            self._encode_numbers(np.concatenate(blocks, axis=1), encoded)
        position = 0
        for feature in self.features:
            if feature["kind"] in ("categorical", "boolean"):
                vocabulary = self._vocabularies[position]
                other, missing = len(vocabulary), len(vocabulary) + 1
                codes = [vocabulary.get(text, other) if text else missing for text in texts[feature["name"]]]
                hot = np.array(codes, dtype=np.intp) + (self._numeric_width + self._offsets[position])
                encoded[np.arange(rows), hot] = 1.0
                position += 1
        return encoded

    def _encode_numbers(self, numbers: np.ndarray, encoded: np.ndarray) -> None:
        absent = np.isnan(numbers)
        filled = np.where(absent, self._fill, numbers)
        count = filled.shape[1]
        encoded[:, :count] = np.minimum(np.maximum((filled - self._center) * self._inverse_scale, -1.0), 1.0)
        flags = count + len(self._flagged)
        encoded[:, count:flags] = absent[:, self._flagged]
        bins = np.minimum(np.maximum((filled[:, :, None] - self._low) * self._inverse_width, 0.0), 1.0)
        encoded[:, flags : self._numeric_width] = bins.reshape(len(filled), -1)[:, self._kept_bins]

    def encode_target(self, values: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Return class indices (int64) or the scaled target (float32)."""
        target = self.state["target"]
        if "classes" in target:
            index = {label: position for position, label in enumerate(target["classes"])}
            return np.array([index[label] for label in values], dtype=np.int64)
        numbers = np.asarray(values, dtype=np.float64)
        numbers = np.log1p(numbers - target["low"]) if target["log"] else numbers
        return ((numbers - target["center"]) / target["scale"]).astype(np.float32)

    def decode_values(self, outputs: np.ndarray) -> np.ndarray:
        """Return predicted values (float64) for the outputs of a regression network.

        They stay within the range seen in training, widened by a tenth on both sides.
        """
        target = self.state["target"]
        margin = 0.1 * (target["high"] - target["low"])
        numbers = outputs.reshape(-1).astype(np.float64) * target["scale"] + target["center"]
        if target["log"]:
            numbers = np.array([math.expm1(min(number, 700.0)) for number in numbers]) + target["low"]
        return np.minimum(np.maximum(numbers, target["low"] - margin), target["high"] + margin)

    def predictions(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        """Return the answers that a client gets, one per row."""
        classes = self.state["target"].get("classes")
        if classes is None:
            return [{"value": float(value)} for value in self.decode_values(outputs)]
        return [
            {
                "label": classes[int(row.argmax())],
                "probabilities": {label: round(float(p), 6) for label, p in zip(classes, row, strict=True)},
            }
            for row in outputs
        ]

    def files(self) -> dict[str, bytes]:
        """Return what `open_codec` reads."""
        return {"preprocess.json": (json.dumps(self.state, ensure_ascii=False, allow_nan=False) + "\n").encode()}

    def parse(self, body: bytes, content_type: str) -> Columns:
        """Return raw columns for a request's body. Raises BadRequestError."""
        try:
            text = body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadRequestError("the body is not UTF-8", remedy="Encode the request as UTF-8.") from error
        if not text.strip():
            raise BadRequestError("the body is empty", remedy="Send at least one row.")
        kind = content_type.partition(";")[0].strip().lower()
        if kind in ("text/csv", "application/csv", ""):
            return self._parse_csv(text)
        if kind in ("application/jsonlines", "application/x-ndjson", "application/jsonl"):
            return self._parse_objects(
                [_json(line, number) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
            )
        if kind == "application/json":
            document = _json(text, None)
            if isinstance(document, dict) and isinstance(document.get("instances"), list):
                document = document["instances"]
            return self._parse_objects(document if isinstance(document, list) else [document])
        raise BadRequestError(
            f"content type {kind} is not supported", remedy="Send text/csv, application/json or application/jsonlines."
        )

    def _parse_objects(self, rows: list[Any]) -> Columns:
        if not rows:
            raise BadRequestError("there are no rows", remedy="Send at least one row.")
        for number, row in enumerate(rows, start=1):
            if isinstance(row, list):
                rows[number - 1] = row = dict(zip(self._names_for(len(row), f"row {number}"), row, strict=True))
            if not isinstance(row, dict):
                raise BadRequestError(f"row {number} is not an object", remedy='Send an object like {"column": value}.')
            for name in self.columns:
                if name not in row:
                    raise BadRequestError(
                        f"row {number} lacks {name}", field=name, remedy=f"Send {name}, with null when it is not known."
                    )
        return {name: [row[name] for row in rows] for name in self.columns}

    def _parse_csv(self, text: str) -> Columns:
        try:
            rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
        except csv.Error as error:
            raise BadRequestError(f"the body is not CSV: {error}", remedy="Close every quoted cell.") from error
        known = {*self.file_columns, self.state["target"]["name"]}
        first = [cell.strip() for cell in rows[0]]
        if sum(cell in known for cell in first) * 2 > len(first):
            names, rows = first, rows[1:]
            missing = [name for name in self.columns if name not in names]
            if missing:
                raise BadRequestError(
                    f"the header lacks {missing[0]}",
                    field=missing[0],
                    remedy=f"Name these columns: {', '.join(self.columns)}.",
                )
        else:
            names = self._names_for(len(first), "row 1")
        if not rows:
            raise BadRequestError("there is a header and no row", remedy="Send at least one row.")
        for number, row in enumerate(rows, start=1):
            if len(row) != len(names):
                raise BadRequestError(
                    f"row {number} has {len(row)} cells, expected {len(names)}",
                    remedy=f"Send these columns in this order: {', '.join(names)}.",
                )
        return {name: [row[names.index(name)] for row in rows] for name in self.columns}

    def _names_for(self, cells: int, where: str) -> list[str]:
        """Return the columns of a row without names: as in the training file without its target, or only those used."""
        for names in (self.file_columns, self.columns):
            if len(names) == cells:
                return list(names)
        raise BadRequestError(
            f"{where} has {cells} cells, expected {len(self.file_columns)}",
            remedy=f"Send these columns in this order: {', '.join(self.file_columns)}.",
        )


def _json(text: str, line: int | None) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # the second: nested without end
        raise BadRequestError(
            "the body is not JSON" if line is None else f"line {line} is not JSON",
            remedy='Send an object like {"column": value} per row.',
        ) from error


def _fit_number(name: str, column: np.ndarray) -> dict[str, Any]:
    """Return fill value, scale and the edges of the piecewise-linear bins (quantiles, the tails apart)."""
    seen = np.sort(column[~np.isnan(column)])
    if not len(seen):
        seen = np.zeros(1)
    distinct = np.unique(seen)
    if len(distinct) <= MAX_BINS + len(_TAILS):
        edges = distinct
    else:
        points = sorted({*np.linspace(0, 1, MAX_BINS + 1).tolist(), *_TAILS})
        edges = np.unique(np.quantile(seen, points, method="nearest"))
    widths = np.diff(edges)
    edges = edges[np.concatenate([[True], widths > np.finfo(np.float64).tiny * 4])] if len(edges) > 1 else edges
    spread = max(
        abs(float(np.quantile(seen, 0.99)) - float(np.median(seen))),
        abs(float(np.median(seen)) - float(np.quantile(seen, 0.01))),
    )
    scale = spread or float(np.ptp(seen)) or 1.0
    return {
        "name": name,
        "fill": float(np.median(seen)),
        "center": float(np.median(seen)),
        "scale": scale,
        "missing_flag": bool(np.isnan(column).any()),
        "edges": [float(edge) for edge in edges],
    }


def _fit_categories(name: str, texts: list[str]) -> dict[str, Any]:
    """Return the vocabulary: the most frequent texts; rarer ones share one code with those never seen."""
    counts = Counter(text for text in texts if text)
    least = 1 if len(texts) < 1000 else 5
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {"name": name, "categories": [text for text, count in ranked[:MAX_CATEGORIES] if count >= least]}


def _fit_target(schema: Mapping[str, Any], values: Sequence[Any] | np.ndarray) -> dict[str, Any]:
    if "classes" in schema["target"]:
        return {"name": schema["target"]["name"], "classes": list(schema["target"]["classes"])}
    numbers = np.asarray(values, dtype=np.float64)
    low = float(numbers.min())
    plain, logged = abs(_skew(numbers)), abs(_skew(np.log1p(numbers - low)))
    log = plain > 1.0 and logged < plain / 2
    scaled = np.log1p(numbers - low) if log else numbers
    return {
        "name": schema["target"]["name"],
        "low": low,
        "high": float(numbers.max()),
        "log": bool(log),
        "center": float(scaled.mean()),
        "scale": float(scaled.std()) or 1.0,
        "skew": round(plain, 3),
        "skew_of_log": round(logged, 3),
    }


def _skew(numbers: np.ndarray) -> float:
    deviation = float(numbers.std())
    return float((((numbers - numbers.mean()) / deviation) ** 3).mean()) if deviation else 0.0
