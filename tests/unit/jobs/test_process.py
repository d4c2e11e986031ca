import gzip
import hashlib
import json

import duckdb
import pytest

from ebb_jobs import process_guess, tables
from ebb_jobs.infer import task_of_values
from ebb_jobs.precheck import check
from unit.jobs.stages import DATA, run_stage_here

ROWS = [f"{n % 37},{(n * 7919) % 1000 / 10},{'abc'[n % 3]},{'yes' if (n * 7919) % 5 > 1 else 'no'}" for n in range(400)]
HEADER = "count,size,kind,label"
GOOD = "\n".join([HEADER, *ROWS]) + "\n"


def with_row(index, row):
    lines = GOOD.splitlines()
    lines[index] = row
    return "\n".join(lines) + "\n"


def process(tmp_path, content, *, name="t.csv", spec=None, sources=None, more=()):
    data = tmp_path / "data/project/data"
    data.mkdir(parents=True)
    for file, text in ((name, content), *more):
        (data / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources/sources.json").write_text(json.dumps(sources or {}))
    inputs = {name: tmp_path / name for name in ("data", "sources")}
    return run_stage_here(tmp_path / "job", "process", inputs, {"spec": spec or {}})


def schema_of(ended):
    return json.loads((ended.base / "processing/output/curated/schema.json").read_text())


def splits_of(ended, columns="*"):
    folder = ended.base / "processing/output/curated"
    return {
        split: duckdb.sql(f"SELECT {columns} FROM read_parquet('{folder}/{split}.parquet/*')").fetchall()
        for split in ("train", "validation", "test")
    }


def rejection(ended):
    assert ended.status == 0, ended.log
    metrics = ended.metrics()
    assert metrics["status"] == "rejected"
    assert not list((ended.base / "processing/output/curated").iterdir()), "a rejected drop leaves no data"
    return metrics["rejection"]


REGRESSION = {"task": "tabular-regression"}


@pytest.mark.parametrize(
    ("content", "spec", "code", "line"),
    [
        pytest.param(with_row(350, "1,2,a"), {}, "ragged-row", 351, id="a row with a cell too few"),
        pytest.param(
            with_row(350, '1,"2\n\n",a,yes,more'), {}, "ragged-row", 351, id="a cell too many, newlines in it"
        ),
        pytest.param(with_row(300, '1,2,"a,yes'), {}, "bad-quotes", 301, id="a quote that never closes"),
        pytest.param(with_row(200, "1,2,é,yes").encode("latin-1"), {}, "not-utf8", 201, id="not UTF-8"),
        pytest.param(GOOD, {"data": {"target": "price"}}, "target-missing", None, id="no such target"),
        pytest.param(with_row(120, "1,2,a,"), {}, "target-empty", 121, id="an empty target"),
        pytest.param(with_row(120, "1,2,a,NaN"), {}, "target-empty", 121, id="a NaN target"),
        pytest.param(GOOD.replace("yes", "no"), {}, "one-class", None, id="one class"),
        pytest.param(with_row(10, "1,2,a,maybe"), {}, "too-few-rows", None, id="a class with one row"),
        pytest.param("\n".join([HEADER, *ROWS[:20]]) + "\n", {}, "too-few-rows", None, id="too few rows"),
        pytest.param(GOOD, REGRESSION, "target-not-number", None, id="words for a regression"),
        pytest.param(HEADER + "\n", {}, "no-rows", None, id="header only"),
        pytest.param("", {}, "empty-file", None, id="empty"),
        pytest.param(
            "id,same,label\n" + "".join(f"{n},x,{'yn'[n % 2]}\n" for n in range(200)),
            {},
            "no-feature",
            None,
            id="no feature",
        ),
        pytest.param(
            "a,name\n" + "".join(f"{n},n{n}\n" for n in range(200)), {}, "too-many-classes", None, id="names as target"
        ),
        pytest.param("a,a,b\n1,2,3\n", {}, "duplicate-column", 1, id="a column twice"),
    ],
)
def test_rejections(tmp_path, content, spec, code, line):
    found = rejection(process(tmp_path, content, spec=spec))
    assert (found["code"], found["line"]) == (code, line)
    assert found["message"]
    assert found["remedy"]


def test_a_file_that_changed_since_it_was_identified(tmp_path):
    sources = {"project/data/t.csv": hashlib.sha256(b"other").hexdigest()}
    assert rejection(process(tmp_path, GOOD, sources=sources))["code"] == "changed"


def test_a_file_that_is_gone(tmp_path):
    sources = {"project/data/other.csv": hashlib.sha256(GOOD.encode()).hexdigest()}
    found = rejection(process(tmp_path, GOOD, sources=sources))
    assert (found["code"], found["file"]) == ("deleted", "project/data/other.csv")


def test_a_file_of_the_same_bytes_is_read(tmp_path):
    ended = process(tmp_path, GOOD, sources={"project/data/t.csv": hashlib.sha256(GOOD.encode()).hexdigest()})
    assert ended.metrics()["status"] == "finished"


def test_files_with_other_columns(tmp_path):
    found = rejection(process(tmp_path, GOOD, more=[("u.csv", "count,size,label\n1,2,yes\n")]))
    assert (found["code"], found["file"], found["column"]) == ("columns-differ", "project/data/u.csv", "3")


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        pytest.param({}, lambda n: f"name {n}", id="too many classes"),
        pytest.param({}, lambda n: "no", id="one class"),
        pytest.param({}, lambda n: "yes" if n == 3 else "no", id="a rare class"),
        pytest.param({}, lambda n: "" if n == 3 else "no", id="a missing target"),
        pytest.param({"task": "tabular-regression"}, lambda n: "no", id="no number"),
    ],
)
def test_a_row_that_stands_for_the_header_is_not_quoted(tmp_path, spec, label):
    lines = ["Jane,Mary Smith", *(f"c{n % 7},{label(n)}" for n in range(60))]
    found = json.dumps(rejection(process(tmp_path, "\n".join(lines) + "\n", spec=spec)))
    assert "Smith" not in found
    assert "Jane" not in found


