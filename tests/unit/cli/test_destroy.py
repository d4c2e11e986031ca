"""`ebb destroy` removes what this stack's runs made, nothing else, and on AWS only when told twice."""

import json

import pytest
from botocore.exceptions import ClientError

from ebb import addresses
from ebb_cli import destroy as module
from ebb_cli.destroy import Resource
from ebb_cli.owned import Owned
from ebb_cli.problems import CommandError
from ebb_cli.target import Target
from infrastructure import project

TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})
GRANT = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::artifacts/*"}
POLICY = json.dumps({"Version": "2012-10-17", "Statement": [GRANT]})
OURS = [{"Key": "ebb:stack", "Value": "ebb"}, {"Key": "ebb:project", "Value": "churn-run-a1"}]
PRODUCTION = [{"Key": "ebb:stack", "Value": "ebb-prod"}, {"Key": "ebb:project", "Value": "churn"}]
RESOURCES = [
    Resource("AWS::CloudWatch::Alarm", "ebb-queue-age"), Resource("AWS::IAM::Role", "ebb-boundary-holder"),
    Resource("AWS::Lambda::Function", "ebb-on-upload"),
    Resource("AWS::Logs::LogGroup", "/aws/vendedlogs/states/ebb-run-pipeline"),
    Resource("AWS::Events::Rule", "ebb-stopped", "DeploymentStoppedRule"),
    Resource("AWS::Events::Rule", "ebb-run-ended", "RunEndedRule"),
]  # fmt: skip


@pytest.fixture
def account(target: Target, monkeypatch):
    """Runs of two stacks, something that belongs to nobody, and the stack's own alarm and role."""
    monkeypatch.setattr(module, "find", lambda **_: target)
    monkeypatch.setattr(module, "_resources", lambda _: RESOURCES)
    monkeypatch.setattr(module.owned, "components", lambda _: [])  # moto knows of none
    monkeypatch.setattr(module.owned, "feature_groups", lambda _: [])  # nor of these
    monkeypatch.setattr(module.owned, "load_tests", lambda _: [])
    for rule in ("ebb-stopped", "ebb-run-ended"):
        target.client("events").put_rule(Name=rule, EventPattern=json.dumps({"source": ["aws.states"]}))
    iam, sagemaker, cloudwatch, logs = (target.client(name) for name in ("iam", "sagemaker", "cloudwatch", "logs"))
    for name, path in (
        ("ebb-churn-train", "/ebb/"), ("ebb-boundary-holder", "/ebb/"), ("ebb2-churn-train", "/ebb2/"), ("admin", "/"),
    ):  # fmt: skip
        iam.create_role(RoleName=name, Path=path, AssumeRolePolicyDocument=TRUST)
    iam.put_role_policy(RoleName="ebb-churn-train", PolicyName="job", PolicyDocument=POLICY)
    alarms = {"ebb-churn-errors": OURS, "ebb-queue-age": [], "ebb-prod-churn-errors": PRODUCTION, "other-alarm": []}
    for name, tags in alarms.items():
        cloudwatch.put_metric_alarm(
            AlarmName=name, MetricName="Errors", Namespace="AWS/X", Period=60, EvaluationPeriods=1, Threshold=1,
            ComparisonOperator="GreaterThanThreshold", Statistic="Sum", Tags=tags,
        )  # fmt: skip
    role = "arn:aws:iam::123456789012:role/ebb/ebb-churn-model"
    for name, tags in (("churn-run-a1", OURS), ("prod-churn", PRODUCTION), ("somebody-elses", [])):
        sagemaker.create_model(ModelName=name, ExecutionRoleArn=role, Tags=tags, PrimaryContainer={"Image": "i"})
        variant = {"ModelName": name, "VariantName": "v", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
        sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant], Tags=tags)
        sagemaker.create_endpoint(EndpointName=f"ebb-{name}", EndpointConfigName=name, Tags=tags)
        logs.create_log_group(logGroupName=f"/aws/sagemaker/Endpoints/ebb-{name}")
    for group in ("lambda/ebb-on-upload", "lambda/ebb-prod-on-upload", "vendedlogs/states/ebb-run-pipeline"):
        logs.create_log_group(logGroupName=f"/aws/{group}")
    return target


def left(target: Target) -> dict[str, list[str]]:
    iam, sagemaker, cloudwatch = (target.client(name) for name in ("iam", "sagemaker", "cloudwatch"))
    return {
        "roles": sorted(item["RoleName"] for item in iam.list_roles()["Roles"]),
        "alarms": sorted(item["AlarmName"] for item in cloudwatch.describe_alarms()["MetricAlarms"]),
        "models": [item["ModelName"] for item in sagemaker.list_models()["Models"]],
        "endpoints": [item["EndpointName"] for item in sagemaker.list_endpoints()["Endpoints"]],
        "configs": [item["EndpointConfigName"] for item in sagemaker.list_endpoint_configs()["EndpointConfigs"]],
    }


def test_only_what_runs_of_this_stack_made_is_removed(account):
    removed = list(module.remove(account, account.outputs, with_stack=False, with_data=False))
    assert {name for _, name in removed} == {
        "ebb-churn-run-a1", "churn-run-a1", "ebb-churn-errors", "ebb-churn-train",
        "/aws/sagemaker/Endpoints/ebb-churn-run-a1",
    }  # fmt: skip
    assert left(account) == {
        "roles": ["admin", "ebb-boundary-holder", "ebb2-churn-train"],
        "alarms": ["ebb-prod-churn-errors", "ebb-queue-age", "other-alarm"],
        "models": ["prod-churn", "somebody-elses"],
        "endpoints": ["ebb-prod-churn", "ebb-somebody-elses"],
        "configs": ["prod-churn", "somebody-elses"],
    }


def test_with_the_stack_go_the_logs_of_its_own_functions_and_machines(account, monkeypatch):
    monkeypatch.setattr(module, "_stack", lambda target: iter([("stack", target.stack)]))
    list(module.remove(account, account.outputs, with_stack=True, with_data=False))
    groups = account.client("logs").describe_log_groups()["logGroups"]
    assert [group["logGroupName"] for group in groups] == [
        "/aws/lambda/ebb-prod-on-upload",
        "/aws/sagemaker/Endpoints/ebb-prod-churn",
        "/aws/sagemaker/Endpoints/ebb-somebody-elses",
    ]


def test_the_log_of_an_endpoint_that_is_gone_goes_by_its_project(account, put):
    put(run_id="wine-20261123040506-abc123")
    account.client("logs").create_log_group(logGroupName="/aws/sagemaker/Endpoints/ebb-wine")
    removed = list(module.remove(account, account.outputs, with_stack=False, with_data=False))
    assert ("log group", "/aws/sagemaker/Endpoints/ebb-wine") in removed


def test_a_project_whose_endpoint_is_removed_serves_nothing_any_more(account):
    dynamodb, table = account.client("dynamodb"), account.outputs["LedgerTableName"]
    key = {"pk": {"S": "PROJECT#churn-run-a1"}, "sk": {"S": "PROJECT"}}
    dynamodb.put_item(TableName=table, Item={**key, "served": {"M": {}}, "generation": {"N": "3"}})
    list(module.remove(account, account.outputs, with_stack=False, with_data=False))
    assert dynamodb.get_item(TableName=table, Key=key)["Item"] == {**key, "generation": {"N": "3"}}


def test_the_address_of_a_model_goes_and_that_of_an_endpoint_which_others_made_stays(account):
    dynamodb, table = account.client("dynamodb"), account.outputs["LedgerTableName"]
    for name, origin in (("ebb-wine", "ebb"), ("theirs", "foreign")):
        fields = {"address": name, "origin": origin, "project": "wine", "kind": "batch", "state": "awake"}
        item = {**addresses.key(name), **fields, "gsi_pk": addresses.LISTED, "gsi_sk": name}
        dynamodb.put_item(TableName=table, Item={key: {"S": value} for key, value in item.items()})
    removed = list(module.remove(account, account.outputs, with_stack=False, with_data=False))
    assert [name for kind, name in removed if kind == "address"] == ["ebb-wine"]
    kept = dynamodb.scan(
        TableName=table, FilterExpression="begins_with(pk, :a)", ExpressionAttributeValues={":a": {"S": "ADDRESS#"}}
    )["Items"]
    assert [each["address"]["S"] for each in kept] == ["theirs"]


def test_what_scales_an_endpoint_goes_with_it(account):
    scaling = account.client("application-autoscaling")
    what = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": "endpoint/ebb-churn-run-a1/variant/AllTraffic",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    scaling.register_scalable_target(**what, MinCapacity=0, MaxCapacity=1)
    removed = list(module.remove(account, account.outputs, with_stack=False, with_data=False))
    assert ("scalable target", what["ResourceId"]) in removed
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []


def test_a_second_destroy_finds_nothing(account):
    list(module.remove(account, account.outputs, with_stack=False, with_data=False))
    assert list(module.remove(account, account.outputs, with_stack=False, with_data=False)) == []


def test_running_executions_are_stopped_first(account):
    machine = account.outputs["RunPipelineStateMachineArn"]
    account.client("stepfunctions").start_execution(stateMachineArn=machine, name="churn-run-a1", input="{}")
    first = next(module.remove(account, account.outputs, with_stack=False, with_data=False))
    assert first == ("running execution", "churn-run-a1")


def _rules(target: Target) -> dict[str, str]:
    return {each["Name"]: each["State"] for each in target.client("events").list_rules()["Rules"]}


class LoadTests:
    """A SageMaker in which a job takes two looks to stop, and has left an endpoint."""

    def __init__(self):
        self.calls, self.looks = [], 0

    def stop_inference_recommendations_job(self, **request):
        self.calls.append(("stop", request["JobName"]))

    def describe_inference_recommendations_job(self, **_):
        self.looks += 1
        return {"Status": "STOPPING" if self.looks < 3 else "STOPPED"}

    def get_paginator(self, operation):
        assert operation == "list_endpoints"
        return self

    def paginate(self, **asked):
        assert asked == {"NameContains": RUN[:40]}, "cut as AWS cuts it"
        yield {"Endpoints": [{"EndpointName": f"{RUN[:40]}-x"}]}

    def delete_endpoint(self, **request):
        self.calls.append(("delete", request["EndpointName"]))


RUN = "churn-of-customers--lt-20261123040506-0a1b2c3d4e-a1"


def test_a_load_test_that_runs_is_stopped_and_waited_for_and_leaves_no_endpoint(target, monkeypatch):
    sagemaker = LoadTests()
    monkeypatch.setattr(Target, "client", lambda *_: sagemaker)
    jobs = [Owned(RUN, "churn", {"Status": "IN_PROGRESS"}), Owned("ended", "churn", {"Status": "COMPLETED"})]
    monkeypatch.setattr(module.owned, "load_tests", lambda _: jobs)
    assert list(module._load_tests(target)) == [("load test", RUN), ("endpoint", f"{RUN[:40]}-x")]
    assert sagemaker.calls == [("stop", RUN), ("delete", f"{RUN[:40]}-x")]
    assert sagemaker.looks == 3


def test_what_would_start_again_what_is_stopped_rests_meanwhile(account):
    """The event of a stopped deployment starts its undoing, which puts back what is being deleted."""
    removing = module.remove(account, account.outputs, with_stack=False, with_data=False)
    next(removing)
    assert _rules(account) == {"ebb-stopped": "DISABLED", "ebb-run-ended": "ENABLED"}
    removing.close()  # interrupted
    assert _rules(account) == {"ebb-stopped": "ENABLED", "ebb-run-ended": "ENABLED"}
    list(module.remove(account, account.outputs, with_stack=False, with_data=False))
    assert _rules(account) == {"ebb-stopped": "ENABLED", "ebb-run-ended": "ENABLED"}


def test_a_deployment_that_runs_gives_up_its_claim_and_what_it_makes_at_last_goes_too(account, monkeypatch):
    """Its last call is under way when it is stopped: the configuration appears only after all were listed."""
    states, machine = account.client("stepfunctions"), account.outputs["RunPipelineStateMachineArn"]
    outputs = account.outputs | {"DeployModelStateMachineArn": machine}
    del outputs["RunPipelineStateMachineArn"]
    undoing = {"detail": {"executionArn": "arn", "input": json.dumps({"project": "churn"})}}
    states.start_execution(stateMachineArn=machine, name="undoing", input=json.dumps(undoing))
    key = {"pk": {"S": "PROJECT#churn"}, "sk": {"S": "PROJECT"}}
    dynamodb, table = account.client("dynamodb"), account.outputs["LedgerTableName"]
    claim = {name: {"S": "x"} for name in ("deploying", "deploying_since", "deployment")}
    dynamodb.put_item(TableName=table, Item={**key, **claim, "deployments": {"N": "3"}})
    late = iter([lambda: _config(account, "churn-run-a1-0a1b2c", OURS)])
    roles = module._roles
    monkeypatch.setattr(module, "_roles", lambda *given: next(late, lambda: None)() or roles(*given))
    removed = list(module.remove(account, outputs, with_stack=False, with_data=False))
    assert ("endpoint configuration", "churn-run-a1-0a1b2c") in removed
    assert left(account)["configs"] == ["prod-churn", "somebody-elses"]
    assert dynamodb.get_item(TableName=table, Key=key)["Item"] == {**key, "deployments": {"N": "3"}}


def test_the_configuration_that_an_endpoint_runs_on_goes_with_it_whatever_its_tags(account):
    """Woken without capacity of its type, it runs on one that had no tags in earlier versions."""
    _config(account, "churn-run-a1-a-m5-large", [])
    account.client("sagemaker").create_endpoint(
        EndpointName="ebb-churn--async", EndpointConfigName="churn-run-a1-a-m5-large", Tags=OURS
    )
    list(module.remove(account, account.outputs, with_stack=False, with_data=False))
    assert left(account)["configs"] == ["prod-churn", "somebody-elses"]


def _config(target: Target, name: str, tags: list[dict[str, str]]) -> None:
    variant = {"ModelName": "prod-churn", "VariantName": "v", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    target.client("sagemaker").create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant], Tags=tags)


def test_data_goes_with_every_version_of_it(account):
    s3 = account.client("s3")
    s3.put_bucket_versioning(Bucket="landing", VersioningConfiguration={"Status": "Enabled"})
    for body in (b"1", b"2"):
        s3.put_object(Bucket="landing", Key="churn/data/a.csv", Body=body)
    s3.delete_object(Bucket="landing", Key="churn/data/a.csv")
    key = account.client("kms").create_key()["KeyMetadata"]["Arn"]
    removed = list(module._data(account, account.outputs | {"DataKeyArn": key}))
    assert [kind for kind, _ in removed] == ["bucket", "bucket", "table", "key (in 30 days)"]
    with pytest.raises(ClientError, match="404"):
        s3.head_bucket(Bucket="landing")
    assert account.client("kms").describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "PendingDeletion"


def on(target: Target, **changes) -> Target:
    made = Target(target.session, None, changes.get("embedded", False), "1", "us-east-1", "ebb", changes.get("profile"))
    made.__dict__["outputs"] = target.outputs
    return made


@pytest.mark.parametrize(
    ("options", "profile", "stdin", "code"),
    [
        pytest.param([], None, "ebb\n", 2, id="AWS without a named profile is refused"),
        pytest.param(["--yes"], None, "", 2, id="--yes is no profile"),
        pytest.param([], "work", "yes\n", 1, id="the stack's name must be typed"),
        pytest.param(["--yes"], "work", "\n", 1, id="--yes does not type it"),
        pytest.param(["--delete-data"], "work", "ebb\n", 2, id="data goes only with the stack"),
    ],
)
def test_on_aws_nothing_is_removed_without_profile_and_typed_name(
    ebb, account, monkeypatch, options, profile, stdin, code
):
    monkeypatch.setattr(module, "find", lambda **_: on(account, profile=profile))
    before = left(account)
    done = ebb("destroy", *options, stdin=stdin)
    assert done.exit_code == code, done.stderr
    assert left(account) == before


def test_stack_names_a_stack_here_as_everywhere(ebb, account, monkeypatch):
    asked = {}
    monkeypatch.setattr(module, "find", lambda **options: asked.update(options) or on(account, embedded=True))
    assert ebb("destroy", "--stack", "other", "--yes").exit_code == 0
    assert asked["stack"] == "other"
    assert ebb("destroy", "--delete-data", "--yes").exit_code == 2, "data goes only with the stack"


def test_on_aws_the_typed_name_is_enough(ebb, account, monkeypatch):
    monkeypatch.setattr(module, "find", lambda **_: on(account, profile="work"))
    done = ebb("destroy", "--json", stdin="ebb\n")
    assert done.exit_code == 0, done.stderr
    assert "admin" in left(account)["roles"]
    assert left(account)["models"] == ["prod-churn", "somebody-elses"]


@pytest.mark.parametrize(("options", "stdin"), [(["--yes"], ""), ([], "y\n")])
def test_on_the_embedded_cloud_a_yes_is_enough(ebb, account, monkeypatch, options, stdin):
    monkeypatch.setattr(module, "find", lambda **_: on(account, embedded=True))
    assert ebb("destroy", *options, stdin=stdin).exit_code == 0
    assert left(account)["models"] == ["prod-churn", "somebody-elses"]


def _others(account: Target, *names: str, state: str, origin: str = "foreign") -> None:
    for name in names:
        fields = {"address": name, "origin": origin, "project": name, "kind": "classic", "state": state}
        item = {**addresses.key(name), **fields, "gsi_pk": addresses.LISTED, "gsi_sk": name}
        entry = {key: {"S": value} for key, value in item.items()}
        account.client("dynamodb").put_item(TableName=account.outputs["LedgerTableName"], Item=entry)


@pytest.fixture
def scaling(account, monkeypatch):
    """An execution each that wakes an endpoint of the stack's own and one of somebody else; and what it ends with."""
    _others(account, "theirs", state="waking")
    _others(account, "ebb-wine", state="waking", origin="ebb")
    outputs = dict(account.outputs)
    machine = outputs["WakeEndpointStateMachineArn"] = outputs.pop("RunPipelineStateMachineArn")
    states, started = account.client("stepfunctions"), {}
    carried_on = {"detail": {"executionArn": "arn", "input": json.dumps({"address": "theirs"})}}
    for name, given in (("own", {"address": "ebb-wine"}), ("lent", {"address": "theirs"}), ("carried-on", carried_on)):
        told = {"stateMachineArn": machine, "name": name, "input": json.dumps(given)}
        started[name] = states.start_execution(**told)["executionArn"]
    return outputs, started


def _ends(target: Target, monkeypatch, executions: list[str], state: str) -> list[int]:
    """Let these executions end at the second look that waits for them."""
    looks = []

    def sleep(_: float) -> None:
        looks.append(len(looks))
        if len(looks) == 2:
            _others(target, "theirs", state=state)
            for each in executions:
                target.client("stepfunctions").stop_execution(executionArn=each, error="done")

    monkeypatch.setattr(module.time, "sleep", sleep)
    return looks


def test_what_wakes_an_endpoint_of_others_is_waited_for(account, scaling, monkeypatch):
    """The rule that would carry on rests meanwhile, and with the stack it is gone: half woken it would stay."""
    outputs, started = scaling
    looks = _ends(account, monkeypatch, [started["lent"], started["carried-on"]], "awake")
    removed = list(module.remove(account, outputs, with_stack=False, with_data=False))
    assert [name for kind, name in removed if kind == "running execution"] == ["own"]
    assert len(looks) == 2


def test_what_only_waits_beside_an_endpoint_of_others_that_is_awake_is_stopped(account, scaling):
    """It waits for the end of a window, for hours perhaps; nothing has been begun."""
    _others(account, "theirs", state="awake")
    outputs, _ = scaling
    removed = list(module.remove(account, outputs, with_stack=False, with_data=False))
    found = [name for kind, name in removed if kind == "running execution"]
    assert sorted(found) == ["carried-on", "lent", "own"]


def test_what_wakes_an_endpoint_of_others_is_not_waited_for_for_ever(account, scaling, monkeypatch):
    outputs, _ = scaling
    monkeypatch.setattr(module, "OTHERS_DONE_WITHIN_S", 0)
    with pytest.raises(CommandError, match="theirs"):
        list(module.remove(account, outputs, with_stack=False, with_data=False))
    assert _rules(account)["ebb-stopped"] == "ENABLED", "and what was stopped is carried on"


def test_the_stack_stays_when_an_endpoint_of_others_has_fallen_asleep_meanwhile(account, scaling, monkeypatch):
    outputs, started = scaling
    _ends(account, monkeypatch, [started["lent"], started["carried-on"]], "asleep")
    monkeypatch.setattr(module, "_stack", lambda _: pytest.fail("nothing could wake it any more"))
    with pytest.raises(CommandError, match="did not make them: theirs"):
        list(module.remove(account, outputs, with_stack=True, with_data=False))


def test_the_rules_that_rest_are_those_of_the_template_and_no_other_starts_what_is_stopped():
    """A rule of a function is named by SAM: the function's name, then the event's."""
    names = {name for name in project.resources("AWS::Events::Rule")}
    for function, resource in project.resources("AWS::Serverless::Function").items():
        events = resource["Properties"].get("Events", {})
        names |= {function + event for event, each in events.items() if each["Type"] == "EventBridgeRule"}
    for machine, resource in project.resources("AWS::Serverless::StateMachine").items():
        assert not resource["Properties"].get("Events"), machine
    assert names >= module.RESTARTING
    # a new drop is a run of its own; a run that ended is noted; of a job that ended the alarms are cleared
    others = {"UploadsRule", "OnRunEndedFunctionRunEnded", "WatchedTrainingEndedRule"}
    assert names - module.RESTARTING == others


def test_the_machines_whose_work_on_endpoints_of_others_is_waited_for_are_outputs_of_the_template():
    outputs = project.template()["Outputs"]
    for name in module.SCALING:
        assert f"{name}StateMachineArn" in outputs
