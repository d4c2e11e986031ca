"""A drop that cannot be used ends as a recorded rejection: what is wrong, where, and what to do about it."""

import json

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


@pytest.mark.parametrize(("body", "named"), BY_PROCESS)
def test_what_needs_a_full_scan_is_rejected_by_process(ebb, tmp_path, body, named, request):
    table = tmp_path / "table.csv"
    table.write_text(body)
    record = reject(ebb, table, f"scan{request.node.callspec.indices['body']}")
    assert named in json.dumps(record["error"])
    assert [stage["stage"] for stage in record["stages"]] == ["process"]


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
