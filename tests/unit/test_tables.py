"""A project's table in the Data Catalog: what its columns are called there, where its rows lie, and who made them."""

import json

import pytest

from aws_shapes import problems
from ebb import tables

PLACE = "s3://artifacts/curated/pet-shop/pet-shop-20261123093000-3f9a1c07be/a1"
ASKED = {
    "database": "ebb",
    "project": "pet-shop",
    "run_id": "pet-shop-20261123093000-3f9a1c07be",
    "attempt": 1,
    "generation": 3,
    "curated_uri": PLACE,
    "manifest_uri": "s3://artifacts/projects/pet-shop/runs/r/manifest.json",
}


def schema(*features, kind="tabular", target=None, **more):
    return {
        "kind": kind,
        "task": "tabular-classification",
        "columns": [each["name"] for each in features],
        "features": list(features),
        "target": target or {"name": "label", "classes": ["no", "yes"]},
        "rows": {"read": 9, "kept": 8, "train": 4, "validation": 2, "test": 2},
    } | more


NUMBER, WORD = {"name": "Petal length", "kind": "numeric"}, {"name": "kind", "kind": "categorical"}


@pytest.mark.parametrize(
    ("given", "columns"),
    [
        pytest.param(
            schema(NUMBER, WORD),
            {"petal length": "double", "kind": "string", "label": "string"},
            id="numbers are doubles, all else is text, the target comes last",
        ),
        pytest.param(schema(WORD, target={"name": "price"}), {"kind": "string", "price": "double"}, id="a regression"),
        pytest.param(
            schema(kind="text", columns=["text"]), {"text": "string", "label": "string"}, id="texts and their labels"
        ),
    ],
)
def test_columns_have_the_types_of_the_parquet_files(given, columns):
    assert {each["Name"]: each["Type"] for each in tables.columns(given).columns} == columns


@pytest.mark.parametrize(
    ("name", "why"),
    [
        pytest.param("petal LENGTH", "capitals", id="called alike but for capitals"),
        pytest.param("Split", "capitals", id="called as the partitions are"),
        pytest.param("a\nb", "one line", id="two lines"),
        pytest.param("x" * 256, "255", id="too long"),
    ],
)
def test_a_column_that_a_catalog_cannot_name_is_left_out_and_told(name, why):
    given = schema(NUMBER, {"name": name, "kind": "numeric"})
    registered = tables.columns(given)
    assert [each["Name"] for each in registered.columns] == ["petal length", "label"]
    assert why in registered.left_out[name]
    assert "1 columns are not named there" in tables.decision(given, tables.requests(given, **ASKED))["reason"]


def test_the_requests_are_valid_for_glue_and_name_a_folder_for_each_split():
    asked = tables.requests(schema(NUMBER, WORD), **ASKED)
    assert not problems("glue", "GetTable", asked["read"])
    assert not problems("glue", "CreateTable", asked["write"])
    assert not problems("glue", "UpdateTable", asked["write"] | {"VersionId": "1"})
    assert not problems("glue", "BatchCreatePartition", asked["partitions"])
    assert asked["read"] == {"DatabaseName": "ebb", "Name": "pet_shop"}, "a name that needs no quotation marks"
    places = {
        each["Values"][0]: each["StorageDescriptor"]["Location"] for each in asked["partitions"]["PartitionInputList"]
    }
    assert places == {split: f"{PLACE}/{split}.parquet/" for split in ("train", "validation", "test")}
    parameters = asked["write"]["TableInput"]["Parameters"]
    assert (parameters["ebb.run_id"], parameters["ebb.generation"]) == (ASKED["run_id"], "3")
    assert (parameters["recordCount"], parameters["ebb.manifest"]) == ("8", ASKED["manifest_uri"])


@pytest.mark.parametrize("kind", ["images", "custom"])
def test_what_is_no_table_is_not_registered_and_says_so(kind):
    given = schema(kind=kind)
    assert tables.requests(given, **ASKED) is None
    told = tables.decision(given, None)
    assert (told["chosen"], kind in told["reason"]) == ("none", True)


def test_the_widest_table_travels_between_states():
    wide = schema(*({"name": f"column {'x' * 40} {number}", "kind": "categorical"} for number in range(5_000)))
    asked = tables.requests(wide, **ASKED)
    assert 300 < len(asked["write"]["TableInput"]["StorageDescriptor"]["Columns"]) < 5_000
    assert len(json.dumps(asked)) < 2**18