def test_files_of_two_formats(tmp_path):
    assert rejection(process(tmp_path, GOOD, more=[("u.jsonl", '{"a": 1}\n')]))["code"] == "mixed-formats"


def test_cut_gzip(tmp_path):
    assert rejection(process(tmp_path, gzip.compress(GOOD.encode())[:-12], name="t.csv.gz"))["code"] == "broken-gzip"


def test_broken_parquet(tmp_path):
    assert rejection(process(tmp_path, b"PAR1" + b"x" * 50 + b"PAR1", name="t.parquet"))["code"] == "not-parquet"


def test_a_broken_json_line_is_named(tmp_path):
    lines = [json.dumps({"a": n, "label": "yn"[n % 2]}) for n in range(100)]
    lines[70] = '{"a": 1, "label"'
    found = rejection(process(tmp_path, "\n".join(lines), name="t.jsonl"))
    assert (found["code"], found["line"]) == ("bad-json", 71)


def test_no_rejection_holds_a_value_of_the_data(tmp_path):
    secret = "4111111111111111"
    found = rejection(process(tmp_path, with_row(300, f'{secret},"{secret}"{secret},a,yes')))
    assert secret not in json.dumps(found)


def as_jsonl(text):
    names, *rows = (line.split(",") for line in text.strip().splitlines())
    rows = ([int(a), float(b), c, d] for a, b, c, d in rows)
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows).encode()


def as_parquet(text, folder):
    (folder / "source.csv").write_text(text)
    source = f"read_csv('{folder}/source.csv', types={{'label': 'VARCHAR'}})"
    duckdb.sql(f"COPY (FROM {source}) TO '{folder}/out.parquet' (FORMAT parquet)")
    return (folder / "out.parquet").read_bytes()


