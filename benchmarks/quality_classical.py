"""Tuned classical models on curated splits: quality_classical.py CURATED METRIC BUDGET_S, JSON on the last line.

Runs where the jobs' packages and scikit-learn are. Each model is tuned by its score on the validation rows; when the
budget of a data set is used, the settings that are left are not tried.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import OneHotEncoder, StandardScaler, TargetEncoder
from sklearn.svm import LinearSVC

from ebb_jobs import dataset, quality, tabular

SPLITS = ("train", "validation", "test")
MOST_LEVELS = 250
MANY_LEVELS = 64
"""Beyond so many a data scientist encodes by the target: scikit-learn's own encoder, cross-fitted."""


def main() -> None:
    """Fit, tune and print."""
    warnings.simplefilter("ignore")
    curated, metric, budget_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    schema = dataset.read_schema(curated)
    classes = schema["target"].get("classes")
    read = texts if schema.get("kind") == "text" else table
    found, truth = read(curated, schema)
    if classes:
        index = {label: number for number, label in enumerate(classes)}
        truth = {split: np.array([index[each] for each in values]) for split, values in truth.items()}
    contest = (
        text_models() if schema.get("kind") == "text" else table_models(metric, bool(classes), found["categories"])
    )
    deadline = time.monotonic() + budget_s
    models: dict[str, dict[str, Any]] = {}
    for name, setting, make, form in contest:
        if name in models and time.monotonic() > deadline:
            continue
        model = make()
        begun = time.monotonic()
        model.fit(found[form]["train"], truth["train"])
        scores = {
            split: score(metric, truth[split], model, found[form][split], len(classes or ()))
            for split in ("validation", "test")
        }
        print(f"  {name} {setting}: {scores['validation']:.4f} after {time.monotonic() - begun:.0f} s", file=sys.stderr)
        if name not in models or quality.is_better(metric, scores["validation"], models[name]["validation"]):
            models[name] = {**scores, "setting": setting, "seconds": round(time.monotonic() - begun, 1)}
    print(json.dumps({"models": models, "rows": {split: len(truth[split]) for split in SPLITS}}))


def score(metric: str, truth: np.ndarray, model: Any, rows: Any, classes: int) -> float:
    """Return the product's own metric of a model's answers."""
    if not classes:
        return quality.score(metric, truth.astype(np.float64), model.predict(rows))
    if hasattr(model, "predict_proba"):
        answers = np.zeros((len(truth), classes))
        answers[:, model.classes_] = model.predict_proba(rows)
    else:
        answers = np.eye(classes)[model.predict(rows)]
    return quality.score(metric, truth, answers)


