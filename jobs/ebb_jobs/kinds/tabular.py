"""Tables: rows of named values."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebb_jobs import dataset, gradient, knobs, ladder, linear, networks, spelling, tabular, target_means, trees
from ebb_jobs.bodies import Body, filled
from ebb_jobs.dataset import Columns, Split
from ebb_jobs.kind import KindRecipe
from ebb_jobs.knobs import Turned
from ebb_jobs.ladder import Rung
from ebb_jobs.networks import Mlp, Network
from ebb_jobs.report import Report
from ebb_jobs.tabular import Preprocessor

STUDENT_SHARES = (0.3, 0.5)
"""Widths to try, as shares of the original's: the wider one only when the narrow one may lose too much."""
WIDE, WIDES_SHARES = 1024, (0.125, 0.1875)
"""Of an original that is as wide, narrower students still learn as much: the work falls with the square."""

SMALL_SHARE, SMALL_STEPS = 0.5, 0.6
"""Width and steps of the smaller network, as shares of the larger one's."""
TAIL_BINS = 2
"""At each end of a number's bins: beyond the last hundredth the scaled number is cut off, and only they tell more."""


def batch_size(rows: int) -> int:
    """Return the batch size for that many rows: enough steps for few rows, enough work per step for many."""
    return next(
        (size for limit, size in ((2_000, 32), (8_000, 64), (30_000, 128), (200_000, 256)) if rows < limit), 1024
    )


def student_sizes(teacher: Mlp, share: float) -> list[int]:
    """Return the student's layers: two instead of three, and a share of the width, in multiples of 16."""
    width = max(32, round(teacher.sizes[1] * share / 16) * 16)
    return [width, width]


def tree_columns(codec: Preprocessor) -> np.ndarray:
    """Return the columns of the encoded input that trees look at: all but the bins in the middle of each number."""
    numeric = codec.state["numeric"]
    start = len(numeric) + sum(item["missing_flag"] for item in numeric)
    kept = list(range(start))
    for item in numeric:
        bins = len(item["edges"]) - 1
        kept += [start + place for place in range(bins) if place < TAIL_BINS or place >= bins - TAIL_BINS]
        start += bins
    return np.array([*kept, *range(start, codec.width)], dtype=np.intp)


def _of_means(judged: target_means.Judged) -> str:
    """Return why the means of a column of many categories are used or left out."""
    told = f"beyond its {tabular.MAX_CATEGORIES} most frequent texts it explains {judged.gain:.1%} of the target"
    if judged.gain < target_means.LEAST_GAIN:
        return f"{told}, of rows that had no part in the means: less than {target_means.LEAST_GAIN:.0%} is mostly noise"
    if not judged.pays:
        return f"{told}, but {judged.validation or 0:.1%} in the validation rows: they do not hold for new rows"
    return (
        f"{told}, {judged.validation or 0:.1%} in the validation rows: each text is known by its rows' mean target too"
    )