@pytest.mark.parametrize(
    ("name", "write"),
    [
        pytest.param("t.csv", lambda text, _: text.replace("\n", "\r\n"), id="Windows line ends"),
        pytest.param("t.csv", lambda text, _: text.replace("\n", "\r\n", 90), id="mixed line ends"),
        pytest.param("t.csv", lambda text, _: "\ufeff" + text, id="byte order mark"),
        pytest.param("t.csv", lambda text, _: text.replace(",", ";"), id="semicolons"),
        pytest.param("t.csv", lambda text, _: text.replace("a,", '"a",'), id="quoted cells"),
        pytest.param("t.csv", lambda text, _: text.replace("a,", " a ,"), id="cells with spaces"),
        pytest.param("t.csv.gz", lambda text, _: gzip.compress(text.encode()), id="gzip"),
        pytest.param("t.jsonl", lambda text, _: as_jsonl(text), id="jsonl"),
        pytest.param("t.jsonl.gz", lambda text, _: gzip.compress(as_jsonl(text)), id="jsonl.gz"),
        pytest.param("t.parquet", as_parquet, id="parquet"),
    ],
)
def test_every_format_gives_the_same_table(tmp_path, name, write):
    (tmp_path / "plain").mkdir()
    (tmp_path / "other").mkdir()
    plain = process(tmp_path / "plain", GOOD)
    other = process(tmp_path / "other", write(GOOD, tmp_path), name=name)
    assert splits_of(other) == splits_of(plain)


def test_equal_features_never_stand_on_two_sides_and_every_class_is_everywhere(tmp_path):
    ended = process(tmp_path, GOOD + GOOD.partition("\n")[2] + "0,0.05,a,yes\n0,0.05,a,no\n")
    splits = splits_of(ended, "count, size, kind")
    places = [{*rows} for rows in splits.values()]
    assert sum(map(len, places)) == len(set.union(*places))
    for rows in splits_of(ended, "label").values():
        assert {*rows} == {("yes",), ("no",)}
    assert ended.metrics()["rows"] == {
        "read": 802, "kept": 402, "duplicates": 400, **{split: len(rows) for split, rows in splits.items()}
    }  # fmt: skip


def test_kinds_and_what_is_left_out(tmp_path):
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "then", "some", "more"]
    lines = ["row_id,day,us,flag,many,note,code,half,empty,same,target"]
    for n in range(600):
        note = " ".join(words[(n * k) % 12] for k in range(1, 7)) + f" {n}"
        cells = [
            n + 1,
            f"2024-{n % 12 + 1:02}-{n % 28 + 1:02}",
            f"{n % 12 + 1}/{n % 28 + 1}/2023",
            ["Yes", "no"][n % 2],
        ]
        cells += [f"shop{n % 150}", note, f"c{n:05}x", "" if n % 3 else n / 7, "", "k", n * 1.5 + n % 7]
        lines.append(",".join(map(str, cells)))
    ended = process(tmp_path, "\n".join(lines) + "\n")
    features = {feature["name"]: feature for feature in ended.metrics()["features"]}
    assert {name: feature["kind"] for name, feature in features.items()} == {
        "row_id": "dropped", "day": "datetime", "us": "datetime", "flag": "boolean", "many": "categorical",
        "note": "dropped", "code": "dropped", "half": "numeric", "empty": "dropped", "same": "dropped",
    }  # fmt: skip
    assert features["us"]["date_order"] == "month/day/year"
    assert features["half"]["missing"] == 400
    assert "identifier" in features["row_id"]["reason"]
    assert "identifier" in features["code"]["reason"]
    assert "free text" in features["note"]["reason"]
    assert "64 most frequent" in features["many"]["reason"]
    assert schema_of(ended)["columns"][0] == "row_id", "the served model accepts rows as they were dropped"


def test_long_whole_numbers_stay_apart_as_classes(tmp_path):
    labels = [str(2**53 + n) for n in range(3)] + ["123456789012345678901234567890", "7.0", "7"]
    rows = [f"{n % 13},{n * 7919 % 10007},{labels[n % 6]}" for n in range(180)]
    ended = process(tmp_path, "\n".join(["a,b,label", *rows]), spec={"task": "tabular-classification"})
    assert schema_of(ended)["target"]["classes"] == ["7", *labels[:4]]
    assert task_of_values(labels[:4] * 10).value == "tabular-classification"


def test_two_long_whole_numbers_are_two_classes(tmp_path):
    rows = [f"{n % 13},{n * 7919 % 10007},{2**53 + n % 2}" for n in range(180)]
    ended = process(tmp_path, "\n".join(["a,b,label", *rows]))
    assert len(schema_of(ended)["target"]["classes"]) == 2


