"""What every resource of its kind must have: encryption, TLS, no public access, retention, a place for what fails."""

from datetime import UTC, datetime

import pytest

from ebb import addresses, door
from infrastructure import project

KEY = {"Fn::GetAtt": ["DataKey", "Arn"]}
BUCKETS = project.resources("AWS::S3::Bucket")
QUEUES = project.resources("AWS::SQS::Queue")
FUNCTIONS = project.resources("AWS::Serverless::Function")


def _denies_plain_text(policies: dict, attribute: str, name: str) -> bool:
    for policy in policies.values():
        target = policy["Properties"][attribute]
        if {"Ref": name} in (target if isinstance(target, list) else [target]):
            for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
                if statement["Effect"] == "Deny" and statement["Principal"] == "*":
                    return statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    return False


@pytest.mark.parametrize("name", BUCKETS)
def test_a_bucket_is_encrypted_private_and_tls_only(name):
    properties = BUCKETS[name]["Properties"]
    (rule,) = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY}
    assert rule["BucketKeyEnabled"] is True
    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(properties["PublicAccessBlockConfiguration"]) == 4
    assert properties["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert _denies_plain_text(project.resources("AWS::S3::BucketPolicy"), "Bucket", name)
    rules = properties["LifecycleConfiguration"]["Rules"]
    assert any("AbortIncompleteMultipartUpload" in each for each in rules)


def test_versions_of_dropped_data_do_not_pile_up():
    properties = BUCKETS["LandingBucket"]["Properties"]
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    assert any("NoncurrentVersionExpiration" in each for each in properties["LifecycleConfiguration"]["Rules"])


def test_results_do_not_trigger_runs():
    """Only the landing bucket sends events: what a run writes can never start another run."""
    sending = [name for name, each in BUCKETS.items() if "NotificationConfiguration" in each["Properties"]]
    assert sending == ["LandingBucket"]


@pytest.mark.parametrize("name", QUEUES)
def test_a_queue_is_encrypted_and_tls_only(name):
    assert QUEUES[name]["Properties"]["KmsMasterKeyId"] == KEY
    assert _denies_plain_text(project.resources("AWS::SQS::QueuePolicy"), "Queues", name)


def test_every_queue_that_is_read_has_a_dead_letter_queue_and_every_dead_letter_queue_an_alarm():
    dead = {name for name in QUEUES if "DeadLetter" in name}
    for name in set(QUEUES) - dead:
        target = QUEUES[name]["Properties"]["RedrivePolicy"]["deadLetterTargetArn"]
        assert target["Fn::GetAtt"][0] in dead
    watched = set()
    for alarm in project.resources("AWS::CloudWatch::Alarm").values():
        properties = alarm["Properties"]
        assert properties["AlarmActions"] == [{"Ref": "NotificationsTopic"}]
        assert (properties["Threshold"], properties["ComparisonOperator"]) == (0, "GreaterThanThreshold")
        watched |= {each["Value"]["Fn::GetAtt"][0] for each in properties["Dimensions"]}
    assert watched == dead


def test_every_rule_keeps_what_it_cannot_deliver():
    targets = [
        each for rule in project.resources("AWS::Events::Rule").values() for each in rule["Properties"]["Targets"]
    ]
    targets += [
        event["Properties"]
        for function in FUNCTIONS.values()
        for event in function["Properties"].get("Events", {}).values()
        if event["Type"] == "EventBridgeRule"
    ]
    assert len(targets) == 6
    for each in targets:
        assert each["DeadLetterConfig"]["Arn"] == {"Fn::GetAtt": ["EventsDeadLetterQueue", "Arn"]}


def test_the_queue_takes_the_dead_letters_of_every_rule():
    (statement,) = [
        each
        for each in project.template()["Resources"]["EventsDeadLetterQueuePolicy"]["Properties"]["PolicyDocument"][
            "Statement"
        ]
        if each["Effect"] == "Allow"
    ]
    rules = set(project.resources("AWS::Events::Rule")) | {"OnAlarmFunctionEndpointAlarm", "OnRunEndedFunctionRunEnded"}
    assert {each["Fn::GetAtt"][0] for each in statement["Condition"]["ArnEquals"]["aws:SourceArn"]} == rules


def test_every_function_that_events_call_keeps_what_it_cannot_handle():
    """Asynchronous callers drop an event after three tries; a queue redrives it, CloudFormation waits for an answer."""
    for name, function in FUNCTIONS.items():
        kinds = {event["Type"] for event in function["Properties"].get("Events", {}).values()}
        if "EventBridgeRule" in kinds:
            target = function["Properties"]["EventInvokeConfig"]["DestinationConfig"]["OnFailure"]["Destination"]
            assert target == {"Fn::GetAtt": ["EventsDeadLetterQueue", "Arn"]}, name


@pytest.mark.parametrize(
    ("name", "function", "source"),
    [("UploadsQueue", "OnUploadFunction", "Uploads"), ("RequestsQueue", "DeliverRequestFunction", "Requests")],
)
def test_a_message_is_invisible_for_six_times_as_long_as_its_function_may_run(name, function, source):
    """https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"""
    default = project.template()["Globals"]["Function"]["Timeout"]
    timeout = FUNCTIONS[function]["Properties"].get("Timeout", default)
    assert QUEUES[name]["Properties"]["VisibilityTimeout"] >= 6 * timeout
    event = FUNCTIONS[function]["Properties"]["Events"][source]["Properties"]
    assert event["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


def test_the_front_door_is_for_signed_callers_who_may_and_lives_longer_than_they_wait():
    front = FUNCTIONS["FrontDoorFunction"]["Properties"]
    assert front["FunctionUrlConfig"]["AuthType"] == "AWS_IAM"
    assert not project.resources("AWS::Lambda::Permission"), "nobody is let in but by a policy of their own"
    assert front["Timeout"] >= 65 + door.LONGEST_WAIT_S
    allowed = project.template()["Resources"]["CallerPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"} <= {each["Action"] for each in allowed}


def test_a_request_waits_in_its_queue_longer_than_any_deadline():
    requests = QUEUES["RequestsQueue"]["Properties"]
    assert requests["MessageRetentionPeriod"] == 1_209_600
    assert requests["RedrivePolicy"]["maxReceiveCount"] == 1000, "a look at what waits is no failure"


def test_one_slow_model_leaves_deliveries_to_the_others():
    """SQS tells by its share of what is in work that one is noisy, a tenth at least: one of five is no tenth.

    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-fair-queues-detailed.html
    """
    event = FUNCTIONS["DeliverRequestFunction"]["Properties"]["Events"]["Requests"]["Properties"]
    assert event["BatchSize"] == 1
    assert event["ScalingConfig"]["MaximumConcurrency"] >= 20
    assert "FifoQueue" not in QUEUES["RequestsQueue"]["Properties"], "in order of their groups they would wait"


def test_a_good_upload_survives_throttling_and_a_poisoned_one_is_seen_within_minutes():
    """Six tries, as many as AWS asks for at least; the alarm rings when the last one is over."""
    properties = QUEUES["UploadsQueue"]["Properties"]
    tries = properties["RedrivePolicy"]["maxReceiveCount"]
    assert tries >= 6
    assert tries * properties["VisibilityTimeout"] <= 600


def test_logs_are_encrypted_and_forgotten():
    groups = project.resources("AWS::Logs::LogGroup")
    users = project.resources("AWS::Serverless::Function", "AWS::Serverless::StateMachine", "AWS::CodeBuild::Project")
    assert set(groups) == {f"{name}LogGroup" for name in [*users, "SparkOutput", "SparkError"]}
    for each in groups.values():
        assert each["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}
        assert each["Properties"]["KmsKeyId"] == KEY


def test_everything_is_traced_and_logs_as_json():
    function = project.template()["Globals"]["Function"]
    assert function["Tracing"] == "Active"
    assert function["LoggingConfig"]["LogFormat"] == "JSON"
    for name, machine in project.resources("AWS::Serverless::StateMachine").items():
        properties = machine["Properties"]
        assert properties["Tracing"] == {"Enabled": True}
        (destination,) = properties["Logging"]["Destinations"]
        assert destination["CloudWatchLogsLogGroup"]["LogGroupArn"] == {"Fn::GetAtt": [f"{name}LogGroup", "Arn"]}


def test_the_ledger_is_encrypted_recoverable_and_costs_nothing_while_idle():
    properties = project.template()["Resources"]["LedgerTable"]["Properties"]
    assert properties["SSESpecification"] == {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": KEY}
    assert properties["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert properties["BillingMode"] == "PAY_PER_REQUEST"


def test_the_topic_is_encrypted_and_the_key_rotates():
    assert project.template()["Resources"]["NotificationsTopic"]["Properties"]["KmsMasterKeyId"] == KEY
    assert project.template()["Resources"]["DataKey"]["Properties"]["EnableKeyRotation"] is True


def test_images_are_immutable_scanned_and_encrypted():
    for each in project.resources("AWS::ECR::Repository").values():
        properties = each["Properties"]
        assert properties["ImageTagMutability"] == "IMMUTABLE"
        assert properties["ImageScanningConfiguration"] == {"ScanOnPush": True}
        assert properties["EncryptionConfiguration"] == {"EncryptionType": "KMS", "KmsKey": KEY}


def test_what_holds_data_outlives_the_stack_and_nothing_else_does():
    kept = {name for name, each in project.template()["Resources"].items() if "DeletionPolicy" in each}
    assert kept == {"ArtifactBucket", "DataKey", "LandingBucket", "LedgerTable"}
    for name in kept:
        assert project.template()["Resources"][name]["DeletionPolicy"] == "RetainExceptOnCreate"


def test_environments_name_resources_of_the_stack():
    """A function gets names, never values that somebody could set differently from the deployed resource."""
    allowed = set(project.template()["Resources"]) | set(project.template()["Parameters"]) | {"AWS::StackName"}
    for name, function in FUNCTIONS.items():
        for variable, value in function["Properties"].get("Environment", {}).get("Variables", {}).items():
            assert isinstance(value, dict), f"{name}: {variable} is written out"
            if "Ref" in value:
                assert value["Ref"] in allowed
            if "Fn::GetAtt" in value:
                assert value["Fn::GetAtt"][0] in allowed


def test_every_start_of_a_run_ends_in_the_ledger_even_when_it_is_cut_short():
    event = FUNCTIONS["OnRunEndedFunction"]["Properties"]["Events"]["RunEnded"]["Properties"]["Pattern"]
    assert set(event["detail"]["status"]) == {"ABORTED", "FAILED", "TIMED_OUT"}
    machines = [{"Ref": "RunPipelineStateMachine"}, {"Ref": "ScoreDataStateMachine"}]
    assert event["detail"]["stateMachineArn"] == machines


def test_a_deployment_that_is_cut_short_is_taken_back():
    """StopExecution and a timeout run no Catch; on AWS a stopped run stops the deployment that it waits for."""
    rule = project.template()["Resources"]["DeploymentStoppedRule"]["Properties"]
    assert set(rule["EventPattern"]["detail"]["status"]) == {"ABORTED", "TIMED_OUT"}
    assert rule["EventPattern"]["detail"]["stateMachineArn"] == [{"Ref": "DeployModelStateMachine"}]
    (target,) = rule["Targets"]
    assert target["Arn"] == {"Ref": "DeployModelStateMachine"}
    assert not {"Input", "InputPath", "InputTransformer"} & set(target), "the machine reads the whole event"


def test_a_sleep_or_wake_that_ends_badly_is_taken_up_again_and_does_not_go_round():
    rule = project.template()["Resources"]["ScalingEndedRule"]["Properties"]
    detail = rule["EventPattern"]["detail"]
    assert set(detail["status"]) == {"ABORTED", "FAILED", "TIMED_OUT"}
    assert detail["stateMachineArn"] == [{"Ref": "ScaleToZeroStateMachine"}, {"Ref": "WakeEndpointStateMachine"}]
    now = datetime(2026, 11, 23, tzinfo=UTC)
    made = (
        addresses.sleep_execution("a", 1, now),
        addresses.wake_execution("a", 1),
        addresses.prewake_execution("a", 1),
    )
    assert {each["prefix"] for each in detail["name"]} == {f"{name.partition('-')[0]}-" for name in made}
    (target,) = rule["Targets"]
    assert target["Arn"] == {"Ref": "ScaleToZeroStateMachine"}
    assert not {"Input", "InputPath", "InputTransformer"} & set(target), "the machine reads the whole event"


@pytest.mark.parametrize(
    "output",
    [
        "LandingBucketName",
        "ArtifactBucketName",
        "LedgerTableName",
        "RunPipelineStateMachineArn",
        "DeployModelStateMachineArn",
        "NotificationsTopicArn",
        "UploadsQueueUrl",
        "UploadsDeadLetterQueueUrl",
        "DataKeyArn",
        "JobsImageUri",
        "JobsRepositoryUri",
        "ServeImageUri",
        "ServeRepositoryUri",
        "JobBoundaryArn",
        "JobsUri",
        "FrontDoorUrl",
        "CallerPolicyArn",
        "RequestsDeadLetterQueueUrl",
    ],
)
def test_the_command_line_finds_its_outputs(output):
    assert output in project.template()["Outputs"]
