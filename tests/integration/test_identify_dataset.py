"""Identify: the bytes' name, the early checks, reuse, order, and data left where it is."""

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping

import pytest

import encoders
import identify_dataset
import plan_pipeline
import record_run
from ebb import ledger, names, sources
from ebb.aws import objects
from ebb.aws.ledger import Ledger
from ebb.errors import AttemptOutdatedError, DropRejectedError, InvalidSpecError, RejectionError
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
            "cancer/data/t.xlsx", b"PK\x03\x04", "", "csv, parquet or jsonl", id="a type that is not supported"
        ),
        pytest.param("cancer/data/t.zip", b"PK\x03\x04", "", "damaged", id="a name that promises a zip"),
        pytest.param("cancer/data/cat.png", b"\x89PNG", "", "no class", id="a picture alone"),
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


def test_a_folder_of_more_objects_than_a_run_reads_is_rejected(account, context, monkeypatch):
    monkeypatch.setattr(sources, "MAX_OBJECTS", 20)
    for number in range(21):
        account.drop(f"cancer/data/november/part-{number:04}.csv", TABLE)
    marker = account.drop("cancer/data/november/_SUCCESS", b"") | {"kind": "prefix"}
    with pytest.raises(DropRejectedError) as caught:
        identify_dataset.handler(ask(marker), context)
    assert caught.value.rejection.code == "too-many-objects"
    assert "more than the 20 objects" in caught.value.rejection.message
    assert "zip" in caught.value.rejection.remedy


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
    monkeypatch.setattr(objects, "HASH_LIMIT_BYTES", 100)
    put = account.s3.put_object(Bucket=LANDING, Key=KEY, Body=TABLE, ChecksumAlgorithm="SHA256")
    drop = account.drop("cancer/data/x.csv", TABLE) | {"key": KEY, "etag": put["ETag"].strip('"')}
    source = identify_dataset.handler(ask(drop), context)["sources"][0]
    assert source["sha256"] is None
    assert source["checksum"].startswith("SHA256:")


def test_the_time_for_reading_is_that_of_the_whole_drop(account, context, monkeypatch):
    marker, _ = folder(account)
    monkeypatch.setattr(objects, "HASH_LIMIT_BYTES", int(len(TABLE) * 1.5))
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


# ---- Archives, pictures, scripts ----

PNG = b"\x89PNG\r\n\x1a\n"
SCRIPT = b"print('trained')\n"


def pictures(classes: int = 2, each: int = 20) -> dict[str, bytes]:
    """Return what looks like pictures to whoever reads names and sizes only."""
    return {f"{kind}/{n:03}.png": PNG + b"%d %d" % (kind, n) for kind in range(classes) for n in range(each)}


