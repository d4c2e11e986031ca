"""Identify: the bytes' name, the early checks, reuse, order, and data left where it is."""

import hashlib

import pytest

import identify_dataset
from ebb import ledger, names
from ebb.aws.ledger import Ledger
from ebb.errors import AttemptOutdatedError, DropRejectedError, InvalidSpecError
from worked_run import ARTIFACTS, EXECUTION_ARN, LANDING, LEDGER, NOW, RUN_ID, moment

TABLE = b"a,b,label\n" + b"".join(b"%d,%d,%s\n" % (n, n % 7, b"yes" if n % 3 else b"no") for n in range(200))
KEY = "cancer/data/table.csv"
OTHER_RUN = "cancer-20261124093000-aaaaaa"


def ask(drop: dict, *, run_id: str = RUN_ID, attempt: int = 1, **changes) -> dict:
    asked = {"run_id": run_id, "attempt": attempt, "project": "cancer", "drop": drop}
    return asked | {"now": NOW, "execution_arn": EXECUTION_ARN} | changes


def spec(account, text: str) -> None:
    account.s3.put_object(Bucket=LANDING, Key="cancer/pipeline.yaml", Body=text.encode())


def succeed(run_id: str, identity: str) -> None:
    """Record the success that the rest of the pipeline would."""
    book = Ledger(LEDGER)
    assert book.apply(ledger.end_run(run_id, 1, "cancer", "succeeded", now=moment(NOW), fields={}))
    book.apply(ledger.remember_identity(identity, run_id, moment(NOW)))
    book.apply(ledger.remember_sources("cancer", 1, book.run(run_id)["sources"]))
    book.apply(ledger.remember_served("cancer", 1, {"run_id": run_id}))


def test_a_new_drop_is_named_by_its_bytes(account, context):
    found = identify_dataset.handler(ask(account.drop(KEY, TABLE, **{"ebb-drop-id": "d1"})), context)
    assert found["outcome"] == "run"
    assert found["format"] == "csv"
    assert found["sources"][0]["sha256"] == hashlib.sha256(TABLE).hexdigest()
    assert found["manifest_uri"] == f"s3://{ARTIFACTS}/{names.manifest_key(RUN_ID)}"
    assert account.json(found["manifest_uri"]) == [{"prefix": f"s3://{LANDING}/"}, KEY]
    run = account.run(RUN_ID)
    assert run["status"] == "running"
    assert run["drop"]["drop_id"] == "d1"
    assert run["created_at"] == "2026-11-23T09:30:00Z"
    assert run["gsi_sk"] == f"2026-11-23T09:30:00Z#{RUN_ID}"
    assert [d["what"] for d in Ledger(LEDGER).story(RUN_ID).decisions] == ["spec", "data", "work"]


def test_asking_twice_answers_the_same(account, context):
    drop = account.drop(KEY, TABLE)
    assert identify_dataset.handler(ask(drop), context) == identify_dataset.handler(ask(drop), context)


def test_the_same_bytes_reuse_the_successful_run(account, context):
    first = identify_dataset.handler(ask(account.drop(KEY, TABLE)), context)
    succeed(RUN_ID, first["identity"])
    copy = account.drop("cancer/data/copy.csv", TABLE)
    again = identify_dataset.handler(ask(copy, run_id=OTHER_RUN), context)
    assert again["outcome"] == "reuse"
    assert again["reuses"] == RUN_ID


def test_work_whose_endpoint_was_removed_is_done_again(account, context):
    succeed(RUN_ID, identify_dataset.handler(ask(account.drop(KEY, TABLE)), context)["identity"])
    Ledger(LEDGER).apply(ledger.forget_served("cancer"))
    again = identify_dataset.handler(ask(account.drop("cancer/data/copy.csv", TABLE), run_id=OTHER_RUN), context)
    assert again["outcome"] == "run"
    assert "removed since" in again["reason"]


