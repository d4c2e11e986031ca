"""What is encrypted with a key of ours needs that key, for the caller and for AWS services alike."""

import json

import botocore.exceptions
import pytest
from ministack.services import dynamodb, s3, sns, sqs

from contract.support import allow, key_with, messages, queue_arn, wait_until

LET_EVENTS = {
    "Effect": "Allow",
    "Principal": {"Service": "events.amazonaws.com"},
    "Action": ["kms:GenerateDataKey", "kms:Decrypt"],
    "Resource": "*",
    "Condition": {"StringEquals": {"aws:SourceAccount": "000000000000"}},
}


def test_what_is_read_of_ministack_exists():
    assert callable(s3._bucket_default_sse_headers)
    assert callable(sqs._queue_by_arn)
    assert callable(s3._stored_sse_headers)
    assert hasattr(s3, "_buckets")
    assert hasattr(sns, "_topics")
    assert hasattr(dynamodb, "_tables")


@pytest.fixture
def bucket(cloud, name):
    """A bucket that encrypts with a key of its own; returns (bucket, key ARN)."""
    key = key_with(cloud)
    cloud.client("s3").create_bucket(Bucket=name)
    rule = {
        "ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key},
        "BucketKeyEnabled": True,
    }
    cloud.client("s3").put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": [rule]})
    return name, key


def test_objects_need_the_key_of_the_bucket(cloud, role, bucket):
    name, key = bucket
    objects = allow(["s3:PutObject", "s3:GetObject"], f"arn:aws:s3:::{name}/*")
    without = cloud.client("s3", role(objects).session)
    with pytest.raises(botocore.exceptions.ClientError, match=f"kms:GenerateDataKey on resource: {key}"):
        without.put_object(Bucket=name, Key="a", Body=b"x")
    writer = cloud.client("s3", role(objects, allow("kms:GenerateDataKey", key)).session)
    writer.put_object(Bucket=name, Key="a", Body=b"x")
    with pytest.raises(botocore.exceptions.ClientError, match=f"kms:Decrypt on resource: {key}"):
        writer.get_object(Bucket=name, Key="a")
    via = allow("kms:Decrypt", key, StringEquals={"kms:ViaService": "s3.us-east-1.amazonaws.com"})
    assert cloud.client("s3", role(objects, via).session).get_object(Bucket=name, Key="a")["Body"].read() == b"x"


def test_a_key_that_the_request_names_is_needed_instead(cloud, role, bucket):
    name, bucket_key = bucket
    own = key_with(cloud)
    objects = allow(["s3:PutObject", "s3:GetObject"], f"arn:aws:s3:::{name}/*")
    named = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": own}
    of_bucket = cloud.client("s3", role(objects, allow(["kms:GenerateDataKey", "kms:Decrypt"], bucket_key)).session)
    with pytest.raises(botocore.exceptions.ClientError, match=f"kms:GenerateDataKey on resource: {own}"):
        of_bucket.put_object(Bucket=name, Key="deep/a b", Body=b"x", **named)
    of_own = cloud.client("s3", role(objects, allow(["kms:GenerateDataKey", "kms:Decrypt"], own)).session)
    of_own.put_object(Bucket=name, Key="deep/a b", Body=b"x", **named)
    assert of_own.get_object(Bucket=name, Key="deep/a b")["Body"].read() == b"x"
    with pytest.raises(botocore.exceptions.ClientError, match=f"kms:Decrypt on resource: {own}"):
        of_bucket.get_object(Bucket=name, Key="deep/a b")


def test_multipart_upload_needs_to_decrypt(cloud, role, bucket):
    name, key = bucket
    objects = allow("s3:PutObject", f"arn:aws:s3:::{name}/*")
    without = cloud.client("s3", role(objects, allow("kms:GenerateDataKey", key)).session)
    with pytest.raises(botocore.exceptions.ClientError, match="kms:Decrypt"):
        without.create_multipart_upload(Bucket=name, Key="a")


def test_queue_needs_its_key(cloud, role, queue):
    key, arn = key_with(cloud), queue_arn(cloud, queue)
    cloud.client("sqs").set_queue_attributes(QueueUrl=queue, Attributes={"KmsMasterKeyId": key})
    sender = role(allow(["sqs:SendMessage", "sqs:ReceiveMessage"], arn), allow("kms:GenerateDataKey", key))
    with pytest.raises(botocore.exceptions.ClientError, match=f"kms:Decrypt on resource: {key}"):
        cloud.client("sqs", sender.session).send_message(QueueUrl=queue, MessageBody="x")
    with pytest.raises(botocore.exceptions.ClientError, match="kms:Decrypt"):
        cloud.client("sqs", sender.session).receive_message(QueueUrl=queue)


def test_table_needs_its_key(cloud, role, name):
    key = key_with(cloud)
    cloud.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        SSESpecification={"Enabled": True, "SSEType": "KMS", "KMSMasterKeyId": key},
    )
    reading = allow("dynamodb:GetItem", f"arn:aws:dynamodb:us-east-1:000000000000:table/{name}")
    request = {"TableName": name, "Key": {"pk": {"S": "a"}}}
    with pytest.raises(botocore.exceptions.ClientError, match=f"kms:Decrypt on resource: {key}"):
        cloud.client("dynamodb", role(reading).session).get_item(**request)
    cloud.client("dynamodb", role(reading, allow("kms:Decrypt", key)).session).get_item(**request)


@pytest.mark.parametrize(
    ("statements", "delivered"),
    [
        pytest.param([], False, id="a key policy without EventBridge"),
        pytest.param([LET_EVENTS], True, id="a key policy that names EventBridge"),
    ],
)
def test_rules_deliver_to_an_encrypted_queue_only_with_its_key(cloud, queue, name, statements, delivered):
    arn, events = queue_arn(cloud, queue), cloud.client("events")
    events.put_rule(Name=name, EventPattern=json.dumps({"source": [name]}))
    events.put_targets(Rule=name, Targets=[{"Id": "q", "Arn": arn}])
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn,
    }
    cloud.client("sqs").set_queue_attributes(
        QueueUrl=queue,
        Attributes={
            "Policy": json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
            "KmsMasterKeyId": key_with(cloud, *statements),
        },
    )
    events.put_events(Entries=[{"Source": name, "DetailType": "test", "Detail": "{}"}])
    decision = "Allow" if delivered else "ImplicitDeny"
    wait_until(lambda: cloud.calls(principal="events.amazonaws.com", action="kms:GenerateDataKey", decision=decision))
    assert bool(messages(cloud, queue, timeout_s=5 if delivered else 1)) is delivered
