"""Columns of many categories, known by the mean of the target: learned without a row's own answer, served alike."""

import json
import random

import duckdb
import numpy as np
import pytest

from ebb_jobs import dataset, target_means, warm
from ebb_jobs.kinds.tabular import KIND
from ebb_jobs.report import Report
from ebb_jobs.tabular import MAX_CATEGORIES, Preprocessor

TEXTS = 300
FEATURES = [{"name": "size", "kind": "numeric"}, {"name": "shop", "kind": "categorical"}]


def schema_of(classes=None):
    target = {"name": "paid", **({"classes": classes} if classes else {})}
    return {
        "kind": "tabular",
        "task": f"tabular-{'classification' if classes else 'regression'}",
        "target": target,
        "features": FEATURES,
    }


def rows_of(count, seed, effect=1.0, classes=None):
    """Return columns and targets; shop number n pays n hundredths more, times `effect`, beside noise."""
    rng = random.Random(seed)
    shops = [rng.randrange(TEXTS) for _ in range(count)]
    paid = [effect * shop / 100 + rng.gauss(0, 0.5) for shop in shops]
    if classes:
        paid = [classes[sum(value > limit for limit in range(1, len(classes)))] for value in paid]
    columns = {"size": np.array([rng.gauss(0, 1) for _ in shops]), "shop": [f"shop {shop}" for shop in shops]}
    return columns, paid


def fitted(effect=1.0, classes=None, held=None):
    columns, paid = rows_of(6000, 0, effect, classes)
    codec = Preprocessor.fit(schema_of(classes), columns, paid)
    return columns, paid, *target_means.fit(codec, columns, paid, *(held or rows_of(1500, 1, effect, classes)))


def test_texts_beyond_the_most_frequent_are_known_by_their_means():
    columns, _, codec, judged = fitted()
    assert [(each.name, each.texts, each.pays) for each in judged] == [("shop", TEXTS, True)]
    rare = sorted(codec.means["shop"]["texts"], key=columns["shop"].count)[:-MAX_CATEGORIES]
    means = [codec.means["shop"]["texts"][text][0] for text in rare]
    assert np.corrcoef(means, [int(text.split()[1]) for text in rare])[0, 1] > 0.95
    low, high = (codec.encode({"size": [0.0], "shop": [f"shop {number}"]}) for number in (3, 297))
    place = len(codec.state["numeric"]) - 1
    assert low[0, place] < -0.3 < 0.3 < high[0, place]


def test_what_says_nothing_is_left_out_and_the_codec_is_as_it_was():
    columns, paid, codec, judged = fitted(effect=0.0)
    assert not judged[0].pays
    assert judged[0].gain < target_means.LEAST_GAIN
    assert codec.state == Preprocessor.fit(schema_of(), columns, paid).state


def test_what_does_not_hold_for_the_validation_rows_is_left_out():
    columns, paid = rows_of(1500, 1)  # as where a group, or a time, has shops of its own
    _, _, codec, judged = fitted(held=({**columns, "shop": [f"new {shop}" for shop in columns["shop"]]}, paid))
    assert judged[0].gain > target_means.LEAST_GAIN > judged[0].validation
    assert not codec.means


def test_few_texts_have_inputs_of_their_own_and_no_means():
    columns, paid = rows_of(2000, 0)
    columns["shop"] = [f"shop {int(text.split()[1]) % MAX_CATEGORIES}" for text in columns["shop"]]
    codec = Preprocessor.fit(schema_of(), columns, paid)
    assert target_means.fit(codec, columns, paid, columns, paid) == (codec, [])


def test_a_training_row_has_no_part_in_its_own_mean():
    columns, paid, codec, _ = fitted()
    before = target_means.for_training(codec, columns, paid)["shop"]
    changed = [paid[0] + 100.0, *paid[1:]]
    after = target_means.for_training(codec, columns, changed)["shop"]
    fold = np.arange(len(paid)) % target_means.FOLDS == 0
    assert (before[fold] == after[fold]).all()  # its own row, and those of its fold
    others = ~fold & (np.array(columns["shop"]) == columns["shop"][0])
    assert (before[others] != after[others]).all()


def test_means_of_texts_that_say_nothing_do_not_tell_a_training_row_its_answer():
    rng = np.random.default_rng(0)
    codes, answers = rng.integers(2000, size=6000), rng.normal(size=(6000, 1))
    own = target_means.out_of_fold(codes, answers, 1.0)
    with_own = np.array([answers[codes == code].mean() for code in codes])
    assert np.corrcoef(with_own, answers[:, 0])[0, 1] > 0.5  # what would have leaked
    assert np.corrcoef(own[:, 0], answers[:, 0])[0, 1] < 0.05


