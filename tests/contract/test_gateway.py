"""Requests over HTTP: TLS, denial texts, resource ARNs, unknown services, the call record."""

import json
from pathlib import Path

import botocore.auth
import botocore.awsrequest
import botocore.exceptions
import botocore.httpsession
import pytest
from ministack.services import s3

from contract.support import allow, task
from ebb_local.gaps import unknown_services


def denial(call, **arguments) -> str:
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        call(**arguments)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 403)
    return str(refused.value)


def test_loopback_counts_as_tls(cloud, role, name):
    buckets = cloud.client("s3")
    buckets.create_bucket(Bucket=name)
    buckets.put_bucket_policy(
        Bucket=name,
        Policy=f"""{{"Version": "2012-10-17", "Statement": [{{"Effect": "Deny",
        "Principal": "*", "Action": "s3:*", "Resource": ["arn:aws:s3:::{name}", "arn:aws:s3:::{name}/*"],
        "Condition": {{"Bool": {{"aws:SecureTransport": "false"}}}}}}]}}""",
    )
    writer = role(allow("s3:PutObject", f"arn:aws:s3:::{name}/*"))
    cloud.client("s3", writer.session).put_object(Bucket=name, Key="a", Body=b"x")


def test_denial_names_principal_action_and_resource(cloud, role, name):
    cloud.client("s3").create_bucket(Bucket=name)
    nobody = role()
    text = denial(cloud.client("s3", nobody.session).get_object, Bucket=name, Key="a")
    assert (
        f"User: arn:aws:sts::000000000000:assumed-role/{nobody.name}/test is not authorized to perform: s3:GetObject "
        f'on resource: "arn:aws:s3:::{name}/a" because no identity-based policy allows the s3:GetObject action'
    ) in text
    text = denial(cloud.client("dynamodb", nobody.session).get_item, TableName="t", Key={"pk": {"S": "a"}})
    assert "dynamodb:GetItem on resource: arn:aws:dynamodb:us-east-1:000000000000:table/t because no" in text


def test_policies_can_name_the_path_of_roles(cloud, role):
    creator = role(allow(["iam:CreateRole", "iam:PutRolePolicy"], "arn:aws:iam::000000000000:role/ebb/*"))
    iam = cloud.client("iam", creator.session)
    trust = json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
            ],
        }
    )
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow("s3:GetObject")]})
    iam.create_role(RoleName=f"{creator.name}-inside", Path="/ebb/", AssumeRolePolicyDocument=trust)
    iam.put_role_policy(RoleName=f"{creator.name}-inside", PolicyName="p", PolicyDocument=policy)
    text = denial(iam.create_role, RoleName=f"{creator.name}-outside", AssumeRolePolicyDocument=trust)
    assert f"role/{creator.name}-outside" in text


@pytest.mark.parametrize(
    ("service", "call"),
    [
        pytest.param("athena", "list_work_groups", id="JSON"),
        pytest.param("service-quotas", "list_services", id="JSON, not known to MiniStack"),
        pytest.param("redshift", "describe_clusters", id="query"),
        pytest.param("xray", "get_groups", id="REST"),
    ],
)
def test_unknown_service_says_so_by_name(cloud, service, call):
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        getattr(cloud.client(service), call)()
    assert refused.value.response["Error"]["Code"] == "UnknownOperationException"
    assert "The embedded cloud has no service" in str(refused.value)


def test_parts_of_s3_that_ministack_ignores_are_refused(cloud, name):
    source = Path(s3.__file__).read_text()
    assert not [part for part in unknown_services.S3_PARTS if f'"{part}"' in source], "MiniStack knows these now"
    cloud.client("s3").create_bucket(Bucket=name)
    with pytest.raises(botocore.exceptions.ClientError, match="has no 'analytics' in service 's3'"):
        cloud.client("s3").get_bucket_analytics_configuration(Bucket=name, Id="a")


def test_unknown_action_of_a_known_service_says_so_by_name(cloud):
    with pytest.raises(botocore.exceptions.ClientError, match="Unknown action: RedriveExecution"):
        cloud.client("stepfunctions").redrive_execution(
            executionArn="arn:aws:states:us-east-1:000000000000:execution:a:b"
        )


