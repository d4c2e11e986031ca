"""State machines: definitions, roles, names, limits, JSONata, ends."""

import json

import botocore.exceptions
import pytest
from ministack.services import stepfunctions
from ministack.services.cloudformation import provisioners

from contract.support import allow, messages, queue_arn, task, wait_until

PASS = {"Type": "Pass", "End": True}
GET_ITEM = "arn:aws:states:::dynamodb:getItem"
NESTED = "arn:aws:states:::states:startExecution.sync:2"
CREATE_ROLE = "arn:aws:states:::aws-sdk:iam:createRole"
MANAGED_RULE = "arn:aws:events:us-east-1:000000000000:rule/StepFunctionsGetEventsForStepFunctionsExecutionRule"
NESTED_RULE = allow(["events:PutTargets", "events:PutRule", "events:DescribeRule"], MANAGED_RULE)


@pytest.mark.parametrize(
    "name",
    [
        "_execute_task",
        "_invoke_resource",
        "_invoke_resource_with_timeout",
        "_invoke_with_callback",
        "_add_event",
        "_run_parallel_branches",
        "_apply_output_path",
        "_run_execution",
        "_start_execution",
        "_fail_execution",
        "_error_matches",
        "_prefix_sdk_error",
        "_validate_definition_jsonata",
        "_emit_execution_status_event",
        "_sdk_json_params",
        "_flatten_query_params",
        "_convert_params_to_api_names",
        "_jsonata_state_field",
    ],
)
def test_wrapped_function_exists(name):
    assert callable(getattr(stepfunctions, name))


# ---- definitions


def refused(machine, states: dict, **settings) -> str:
    with pytest.raises(botocore.exceptions.ClientError) as problem:
        machine(states, **settings)
    assert problem.value.response["Error"]["Code"] == "InvalidDefinition"
    return str(problem.value)


@pytest.mark.parametrize(
    ("states", "text"),
    [
        pytest.param(
            {"A": {"Type": "Pass", "Next": "B"}},
            "MISSING_TRANSITION_TARGET: Missing 'Next' target: B at /States/A/Next",
            id="unknown Next",
        ),
        pytest.param({"A": PASS, "B": PASS}, 'State "B" is not reachable', id="unreachable state"),
        pytest.param(
            {"A": task(GET_ITEM, {}, Catch=[{"ErrorEquals": ["States.ALL"], "Next": "B"}])},
            "Missing 'Next' target: B at /States/A/Catch/0/Next",
            id="unknown Next of a Catch",
        ),
        pytest.param({"A": task("arn:aws:states:::batch:submitJob.sync", {})}, "is not recognized", id="no such job"),
        pytest.param(
            {"A": task("arn:aws:states:::aws-sdk:iam:makeRole", {})}, "is not recognized", id="no such action"
        ),
        pytest.param(
            {"A": task("arn:aws:states:::aws-sdk:glue2:getTable", {})}, "is not recognized", id="no such service"
        ),
        pytest.param({"A": {"Type": "Pass"}}, "exactly one of 'Next' and 'End'", id="no end"),
        pytest.param({"A": {**PASS, "Parameters": {}}}, "not supported when QueryLanguage is 'JSONata'", id="JSONPath"),
        pytest.param({"A": {**PASS, "Output": "{% $sum( %}"}}, "INVALID_JSONATA_EXPRESSION", id="broken JSONata"),
        pytest.param(
            {"A": {"Type": "Map", "End": True, "ItemProcessor": {"StartAt": "X", "States": {"B": PASS}}}},
            "Missing 'StartAt' target: X at /States/A/ItemProcessor/StartAt",
            id="inside a Map",
        ),
    ],
)
def test_definition_is_refused_at_create(machine, states, text):
    assert text in refused(machine, states)


def test_unknown_start_is_refused(machine):
    assert "Missing 'StartAt' target: B" in refused(machine, {"A": PASS}, StartAt="B")


def template(definition_uri: str, role_arn: str) -> str:
    return json.dumps(
        {
            "Resources": {
                "Machine": {
                    "Type": "AWS::StepFunctions::StateMachine",
                    "Properties": {"RoleArn": role_arn, "DefinitionString": definition_uri},
                }
            },
            "Outputs": {"Arn": {"Value": {"Ref": "Machine"}}},
        }
    )


def test_cloudformation_reads_yaml(cloud, role, name):
    assert callable(provisioners._sfn_definition)
    text = "QueryLanguage: JSONata\nStartAt: A\nStates:\n  A: {Type: Pass, Output: 1, End: true}\n"
    formation = cloud.client("cloudformation")
    formation.create_stack(StackName=name, TemplateBody=template(text, role().arn))
    formation.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1})
    arn = formation.describe_stacks(StackName=name)["Stacks"][0]["Outputs"][0]["OutputValue"]
    described = cloud.client("stepfunctions").describe_state_machine(stateMachineArn=arn)
    assert json.loads(described["definition"])["StartAt"] == "A"