@pytest.mark.parametrize("status", ["failed", "cancelled", "rejected"])
def test_a_run_that_did_not_succeed_is_run_again(account, context, status):
    first = identify_dataset.handler(ask(account.drop(KEY, TABLE)), context)
    Ledger(LEDGER).apply(ledger.end_run(RUN_ID, 1, "cancer", status, now=moment(NOW), fields={}))
    Ledger(LEDGER).apply(ledger.remember_identity(first["identity"], RUN_ID, moment(NOW)))
    again = identify_dataset.handler(ask(account.drop("cancer/data/copy.csv", TABLE), run_id=OTHER_RUN), context)
    assert again["outcome"] == "run"


def test_a_forced_drop_runs_although_nothing_is_new(account, context):
    succeed(RUN_ID, identify_dataset.handler(ask(account.drop(KEY, TABLE)), context)["identity"])
    drop = account.drop("cancer/data/copy.csv", TABLE, **{"ebb-force": "1"})
    again = identify_dataset.handler(ask(drop, run_id=OTHER_RUN), context)
    assert again["outcome"] == "run"
    assert again["force"] is True
    assert RUN_ID in again["reason"]


def test_an_event_that_arrives_late_starts_nothing(account, context):
    newer = account.drop(KEY, TABLE) | {"sequencer": "0067419F6B2C5A1E44"}
    identify_dataset.handler(ask(newer, run_id=OTHER_RUN), context)
    late = identify_dataset.handler(ask(newer | {"sequencer": "67419F6B2C5A1E33"}), context)
    assert late["outcome"] == "superseded"


def test_a_second_delivery_under_another_name_starts_nothing(account, context):
    drop = account.drop(KEY, TABLE)
    identify_dataset.handler(ask(drop), context)
    assert identify_dataset.handler(ask(drop, run_id=OTHER_RUN), context)["outcome"] == "superseded"


def test_an_object_that_was_written_again_is_left_to_its_own_event(account, context):
    old = account.drop(KEY, b"a,b\n1,2\n")
    account.drop(KEY, TABLE)
    found = identify_dataset.handler(ask(old), context)
    assert found["outcome"] == "superseded"
    assert "written again" in found["reason"]


def rewriting(account, monkeypatch, key: str, times: int) -> None:
    """Write an object again each time before its bytes are read, as a job that is still exporting would."""
    read, left = identify_dataset.storage.sha256, [times]

    def interrupted(bucket, asked, *, etag):
        if asked == key and left[0]:
            left[0] -= 1
            account.s3.put_object(Bucket=bucket, Key=key, Body=TABLE + b"%d,1,no\n" % left[0])
        return read(bucket, asked, etag=etag)

    monkeypatch.setattr(identify_dataset.storage, "sha256", interrupted)


def folder(account) -> tuple[dict, str]:
    for part in ("a", "b"):
        account.drop(f"cancer/data/november/{part}.csv", TABLE + part.encode() + b",1,no\n")
    return account.drop("cancer/data/november/_SUCCESS", b"") | {"kind": "prefix"}, "cancer/data/november/b.csv"


def test_a_part_of_a_folder_that_was_written_again_is_read_again(account, context, monkeypatch):
    marker, part = folder(account)
    rewriting(account, monkeypatch, part, times=1)
    found = identify_dataset.handler(ask(marker), context)
    assert found["outcome"] == "run"
    assert found["sources"][1]["sha256"] == hashlib.sha256(TABLE + b"0,1,no\n").hexdigest()


def test_a_part_that_does_not_hold_still_is_a_rejection(account, context, monkeypatch):
    marker, part = folder(account)
    rewriting(account, monkeypatch, part, times=9)
    with pytest.raises(DropRejectedError) as caught:
        identify_dataset.handler(ask(marker), context)
    assert (caught.value.rejection.code, caught.value.rejection.file) == ("changed", part)
    assert caught.value.rejection.remedy


def test_the_uploaded_object_itself_gives_way_to_its_next_version(account, context, monkeypatch):
    drop = account.drop(KEY, TABLE)
    rewriting(account, monkeypatch, KEY, times=1)
    assert identify_dataset.handler(ask(drop), context)["outcome"] == "superseded"