def test_numbers_with_a_few_words_among_them_stay_numbers(tmp_path):
    ended = process(tmp_path, with_row(5, "unknown,1.0,a,yes"))
    count = next(feature for feature in ended.metrics()["features"] if feature["name"] == "count")
    assert (count["kind"], count["lenient"]) == ("numeric", True)


@pytest.mark.parametrize("word", ["none", "-", "None"])
def test_a_class_may_be_called_by_a_word_that_elsewhere_means_missing(tmp_path, word):
    assert check("t.csv", 1, GOOD.replace("yes", word).encode(), complete=True) is None
    ended = process(tmp_path, GOOD.replace("yes", word))
    assert sorted(schema_of(ended)["target"]["classes"]) == sorted([word, "no"])


def test_the_split_of_a_row_outlives_more_data(tmp_path):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    big = [f"{n},{n * 7919 % 10007},{'yn'[n % 2]}" for n in range(5000)]
    first = process(tmp_path / "first", "\n".join(["a,b,label", *big[:4000]]))
    second = process(tmp_path / "second", "\n".join(["a,b,label", *big]))
    before, after = splits_of(first), splits_of(second)
    for split in before:
        assert {*before[split]} <= {*after[split]}


def test_columns_may_be_called_as_the_split_calls_its_own(tmp_path):
    taken = ["ebb_key", "EBB_SPLIT", "ebb_unsettled", "ebb_key_", "rank", "stratum", "place", "label"]
    rows = [",".join(f"{n * (k + 3) % 101 / 10}" for k in range(7)) + f",{'yn'[n % 2]}" for n in range(200)]
    ended = process(tmp_path, "\n".join([",".join(taken), *rows]))
    assert ended.status == 0, ended.failure
    assert [feature["name"] for feature in schema_of(ended)["features"]] == taken[:-1]
    assert sum(map(len, splits_of(ended).values())) == 200


@pytest.mark.parametrize("target", ["ebb_key", "ebb_split"])
def test_the_target_may_be_called_as_the_split_calls_its_own(tmp_path, target):
    ended = process(tmp_path, GOOD.replace("label", target), spec={"data": {"target": target}})
    assert schema_of(ended)["target"]["name"] == target


def side_of_each_row(ended):
    return {row: split for split, rows in splits_of(ended).items() for row in rows}


@pytest.mark.parametrize("label", [lambda n: "yn"[n % 2], lambda n: f"{n / 7:.3f}"], ids=["classes", "numbers"])
@pytest.mark.parametrize(("before", "after"), [(300, 600), (900, 2400)])
def test_a_row_keeps_its_side_when_few_rows_become_more(tmp_path, label, before, after):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    rows = [f"{n},{n * 7919 % 10007},{label(n)}" for n in range(after)]
    first = process(tmp_path / "first", "\n".join(["a,b,label", *rows[:before]]))
    second = process(tmp_path / "second", "\n".join(["a,b,label", *rows]))
    sides, later = side_of_each_row(first), side_of_each_row(second)
    assert len(sides) == before
    assert {row: later[row] for row in sides} == sides
    split = next(one for one in first.metrics()["decisions"] if one["what"] == "split")
    assert split["numbers"]["may_change_side"] == 0
    assert "keeps its side" in split["reason"]


def test_rare_classes_stand_on_every_side_and_whose_sides_may_change_is_told(tmp_path):
    rows = [f"{n},{n * 7919 % 10007},class {n % 12}" for n in range(72)]  # six rows of each class
    ended = process(tmp_path, "\n".join(["a,b,label", *rows]))
    for found in splits_of(ended, "label").values():
        assert len({*found}) == 12
    split = next(one for one in ended.metrics()["decisions"] if one["what"] == "split")
    assert 0 < split["numbers"]["may_change_side"] <= 72
    assert f"{split['numbers']['may_change_side']} rows may change sides" in split["reason"]


def test_a_class_whose_rows_share_two_sets_of_features_cannot_be_split(tmp_path):
    rows = [f"{n + 10},{n % 5},b" for n in range(60)]
    rows += [f"{number},7,a" for number in ("1", "1.0", "1.00", "2", "2.0", "2.00")]
    found = rejection(process(tmp_path, "\n".join(["a,b,label", *rows])))
    assert found["code"] == "too-few-rows"


