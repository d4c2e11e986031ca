import gzip
import json
import random

import duckdb
import pytest

from ebb_jobs.process_texts import MAX_TEXT_BYTES
from unit.jobs.test_process import process, rejection, schema_of, splits_of
from unit.jobs.test_process_images import zipped

GOOD_WORDS = ["great", "lovely", "fine", "perfect", "kind", "warm"]
BAD_WORDS = ["awful", "broken", "late", "cold", "rude", "poor"]
OTHER_WORDS = ["the", "room", "food", "was", "and", "staff", "very", "place", "we", "our"]


def review(n):
    drawn = random.Random(n)
    label = "good" if n % 3 else "bad"
    words = drawn.choices(OTHER_WORDS, k=7) + drawn.choices(GOOD_WORDS if n % 3 else BAD_WORDS, k=4)
    drawn.shuffle(words)
    return " ".join(words), label


REVIEWS = [review(n) for n in range(300)]


def table(rows=REVIEWS, *, header="text,label", row='"{0}",{1}'):
    return header + "\n" + "".join(row.format(*cells) + "\n" for cells in rows)


def decision(ended, what):
    assert ended.status == 0, ended.failure
    return next(each for each in ended.metrics()["decisions"] if each["what"] == what)


def kept(ended):
    assert ended.metrics()["status"] == "finished", ended.metrics()["rejection"]
    return sorted(row for rows in splits_of(ended).values() for row in rows)


@pytest.mark.parametrize(
    ("name", "content", "spec"),
    [
        pytest.param("r.csv", table(), {}, id="text and label"),
        pytest.param("r.csv", table(header="category,body", row='{1},"{0}"'), {}, id="no usual name, text last"),
        pytest.param(
            "r.csv",
            table([(n, *cells) for n, cells in enumerate(REVIEWS)], header="id,review,label", row='{0},"{1}",{2}'),
            {},
            id="a row number beside",
        ),
        pytest.param("r.jsonl", "".join(json.dumps({"t": t, "label": c}) + "\n" for t, c in REVIEWS), {}, id="jsonl"),
        pytest.param("r.csv.gz", gzip.compress(table().encode()), {}, id="gzip"),
        pytest.param("r.zip", zipped({"folder/r.csv": table().encode()}), {}, id="in a zip"),
        pytest.param(
            "r.csv",
            table([(t, n % 7, c) for n, (t, c) in enumerate(REVIEWS)], header="t,stars,label", row='"{0}",{1},{2}'),
            {"task": "text-classification"},
            id="a number beside, and the task in the spec",
        ),
        pytest.param(
            "r.csv",
            table([(t, n % 7, c) for n, (t, c) in enumerate(REVIEWS)], header="kind,stars,t", row='{2},{1},"{0}"'),
            {"data": {"input": "t", "target": "kind"}},
            id="the columns in the spec",
        ),
        pytest.param(
            "r.csv",
            table(header="kind,words", row='{1},"{0}"'),
            {"data": {"input": "words"}},
            id="the text in the spec, in the place of the target",
        ),
    ],
)
def test_texts_are_known_however_they_are_dropped(tmp_path, name, content, spec):
    ended = process(tmp_path, content, name=name, spec=spec)
    assert kept(ended) == sorted(set(REVIEWS))
    schema = schema_of(ended)
    assert (schema["kind"], schema["task"]) == ("text", "text-classification")
    assert schema["columns"] == ["text"]
    assert schema["target"]["classes"] == ["bad", "good"]
    metrics = ended.metrics()
    assert metrics["task"] == "text-classification"
    assert metrics["rows"]["kept"] == len(set(REVIEWS))
    assert decision(ended, "input")["numbers"]["words"] == 11
    for split in ("train", "validation", "test"):
        columns = duckdb.sql(
            f"DESCRIBE SELECT * FROM '{ended.base}/processing/output/curated/{split}.parquet/*.parquet'"
        ).fetchall()
        assert [column[:2] for column in columns] == [("text", "VARCHAR"), (schema["target"]["name"], "VARCHAR")]


def test_a_table_with_something_else_to_learn_from_stays_a_table(tmp_path):
    rows = [(t, n % 7, c) for n, (t, c) in enumerate(REVIEWS)]
    ended = process(tmp_path, table(rows, header="t,stars,label", row='"{0}",{1},{2}'))
    assert schema_of(ended)["kind"] == "tabular"


def test_words_that_mean_missing_elsewhere_are_texts_here(tmp_path):
    rows = [*REVIEWS, ("none", "bad"), ("N/A", "good"), ("?", "bad")]
    assert {("none", "bad"), ("N/A", "good"), ("?", "bad")} <= {*kept(process(tmp_path, table(rows)))}


def test_equal_texts_are_kept_once_and_few_contradictions_left_out(tmp_path):
    text, label = REVIEWS[0]
    rows = [*REVIEWS, *REVIEWS[:20], (text, "good" if label == "bad" else "bad")]
    ended = process(tmp_path, table(rows))
    assert len(kept(ended)) == len(set(REVIEWS)) - 1
    assert text not in {found for found, _ in kept(ended)}
    assert ended.metrics()["rows"]["duplicates"] == len(rows) - len(set(REVIEWS)) - 1
    assert decision(ended, "contradictions")["chosen"] == 2


