"""Identity and sources: what is the same work, and which objects belong together."""

import pytest

from ebb import sources
from ebb.errors import DropRejectedError, InvalidSpecError
from ebb.identity import jobs_hash, run_identity
from ebb.sources import Source
from ebb.spec import PipelineSpec
from ebb_jobs import infer

SPEC = PipelineSpec().resolved()


def source(key: str, content: str = "aa", bucket: str = "landing") -> Source:
    return Source(bucket=bucket, key=key, size_bytes=10, etag="e", sha256=content)


def test_the_same_work_has_the_same_name_whatever_the_order():
    one = run_identity("cancer", SPEC, "abc", ["1", "2"])
    assert one == run_identity("cancer", dict(reversed(SPEC.items())), "abc", ["2", "1"])


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(("wine", SPEC, "abc", ["1"]), id="another project wants its own endpoint"),
        pytest.param(("cancer", SPEC | {"task": "x"}, "abc", ["1"]), id="another spec"),
        pytest.param(("cancer", SPEC, "abd", ["1"]), id="other job code"),
        pytest.param(("cancer", SPEC, "abc", ["2"]), id="other bytes"),
        pytest.param(("cancer", SPEC, "abc", ["1", "1"]), id="the same bytes twice"),
    ],
)
def test_other_work_has_another_name(other):
    assert run_identity(*other) != run_identity("cancer", SPEC, "abc", ["1"])


def test_the_hash_of_the_job_code_ends_its_uri():
    assert jobs_hash("s3://bucket/jobs/5c1d") == jobs_hash("s3://bucket/jobs/5c1d/") == "5c1d"


def test_appending_replaces_a_key_and_counts_the_same_bytes_once():
    old = [source("a.csv", "11"), source("b.csv", "22")]
    new = [source("b.csv", "33"), source("copy of a.csv", "11")]
    assert [(each.key, each.sha256) for each in sources.appended(old, new)] == [("a.csv", "11"), ("b.csv", "33")]


def test_a_manifest_names_exactly_the_objects():
    assert sources.manifest([source("p/data/a.csv"), source("p/data/b.csv")]) == [
        {"prefix": "s3://landing/"},
        "p/data/a.csv",
        "p/data/b.csv",
    ]


def many(count: int, folder: str = "cancer/data/") -> list[Source]:
    return [source(f"{folder}{n:06}.png", f"{n:064}") for n in range(count)]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        pytest.param([source("a.csv"), source("b.csv", bucket="other")], "several-buckets", id="two buckets"),
        pytest.param(many(2001), "too-many-objects", id="more than a run reads"),
        pytest.param([*many(50), source("lake/old.png")], "too-many-objects", id="many, and one of them elsewhere"),
    ],
)
def test_what_does_not_belong_together_is_rejected(given, code):
    with pytest.raises(DropRejectedError) as caught:
        sources.together(given, granted=[("landing", "cancer/")])
    assert caught.value.rejection.code == code
    assert caught.value.rejection.remedy


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(many(2000), id="as many as a run reads"),
        pytest.param([*many(49), source("lake/old.png")], id="few are granted one by one, wherever they lie"),
        pytest.param(
            [*many(60, "warehouse/shots/"), source("code/fit.py")], id="many in the places that the spec names"
        ),
    ],
)
def test_what_belongs_together_passes(given):
    sources.together(
        given, granted=[("landing", "cancer/"), ("landing", "warehouse/shots"), ("landing", "code/fit.py")]
    )


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        pytest.param("s3://landing/cancer/archive/", ("landing", "cancer/archive/"), id="the project's own place"),
        pytest.param(
            "s3://landing/warehouse/wine/wine.csv", ("landing", "warehouse/wine/wine.csv"), id="a shared place"
        ),
        pytest.param("s3://lake/tables/x/", ("lake", "tables/x/"), id="a bucket that the stack was given"),
    ],
)
def test_data_may_be_left_where_it_is(uri, expected):
    assert place(uri) == expected


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        pytest.param("s3://landing/other/data/secret.csv", "other dropped", id="what another project dropped"),
        pytest.param("s3://landing/other/data", "other dropped", id="all that another project dropped"),
        pytest.param("s3://landing/other/", "other dropped", id="the whole of another project"),
        pytest.param("s3://landing/o", "dropped", id="a prefix that reaches into other projects"),
        pytest.param("s3://vault/x.csv", "may not read the bucket vault", id="a bucket that the stack was not given"),
    ],
)
def test_data_that_this_project_may_not_read(uri, message):
    with pytest.raises(InvalidSpecError, match=message):
        place(uri)


def place(uri: str) -> tuple[str, str]:
    return sources.place(
        uri, project="cancer", landing_bucket="landing", external_buckets=("lake",), file="cancer/pipeline.yaml"
    )


@pytest.mark.parametrize(
    "key",
    [
        "a.csv",
        "A.CSV.GZ",
        "a.jsonl.gz",
        "a.parquet",
        "a.parquet.gz",
        "a.csv/",
        "a",
        "csv",
        "a.zip",
        "A.TGZ",
        "a.tar.gz",
        "a.tar",
    ],
)
def test_a_file_is_told_from_a_folder_as_the_jobs_tell_it(key):
    assert sources.is_file(key) is (infer.file_format(key) is not None or infer.is_archive(key))
    assert sources.is_file("code/train.py")


@pytest.mark.parametrize(
    ("key", "size", "expected"),
    [
        ("d/a.csv", 1, True),
        ("d/_SUCCESS", 0, False),
        ("d/.crc", 5, False),
        ("d/", 0, False),
        ("d/empty.csv", 0, True),
        ("d/lib/__init__.py", 0, True),
        ("d/lib/__pycache__/a.pyc", 9, False),
        ("d/.git/config", 9, False),
        ("d/__MACOSX/a.png", 9, False),
    ],
)
def test_which_listed_objects_are_data(key, size, expected):
    assert sources.is_data(key, size) is expected


def test_what_is_hidden_is_judged_below_the_place_that_was_named():
    assert sources.is_data(".staging/a.csv", 1, ".staging/")
    assert not sources.is_data(".staging/.a.csv", 1, ".staging/")


def test_pictures_under_two_names_are_kept_for_the_job_to_judge():
    old, new = [source("cat/a.png", "11")], [source("dog/a.png", "11")]
    assert len(sources.appended(old, new)) == 1
    assert len(sources.appended(old, new, by_name=True)) == 2


def test_what_a_run_may_take_and_until_when_is_no_part_of_its_work():
    asked = {"train": {"epochs": 3}, "carbon": {"signal": "average", "deadline": None, "budget": None}}
    known = run_identity("wine", asked, "5c1d", ["aa"])
    for more in ({"budget": {"carbon": 5.0}}, {"deadline": 3600}):
        assert run_identity("wine", asked | {"carbon": asked["carbon"] | more}, "5c1d", ["aa"]) == known
    assert run_identity("wine", asked | {"train": {"epochs": 4}}, "5c1d", ["aa"]) != known