def test_the_same_bytes_give_the_same_files(tmp_path):
    digests = []
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        ended = process(tmp_path / folder, (DATA / "penguins.csv").read_text())
        digests.append([splits_of(ended), schema_of(ended)])
    assert digests[0] == digests[1]


def test_json_nested_too_deeply_to_read_is_rejected(tmp_path):
    lines = [json.dumps({"a": n, "label": "yn"[n % 2]}) for n in range(100)]
    lines[70] = '{"a": ' + "[" * 100_000 + "]" * 100_000 + ', "label": "y"}'
    found = rejection(process(tmp_path, "\n".join(lines), name="t.jsonl"))
    assert (found["code"], found["line"]) == ("bad-json", 71)


def test_an_empty_channel_fails_the_job_with_its_reason(tmp_path):
    (tmp_path / "data").mkdir()
    ended = run_stage_here(tmp_path / "job", "process", {"data": tmp_path / "data"}, {})
    assert ended.status == 1
    assert ended.failure.splitlines()[-1] == "the data channel 'data' holds no file"


JSON_ROWS = [json.dumps(dict(zip(HEADER.split(","), row.split(","), strict=True))) for row in ROWS]


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_a_byte_order_mark_before_json_lines_is_no_part_of_them(tmp_path, name):
    content = b"\xef\xbb\xbf" + "\n".join(JSON_ROWS).encode()
    ended = process(tmp_path, gzip.compress(content) if name.endswith(".gz") else content, name=name)
    assert ended.status == 0, ended.failure
    assert ended.metrics()["rejection"] is None
    assert schema_of(ended)["columns"] == ["count", "size", "kind"]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(r'{"count": 1, "size": 2, "kind": "\ud83d", "label": "yes"}', id="in a value"),
        pytest.param(r'{"count": 1, "size": 2, "kind": ["a", "\uDE00x"], "label": "yes"}', id="in a list"),
        pytest.param(r'{"count": 1, "size": 2, "kind": "a", "label": "yes", "\ud800": 1}', id="in a key"),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "with a byte order mark"])
def test_half_a_character_in_json_is_told_by_its_line(tmp_path, wrong, mark):
    lines = [*JSON_ROWS[:250], wrong, *JSON_ROWS[250:]]
    content = mark + "\n".join(lines).encode()
    found = rejection(process(tmp_path, content, name="t.jsonl"))
    assert (found["code"], found["file"].rpartition("/")[2], found["line"]) == ("bad-json", "t.jsonl", 251)
    assert check("t.jsonl", len(content), content, complete=True).line == 251


def test_a_whole_character_in_two_surrogates_is_read(tmp_path):
    rows = [row.replace('"kind": "a"', r'"kind": "\ud83d\ude00"') for row in JSON_ROWS]
    ended = process(tmp_path, "\n".join(rows), name="t.jsonl")
    assert ended.metrics()["rejection"] is None


def test_json_that_duckdb_alone_cannot_read_is_a_rejection(tmp_path):
    content = "\n".join(JSON_ROWS).replace('"kind": "a"', '"kind": "a", "kind": "b"', 1)
    assert rejection(process(tmp_path, content, name="t.jsonl"))["code"] == "bad-json"


def test_rows_of_one_group_stand_on_one_side_and_none_is_tested_that_is_learned(tmp_path):
    """Two rows alike in two groups: where their sides differ, the one that learns is kept."""
    lines = ["size,patient,label"]
    lines += [f"{n % 1900},p{n % 97},{'yes' if n % 7 > 2 else 'no'}" for n in range(2000)]
    ended = process(tmp_path, "\n".join(lines) + "\n", spec={"data": {"group": "patient"}})
    metrics = ended.metrics()
    assert metrics["status"] == "finished"
    assert next(feature for feature in metrics["features"] if feature["name"] == "patient")["kind"] == "dropped"
    sides = [{*rows} for rows in splits_of(ended, "size").values()]
    assert sum(map(len, sides)) == len(set.union(*sides))
    assert metrics["rows"]["left_out"] == metrics["rows"]["kept"] - sum(
        metrics["rows"][split] for split in ("train", "validation", "test")
    )
    assert metrics["rows"]["left_out"] > 0


