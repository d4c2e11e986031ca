"""State machines act as their role: every call of a Task state is authorized, which MiniStack never does.

The action and resource ARN of a call come from the same functions that the gateway uses for signed requests.
Sources: https://docs.aws.amazon.com/step-functions/latest/dg/concept-create-iam-advanced.html and the page of each
integration; for nested executions .../connect-stepfunctions.html.
"""

import json
from typing import Any

from ministack.core import iam_actions
from ministack.core.responses import get_account_id, get_region
from ministack.services import stepfunctions

from ebb_local import authorization, sync_tasks, tasks
from ebb_local.gaps import sdk_errors

_S3_ACTIONS = {"ListObjectsV2": "ListBucket", "ListObjects": "ListBucket", "HeadObject": "GetObject"}
# The SDK v1 exception that an optimized integration surfaces when IAM refuses (assumed beside SageMaker's).
_REFUSALS = {
    "lambda": "Lambda.AWSLambdaException",
    "dynamodb": "DynamoDB.AmazonDynamoDBException",
    "sns": "SNS.AuthorizationErrorException",
    "sqs": "SQS.AmazonSQSException",
    "states": "StepFunctions.AWSStepFunctionsException",
    "events": "Events.AmazonCloudWatchEventsException",
    "glue": "Glue.AWSGlueException",
    "sagemaker": "SageMaker.AmazonSageMakerException",
}


def install() -> None:
    """Run each Task as the machine's role, and authorize what it sends."""
    execute, invoke, call_back = (
        stepfunctions._execute_task,
        stepfunctions._invoke_resource,
        stepfunctions._invoke_with_callback,
    )

    def execute_as_role(state_def, raw_input, execution, ctx):
        with tasks.running(execution), authorization.acting_as(principal_of(execution)):
            return execute(state_def, raw_input, execution, ctx)

    def invoke_authorized(resource, input_data):
        if tasks.ended():
            raise tasks.ExecutionEnded(resource)
        authorize(resource, input_data)
        return invoke(resource, input_data)

    def call_back_authorized(resource, input_data, token, state_def):
        authorize(resource.removesuffix(".waitForTaskToken"), input_data)
        return call_back(resource, input_data, token, state_def)

    stepfunctions._execute_task = execute_as_role
    stepfunctions._invoke_resource = invoke_authorized
    stepfunctions._invoke_with_callback = call_back_authorized


def principal_of(execution: dict) -> str:
    """Return the role session as which an execution calls; children of a Distributed Map belong to its machine."""
    machine = stepfunctions._state_machines.get(execution["stateMachineArn"].split("/")[0]) or {}
    return authorization.role_session(machine.get("roleArn", ""), execution["name"])


def authorize(resource: str, arguments: dict) -> None:
    """Raise the integration's access error unless the role in hand may make the calls of this Task."""
    if sync_tasks.find(resource) or ":activity:" in resource:
        return  # the registered task names its own permissions; an activity is polled by its worker
    try:
        for action, arn, context in calls_of(resource, arguments):
            authorization.authorize(action, arn, context=context)
    except authorization.AccessDenied as denied:
        raise refused(resource, denied) from denied


def refused(resource: str, denied: authorization.AccessDenied) -> Exception:
    """Return the error of a Task whose call IAM refused, under the name that its integration gives it."""
    service, _ = service_and_action(resource)
    if ":aws-sdk:" in resource:
        prefix = stepfunctions._AWS_SDK_ERROR_PREFIX.get(service, service.capitalize())
        return stepfunctions._ExecutionError(f"{prefix}.{prefix}Exception", str(denied))
    return stepfunctions._ExecutionError(_REFUSALS.get(service, f"{service.capitalize()}.AccessDenied"), str(denied))


def service_and_action(resource: str) -> tuple[str, str]:
    """Return service and action of a Task's Resource: ("dynamodb", "putItem"), ("iam", "createRole")."""
    parts = resource.split(":")
    if parts[2] == "lambda":
        return "lambda", "invoke"
    names = parts[6:8] if parts[5] == "aws-sdk" else parts[5:7]
    return names[0].lower(), names[1].split(".")[0]


def calls_of(resource: str, arguments: dict) -> list[tuple[str, str, dict[str, Any]]]:
    """Return (IAM action, resource ARN, condition keys) of each call that a Task makes."""
    service, action = service_and_action(resource)
    account, region = get_account_id(), get_region()
    operation = action[0].upper() + action[1:]
    if service == "lambda":
        named = resource if resource.startswith("arn:aws:lambda") else str(arguments.get("FunctionName", "*"))
        arn = named if named.startswith("arn:") else f"arn:aws:lambda:{region}:{account}:function:{named}"
        return [("lambda:InvokeFunction" if operation == "Invoke" else f"lambda:{operation}", arn, {})]
    if service == "states":
        return [("states:StartExecution", str(arguments.get("StateMachineArn", "*")), {})]
    if service == "s3":
        name = f"{arguments.get('Bucket', '*')}"
        key = f"/{arguments['Key']}" if "Key" in arguments else ""
        return [(f"s3:{_S3_ACTIONS.get(operation, operation)}", f"arn:aws:s3:::{name}{key}", {})]
    call = _as_request(service, operation, arguments, region, account)
    if call[0] == "iam:CreateRole" and arguments.get("Tags"):
        # https://docs.aws.amazon.com/IAM/latest/UserGuide/id_tags_roles.html
        return [call, ("iam:TagRole", *call[1:])]
    return [call]


def _as_request(
    service: str, operation: str, arguments: dict, region: str, account: str
) -> tuple[str, str, dict[str, Any]]:
    """Write the call as the HTTP request that it stands for, and let MiniStack's extraction read it."""
    info = stepfunctions._AWS_SDK_SERVICE_MAP.get(service, {"protocol": "json", "target_prefix": service})
    key = info.get("service_key", service)
    if info["protocol"] == "query":
        wire = stepfunctions._convert_params_to_api_names(arguments, None)
        flat = stepfunctions._flatten_query_params(wire)
        params = {name: [str(value)] for name, value in flat.items()} | {"Action": [operation]}
        headers = {"content-type": "application/x-www-form-urlencoded"}
        body = json.dumps(arguments).encode()  # SQS, whose extraction reads JSON
    else:
        params = {}
        headers = {"x-amz-target": f"{info.get('target_prefix', key)}.{operation}"}
        body = json.dumps(stepfunctions._sdk_json_params(info, key, operation, arguments)).encode()
    namespace = iam_actions.SERVICE_TO_IAM_NAMESPACE.get(key, sdk_errors.model_name(service))
    arn = iam_actions.extract_resource_arn(key, "POST", "/", headers, body, params, region, account)
    context = iam_actions.request_tag_context(key, f"{namespace}:{operation}", body, params)
    return f"{namespace}:{operation}", arn, context