def table(curated: Path, schema: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the columns as trees take them (codes, missing as NaN) and as linear models do (one-hot, scaled)."""
    reader = tabular.Preprocessor({"version": 1, "features": [], "numeric": [], "categorical": [], "target": {}})
    features, target = schema["features"], schema["target"]["name"]
    numbers: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    names: dict[str, list[list[str]]] = {split: [] for split in SPLITS}
    truth: dict[str, Any] = {}
    for split in SPLITS:
        columns = dataset.read_columns(curated, split, [*(each["name"] for each in features), target])
        truth[split] = np.asarray(columns[target])
        for each in features:
            values = columns[each["name"]]
            if each["kind"] in ("categorical", "boolean"):
                names[split].append([str(value) if value is not None else "" for value in values])
            else:
                numbers[split].append(reader.read_numbers(each, values))
    plain = {split: np.concatenate(numbers[split], 1) if numbers[split] else None for split in SPLITS}
    levels = [{text: code for code, text in enumerate(sorted(set(column))[:MOST_LEVELS])} for column in names["train"]]
    coded = {
        split: np.array(
            [[table.get(text, np.nan) for text in column] for table, column in zip(levels, names[split], strict=True)]
        ).T.reshape(len(truth[split]), -1)
        for split in SPLITS
    }
    many = [number for number, column in enumerate(names["train"]) if len(set(column)) > MANY_LEVELS]
    if many:
        encoder_ = TargetEncoder(random_state=7)
        for split in SPLITS:
            texts_ = np.array([names[split][number] for number in many], dtype=object).T
            learn = split == "train"
            means = encoder_.fit_transform(texts_, truth[split]) if learn else encoder_.transform(texts_)
            plain[split] = means if plain[split] is None else np.concatenate([plain[split], means], 1)
    width = 0 if plain["train"] is None else plain["train"].shape[1]
    trees = {
        split: np.concatenate([part for part in (plain[split], coded[split]) if part is not None], 1)
        for split in SPLITS
    }
    middle = np.nanmedian(trees["train"], 0)
    scaler = StandardScaler()
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False, max_categories=MOST_LEVELS)
    filled = {split: np.where(np.isnan(trees[split]), middle, trees[split]) for split in SPLITS}
    linear = {}
    for split in SPLITS:
        learn = split == "train"
        parts = []
        if width:
            part = filled[split][:, :width]
            parts.append(scaler.fit_transform(part) if learn else scaler.transform(part))
        if levels:
            texts_ = np.array(names[split], dtype=object).T
            parts.append(encoder.fit_transform(texts_) if learn else encoder.transform(texts_))
        linear[split] = np.concatenate(parts, 1)
    return {
        "trees": trees,
        "filled": filled,
        "linear": linear,
        "categories": list(range(width, width + len(levels))),
    }, truth


def texts(curated: Path, schema: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return whole texts and labels: nothing is cut."""
    column, target = schema["columns"][0], schema["target"]["name"]
    found: dict[str, Any] = {"texts": {}, "categories": []}
    truth = {}
    for split in SPLITS:
        source = f"read_parquet('{curated / f'{split}.parquet' / '*'}')"
        rows = duckdb.sql(f'SELECT "{column}", "{target}" FROM {source}').fetchall()
        found["texts"][split] = [text or "" for text, _ in rows]
        truth[split] = [label for _, label in rows]
    return found, truth


Contest = Iterator[tuple[str, str, Callable[[], Any], str]]


def table_models(metric: str, classified: bool, categories: list[int]) -> Contest:
    """Give (name, setting, maker, form of the rows), the settings that mostly win first."""
    weight = "balanced" if metric in ("f1_macro", "balanced_accuracy") else None
    forest = RandomForestClassifier if classified else RandomForestRegressor
    boosting = HistGradientBoostingClassifier if classified else HistGradientBoostingRegressor
    more = {"class_weight": weight} if classified else {}
    for rate, leaves in ((0.1, 31), (0.05, 63), (0.1, 15)):
        yield (
            "gradient boosting",
            f"rate {rate}, {leaves} leaves",
            lambda rate=rate, leaves=leaves: boosting(
                learning_rate=rate, max_leaf_nodes=leaves, max_iter=400, early_stopping=True, n_iter_no_change=20,
                categorical_features=categories or None, random_state=7, **more,
            ),
            "trees",
        )  # fmt: skip
        if (rate, leaves) != (0.1, 31):
            continue
        for least in (1, 3):
            forest_weight = {"class_weight": weight} if classified else {}
            yield (
                "random forest",
                f"300 trees, {least} rows a leaf",
                lambda least=least, w=forest_weight: forest(300, min_samples_leaf=least, n_jobs=2, random_state=7, **w),
                "filled",
            )
        for strength in (1.0, 10.0):
            yield (
                "logistic regression" if classified else "ridge regression",
                f"C {strength:g}",
                lambda strength=strength: (
                    LogisticRegression(C=strength, max_iter=400, class_weight=weight)
                    if classified
                    else Ridge(alpha=1 / strength)
                ),
                "linear",
            )


def text_models() -> Contest:
    """Give TF-IDF of words and of their pairs, and of characters too, under linear models."""
    words = {"sublinear_tf": True, "ngram_range": (1, 2), "min_df": 2, "max_features": 300_000}
    characters = {**words, "analyzer": "char_wb", "ngram_range": (3, 5), "min_df": 3}

    def features(both: bool) -> Any:
        return make_union(TfidfVectorizer(**words), TfidfVectorizer(**characters)) if both else TfidfVectorizer(**words)

    for both in (False, True):
        for strength in (1.0, 10.0):
            setting = f"C {strength:g}, words{' and characters' if both else ''}"
            yield (
                "TF-IDF and SVM", setting,
                lambda both=both, strength=strength: make_pipeline(features(both), LinearSVC(C=strength)), "texts",
            )  # fmt: skip
        yield (
            "TF-IDF and logistic", f"C 30, words{' and characters' if both else ''}",
            lambda both=both: make_pipeline(features(both), LogisticRegression(C=30, max_iter=300)), "texts",
        )  # fmt: skip


if __name__ == "__main__":
    main()