@pytest.mark.parametrize("shop", ["never seen", None, "", "n/a"])
def test_an_unseen_or_missing_text_is_answered_by_the_mean_of_all_rows(shop):
    _, _, codec, _ = fitted()
    place = len(codec.state["numeric"]) - 1
    item = codec.state["numeric"][place]
    expected = (codec.means["shop"]["overall"][0] - item["center"]) / item["scale"]
    assert codec.encode({"size": [0.0], "shop": [shop]})[0, place] == pytest.approx(expected, abs=1e-6)


def test_a_rare_text_is_drawn_towards_the_mean_of_all_rows():
    wanted = np.array([[1.0], [1.0], *[[value % 2] for value in range(98)]])
    codes = np.array([0, 0, *[1] * 98])
    shrunk = target_means._means(codes, wanted, 2, 8.0)
    overall = wanted.mean()
    assert shrunk[0, 0] == pytest.approx((2 + 8 * overall) / 10)
    assert abs(shrunk[1, 0] - 0.5) < 0.01
    assert shrunk[2, 0] == pytest.approx(overall)


def test_each_class_has_its_share_even_a_small_one():
    classes = ["none", "little", "much"]
    columns, paid, codec, judged = fitted(classes=classes)
    assert judged[0].pays
    assert [item["name"] for item in codec.state["numeric"][1:]] == [f"shop: share of {label}" for label in classes]
    assert all(sum(shares) == pytest.approx(1, abs=1e-5) for shares in codec.means["shop"]["texts"].values())
    rare = [each if number else "tiny" for number, each in enumerate(paid)]  # a class of a single row
    small = Preprocessor.fit(schema_of([*classes, "tiny"]), columns, rare)
    coded, _ = target_means.fit(small, columns, rare, *rows_of(1500, 1, classes=classes))
    assert np.isfinite(dataset.encode(coded, columns, target_means.for_training(coded, columns, rare))).all()


def test_two_classes_need_one_share():
    _, _, codec, _ = fitted(classes=["no", "yes"])
    assert [item["name"] for item in codec.state["numeric"][1:]] == ["shop: share of yes"]


def test_many_classes_are_left_to_the_frequent_texts():
    classes = [f"class {number:02}" for number in range(target_means.MOST_CLASSES + 1)]
    columns, _ = rows_of(600, 0)
    labels = [classes[number % len(classes)] for number in range(600)]
    codec = Preprocessor.fit(schema_of(classes), columns, labels)
    assert target_means.fit(codec, columns, labels, columns, labels) == (codec, [])


def test_the_stages_read_training_rows_out_of_fold_and_all_others_as_they_are_served(tmp_path):
    sides = {"train": rows_of(6000, 0), "validation": rows_of(1500, 1), "test": rows_of(1500, 2)}
    for split, (columns, paid) in sides.items():
        (tmp_path / f"{split}.parquet").mkdir()
        with duckdb.connect() as connection:
            connection.execute("CREATE TABLE rows (size DOUBLE, shop VARCHAR, paid DOUBLE)")
            connection.executemany(
                "INSERT INTO rows VALUES (?, ?, ?)",
                list(zip(columns["size"].tolist(), columns["shop"], paid, strict=True))[:2000],
            )
            connection.execute(f"COPY rows TO '{tmp_path / f'{split}.parquet' / '0.parquet'}' (FORMAT parquet)")
    report = Report("train")
    codec = KIND.fit_codec(tmp_path, schema_of(), report)
    told = next(each for each in report.decisions if each["what"] == "target means of shop")
    assert told["chosen"] == "used"
    assert json.loads(json.dumps(told, allow_nan=False))["numbers"]["gain"] > target_means.LEAST_GAIN
    served = Preprocessor(json.loads(codec.files()["preprocess.json"]))  # as it travels in the bundle
    for split in ("validation", "test"):
        read = KIND.read_split(tmp_path, split, codec).inputs
        singles = KIND.singles(tmp_path, split, codec, 200)
        alone = np.concatenate([served.encode(one) for one in singles])
        assert read[:200].tobytes() == alone.tobytes()
        for body, media_type, _ in KIND.bodies(codec, singles[:8]):
            assert served.encode(served.parse(body, media_type)).tobytes() in read.tobytes()
    training = KIND.read_split(tmp_path, "train", codec).inputs
    columns = dataset.read_columns(tmp_path, "train", codec.columns)
    assert (training != served.encode(columns)).any(axis=1).mean() > 0.9


def test_a_model_that_knows_categories_by_means_of_older_rows_is_no_start(tmp_path):
    """A category that came since would be known while training and unknown when served."""
    _, _, codec, _ = fitted()
    schema = {"task": "tabular-regression", "features": [], "target": {"name": "paid"}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    (tmp_path / "original.onnx").touch()
    report = Report("train")
    assert warm.found(tmp_path, schema, report) == tmp_path
    (tmp_path / "preprocess.json").write_bytes(codec.files()["preprocess.json"])
    assert warm.found(tmp_path, schema, report) is None
    assert "mean of the target over its own rows (shop)" in report.decisions[-1]["reason"]
