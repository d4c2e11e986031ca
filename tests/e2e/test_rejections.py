"""A drop that cannot be used ends as a recorded rejection: what is wrong, where, and what to do about it."""

import io
import json
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from .conftest import Cloud, Ebb, wait_until

GOOD_ROWS = "".join(f"{i},{i % 7},{'yes' if i % 3 else 'no'}\n" for i in range(200))
TABLE = "a,b,label\n" + GOOD_ROWS

BEFORE_ANY_JOB = [
    pytest.param(b"", None, "empty", id="an empty object"),
    pytest.param(TABLE.encode() + b"\xff\xfe,1,no\n", None, "UTF-8", id="not UTF-8"),
    pytest.param((TABLE + "1,2,yes,extra\n").encode(), None, "202", id="a ragged row names its line"),
    pytest.param(TABLE.replace(",no\n", ",yes\n").encode(), None, "class", id="one class only"),
    pytest.param((TABLE + "1,2,\n").encode(), None, "202", id="a row without a target names its line"),
    pytest.param(TABLE.encode(), "data: {target: price}\n", "price", id="a target column that is not there"),
    pytest.param(TABLE.encode(), "data: {target: label}\nservee: {}\n", "servee", id="an unknown spec field"),
]
# More than the first MiB, which is all that is looked at before a job.
LONG = "a,b,label\n" + "".join(f"{i},{i % 7},{'yes' if i % 3 else 'no'}\n" for i in range(120_000))
BY_PROCESS = [
    pytest.param(LONG.replace(",no\n", ",yes\n"), "class", id="one class only"),
    pytest.param(LONG + "1,2,\n", "120002", id="a row without a target names its line"),
]


def reject(ebb: Ebb, path, project: str, *more) -> dict:
    done = ebb("drop", path, "--project", project, "--wait", "--json", *more)
    assert done.returncode == 3, (done.returncode, done.stdout, done.stderr)
    record = json.loads(done.stdout)
    assert record["status"] == "rejected", record
    assert record["error"]["remedy"]
    return record


@pytest.mark.parametrize(("body", "spec", "named"), BEFORE_ANY_JOB)
def test_what_the_first_look_shows_is_rejected_before_any_job(ebb, cloud: Cloud, tmp_path, body, spec, named, request):
    table, more = tmp_path / "table.csv", []
    table.write_bytes(body)
    if spec:
        (tmp_path / "pipeline.yaml").write_text(spec)
        more = ["--spec", tmp_path / "pipeline.yaml"]
    before = cloud.job_names()
    record = reject(ebb, table, f"bad{request.node.callspec.indices['body']}", *more)
    assert named in json.dumps(record["error"])
    assert cloud.job_names() == before


def test_a_run_that_no_budget_holds_is_refused_with_the_arithmetic_before_any_job(ebb, cloud: Cloud, tmp_path):
    (tmp_path / "table.csv").write_text(TABLE)
    (tmp_path / "pipeline.yaml").write_text("data: {target: label}\ncarbon: {budget: {carbon: 0.001g, energy: 1kWh}}\n")
    before = cloud.job_names()
    record = reject(ebb, tmp_path / "table.csv", "thrifty", "--spec", tmp_path / "pipeline.yaml")
    error = record["error"]
    assert (error["code"], error["column"]) == ("over-budget", "carbon.budget")
    assert "this run may take" in error["message"]
    assert "too much" in error["message"]
    assert "kWh" not in error["message"], "that would have fitted"
    assert cloud.job_names() == before
    assert "no smaller recipe is known" in ebb("why", record["run_id"]).stdout
    assert ebb.json("budget", "thrifty")["projects"] == [], "nothing was set aside"


@pytest.mark.parametrize(("body", "named"), BY_PROCESS)
def test_what_needs_a_full_scan_is_rejected_by_process(ebb, tmp_path, body, named, request):
    table = tmp_path / "table.csv"
    table.write_text(body)
    record = reject(ebb, table, f"scan{request.node.callspec.indices['body']}")
    assert named in json.dumps(record["error"])
    assert record["stages"][-1]["stage"] == "process"


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture(scope="module")
def pictures(digits: Path) -> dict[str, bytes]:
    """Pictures of two digits, by their names in an archive."""
    return {f"{label}/{file.name}": file.read_bytes() for label in "17" for file in sorted((digits / label).iterdir())}