def test_an_object_that_is_gone_is_a_rejection(account, context):
    drop = account.drop(KEY, TABLE)
    account.s3.delete_object(Bucket=LANDING, Key=KEY)
    with pytest.raises(DropRejectedError) as caught:
        identify_dataset.handler(ask(drop), context)
    assert caught.value.rejection.code == "object-missing"
    assert KEY in caught.value.rejection.message
    assert account.run(RUN_ID)["status"] == "running", "recorded by the next state"


@pytest.mark.parametrize(
    ("key", "body", "asked", "named"),
    [
        pytest.param(KEY, b"", "", "empty", id="an empty object"),
        pytest.param(KEY, TABLE + b"\xff\xfe,1,no\n", "", "UTF-8", id="not UTF-8"),
        pytest.param(KEY, TABLE + b"1,2,yes,extra\n", "", "202", id="a ragged row names its line"),
        pytest.param(KEY, TABLE, "data: {target: price}", "price", id="a target that is not there"),
        pytest.param(
            "cancer/data/t.zip", b"PK\x03\x04", "", "csv, parquet or jsonl", id="a type that is not supported"
        ),
        pytest.param("cancer/data/t.parquet", b"no parquet", "", "Parquet", id="a name that promises Parquet"),
    ],
)
def test_what_the_first_look_shows_is_rejected(account, context, key, body, asked, named):
    if asked:
        spec(account, asked)
    with pytest.raises(DropRejectedError) as caught:
        identify_dataset.handler(ask(account.drop(key, body)), context)
    assert named in str(caught.value)
    assert caught.value.rejection.remedy
    assert "yes" not in caught.value.rejection.message, "no value of the data"


def test_an_unknown_spec_field_is_rejected_before_anything_is_read(account, context):
    spec(account, "data: {target: label}\nservee: {}\n")
    with pytest.raises(InvalidSpecError, match="servee"):
        identify_dataset.handler(ask(account.drop(KEY, TABLE)), context)


def test_a_folder_is_all_its_objects_but_the_marker(account, context):
    for part in ("b.csv", "a.csv", ".hidden"):
        account.drop(f"cancer/data/november/{part}", TABLE + part.encode() + b",1,no\n")
    marker = account.drop("cancer/data/november/_SUCCESS", b"") | {"kind": "prefix"}
    found = identify_dataset.handler(ask(marker), context)
    assert [source["key"] for source in found["sources"]] == [
        "cancer/data/november/a.csv",
        "cancer/data/november/b.csv",
    ]


def test_a_folder_of_more_objects_than_a_job_can_be_told_of_is_rejected(account, context):
    for number in range(300):
        account.drop(f"cancer/data/november/part-{number:04}.csv", TABLE)
    marker = account.drop("cancer/data/november/_SUCCESS", b"") | {"kind": "prefix"}
    with pytest.raises(DropRejectedError) as caught:
        identify_dataset.handler(ask(marker), context)
    assert caught.value.rejection.code == "too-many-objects"
    assert "300 objects" in caught.value.rejection.message
    assert "one larger file" in caught.value.rejection.remedy


def test_an_empty_folder_is_rejected(account, context):
    marker = account.drop("cancer/data/november/_SUCCESS", b"") | {"kind": "prefix"}
    with pytest.raises(DropRejectedError) as caught:
        identify_dataset.handler(ask(marker), context)
    assert caught.value.rejection.code == "no-objects"