def test_groups_as_they_are_kept_together(tmp_path):
    lines = ["size,patient,label"]
    lines += [f"{n * 1.7},p{n % 97},{'yes' if n % 7 > 2 else 'no'}" for n in range(2000)]
    ended = process(tmp_path, "\n".join(lines) + "\n", spec={"data": {"group": "patient"}})
    patient = {f"{n * 1.7}": n % 97 for n in range(2000)}
    sides = [{patient[str(size)] for (size,) in rows} for rows in splits_of(ended, "size").values()]
    assert sum(map(len, sides)) == 97, "no patient stands on two sides"


@pytest.mark.parametrize(
    ("group", "code"), [pytest.param("ward", "group-missing", id="no such"), pytest.param("b", "group-empty", id="gap")]
)
def test_a_group_that_does_not_say_what_belongs_together_is_refused(tmp_path, group, code):
    lines = ["a,b,label", *(f"{n % 37},{n % 9 or ''},{'yes' if n % 7 > 2 else 'no'}" for n in range(200))]
    found = rejection(process(tmp_path, "\n".join(lines) + "\n", spec={"data": {"group": group}}))
    assert (found["code"], found["column"]) == (code, group)


def test_a_number_spelt_in_two_ways_is_one_number(tmp_path):
    lines = [
        "a,b,label",
        *(f"{n}{['', '.0', 'e0'][k]},{n * 3},{'yes' if k else 'no'}" for n in range(90) for k in range(3)),
    ]
    splits = splits_of(process(tmp_path, "\n".join(lines) + "\n"), "a, b")
    places = [{*rows} for rows in splits.values()]
    assert sum(map(len, places)) == len(set.union(*places)) == 90


def yes_or_no(n):
    return "yes" if n * 7919 % 5 > 1 else "no"


def big_table(rows=20_000, label=yes_or_no):
    lines = ["id,amount,kind,code,day,flag,gap,note,label"]
    for n in range(rows):
        gap = "" if n % 11 else "NA"
        lines.append(
            f"{n},{n * 7919 % 9973 / 7},{'abc'[n % 3]},c{n * 31 % 5003},2024-{n % 12 + 1:02}-{n % 28 + 1:02},"
            f"{n % 2 == 0},"
            f"{gap or n % 13},{'none' if n % 5 else ' spaced '},{label(n)}"
        )
    return "\n".join([*lines, *lines[1:500]]) + "\n"


def respelt(text):
    """Append rows that are there already, with their second cell and a last one that is a number spelt otherwise."""
    lines = text.splitlines()
    cells = [line.split(",") for line in lines[1::7]]
    for row in cells:
        row[1] += "e0"
        if row[-1][0].isdigit():
            row[-1] = f"+{row[-1]}0"
    return "\n".join([*lines, *(",".join(row) for row in cells)]) + "\n"


@pytest.mark.parametrize(
    ("content", "quickly"),
    [
        pytest.param(big_table(), True, id="as the sample shows it"),
        pytest.param(
            big_table() + "7,word,a,c1,2024-01-01,True,1,x,yes\n", False, id="a word among numbers, at the end"
        ),
        pytest.param(big_table() + "7,1_000,a,c1,2024-01-01,True,1,x,yes\n", False, id="digits grouped"),
        pytest.param(big_table() + "7,inf,a,c1,2024-01-01,True,1,x,yes\n", False, id="no finite number"),
        pytest.param(big_table().replace(",yes", ",1.0").replace(",no", ",0"), False, id="classes spelt in two ways"),
        pytest.param(big_table().replace(",yes", ",1").replace(",no", ",0"), True, id="classes that are numbers"),
        pytest.param(big_table().replace("spaced", '"a\n"'), False, id="quotes within a cell"),
        pytest.param(respelt(big_table()), True, id="rows that differ in the spelling of numbers"),
        pytest.param(respelt(big_table(label=lambda n: n * 7919 % 9973 / 8)), True, id="of the target too"),
        pytest.param(
            big_table().replace("amount,kind,code", "ebb_row,EBB_KEY,ebb_side").replace("gap", "file_row_number"),
            True,
            id="columns called as the quick way calls its own",
        ),
    ],
)
def test_the_quick_way_writes_the_rows_of_the_slow_way(tmp_path, content, quickly, monkeypatch, capsys):
    (tmp_path / "slow").mkdir()
    (tmp_path / "quick").mkdir()
    slow = process(tmp_path / "slow", content)
    monkeypatch.setattr(process_guess, "LEAST_BYTES", 0)
    quick = process(tmp_path / "quick", content)
    assert ("read as text" in capsys.readouterr().out) == (not quickly)
    found, expected = (ended.metrics().get("rows") or ended.metrics()["rejection"] for ended in (quick, slow))
    assert found == expected
    if slow.metrics()["status"] == "finished":
        assert quick.metrics()["features"] == slow.metrics()["features"]
        assert repr(splits_of(quick)) == repr(splits_of(slow)), "in the same order too"