ESCAPING = "../../../escaped.png"
NOISE = random.Random(3).randbytes(17 * 2**20)  # does not shrink: what follows it lies beyond the first look
ARCHIVES_BEFORE_ANY_JOB = [
    pytest.param("a.zip", lambda some: zipped(some)[:-200], "damaged or cut", id="a zip that was cut"),
    pytest.param("b.zip", lambda some: zipped(some | {ESCAPING: b"x"}), "escaped", id="a zip that leaves its folder"),
    pytest.param("c.zip", lambda some: zipped({k: v for k, v in some.items() if k[0] == "1"}), "class", id="one class"),
    pytest.param("d.tar.gz", lambda some: b"no gzip at all" * 99, "d.tar.gz", id="a tar.gz that is none"),
]
ARCHIVES_BY_PROCESS = [
    pytest.param(
        "e.zip",
        lambda some: zipped(some | {"1/bad.png": next(iter(some.values()))[:60]}),
        "1/bad.png",
        id="a broken picture",
    ),
    pytest.param(
        "f.tar.gz",
        lambda some: tarred({"1/noise.png": NOISE} | some | {ESCAPING: b"x"}),
        "escaped",
        id="a tar.gz that leaves its folder far behind its beginning",
    ),
]


def nothing_is_left(ebb: Ebb, cloud: Cloud, project: str) -> None:
    assert cloud.jobs_in_progress() == []
    assert cloud.client("sagemaker").list_endpoints(NameContains=project)["Endpoints"] == []


@pytest.mark.parametrize(("name", "packed", "named"), ARCHIVES_BEFORE_ANY_JOB)
def test_an_archive_that_its_first_look_refuses_starts_no_job(
    ebb, cloud: Cloud, pictures, tmp_path, name, packed, named
):
    (tmp_path / name).write_bytes(packed(pictures))
    before = cloud.job_names()
    record = reject(ebb, tmp_path / name, f"packed-{name[0]}")
    assert named in json.dumps(record["error"])
    assert cloud.job_names() == before
    nothing_is_left(ebb, cloud, f"packed-{name[0]}")


@pytest.mark.parametrize(("name", "packed", "named"), ARCHIVES_BY_PROCESS)
def test_an_archive_that_must_be_unpacked_to_be_refused_leaves_nothing_behind(
    ebb, cloud: Cloud, pictures, tmp_path, name, packed, named
):
    (tmp_path / name).write_bytes(packed(pictures))
    record = reject(ebb, tmp_path / name, f"packed-{name[0]}")
    assert named in json.dumps(record["error"])
    assert record["stages"][-1]["stage"] == "process"
    nothing_is_left(ebb, cloud, f"packed-{name[0]}")
    assert list(ebb.home.rglob("escaped*")) == []


def test_a_prefix_with_pictures_of_one_class_is_rejected_by_its_names_alone(ebb, cloud: Cloud, pictures, tmp_path):
    folder = tmp_path / "ones" / "1"
    folder.mkdir(parents=True)
    for name, content in pictures.items():
        if name.startswith("1/"):
            (tmp_path / "ones" / name).write_bytes(content)
    before = cloud.job_names()
    record = reject(ebb, tmp_path / "ones", "ones", "--no-zip")
    assert "class" in record["error"]["message"]
    assert cloud.job_names() == before


def test_a_text_longer_than_any_model_reads_is_rejected_with_its_line(ebb, lines, tmp_path):
    rows = [{"text": line, "language": language} for line, language in lines]
    rows[99]["text"] = "word " * 300_000
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = reject(ebb, tmp_path / "talk.jsonl", "longwinded")
    assert "100" in json.dumps(record["error"])


def test_an_object_that_is_gone_before_it_is_read_is_a_recorded_rejection(ebb, cloud):
    cloud.put("gone/data/table.csv", TABLE.encode())
    cloud.client("s3").delete_object(Bucket=cloud.outputs["LandingBucketName"], Key="gone/data/table.csv")
    run = wait_until(lambda: cloud.run_of("gone/data/table.csv"), "a record of the drop")
    record = json.loads(ebb("show", run["run_id"], "--wait", "--json").stdout)
    assert record["status"] == "rejected"
    assert "gone/data/table.csv" in record["error"]["message"]