def zipped(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return packed.getvalue()


def tarred(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return packed.getvalue()


def filled(account, files: Mapping[str, bytes], folder: str = "november") -> dict:
    """Put files below a folder of the project's data and close it."""
    for name, body in files.items():
        account.s3.put_object(Bucket=LANDING, Key=f"cancer/data/{folder}/{name}", Body=body)
    return account.drop(f"cancer/data/{folder}/_SUCCESS", b"") | {"kind": "prefix"}


def rejection_of(account, context, drop: dict):
    with pytest.raises(RejectionError) as caught:
        identify_dataset.handler(ask(drop), context)
    assert caught.value.rejection.remedy
    return caught.value.rejection


@pytest.mark.parametrize("name", ["shots.zip", "shots.tar.gz", "shots.tgz"])
def test_an_archive_is_one_object(account, context, name):
    body = (zipped if name.endswith(".zip") else tarred)(pictures())
    found = identify_dataset.handler(ask(account.drop(f"cancer/data/{name}", body)), context)
    assert (found["outcome"], found["format"], found["source_count"]) == ("run", "archive", 1)
    assert (found["compressed"], found["task"]) == (True, None)
    assert found["sources"][0]["sha256"] == hashlib.sha256(body).hexdigest()


def test_a_folder_of_pictures_is_read_side_by_side_and_told_by_its_classes(account, context):
    found = identify_dataset.handler(ask(filled(account, pictures(each=20))), context)
    assert (found["format"], found["task"], found["source_count"]) == ("images", "image-classification", 40)
    assert len(found["sources"]) == found["example_count"] == 40
    assert found["size_bytes"] == sum(len(body) for body in pictures(each=20).values())
    digests = account.json(found["sources_uri"])
    assert digests["cancer/data/november/1/007.png"] == hashlib.sha256(pictures()["1/007.png"]).hexdigest()


def test_many_objects_are_named_where_they_are_listed_and_not_inline(account, context):
    found = identify_dataset.handler(ask(filled(account, pictures(each=300))), context)
    assert (found["source_count"], found["sources"]) == (600, [])
    assert len(account.json(found["sources_uri"])) == 600
    assert len(account.json(found["manifest_uri"])) == 601
    run = account.run(RUN_ID)
    assert (run["source_count"], run["sources"], run["sources_uri"]) == (600, [], found["sources_uri"])
    assert len(json.dumps(found)) < 10_000, "a state of Step Functions carries 256 KiB"
    assert len(Ledger(LEDGER).accepted("cancer", 1)) == 600
    notes = account.table.query(KeyConditionExpression="pk = :p", ExpressionAttributeValues={":p": "PROJECT#cancer"})
    assert len([item for item in notes["Items"] if item["sk"].startswith("SOURCE#")]) == 3


def test_pictures_in_other_folders_have_other_classes_and_are_other_work(account, context):
    succeed(RUN_ID, identify_dataset.handler(ask(filled(account, pictures())), context)["identity"])
    copied = filled(account, pictures(), "december")
    assert identify_dataset.handler(ask(copied, run_id=OTHER_RUN), context)["outcome"] == "reuse"
    swapped = {name.replace("1/00", "0/a00"): body for name, body in pictures().items()}
    moved = identify_dataset.handler(
        ask(filled(account, swapped, "january"), run_id="cancer-20261124093000-bbbbbb"), context
    )
    assert moved["outcome"] == "run"


def test_pictures_are_added_to_pictures(account, context):
    spec(account, "data: {mode: append}")
    identify_dataset.handler(ask(filled(account, pictures(each=40))), context)
    more = {f"{kind}/new.png": PNG + b"new %d" % kind for kind in range(2)}
    found = identify_dataset.handler(ask(filled(account, more, "december"), run_id=OTHER_RUN), context)
    assert (found["format"], found["source_count"]) == ("images", 82)


def test_a_folder_with_a_script_is_a_script(account, context):
    files = {
        "train.py": SCRIPT,
        "lib/__init__.py": b"",
        "x.npy": b"1",
        "lib/__pycache__/x.pyc": b"1",
        ".git/config": b"1",
    }
    found = identify_dataset.handler(ask(filled(account, files)), context)
    assert (found["format"], found["task"]) == ("script", "custom")
    keys = [source["key"].removeprefix("cancer/data/november/") for source in found["sources"]]
    assert keys == ["lib/__init__.py", "train.py", "x.npy"]
    assert "training script" in [each["what"] for each in Ledger(LEDGER).story(RUN_ID).decisions]


def custom(account, source: str, more: str = "") -> None:
    spec(account, f"task: custom\ntrain: {{source: '{source}'{more}}}\n")


def test_a_script_may_lie_apart_from_its_data(account, context):
    account.s3.put_object(Bucket=LANDING, Key="cancer/code/fit.py", Body=SCRIPT)
    custom(account, f"s3://{LANDING}/cancer/code/fit.py")
    drop = account.drop("cancer/data/measured.npy", b"any bytes that the script can read")
    found = identify_dataset.handler(ask(drop), context)
    assert (found["format"], found["task"], found["source_count"]) == ("script", "custom", 2)
    assert [source["key"] for source in found["sources"]] == ["cancer/data/measured.npy", "cancer/code/fit.py"]
    assert set(account.json(found["sources_uri"])) == {"cancer/data/measured.npy", "cancer/code/fit.py"}
    assert [source.key for source in Ledger(LEDGER).accepted("cancer", 1)] == ["cancer/data/measured.npy"]
    succeed(RUN_ID, found["identity"])
    account.s3.put_object(Bucket=LANDING, Key="cancer/code/fit.py", Body=SCRIPT * 2)
    again = identify_dataset.handler(
        ask(account.drop("cancer/data/copy.npy", drop_body(account)), run_id=OTHER_RUN), context
    )
    assert again["outcome"] == "run", "another script is other work"


def drop_body(account) -> bytes:
    return account.s3.get_object(Bucket=LANDING, Key="cancer/data/measured.npy")["Body"].read()


def test_a_packed_script_is_looked_into(account, context):
    account.s3.put_object(Bucket=LANDING, Key="code/fit.zip", Body=zipped({"fit/fit.py": SCRIPT, "fit/net.py": SCRIPT}))
    custom(account, f"s3://{LANDING}/code/fit.zip", ", entry_point: fit.py")
    found = identify_dataset.handler(ask(account.drop("cancer/data/x.zip", zipped({"a.npy": b"1"}))), context)
    assert (found["outcome"], found["format"]) == ("run", "archive")


@pytest.mark.parametrize(
    ("body", "code", "named"),
    [
        pytest.param(b"", "empty-file", "empty", id="nothing"),
        pytest.param(zipped(pictures())[:900], "broken-archive", "damaged", id="cut in the middle"),
        pytest.param(zipped({}), "no-data", "holds no file", id="an archive of nothing"),
        pytest.param(zipped({"../../etc/x.png": PNG}), "archive-path", "outside of its folder", id="a way out"),
        pytest.param(zipped(pictures(classes=1)), "one-class", "same class", id="a single class"),
        pytest.param(zipped(pictures(each=3)), "too-few-images", "6 different pictures", id="a handful"),
        pytest.param(zipped({f"{n}.png": PNG for n in range(40)}), "no-class", "no class's folder", id="no folders"),
        pytest.param(zipped(pictures() | {"0/empty.png": b""}), "empty-file", "0/empty.png", id="an empty picture"),
        pytest.param(zipped({"inner.zip": zipped(pictures())}), "nested-archive", "another archive", id="in another"),
        pytest.param(zipped(pictures() | {"a.exe": b"MZ"}), "unsupported-format", "a.exe", id="what nobody can read"),
        pytest.param(
            zipped({"a.csv": TABLE, "b.parquet": b"PAR1"}), "mixed-formats", "csv and parquet", id="two formats"
        ),
    ],
)
def test_an_archive_that_cannot_be_used_is_rejected_by_its_directory(account, context, body, code, named):
    rejection = rejection_of(account, context, account.drop("cancer/data/shots.zip", body))
    assert rejection.code == code
    assert rejection.file, "it names the archive, or the file in it"
    assert named in rejection.message


def test_archives_of_one_folder_are_judged_together(account, context):
    files = {f"{kind}.zip": zipped({f"{kind}/{n}.png": PNG for n in range(40)}) for kind in ("cat", "dog")}
    found = identify_dataset.handler(ask(filled(account, files)), context)
    assert (found["format"], found["source_count"]) == ("archive", 2)


def test_a_link_in_a_tar_is_refused(account, context):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        link = tarfile.TarInfo("0/passwd.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    drop = account.drop("cancer/data/shots.tar.gz", packed.getvalue())
    assert rejection_of(account, context, drop).code == "archive-link"


def test_of_a_large_tar_only_the_beginning_is_looked_at(account, context, monkeypatch):
    monkeypatch.setattr(identify_dataset, "TAR_BYTES", 2_000)
    body = tarred({f"{n % 2}/{n}.png": hashlib.sha512(b"%d" % n).digest() * 4 for n in range(40)})
    assert len(body) > 2_000
    found = identify_dataset.handler(ask(account.drop("cancer/data/shots.tar.gz", body)), context)
    assert found["outcome"] == "run"
    assert found["content"] == "images"
    assert 30 <= found["example_count"] <= 50, "40, as the beginning lets expect"
    assert 40 * 256 * 0.75 <= found["unpacked_bytes"] <= 40 * 256 * 1.25


@pytest.mark.parametrize(
    ("files", "content", "count"),
    [
        pytest.param(pictures(each=20), "images", 40, id="pictures"),
        pytest.param({"mine/train.py": b"print()", "mine/rows.npy": b"1" * 50}, "script", None, id="a script"),
        pytest.param({"table.csv": TABLE}, "csv", None, id="a table"),
    ],
)
def test_an_archives_directory_tells_what_machines_are_chosen_by(account, context, files, content, count):
    drop = account.drop("cancer/data/shots.zip", zipped(files))
    found = identify_dataset.handler(ask(drop), context)
    assert (found["content"], found["example_count"]) == (content, count)
    assert found["unpacked_bytes"] == sum(map(len, files.values()))


def test_archives_that_are_added_to_others_are_counted_by_nobody(account, context):
    spec(account, "data: {mode: append}")
    found = identify_dataset.handler(ask(account.drop("cancer/data/shots.zip", zipped(pictures()))), context)
    assert (found["content"], found["example_count"], found["unpacked_bytes"]) == (None, None, None)


def test_the_first_mib_of_a_table_tells_that_its_texts_are_to_be_classified(account, context):
    rows = "".join(f"this is the sentence number {n},{('en', 'de')[n % 2]}\n" for n in range(100))
    found = identify_dataset.handler(
        ask(account.drop("cancer/data/talk.csv", f"said,tongue\n{rows}".encode())), context
    )
    assert found["task"] == "text-classification"


@pytest.mark.parametrize(
    ("files", "code", "named"),
    [
        pytest.param(pictures(classes=1), "one-class", "same class", id="a single class"),
        pytest.param(pictures() | {"1/empty.png": b""}, "empty-file", "1/empty.png", id="an empty picture"),
        pytest.param({"a.png": PNG, "b.png": PNG}, "no-class", "a.png", id="no folder and no table"),
        pytest.param(pictures() | {"x.parquet": b"PAR1"}, "mixed-formats", "mixes", id="pictures and a Parquet file"),
        pytest.param(pictures() | {"a.csv": b"a", "b.csv": b"b"}, "mixed-formats", "2 tables", id="two manifests"),
        pytest.param({"fit.py": SCRIPT, "x.npy": b"1"}, "unsupported-format", "fit.py", id="a script by another name"),
    ],
)
def test_a_folder_that_cannot_be_used_is_rejected_by_its_names(account, context, files, code, named):
    rejection = rejection_of(account, context, filled(account, files))
    assert rejection.code == code
    assert rejection.file, "it names the folder, or the file in it"
    assert named in rejection.message


@pytest.mark.parametrize(
    ("asked", "files", "code", "named"),
    [
        pytest.param("task: custom", pictures(), "no-entry-point", "train.py", id="custom without a script"),
        pytest.param(
            "task: text-classification", pictures(), "task-mismatch", "pictures", id="texts asked of pictures"
        ),
        pytest.param(
            "task: image-classification", {"train.py": SCRIPT}, "task-mismatch", "training script", id="of a script"
        ),
        pytest.param(
            "data: {mode: append}", {"train.py": SCRIPT}, "spec-invalid-field", "data.mode", id="adding to a script"
        ),
        pytest.param(
            "train: {hyperparameters: {lr: 1}}",
            pictures(),
            "spec-invalid-field",
            "train.hyperparameters",
            id="unheeded",
        ),
        pytest.param(
            "train: {tune: {ranges: {lr: {min: 1, max: 2}}}}",
            pictures(),
            "spec-invalid-field",
            "train.tune.ranges",
            id="ranges without a script, inside the job",
        ),
        pytest.param(
            "train: {tune: {jobs: 2, metric_regex: 'loss=(.+)'}}",
            pictures(),
            "spec-invalid-field",
            "train.tune.metric_regex",
            id="a metric of a log without a script",
        ),
    ],
)
def test_a_spec_that_does_not_fit_the_drop_is_rejected(account, context, asked, files, code, named):
    spec(account, asked)
    rejection = rejection_of(account, context, filled(account, files))
    assert rejection.code == code
    assert named in rejection.message


@pytest.mark.parametrize(
    ("source", "code", "named"),
    [
        pytest.param(f"s3://{LANDING}/cancer/code/gone.py", "object-missing", "gone.py", id="one that is not there"),
        pytest.param(
            "s3://vault/fit.py", "train-source-refused", "bucket vault", id="a bucket that is not the stack's"
        ),
        pytest.param(
            "s3://lake/fit.py", "train-source-refused", "lake, the data in", id="another bucket than the data's"
        ),
        pytest.param(
            f"s3://{LANDING}/wine/data/fit.py",
            "train-source-refused",
            "project wine",
            id="what another project dropped",
        ),
        pytest.param(f"s3://{LANDING}/code/empty.py", "empty-file", "empty.py", id="an empty one"),
        pytest.param(f"s3://{LANDING}/code/none.zip", "no-entry-point", "no train.py", id="an archive without it"),
        pytest.param(f"s3://{LANDING}/code/cut.zip", "broken-archive", "damaged", id="an archive that is none"),
    ],
)
def test_a_script_that_cannot_be_used_is_rejected(account, context, source, code, named):
    for name, body in {"empty.py": b"", "none.zip": zipped({"fit.py": SCRIPT}), "cut.zip": b"PK"}.items():
        account.s3.put_object(Bucket=LANDING, Key=f"code/{name}", Body=body)
    custom(account, source)
    rejection = rejection_of(account, context, account.drop("cancer/data/x.npy", b"1"))
    assert rejection.code == code
    assert named in rejection.message


# ---- A pretrained encoder ----

ENCODER_URI = f"s3://{LANDING}/cancer/encoders/tiny/"
TEXT_KEY = "cancer/data/texts.csv"
TEXTS = b"text,label\n" + b"".join(b"a text number %d,%s\n" % (n, b"yes" if n % 3 else b"no") for n in range(60))


def with_encoder(account, files: dict[str, bytes], uri: str = ENCODER_URI) -> dict:
    """Put an encoder's files and a spec that names them; return a drop of texts."""
    for name, body in files.items():
        account.s3.put_object(Bucket=LANDING, Key=f"cancer/encoders/tiny/{name}", Body=body)
    spec(account, f"task: text-classification\ntrain: {{pretrained: {uri}}}")
    return account.drop(TEXT_KEY, TEXTS)


def test_an_encoder_is_named_by_its_content_and_recorded(account, context):
    files = encoders.files()
    found = identify_dataset.handler(ask(with_encoder(account, files)), context)
    assert found["outcome"] == "run"
    named = {each["key"].rpartition("/")[2]: each["sha256"] for each in found["pretrained"]}
    assert named == {name: hashlib.sha256(body).hexdigest() for name, body in files.items()}
    assert found["source_count"] == 1
    assert [each["key"] for each in account.run(RUN_ID)["pretrained"]] == [each["key"] for each in found["pretrained"]]


def test_other_weights_in_the_same_place_are_other_work(account, context):
    first = identify_dataset.handler(ask(with_encoder(account, encoders.files(seed=1))), context)
    again = identify_dataset.handler(ask(with_encoder(account, encoders.files(seed=1))), context)
    other = identify_dataset.handler(ask(with_encoder(account, encoders.files(seed=2))), context)
    assert first["identity"] == again["identity"] != other["identity"]


@pytest.mark.parametrize(
    ("changed", "uri", "code", "named"),
    [
        pytest.param({"tokenizer.json": None}, ENCODER_URI, "pretrained-incomplete", "no tokenizer.json", id="a file"),
        pytest.param({"config.json": b"{"}, ENCODER_URI, "pretrained-unknown", "no JSON object", id="no JSON"),
        pytest.param({"model.safetensors": b""}, ENCODER_URI, "pretrained-unknown", "no safetensors", id="no weights"),
        pytest.param(
            {}, f"s3://{LANDING}/wine/data/tiny/", "train-pretrained-refused", "project wine", id="another project's"
        ),
        pytest.param({}, "s3://vault/tiny/", "train-pretrained-refused", "bucket vault", id="a bucket of nobody"),
    ],
)
def test_an_encoder_that_cannot_be_trained_on_is_rejected(account, context, changed, uri, code, named):
    files = {name: body for name, body in (encoders.files() | changed).items() if body is not None}
    rejection = rejection_of(account, context, with_encoder(account, files, uri))
    assert rejection.code == code
    assert named in rejection.message
    assert rejection.column == "train.pretrained"


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
