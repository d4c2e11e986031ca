"""Identify: the bytes' name, the early checks, reuse, order, and data left where it is."""

import hashlib

import pytest

import identify_dataset
import plan_pipeline
import record_run
from ebb import ledger, names
from ebb.aws.ledger import Ledger
from ebb.errors import AttemptOutdatedError, DropRejectedError, InvalidSpecError
from worked_run import ARTIFACTS, EXECUTION_ARN, LANDING, LEDGER, NOW, RUN_ID, load, moment

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


FEW = b"a,b,label\n1,2,yes\n3,4,no\n"


def test_few_rows_are_rejected_when_nothing_brings_more(account, context):
    with pytest.raises(DropRejectedError, match="rows"):
        identify_dataset.handler(ask(account.drop(KEY, FEW)), context)


def test_few_rows_in_a_part_of_a_folder_or_in_an_appending_drop_are_fine(account, context):
    account.drop("cancer/data/november/a.csv", TABLE)
    account.drop("cancer/data/november/b.csv", FEW)
    marker = account.drop("cancer/data/november/_SUCCESS", b"") | {"kind": "prefix"}
    assert identify_dataset.handler(ask(marker), context)["outcome"] == "run"
    spec(account, "data: {mode: append}")
    appending = ask(account.drop("cancer/data/today.csv", FEW + b"5,6,yes\n"), run_id=OTHER_RUN)
    assert len(identify_dataset.handler(appending, context)["sources"]) == 3


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


# ---- Several runs of one project ----


def keys(found: dict) -> list[str]:
    return [source["key"].rsplit("/", 1)[-1] for source in found["sources"]]


def identify(account, context, name: str, number: int, **changes) -> dict:
    """Identify a drop of its own content, as the run with this number."""
    drop = account.drop(f"cancer/data/{name}", TABLE + b"%d,1,no\n" % (1000 + number))
    return identify_dataset.handler(ask(drop, run_id=f"cancer-20261124093000-{number:06x}", **changes), context)


def test_two_appending_drops_that_come_close_lose_nothing(account, context):
    spec(account, "data: {mode: append}")
    identify(account, context, "monday.csv", 1)  # still running, and not yet a success
    found = identify(account, context, "tuesday.csv", 2)
    assert keys(found) == ["monday.csv", "tuesday.csv"]


def test_an_appending_run_that_is_tried_again_later_holds_what_came_since(account, context):
    spec(account, "data: {mode: append}")
    identify(account, context, "monday.csv", 1)
    identify(account, context, "tuesday.csv", 2)
    drop = account.drop("cancer/data/monday.csv", TABLE + b"1001,1,no\n")
    asked = ask(drop, run_id="cancer-20261124093000-000001", attempt=2)
    assert keys(identify_dataset.handler(asked, context)) == ["monday.csv", "tuesday.csv"]


def test_what_was_rejected_is_not_appended_to(account, context):
    spec(account, "data: {mode: append}")
    identify(account, context, "good.csv", 1)
    identify(account, context, "bad.csv", 2)
    told = load("record_run_rejected") | {"run_id": "cancer-20261124093000-000002"}
    record_run.handler(told, context)
    assert keys(identify(account, context, "next.csv", 3)) == ["good.csv", "next.csv"]


def test_what_a_rejected_object_has_overwritten_is_not_read_again(account, context):
    spec(account, "data: {mode: append}")
    identify(account, context, "a.csv", 1)
    drop = account.drop("cancer/data/a.csv", TABLE + b"ragged\n")
    with pytest.raises(DropRejectedError):
        identify_dataset.handler(ask(drop | {"sequencer": "0067419F6B2C5A1E99"}, run_id=OTHER_RUN), context)
    record_run.handler(load("record_run_rejected") | {"run_id": OTHER_RUN}, context)
    assert keys(identify(account, context, "b.csv", 3)) == ["b.csv"]


def test_appending_to_what_was_deleted_says_how_to_begin_anew(account, context):
    spec(account, "data: {mode: append}")
    identify(account, context, "old.csv", 1)
    account.s3.delete_object(Bucket=LANDING, Key="cancer/data/old.csv")
    with pytest.raises(DropRejectedError) as caught:
        identify(account, context, "new.csv", 2)
    assert (caught.value.rejection.code, caught.value.rejection.file) == ("object-missing", "cancer/data/old.csv")
    assert "mode: replace" in caught.value.rejection.remedy


def test_appending_to_a_replacement_holds_the_replacement_and_what_came_after(account, context):
    spec(account, "data: {mode: append}")
    identify(account, context, "old.csv", 1)
    spec(account, "data: {mode: replace}")
    assert keys(identify(account, context, "fresh.csv", 2)) == ["fresh.csv"]
    spec(account, "data: {mode: append}")
    assert keys(identify(account, context, "more.csv", 3)) == ["fresh.csv", "more.csv"]


def test_a_rejected_replacement_replaces_nothing(account, context):
    spec(account, "data: {mode: append}")
    identify(account, context, "old.csv", 1)
    spec(account, "data: {mode: replace}")
    identify(account, context, "bad.csv", 2)
    record_run.handler(load("record_run_rejected") | {"run_id": "cancer-20261124093000-000002"}, context)
    spec(account, "data: {mode: append}")
    assert keys(identify(account, context, "more.csv", 3)) == ["more.csv", "old.csv"]


def test_a_replacement_that_succeeded_leaves_no_trace_of_what_it_replaced(account, context):
    identify(account, context, "old.csv", 1)
    identify(account, context, "new.csv", 2)
    book = Ledger(LEDGER)
    book.forget_replaced("cancer", 2)
    kept = account.table.query(KeyConditionExpression="pk = :p", ExpressionAttributeValues={":p": "PROJECT#cancer"})
    assert sorted(item["sk"].partition("#")[0] for item in kept["Items"]) == ["PROJECT", "REPLACED", "SOURCE"]
    assert [source.key for source in book.accepted("cancer", 9)] == ["cancer/data/new.csv"]


def test_runs_are_in_the_order_in_which_they_were_identified(account, context):
    first, second = identify(account, context, "large.csv", 1), identify(account, context, "small.csv", 2)
    asked = {"attempt": 1, "project": "cancer", "now": NOW}
    planned = [
        plan_pipeline.handler(asked | {"run_id": run_id, "identified": found}, context)["generation"]
        for run_id, found in (("cancer-20261124093000-000002", second), ("cancer-20261124093000-000001", first))
    ]
    assert planned == [2, 1], "whatever the order in which they are planned"


def test_reusing_a_run_that_is_not_served_says_what_is(account, context):
    found = identify(account, context, "a.csv", 1)
    succeed("cancer-20261124093000-000001", found["identity"])
    Ledger(LEDGER).apply(ledger.remember_served("cancer", 2, {"run_id": "cancer-20261124093000-000002"}))
    drop = account.drop("cancer/data/copy.csv", TABLE + b"1001,1,no\n")
    again = identify_dataset.handler(ask(drop, run_id=OTHER_RUN), context)
    assert (again["outcome"], again["reuses"]) == ("reuse", "cancer-20261124093000-000001")
    assert "served is run cancer-20261124093000-000002" in again["reason"]
    assert "--force" in again["reason"]
