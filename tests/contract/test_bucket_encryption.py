"""A bucket made by a template is encrypted as the template says."""

import json

from ministack.services.cloudformation import provisioners


def test_ministack_still_leaves_it_out():
    assert "BucketEncryption" not in [entry[0] for entry in provisioners._S3_BUCKET_CONFIGURATIONS], (
        "MiniStack applies it itself now: remove gaps/bucket_encryption.py"
    )


def test_a_bucket_of_a_stack_has_the_encryption_of_its_template(cloud, name):
    default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "arn:aws:kms:us-east-1:000000000000:key/k"}
    rule = {"ServerSideEncryptionByDefault": default, "BucketKeyEnabled": True}
    bucket = {
        "Type": "AWS::S3::Bucket",
        "Properties": {"BucketName": name, "BucketEncryption": {"ServerSideEncryptionConfiguration": [rule]}},
    }
    stacks = cloud.client("cloudformation")
    stacks.create_stack(StackName=name, TemplateBody=json.dumps({"Resources": {"Bucket": bucket}}))
    stacks.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
    found = cloud.client("s3").get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
    assert found[0]["ApplyServerSideEncryptionByDefault"] == default
    assert found[0]["BucketKeyEnabled"] is True