def test_cloudformation_refuses_a_bad_definition(cloud, role, name):
    formation = cloud.client("cloudformation")
    text = "StartAt: B\nStates: {A: {Type: Succeed}}"
    formation.create_stack(StackName=name, TemplateBody=template(text, role().arn))
    wait_until(lambda: "ROLLBACK" in formation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"])
    events = formation.describe_stack_events(StackName=name)["StackEvents"]
    assert any("Missing 'StartAt' target: B" in event.get("ResourceStatusReason", "") for event in events)


# ---- roles


@pytest.fixture(scope="module")
def table(cloud):
    cloud.client("dynamodb").create_table(
        TableName="states",
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
    )
    return "arn:aws:dynamodb:us-east-1:000000000000:table/states"


def cases():
    table_arn = "arn:aws:dynamodb:us-east-1:000000000000:table/states"
    role_arn = "arn:aws:iam::000000000000:role/ebb/*"
    alarm = "arn:aws:cloudwatch:us-east-1:000000000000:alarm:ebb-*"
    key = {"pk": {"S": "a"}}
    trust = json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
            ],
        }
    )
    alarm_request = {
        "AlarmName": "ebb-a",
        "Namespace": "n",
        "MetricName": "m",
        "Statistic": "Sum",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 1,
        "ComparisonOperator": "GreaterThanThreshold",
    }
    yield pytest.param(
        GET_ITEM,
        {"TableName": "states", "Key": key},
        "dynamodb:GetItem",
        table_arn,
        "DynamoDB.AmazonDynamoDBException",
        id="dynamodb",
    )
    yield pytest.param(
        "arn:aws:states:::aws-sdk:dynamodb:getItem",
        {"TableName": "states", "Key": key},
        "dynamodb:GetItem",
        table_arn,
        "DynamoDb.DynamoDbException",
        id="aws-sdk:dynamodb",
    )
    yield pytest.param(
        CREATE_ROLE,
        {"RoleName": "born", "Path": "/ebb/", "AssumeRolePolicyDocument": trust},
        "iam:CreateRole",
        role_arn,
        "Iam.IamException",
        id="aws-sdk:iam",
    )
    yield pytest.param(
        "arn:aws:states:::aws-sdk:cloudwatch:putMetricAlarm",
        alarm_request,
        "cloudwatch:PutMetricAlarm",
        alarm,
        "CloudWatch.CloudWatchException",
        id="aws-sdk:cloudwatch",
    )
    yield pytest.param(
        "arn:aws:states:::sns:publish",
        {"TopicArn": "arn:aws:sns:us-east-1:000000000000:states", "Message": "hello"},
        "sns:Publish",
        "arn:aws:sns:us-east-1:000000000000:states",
        "SNS.AuthorizationErrorException",
        id="sns",
    )


@pytest.mark.parametrize(("resource", "arguments", "action", "arn", "error"), list(cases()))
@pytest.mark.usefixtures("table")
def test_tasks_act_as_the_role_of_the_machine(cloud, machine, resource, arguments, action, arn, error):
    cloud.client("sns").create_topic(Name="states")
    denied = machine({"Call": task(resource, arguments)}).run()
    assert (denied["status"], denied["error"]) == ("FAILED", error)
    assert f"is not authorized to perform: {action} on resource: " in denied["cause"]
    allowed = machine({"Call": task(resource, arguments)}, allow(action, arn)).run()
    assert allowed["status"] == "SUCCEEDED", allowed


def test_sdk_errors_have_the_name_of_the_exception(machine, role):
    taken = role()
    trust = {"Version": "2012-10-17", "Statement": []}
    request = {"RoleName": taken.name, "AssumeRolePolicyDocument": f"{{% $string({json.dumps(trust)}) %}}"}
    ended = machine({"Call": task(CREATE_ROLE, request)}, allow("iam:CreateRole")).run()
    assert ended["error"] == "Iam.EntityAlreadyExistsException"


# ---- starting and ending

WAIT = {"Type": "Wait", "Seconds": 60, "End": True}


def test_same_name_and_input_starts_once(cloud, machine):
    states = cloud.client("stepfunctions")
    slow = machine({"Wait": WAIT})
    first = slow.start({"a": 1}, name="once")
    assert slow.start({"a": 1}, name="once") == first
    with pytest.raises(states.exceptions.ExecutionAlreadyExists):
        slow.start({"a": 2}, name="once")
    states.stop_execution(executionArn=first)
    with pytest.raises(states.exceptions.ExecutionAlreadyExists):
        slow.start({"a": 1}, name="once")


def test_machines_own_timeout_ends_it(cloud, machine):
    ended = machine({"Wait": WAIT}, TimeoutSeconds=1).run()
    assert ended["status"] == "TIMED_OUT"