@pytest.mark.parametrize(
    ("uri", "keys"),
    [
        pytest.param("s3://lake/tables/wine.csv", ["tables/wine.csv"], id="one object"),
        pytest.param("s3://lake/tables/", ["tables/more.csv", "tables/wine.csv"], id="a prefix"),
        pytest.param("s3://lake/tables", ["tables/more.csv", "tables/wine.csv"], id="a prefix without its slash"),
    ],
)
def test_data_that_a_spec_names_is_left_where_it_is(account, context, uri, keys):
    for name in ("tables/wine.csv", "tables/more.csv", "tables2/other.csv"):
        account.s3.put_object(Bucket="lake", Key=name, Body=TABLE + name.encode() + b",1,no\n")
    drop = account.drop("cancer/pipeline.yaml", f"data: {{uri: '{uri}'}}".encode()) | {"kind": "spec"}
    found = identify_dataset.handler(ask(drop), context)
    assert [source["key"] for source in found["sources"]] == keys
    assert account.json(found["manifest_uri"])[0] == {"prefix": "s3://lake/"}


def test_data_of_another_project_is_refused(account, context):
    drop = account.drop("cancer/pipeline.yaml", f"data: {{uri: 's3://{LANDING}/wine/data/'}}".encode())
    with pytest.raises(InvalidSpecError, match="the project wine dropped"):
        identify_dataset.handler(ask(drop | {"kind": "spec"}), context)


def test_an_appending_drop_reads_the_old_and_the_new(account, context):
    spec(account, "data: {mode: append}")
    monday = account.drop("cancer/data/monday.csv", TABLE)
    succeed(RUN_ID, identify_dataset.handler(ask(monday), context)["identity"])
    tuesday = account.drop("cancer/data/tuesday.csv", TABLE + b"500,1,no\n")
    found = identify_dataset.handler(ask(tuesday, run_id=OTHER_RUN), context)
    assert found["outcome"] == "run"
    assert [source["key"] for source in found["sources"]] == ["cancer/data/monday.csv", "cancer/data/tuesday.csv"]


def test_appending_what_is_there_already_is_nothing_new(account, context):
    spec(account, "data: {mode: append}")
    succeed(RUN_ID, identify_dataset.handler(ask(account.drop("cancer/data/a.csv", TABLE)), context)["identity"])
    again = identify_dataset.handler(ask(account.drop("cancer/data/b.csv", TABLE), run_id=OTHER_RUN), context)
    assert again["outcome"] == "reuse"


def test_a_large_object_is_named_by_its_full_checksum(account, context, monkeypatch):
    monkeypatch.setattr(identify_dataset, "HASH_LIMIT_BYTES", 100)
    put = account.s3.put_object(Bucket=LANDING, Key=KEY, Body=TABLE, ChecksumAlgorithm="SHA256")
    drop = account.drop("cancer/data/x.csv", TABLE) | {"key": KEY, "etag": put["ETag"].strip('"')}
    source = identify_dataset.handler(ask(drop), context)["sources"][0]
    assert source["sha256"] is None
    assert source["checksum"].startswith("SHA256:")


def test_the_time_for_reading_is_that_of_the_whole_drop(account, context, monkeypatch):
    marker, _ = folder(account)
    monkeypatch.setattr(identify_dataset, "HASH_LIMIT_BYTES", int(len(TABLE) * 1.5))
    first, second = identify_dataset.handler(ask(marker), context)["sources"]
    assert first["sha256"]
    assert (second["sha256"], bool(second["checksum"])) == (None, True)
    monkeypatch.setattr(identify_dataset.storage, "_full_object_checksum", lambda found: None)
    with pytest.raises(DropRejectedError) as caught:
        identify_dataset.handler(ask(marker), context)
    assert caught.value.rejection.code == "no-checksum"


def test_an_ended_attempt_is_not_opened_again_and_a_new_one_is(account, context):
    drop = account.drop(KEY, TABLE)
    identify_dataset.handler(ask(drop), context)
    Ledger(LEDGER).apply(ledger.end_run(RUN_ID, 1, "cancer", "failed", now=moment(NOW), fields={"reason": "x"}))
    with pytest.raises(AttemptOutdatedError):
        identify_dataset.handler(ask(drop), context)
    assert identify_dataset.handler(ask(drop, attempt=2), context)["outcome"] == "run"
    run = account.run(RUN_ID)
    assert (run["status"], run["attempt"]) == ("running", 2)
    assert "ended_at" not in run