def test_call_record_holds_what_was_allowed_and_denied(cloud, role, name):
    cloud.client("s3").create_bucket(Bucket=name)
    reader = role(allow("s3:ListBucket", f"arn:aws:s3:::{name}"))
    reading = cloud.client("s3", reader.session)
    reading.list_objects_v2(Bucket=name)
    denial(reading.get_object, Bucket=name, Key="a")
    decisions = {(c["action"], c["resource"]): c["decision"] for c in cloud.calls(principal=reader.name)}
    assert decisions == {
        ("s3:ListBucket", f"arn:aws:s3:::{name}"): "Allow",
        ("s3:GetObject", f"arn:aws:s3:::{name}/a"): "ImplicitDeny",
    }


def test_control_endpoint_refuses_roles(cloud, role):
    request = botocore.awsrequest.AWSRequest(
        "POST", f"{cloud.server.endpoint_url}/", {"X-Amz-Target": "Ebb.ClearCalls"}, b"{}"
    )
    botocore.auth.SigV4Auth(role().session.get_credentials(), "ebb", "us-east-1").add_auth(request)
    assert botocore.httpsession.URLLib3Session().send(request.prepare()).status_code == 403


def test_status_tells_memory_and_place(cloud):
    status = cloud.control("Status")
    assert status["Home"] == str(cloud.server.home)
    assert 0 < status["MemoryMiB"] < 600


@pytest.mark.parametrize("through", ["HTTP", "state machine"])
def test_roles_can_be_created_only_inside_a_boundary(cloud, role, machine, name, through):
    document = json.dumps({"Version": "2012-10-17", "Statement": [allow("s3:GetObject")]})
    boundary = cloud.client("iam").create_policy(PolicyName=name, PolicyDocument=document)["Policy"]["Arn"]
    inside = [
        allow(
            ["iam:CreateRole", "iam:PutRolePolicy"],
            "arn:aws:iam::000000000000:role/ebb/*",
            StringEquals={"iam:PermissionsBoundary": boundary},
        ),
        allow("iam:TagRole", "arn:aws:iam::000000000000:role/ebb/*"),
    ]
    trust = json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
            ],
        }
    )
    create = {"RoleName": name, "Path": "/ebb/", "AssumeRolePolicyDocument": trust}
    bounded = {**create, "PermissionsBoundary": boundary, "Tags": [{"Key": "a", "Value": "b"}]}
    put = {"RoleName": name, "PolicyName": "p", "PolicyDocument": document}
    if through == "HTTP":
        iam = cloud.client("iam", role(*inside).session)
        denial(iam.create_role, **create)
        iam.create_role(**bounded)
        iam.put_role_policy(**put)
        return
    sdk = "arn:aws:states:::aws-sdk:iam:"
    assert machine({"A": task(f"{sdk}createRole", create)}, *inside).run()["error"] == "Iam.IamException"
    assert machine({"A": task(f"{sdk}createRole", bounded)}, inside[0]).run()["error"] == "Iam.IamException", "TagRole"
    steps = {"A": task(f"{sdk}createRole", bounded, Next="B"), "B": task(f"{sdk}putRolePolicy", put)}
    ended = machine(steps, *inside).run()
    assert ended["status"] == "SUCCEEDED", ended


def test_policies_can_name_the_alarms_that_are_deleted(cloud, role, machine, name):
    alarms = "arn:aws:cloudwatch:us-east-1:000000000000:alarm:ours-*"
    permission = allow("cloudwatch:DeleteAlarms", alarms)
    watcher = cloud.client("cloudwatch", role(permission).session)
    watcher.delete_alarms(AlarmNames=["ours-errors"])
    assert "alarm:theirs because no" in denial(watcher.delete_alarms, AlarmNames=["theirs"])
    delete = task("arn:aws:states:::aws-sdk:cloudwatch:deleteAlarms", {"AlarmNames": ["ours-errors"]})
    made = machine({"Delete": delete}, permission)
    assert made.run({})["status"] == "SUCCEEDED"