def test_status_changes_reach_rules(cloud, machine, queue, name):
    events, arn = cloud.client("events"), queue_arn(cloud, queue)
    pattern = {"source": ["aws.states"], "detail": {"status": ["TIMED_OUT", "ABORTED"]}}
    rule = events.put_rule(Name=name, EventPattern=json.dumps(pattern))["RuleArn"]
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "events.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": arn,
                "Condition": {"ArnEquals": {"aws:SourceArn": rule}},
            }
        ],
    }
    cloud.client("sqs").set_queue_attributes(QueueUrl=queue, Attributes={"Policy": json.dumps(policy)})
    events.put_targets(Rule=name, Targets=[{"Id": "q", "Arn": arn}])
    slow = machine({"Wait": WAIT})
    cloud.client("stepfunctions").stop_execution(executionArn=slow.start(), error="Cancelled", cause="by its user")
    event = json.loads(messages(cloud, queue)[0]["Body"])
    assert event["detail-type"] == "Step Functions Execution Status Change"
    assert (event["detail"]["status"], event["detail"]["stateMachineArn"]) == ("ABORTED", slow.arn)


def test_stopped_execution_stays_aborted_and_stops_its_child(cloud, machine):
    states = cloud.client("stepfunctions")
    child = machine({"Wait": WAIT})
    parent = machine(
        {
            "Run": task(
                NESTED,
                {"StateMachineArn": child.arn, "Input": {}, "Name": "child"},
                Retry=[{"ErrorEquals": ["States.ALL"], "MaxAttempts": 2}],
            )
        },
        allow(["states:StartExecution", "states:DescribeExecution", "states:StopExecution"]),
        NESTED_RULE,
    )
    running = parent.start()
    child_arn = child.arn.replace(":stateMachine:", ":execution:") + ":child"
    wait_until(lambda: states.list_executions(stateMachineArn=child.arn)["executions"])
    states.stop_execution(executionArn=running)
    assert child.finished(child_arn)["status"] == "ABORTED"
    assert parent.finished(running)["status"] == "ABORTED"


def test_timeout_of_a_task_stops_its_job(machine):
    child = machine({"Wait": WAIT})
    parent = machine(
        {"Run": task(NESTED, {"StateMachineArn": child.arn, "Name": "late"}, TimeoutSeconds="{% 1 %}")},
        allow(["states:StartExecution", "states:DescribeExecution", "states:StopExecution"]),
        NESTED_RULE,
    )
    assert parent.run()["error"] == "States.Timeout"
    assert child.finished(child.arn.replace(":stateMachine:", ":execution:") + ":late")["status"] == "ABORTED"


def test_nested_failure_is_a_failed_task_with_its_cause_as_json(machine):
    child = machine({"No": {"Type": "Fail", "Error": "Outdated", "Cause": "newer one deployed"}})
    parent = machine(
        {"Run": task(NESTED, {"StateMachineArn": child.arn})},
        allow(["states:StartExecution", "states:DescribeExecution"]),
        NESTED_RULE,
    )
    ended = parent.run()
    assert ended["error"] == "States.TaskFailed"
    assert json.loads(ended["cause"])["Error"] == "Outdated"


def test_nested_execution_needs_the_managed_rule(machine):
    child = machine({"A": PASS})
    call = {"Run": task(NESTED, {"StateMachineArn": child.arn, "Input": {"x": 1}})}
    starting = allow(["states:StartExecution", "states:DescribeExecution"])
    assert "events:PutTargets" in machine(call, starting).run()["cause"]
    assert machine(call, starting, NESTED_RULE).run()["output"]["Output"] == {"x": 1}


# ---- limits and JSONata


def test_state_output_is_limited_to_256_kib(machine):
    big = {"Type": "Pass", "Output": "{% $join([1..60000].('12345')) %}", "End": True}
    assert machine({"Big": big}).run()["error"] == "States.DataLimitExceeded"
    fits = {"Type": "Pass", "Output": "{% $join([1..50000].('12345')) %}", "End": True}
    assert machine({"Big": fits}).run()["status"] == "SUCCEEDED"


def test_data_limit_is_not_caught_by_all(function, machine):
    arn = function("def handler(event, context): return 'x' * 300_000")
    catch = [{"ErrorEquals": ["States.ALL"], "Next": "Caught"}]
    states = {"Ask": task("arn:aws:states:::lambda:invoke", {"FunctionName": arn}, Catch=catch), "Caught": PASS}
    assert machine(states, allow("lambda:InvokeFunction", arn)).run()["error"] == "States.DataLimitExceeded"


def test_parallel_takes_arguments_and_gives_output_and_variables(machine):
    branch = {"StartAt": "B", "States": {"B": {"Type": "Pass", "Output": "{% $states.input.n * 2 %}", "End": True}}}
    states = {
        "Both": {
            "Type": "Parallel",
            "Branches": [branch, branch],
            "Arguments": {"n": "{% $states.input.n + 1 %}"},
            "Output": "{% $sum($states.result) %}",
            "Assign": {"results": "{% $states.result %}"},
            "Next": "End",
        },
        "End": {"Type": "Succeed", "Output": {"sum": "{% $states.input %}", "results": "{% $results %}"}},
    }
    assert machine(states).run({"n": 1})["output"] == {"sum": 8, "results": [4, 4]}