class TabularKind:
    """Preprocessing as data, a multilayer perceptron, ONNX Runtime."""

    name = "tabular"
    codec_module = "tabular"
    code = (tabular, spelling)
    recipe = KindRecipe(
        steps=5000,
        student_steps=4500,
        peak_rate=2e-3,
        student_peak_rate=4e-3,
        batch_size=batch_size,
        students_follow_precision=False,
        # Of letters, 128 instead of 1,024 units lost 0.6 points on validation; at 2.0 and 0.7 they lost 0.9, and by the
        # labels alone 1.1.
        temperature=4.0,
        soft_share=0.9,
    )
    runtimes = ("onnxruntime",)
    quantized_operators = ("Gemm", "MatMul", "Relu")
    skipped = {  # noqa: RUF012 - read only
        "prune": "a narrower student takes its place: plain layers lose nothing by being trained narrow at once",
        "dynamic": "rows are small and alike, so static scales hold; finding them per row costs more than it saves",
        "openvino": "ONNX Runtime answers a row in some 10 microseconds, of which the network is the smaller part",
    }
    trains_itself = False

    def fit_codec(self, curated: Path, schema: dict[str, Any], report: Report) -> Preprocessor:
        """Learn scales, bins and vocabularies from the training rows, and what the target was in rare categories."""
        target = schema["target"]["name"]
        columns = dataset.read_columns(curated, "train", [*(feature["name"] for feature in schema["features"]), target])
        raw = columns.pop(target)
        preprocessor = Preprocessor.fit(schema, columns, raw)
        texts = [feature["name"] for feature in schema["features"] if feature["kind"] == "categorical"]
        if texts:
            held = dataset.read_columns(curated, "validation", [*texts, target])
            preprocessor, judged = target_means.fit(preprocessor, columns, raw, held, held[target])
            for each in judged:
                chosen = "used" if each.pays else "left out"
                report.decide(f"target means of {each.name}", chosen, _of_means(each), numbers=each._asdict())
        fitted = preprocessor.state["target"]
        if "classes" not in fitted:
            report.decide(
                "target scale",
                "logarithm" if fitted["log"] else "plain",
                "the target is standardised" + (" after a logarithm, which halves its skew" if fitted["log"] else ""),
                numbers={"skew": fitted["skew"], "skew_of_log": fitted["skew_of_log"]},
            )
        return preprocessor

    def open_codec(self, folder: Path) -> Preprocessor:
        """Return the preprocessor of a folder."""
        return tabular.open_codec(folder)

    def read_split(self, curated: Path, split: str, codec: Preprocessor) -> Split:
        """Return one split: inputs float32 [rows, width]."""
        target = codec.state["target"]["name"]
        columns = dataset.read_columns(curated, split, [*codec.columns, target])
        raw = np.asarray(columns.pop(target))
        means = target_means.for_training(codec, columns, raw) if split == "train" else {}
        return Split(dataset.encode(codec, columns, means), codec.encode_target(raw), raw)

    def singles(self, curated: Path, split: str, codec: Preprocessor, count: int) -> list[Columns]:
        """Return the first rows, null where a value is missing."""
        rows = dataset.rows_of(dataset.read_columns(curated, split, codec.columns, limit=count), count)
        return [{name: [value] for name, value in row.items()} for row in rows]

    def join(self, singles: list[Columns]) -> Columns:
        """Return the rows' columns."""
        return {name: [value for one in singles for value in one[name]] for name in singles[0]}

    def bodies(self, codec: Preprocessor, singles: list[Columns]) -> list[Body]:
        """Return all rows as JSON and as CSV."""
        rows = [{name: values[0] for name, values in one.items()} for one in singles]

        def table(some: list[dict[str, Any]]) -> bytes:
            written = io.StringIO()
            writer = csv.writer(written)
            writer.writerow(codec.columns)
            writer.writerows([[tabular.text_of(row[name]) for name in codec.columns] for row in some])
            return written.getvalue().encode()

        return [
            *filled("application/json", lambda some: json.dumps({"instances": some}).encode(), rows),
            *filled("text/csv", table, rows),
        ]

    def rungs(self, codec: Preprocessor, training: Split) -> list[Rung]:
        """Return a linear model over the bins, boosted trees, a small and a larger network."""

        def shaped(plain: Mlp, turned: Turned) -> Mlp:
            if not {knobs.WIDTH.name, knobs.DEPTH.name} & turned.keys():
                return plain
            depth = round(turned.get(knobs.DEPTH.name, len(plain.sizes) - 2))
            width = max(16, round(plain.sizes[1] * knobs.of(turned, knobs.WIDTH) / 16) * 16)
            return Mlp(plain.sizes[0], [width] * depth, plain.sizes[-1])

        def small(turned: Turned) -> Mlp:
            large = self.original(codec, training)
            return shaped(Mlp(codec.width, student_sizes(large, SMALL_SHARE), large.sizes[-1]), turned)

        def large(turned: Turned) -> Mlp:
            return shaped(self.original(codec, training), turned)

        return [
            Rung("linear", ladder.LINEAR, linear.fit_table, linear.load),
            trees.rung(tree_columns(codec)),
            gradient.rung("small-net", small, knobs.SMALL_TABLE_NETWORK, steps=SMALL_STEPS),
            gradient.rung("net", large, knobs.TABLE_NETWORK),
        ]

    def original(self, codec: Preprocessor, training: Split) -> Mlp:
        """Return three hidden layers, wider where there are more rows."""
        return Mlp(codec.width, networks.hidden_sizes(len(training)), len(codec.state["target"].get("classes", [0])))

    def students(self, teacher: Network, codec: Preprocessor, training: Split) -> list[Callable[[], Network]]:
        """Return two hidden layers, narrow and wider."""
        assert isinstance(teacher, Mlp)
        shares = (*WIDES_SHARES, *STUDENT_SHARES) if teacher.sizes[1] >= WIDE else STUDENT_SHARES
        return [partial(Mlp, codec.width, student_sizes(teacher, share), teacher.sizes[-1]) for share in shares]

    def prune(self, network: Network, share: float, example: Tensor) -> None:
        """Prune nothing: see `skipped`."""

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return the rows as they are: their values mean what they say."""
        return inputs

    def misfit(self, signature: dict[str, Any], schema: dict[str, Any]) -> str | None:
        """Return which column or class the served model wants that this data has not."""
        mine = {feature["name"]: feature["kind"] for feature in schema["features"]}
        for feature in signature["features"]:
            if mine.get(feature["name"]) != feature["kind"]:
                return f"the served model wants a {feature['kind']} column {feature['name']!r}: this data has none"
        return None


KIND = TabularKind()