@pytest.mark.parametrize(("names", "cut"), [(("train", "val", "test"), False), (("train", "train", "test"), True)])
def test_given_splits_are_kept(tmp_path, names, cut):
    rows = [(*cells, names[n // 7 % 3]) for n, cells in enumerate(dict.fromkeys(REVIEWS))]
    ended = process(tmp_path, table(rows, header="text,label,Split", row='"{0}",{1},{2}'))
    kept(ended)
    found = splits_of(ended)
    assert {*found["test"]} == {row[:2] for row in rows if row[2] == "test"}
    if cut:
        assert 3 <= len(found["validation"]) < 80
    else:
        assert {*found["validation"]} == {row[:2] for row in rows if row[2] == "val"}
    assert decision(ended, "split")["chosen"] == "as given"


def test_a_text_keeps_its_split_when_others_come(tmp_path):
    places = []
    for name, rows in (("few", REVIEWS[:200]), ("more", REVIEWS)):
        found = splits_of(process(tmp_path / name, table(rows)))
        places.append({row: split for split, rows in found.items() for row in rows})
    assert all(places[1][row] == split for row, split in places[0].items())


def text_at(index, text, label=None):
    rows = list(REVIEWS)
    rows[index] = (text, label or rows[index][1])
    return rows


LONG = "word " * (MAX_TEXT_BYTES // 5) + "more"
TEXTS = {"task": "text-classification"}


@pytest.mark.parametrize(
    ("content", "spec", "code", "line"),
    [
        pytest.param(table(text_at(100, "")), {}, "text-empty", 102, id="an empty text"),
        pytest.param(table(text_at(100, " \t ")), {}, "text-empty", 102, id="a text of spaces"),
        pytest.param(table(text_at(100, LONG)), {}, "text-too-long", 102, id="an enormous text"),
        pytest.param(table(text_at(100, "é" * (MAX_TEXT_BYTES // 2 + 1))), TEXTS, "text-too-long", 102, id="in bytes"),
        pytest.param(table([(t, "good") for t, _ in REVIEWS]), {}, "one-class", None, id="one class"),
        pytest.param(table(text_at(100, "a few words more", "odd")), {}, "too-few-rows", None, id="a rare class"),
        pytest.param(table(REVIEWS[:20]), TEXTS, "too-few-rows", None, id="too few texts"),
        pytest.param(
            table([(t, n) for n, (t, _) in enumerate(REVIEWS)]),
            TEXTS,
            "too-many-classes",
            None,
            id="numbers to predict",
        ),
        pytest.param(
            table([(t, f"{n}.5") for n, (t, _) in enumerate(REVIEWS)]), {}, "too-many-classes", None, id="quantities"
        ),
        pytest.param(
            table([*REVIEWS, *((t, "bad" if c == "good" else "good") for t, c in REVIEWS[:9])]),
            {},
            "contradicting-labels",
            2,
            id="texts under two labels",
        ),
        pytest.param(
            table(
                [(*c, s) for s, rows in (("train", REVIEWS), ("test", REVIEWS[:30])) for c in rows],
                header="text,label,split",
                row='"{0}",{1},{2}',
            ),
            {},
            "duplicates-across-splits",
            2,
            id="the same texts in train and test",
        ),
        pytest.param(
            table(
                [(*c, "train") for c in REVIEWS] + [(REVIEWS[7][0].upper(), REVIEWS[7][1], "test")] * 2,
                header="text,label,split",
                row='"{0}",{1},{2}',
            ),
            {},
            "duplicates-across-splits",
            9,
            id="the same text in capitals",
        ),
        pytest.param(table(), {"data": {"input": "body"}}, "input-missing", None, id="no such column"),
        pytest.param(
            "label\n" + "".join(f"{label}\n" for _, label in REVIEWS), TEXTS, "no-feature", None, id="no text at all"
        ),
    ],
)
def test_rejections(tmp_path, content, spec, code, line):
    found = rejection(process(tmp_path, content, spec=spec))
    assert (found["code"], found["line"]) == (code, line)
    assert found["remedy"]
    assert not any(word in found["message"].split() for word in (*GOOD_WORDS, *BAD_WORDS))


def test_an_empty_text_in_jsonl_is_named_by_its_line(tmp_path):
    lines = [json.dumps({"t": t, "label": c}) for t, c in REVIEWS]
    lines[50] = json.dumps({"label": "good"})
    found = rejection(process(tmp_path, "\n".join(lines) + "\n", name="r.jsonl"))
    assert (found["code"], found["line"], found["file"]) == ("text-empty", 51, "project/data/r.jsonl")


def test_texts_that_the_tokenizer_makes_equal_are_one(tmp_path):
    first, label = REVIEWS[0]
    forms = [
        first,
        first.upper(),
        first.replace(" ", "  "),
        first.replace(" ", "\u00a0"),
        f"{first} ",
        "\uff47" + first,
    ]
    ended = process(tmp_path, table([*REVIEWS, *((text, label) for text in forms), ("g" + first, label)]))
    assert ended.metrics()["rejection"] is None
    assert ended.metrics()["rows"]["kept"] == len({text for text, _ in REVIEWS}) + 1
