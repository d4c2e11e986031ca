"""Function URLs: who may call one, what comes through, and how much."""

import json

import botocore.auth
import botocore.awsrequest
import botocore.httpsession
import pytest

from contract.support import allow
from ebb_local.gaps import function_urls

ECHO = """
    import base64
    def handler(event, context):
        body = base64.b64decode(event["body"]) if event.get("isBase64Encoded") else (event.get("body") or "").encode()
        size = int(event["headers"].get("x-size") or 0)
        return {"statusCode": 200, "headers": {"content-type": "image/png"}, "isBase64Encoded": True,
                "body": base64.b64encode(b"x" * size or body).decode()}
"""


@pytest.fixture(scope="module")
def url(cloud, function) -> tuple[str, str]:
    """A function's ARN, and its URL."""
    arn = function(ECHO, MemorySize=256)
    found = cloud.client("lambda").create_function_url_config(FunctionName=arn, AuthType="AWS_IAM")
    return arn, found["FunctionUrl"]


def call(cloud, url: str, session, body: bytes = b"", **headers: str):
    """Call a URL as on AWS: signed for its host, here sent to where the embedded cloud listens."""
    named = {
        "content-type": "application/octet-stream",
        **{key.replace("_", "-"): each for key, each in headers.items()},
    }
    request = botocore.awsrequest.AWSRequest("POST", url, named, body)
    credentials = session.get_credentials().get_frozen_credentials()
    botocore.auth.SigV4Auth(credentials, "lambda", cloud.server.region).add_auth(request)
    prepared = request.prepare()
    prepared.headers["Host"] = url.split("/")[2]
    prepared.url = cloud.server.endpoint_url + "/"
    return botocore.httpsession.URLLib3Session().send(prepared)


def test_bytes_come_through_as_they_are(cloud, url):
    body = bytes(range(256))
    answer = call(cloud, url[1], cloud.session(), body)
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("actions", "condition", "status"),
    [
        pytest.param(["lambda:InvokeFunctionUrl", "lambda:InvokeFunction"], {}, 200, id="both"),
        pytest.param(
            ["lambda:InvokeFunctionUrl", "lambda:InvokeFunction"],
            {"Bool": {"lambda:InvokedViaFunctionUrl": "true"}},
            403,
            id="the first one knows no such key: AWS denies it",
        ),
        pytest.param(["lambda:InvokeFunctionUrl"], {}, 403, id="only the URL"),
        pytest.param(["lambda:InvokeFunction"], {}, 403, id="only the function"),
        pytest.param([], {}, 403, id="neither"),
    ],
)
def test_a_caller_needs_both_permissions(cloud, url, role, actions, condition, status):
    caller = role(*([allow(actions, url[0], **condition)] if actions else []))
    assert call(cloud, url[1], caller.session).status_code == status


def test_the_second_permission_may_be_for_urls_alone(cloud, url, role):
    via_url = allow("lambda:InvokeFunction", url[0], Bool={"lambda:InvokedViaFunctionUrl": "true"})
    caller = role(allow("lambda:InvokeFunctionUrl", url[0]), via_url)
    assert call(cloud, url[1], caller.session).status_code == 200
    with pytest.raises(Exception, match="AccessDenied"):
        cloud.client("lambda", caller.session).invoke(FunctionName=url[0], Payload=b"{}")


def test_lambda_takes_and_gives_six_megabytes_base64_included(cloud, url):
    fits = function_urls.MOST_BYTES // 4 * 3
    assert call(cloud, url[1], cloud.session(), b"x" * fits).status_code == 200
    refused = call(cloud, url[1], cloud.session(), b"x" * (fits + 3))
    assert refused.status_code == 413
    assert "6291456" in json.loads(refused.content)["Message"]
    assert call(cloud, url[1], cloud.session(), x_size=str(function_urls.MOST_BYTES + 1)).status_code == 502