def test_a_bad_spec_that_is_in_the_bucket_already_is_rejected_by_the_pipeline(ebb, cloud, tmp_path):
    cloud.put("inside/pipeline.yaml", b"data: {target: label}\nservee: {}\n")  # the CLI would not have sent it
    (tmp_path / "table.csv").write_text(TABLE)
    record = reject(ebb, tmp_path / "table.csv", "inside")
    assert "servee" in record["error"]["message"]
    assert record["run_id"]


def received(sqs, url: str) -> list[dict] | None:
    return sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1).get("Messages")


def test_a_rejection_notifies_and_holds_no_value_of_the_data(ebb, cloud, tmp_path):
    sqs, sns = cloud.client("sqs"), cloud.client("sns")
    inbox = sqs.create_queue(QueueName="inbox")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=inbox, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    let_sns = {
        "Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": cloud.outputs["NotificationsTopicArn"]}},
    }  # fmt: skip
    policy = json.dumps({"Version": "2012-10-17", "Statement": [let_sns]})
    sqs.set_queue_attributes(QueueUrl=inbox, Attributes={"Policy": policy})
    topic = sns.subscribe(TopicArn=cloud.outputs["NotificationsTopicArn"], Protocol="sqs", Endpoint=arn)
    try:
        table = tmp_path / "table.csv"
        table.write_text(TABLE + "1,2,sesame,secretvalue\n")
        record = reject(ebb, table, "quiet")
        got = wait_until(
            lambda: sqs.receive_message(QueueUrl=inbox, WaitTimeSeconds=1).get("Messages"), "a notification"
        )
        text = got[0]["Body"]
        assert record["run_id"] in text
        assert "rejected" in text
        assert "secretvalue" not in text + json.dumps(record)
    finally:
        sns.unsubscribe(SubscriptionArn=topic["SubscriptionArn"])
        sqs.delete_queue(QueueUrl=inbox)


def test_objects_that_are_no_drop_are_ignored(cloud):
    before = len(cloud.executions())
    cloud.put("quiet/notes.txt", b"hello")
    cloud.put("quiet/pipeline.yaml", b"data: {target: label}\n")
    cloud.put("quiet/data/half/part-1.csv", TABLE.encode())
    queue = cloud.client("sqs")
    url = cloud.outputs["UploadsQueueUrl"]

    def drained() -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = queue.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return not any(int(count) for count in counts.values())

    wait_until(drained, "the uploads queue is empty")
    assert len(cloud.executions()) == before


def test_a_poison_message_ends_in_the_dead_letter_queue_and_raises_its_alarm(cloud):
    sqs, uploads = cloud.client("sqs"), cloud.outputs["UploadsQueueUrl"]
    names = ["VisibilityTimeout"]
    patience = sqs.get_queue_attributes(QueueUrl=uploads, AttributeNames=names)["Attributes"]
    sqs.set_queue_attributes(QueueUrl=uploads, Attributes={"VisibilityTimeout": "2"})  # minutes between tries otherwise
    try:
        poison = {"detail-type": "Object Created", "detail": 7}
        sqs.send_message(QueueUrl=uploads, MessageBody=json.dumps(poison))
        wait_until(lambda: alarms_that_ring(cloud), "the dead-letter queue's alarm", within_s=150)
        dead = cloud.outputs["UploadsDeadLetterQueueUrl"]
        found = wait_until(lambda: received(sqs, dead), "the message")
        assert json.loads(found[0]["Body"]) == poison
        sqs.delete_message(QueueUrl=dead, ReceiptHandle=found[0]["ReceiptHandle"])
    finally:
        sqs.set_queue_attributes(QueueUrl=uploads, Attributes=patience)


def alarms_that_ring(cloud: Cloud) -> list[str]:
    ringing = cloud.client("cloudwatch").describe_alarms(StateValue="ALARM")["MetricAlarms"]
    return [alarm["AlarmName"] for alarm in ringing if "DeadLetter" in alarm["AlarmName"]]
