"""Errors of SDK integrations carry the SDK's exception name, which is what `Catch` matches.

MiniStack puts the service before the code on the wire (`Iam.EntityAlreadyExists`). AWS's Step Functions names the
exception of the Java SDK: the modelled shape with the ending `Exception`, else the service's general exception.
Source: https://docs.aws.amazon.com/step-functions/latest/dg/supported-services-awssdk.html (exception prefixes);
the name for errors that are not modelled is assumed.
"""

import functools
from xml.etree import ElementTree

import botocore.session
from ministack.services import stepfunctions

_MODELS = {"monitoring": "cloudwatch", "states": "stepfunctions"}


def install() -> None:
    """Replace MiniStack's prefixing by the modelled name."""

    def name_error(service_name: str, error_code: str) -> str:
        if error_code.startswith("States."):
            return error_code
        prefix = stepfunctions._AWS_SDK_ERROR_PREFIX.get(service_name, service_name.capitalize())
        code = error_code.rsplit("#", 1)[-1].rsplit(".", 1)[-1]
        return f"{prefix}.{exceptions_of(model_name(service_name)).get(code, f'{prefix}Exception')}"

    call_query_service = stepfunctions._dispatch_aws_sdk_query

    def call_reading_errors(service_info, service_name, action, input_data):
        try:
            return call_query_service(service_info, service_name, action, input_data)
        except stepfunctions._ExecutionError as failed:
            code, message = _query_error(failed.cause)
            if code is None:
                raise
            raise stepfunctions._ExecutionError(name_error(service_name, code), message) from failed

    stepfunctions._prefix_sdk_error = name_error
    stepfunctions._dispatch_aws_sdk_query = call_reading_errors


def _query_error(text: str) -> tuple[str | None, str]:
    """Return code and message of an XML error; MiniStack finds them in RDS's namespace only."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None, text
    return root.findtext(".//{*}Error/{*}Code"), root.findtext(".//{*}Error/{*}Message") or ""


def model_name(service_name: str) -> str:
    """Return botocore's name of the service that state machines call `service_name`."""
    info = stepfunctions._AWS_SDK_SERVICE_MAP.get(service_name, {})
    key = info.get("service_key", service_name)
    return _MODELS.get(key, key)


@functools.cache
def exceptions_of(model: str) -> dict[str, str]:
    """Return the Java SDK's exception name for each error code that a service's model holds."""
    service = botocore.session.get_session().get_service_model(model)
    names = {}
    for shape in service.error_shapes:
        stem = shape.name.removesuffix("Fault").removesuffix("Exception")
        code = shape.metadata.get("error", {}).get("code", shape.name)
        names[shape.name] = names[code] = f"{stem}Exception"
    return names