def test_classes_that_are_broken_numbers_differ_as_texts_on_both_ways(tmp_path, monkeypatch, capsys):
    content = big_table(label=lambda n: f"{n % 3}.5{'0' * (n % 2)}")
    kept = []
    for folder, least in (("slow", 2**40), ("quick", 0)):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(process_guess, "LEAST_BYTES", least)
        ended = process(tmp_path / folder, content, spec={"task": "tabular-classification"})
        kept.append(splits_of(ended))
        assert len(schema_of(ended)["target"]["classes"]) == 6
    assert "read as text: classes that are numbers" in capsys.readouterr().out
    assert repr(kept[0]) == repr(kept[1])


def test_the_quick_way_writes_the_same_files_again(tmp_path, monkeypatch):
    monkeypatch.setattr(process_guess, "LEAST_BYTES", 0)
    monkeypatch.setattr(tables, "cpu_count", lambda: 4)
    content = respelt(big_table(60_000))
    digests = []
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        ended = process(tmp_path / folder, content)
        curated = sorted((ended.base / "processing/output/curated").rglob("*.*"))
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in curated if file.is_file()])
    assert digests[0] == digests[1]
    assert len(digests[0]) == 4


def test_rows_that_differ_in_the_spelling_of_a_number_are_one_row(tmp_path):
    lines = ["a,b,label"]
    for n in range(120):
        lines += [f"{n}{zeros},{n * 3 % 50},{'yes' if n % 2 else 'no'}" for zeros in ("", ".0", "e0")]
    ended = process(tmp_path, "\n".join(lines) + "\n")
    assert ended.metrics()["rows"]["kept"] == 120
    assert ended.metrics()["rows"]["duplicates"] == 240
    assert sum(map(len, splits_of(ended).values())) == 120


def test_a_number_that_is_one_value_in_several_spellings_is_left_out(tmp_path):
    lines = ["a,same,label", *(f"{n * 1.5},{['5', '5.0', '+5'][n % 3]},{'yn'[n // 3 % 2]}" for n in range(90))]
    features = process(tmp_path, "\n".join(lines) + "\n").metrics()["features"]
    assert [(each["kind"], each["distinct"]) for each in features] == [("numeric", 90), ("dropped", 1)]


def test_minus_nought_is_nought(tmp_path):
    lines = ["a,b,label", *(f"{['0', '-0', '-0.0'][n % 3]},{n // 3},{'yn'[n // 3 % 2]}" for n in range(90))]
    lines += [f"1,{n},{'yn'[n % 2]}" for n in range(30)]
    ended = process(tmp_path, "\n".join(lines) + "\n")
    assert ended.metrics()["rows"]["kept"] == 60
    assert "-0.0" not in repr(splits_of(ended))


def test_a_number_of_values_that_is_estimated_is_told_as_an_estimate(tmp_path):
    lines = ["a,code,label", *(f"{n % 17},c{n * 31 % 20_011},{yes_or_no(n)}" for n in range(60_000))]
    features = process(tmp_path, "\n".join(lines) + "\n").metrics()["features"]
    assert features[0]["distinct"] == 17
    assert "distinct_estimated" not in features[0]
    assert features[1]["distinct_estimated"] is True
    assert features[1]["distinct"] == pytest.approx(20_011, rel=0.15)
    assert features[1]["reason"].startswith("about ")
