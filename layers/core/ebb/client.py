"""Ask a model by its address, whether its endpoint is awake or asleep. One file, boto3 only: copy it where you need it.

    runtime = ebb.client.Client()  # instead of boto3.client("sagemaker-runtime"); the rest stays as it is
    answer = runtime.invoke_endpoint(EndpointName="ebb-pets", ContentType="text/csv", Body="4.1,0.2")
    answer["Body"].read()

An endpoint that is awake is asked directly. One that sleeps, has moved or is gone is asked through Ebb's front door,
which keeps the request, wakes the endpoint, and has the answer; whoever cannot wait takes a ticket:

    ticket = runtime.invoke_endpoint_later(EndpointName="ebb-pets", ContentType="text/csv", Body="4.1,0.2")
    ticket.name                    # "ebb-pets/3f6c…": client.ticket(name) finds it again, for some days
    ticket.answer(timeout=600)     # as invoke_endpoint answers; raises StillWaiting when the time is up

Errors are botocore's: `runtime.exceptions.ModelError`, `ValidationError` and their like. The front door is the output
FrontDoorUrl of the stack (`Client(stack=...)`, EBB_STACK), or what EBB_FRONT_DOOR or `Client(front_door=...)` says.

A caller needs `lambda:InvokeFunctionUrl` and `lambda:InvokeFunction` on the front door; to ask an awake endpoint
without the detour, `sagemaker:InvokeEndpoint`; to find the front door by the stack, `cloudformation:DescribeStacks`.
The stack's CallerPolicy (output CallerPolicyArn) is exactly that.
Source: https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn
from urllib.parse import urlsplit

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, NoCredentialsError
from botocore.httpsession import URLLib3Session
from botocore.response import StreamingBody
from botocore.utils import get_environ_proxies

DEFAULT_WAIT_S = 600.0  # a machine takes minutes to start
ROUTE_S = 30.0  # how long an endpoint that was awake is asked without asking where it is
# Lambda takes 6 MB, base64 included: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
INLINE_BYTES = 4_500_000
ATTEMPTS = 6
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
ASYNC_WAIT_S = 3.0  # an asynchronous endpoint that is awake mostly answers within

_DIRECT = {"serverless", "realtime", "shared", "classic"}
_NOBODY_THERE = re.compile(
    r"endpoint \S+ of account \S+ (was )?(not found|(is )?not in service)"
    r"|could not find endpoint|inference component.*(not found|not in service)|has no capacity to process",
    re.IGNORECASE,
)
_BUSY = {
    "ThrottlingException", "ModelNotReadyException", "ServiceUnavailable", "ServiceUnavailableException",
    "InternalFailure", "InternalServerException", "InternalDependencyException",
}  # fmt: skip
_DENIED = {"AccessDeniedException", "AccessDenied"}
_HEADERS = {
    "CustomAttributes": "x-amzn-sagemaker-custom-attributes",
    "TargetModel": "x-amzn-sagemaker-target-model",
    "TargetVariant": "x-amzn-sagemaker-target-variant",
    "TargetContainerHostname": "x-amzn-sagemaker-target-container-hostname",
    "InferenceId": "x-amzn-sagemaker-inference-id",
    "EnableExplanations": "x-amzn-sagemaker-enable-explanations",
    "SessionId": "x-amzn-sagemaker-session-id",
}
_ANSWERED = {
    "InvokedProductionVariant": "x-amzn-invoked-production-variant",
    "CustomAttributes": "x-amzn-sagemaker-custom-attributes",
    "NewSessionId": "x-amzn-sagemaker-new-session-id",
    "ClosedSessionId": "x-amzn-sagemaker-closed-session-id",
}
_AWS_HOST = re.compile(r"\.(amazonaws\.com(\.cn)?|api\.aws)$")
_URL_HOST = re.compile(r"\.lambda-url\.([a-z0-9-]+)\.on\.aws$")
_RETRIED = {429, 500, 502, 503}


class FrontDoorNotFoundError(BotoCoreError):
    """Nothing says where the front door is."""

    fmt = "no front door: the stack {stack} has no output FrontDoorUrl, and EBB_FRONT_DOOR is not set"


class StillWaiting(ClientError):
    """There is no answer yet. `ticket` has it later, until its deadline."""

    def __init__(self, ticket: Ticket) -> None:
        told = f"{ticket.name}: {ticket.told.get('state', 'queued')}, kept until {ticket.told.get('deadline')}"
        super().__init__({"Error": {"Code": "StillWaiting", "Message": told}}, "InvokeEndpoint")
        self.ticket = ticket


@dataclass(frozen=True)
class _Http:
    status: int
    headers: Mapping[str, str]
    body: bytes
    attempts: int = 1

    @cached_property
    def told(self) -> dict[str, Any]:
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class _Route:
    address: str
    request: dict[str, str] | None  # what InvokeEndpoint is told; None: only the front door knows
    kind: str
    state: str
    until: float


class Ticket:
    """A request that the front door has: answered already, or waiting for its endpoint."""

    def __init__(self, client: Client, name: str, told: dict[str, Any], answer: dict[str, Any] | None = None) -> None:
        self._client, self.name, self.told, self._answer = client, name, told, answer

    def __repr__(self) -> str:
        return f"<Ticket {self.name}>"

    def answer(
        self, timeout: float | None = None, *, on_wait: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Return the answer, waiting for it up to `timeout` seconds; None: until the ticket ends.

        `on_wait` is told, at each look, where the ticket stands and why its endpoint slept.
        Raises: StillWaiting; ClientError when the model refused, or the ticket expired.
        """
        until = None if timeout is None else time.monotonic() + timeout
        pause_s = FIRST_PAUSE_S
        while self._answer is None:
            looked_at = time.monotonic()  # what a slow look brings may be old: the last one begins after the time
            found = self._client._send("GET", f"/tickets/{self.name}", headers={"x-ebb-wait-s": "0"})
            if found.status != 202:
                self._answer = self._client._answered(found)
                break
            self.told = found.told
            if on_wait:
                on_wait(self.told)
            if until is not None and looked_at >= until:
                raise StillWaiting(self)
            left_s = pause_s if until is None else max(0.0, until - time.monotonic())
            time.sleep(min(left_s, pause_s * random.uniform(0.5, 1.0)))
            pause_s = min(pause_s * 1.4, LONGEST_PAUSE_S)
        return self._answer


class Client:
    """What boto3's client of SageMaker Runtime is, for endpoints that sleep while nobody asks."""

    def __init__(
        self,
        stack: str | None = None,
        *,
        front_door: str | None = None,
        session: boto3.Session | None = None,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        config: Config | None = None,
        wait_s: float = DEFAULT_WAIT_S,
    ) -> None:
        self._stack = stack or os.environ.get("EBB_STACK") or "ebb"
        self._given_door = front_door or os.environ.get("EBB_FRONT_DOOR")
        self._session = session or boto3.Session(region_name=region_name)
        self._endpoint_url, self._config, self._wait_s = endpoint_url, config, wait_s
        self._runtime = self._client("sagemaker-runtime")
        self._routes: dict[str, _Route] = {}
        self._hosts: dict[str, URLLib3Session] = {}
        self._may_ask_directly = True
        self.exceptions = self._runtime.exceptions

    def __getattr__(self, name: str) -> Any:
        """Leave everything else to boto3's client: meta, invoke_endpoint_async, close."""
        if name == "_runtime":
            raise AttributeError(name)
        return getattr(self._runtime, name)

    def invoke_endpoint(
        self,
        *,
        EndpointName: str,
        Body: Any = b"",
        ContentType: str | None = None,
        Accept: str | None = None,
        wait_s: float | None = None,
        **more: str,
    ) -> dict[str, Any]:
        """Return the model's answer, as boto3's `invoke_endpoint` does; `EndpointName` may be a project's name.

        While the endpoint wakes this waits, up to `wait_s` seconds.
        Raises: StillWaiting, which holds the ticket; ClientError as boto3 does.
        """
        body, wait_s = _bytes(Body), self._wait_s if wait_s is None else wait_s
        route = self._route(EndpointName)
        if route.request and (answer := self._directly(EndpointName, route, body, ContentType, Accept, more)):
            return answer
        ticket = self._later(route, body, ContentType, Accept, more, wait_s)
        return ticket.answer(wait_s)

    def invoke_endpoint_later(
        self,
        *,
        EndpointName: str,
        Body: Any = b"",
        ContentType: str | None = None,
        Accept: str | None = None,
        **more: str,
    ) -> Ticket:
        """Leave a request with the front door, and return the ticket that has the answer once there is one."""
        return self._later(self._route(EndpointName), _bytes(Body), ContentType, Accept, more, 0.0)

    def ticket(self, name: str) -> Ticket:
        """Return the ticket of this name, `<address>/<id>`."""
        return Ticket(self, name, {"ticket": name})

    def address(self, name: str) -> dict[str, Any]:
        """Return where a model is reached and in which state its endpoint is.

        Raises: ClientError when Ebb does not know the name.
        """
        found = self._send("GET", f"/addresses/{name}")
        return found.told if found.status == 200 else self._refused(found)

    def _directly(
        self, name: str, route: _Route, body: bytes, content_type: str | None, accept: str | None, more: dict[str, str]
    ) -> dict[str, Any] | None:
        """Return the answer of an endpoint that is awake; None when it is not there (any more), or has no time."""
        given = {"ContentType": content_type, "Accept": accept}
        request = {**(route.request or {}), "Body": body, **{key: each for key, each in given.items() if each}, **more}
        try:
            return dict(self._runtime.invoke_endpoint(**request))
        except ClientError as problem:
            code, message = problem.response["Error"]["Code"], problem.response["Error"]["Message"]
            denied = code in _DENIED
            gone = code == "ValidationError" and _NOBODY_THERE.search(message) is not None
            if route.state == "unknown" or not (denied or gone or code in _BUSY):
                raise
            self._may_ask_directly = not denied
        except (ConnectionError, HTTPClientError):
            if route.state == "unknown":
                raise
        self._routes.pop(name, None)
        return None

    def _later(
        self,
        route: _Route,
        body: bytes,
        content_type: str | None,
        accept: str | None,
        more: dict[str, str],
        wait_s: float,
    ) -> Ticket:
        number = uuid.uuid4().hex
        given = {
            # Lambda leaves only such bodies as they are; what it holds stands beside it.
            "content-type": "application/octet-stream",
            "x-ebb-content-type": content_type or "application/octet-stream",
            "x-ebb-accept": accept or "",
            "x-ebb-request-id": number,  # so that it can be sent again
            "x-ebb-wait-s": f"{min(wait_s, ASYNC_WAIT_S if route.kind == 'async' and route.state == 'awake' else 0):g}",
            **{_HEADERS[name]: value for name, value in more.items() if name in _HEADERS},
        }
        headers = {name: value for name, value in given.items() if value}
        path = f"/addresses/{route.address}"
        if len(body) > INLINE_BYTES:
            self._upload(f"{path}/uploads", headers, body)
            headers |= {"x-ebb-upload": number}
            body = b""
        found = self._send("POST", f"{path}/invocations", body=body, headers=headers)
        if found.status == 202:
            return Ticket(self, found.told["ticket"], found.told)
        return Ticket(self, f"{route.address}/{number}", {"state": "answered"}, self._answered(found))

    def _upload(self, path: str, headers: dict[str, str], body: bytes) -> None:
        found = self._send("POST", path, headers=headers)
        if found.status != 200:
            self._refused(found)
        where = found.told
        put = self._once(AWSRequest(where["method"], where["url"], where["headers"], body).prepare())
        if put.status >= 300:
            self._refused(put)

    def _route(self, name: str) -> _Route:
        """Return how a name is reached; what Ebb does not know is an endpoint of SageMaker's like any other."""
        known = self._routes.get(name)
        if known and known.until > time.monotonic():
            return known
        found, until = self._send("GET", f"/addresses/{name}"), time.monotonic() + ROUTE_S
        if found.status == 404 and found.told.get("code") == "unknown-address":
            route = _Route(name, {"EndpointName": name}, "unknown", "unknown", until)
        elif found.status != 200:
            self._refused(found)
        else:
            route = self._known(found.told, until)
        if route.request:
            self._routes[name] = route
        return route

    def _known(self, told: dict[str, Any], until: float) -> _Route:
        direct = told["state"] == "awake" and told["kind"] in _DIRECT and self._may_ask_directly
        request = {"EndpointName": told["endpoint_name"]} if direct else None
        if request and told.get("component"):
            request["InferenceComponentName"] = told["component"]
        return _Route(told["address"], request, told["kind"], told["state"], until)

    def _answered(self, found: _Http) -> dict[str, Any]:
        if found.status == 303:  # more than Lambda gives: it lies in S3
            fetched = self._once(AWSRequest("GET", found.told["url"]).prepare())
            if fetched.status != 200:
                self._refused(fetched)
            headers = {**found.headers, "content-type": found.headers.get("x-ebb-content-type", "")}
            found = _Http(200, headers, fetched.body, found.attempts)
        if found.status != 200:
            self._refused(found)
        told = {name: found.headers[header] for name, header in _ANSWERED.items() if found.headers.get(header)}
        return {
            "ResponseMetadata": self._metadata(found),
            "ContentType": found.headers.get("content-type", "application/octet-stream"),
            "Body": StreamingBody(io.BytesIO(found.body), len(found.body)),
            **told,
        }

    def _refused(self, found: _Http) -> NoReturn:
        """Raise what the front door answered, as the exception that boto3 has for it."""
        told = dict(found.told)
        code = str(told.pop("code", "")) or ("AccessDeniedException" if found.status == 403 else str(found.status))
        message = str(told.pop("message", "") or told.pop("Message", "") or found.body[:500].decode(errors="replace"))
        remedy = told.pop("remedy", "")
        if found.status == 403 and not remedy:
            remedy = "It takes lambda:InvokeFunctionUrl and lambda:InvokeFunction on the front door."
        ends = not remedy or message.endswith((".", "!", "?", ":"))
        error = {"Code": code, "Message": f"{message}{'' if ends else '.'} {remedy}".strip()}
        response = {"Error": error, "Remedy": remedy, "ResponseMetadata": self._metadata(found), **told}
        raise self.exceptions.from_code(code)(response, "InvokeEndpoint")

    def _metadata(self, found: _Http) -> dict[str, Any]:
        return {
            "HTTPStatusCode": found.status,
            "HTTPHeaders": dict(found.headers),
            "RequestId": found.headers.get("x-amzn-requestid", ""),
            "RetryAttempts": found.attempts - 1,
        }

    def _send(self, method: str, path: str, *, body: bytes = b"", headers: dict[str, str] | None = None) -> _Http:
        """Return what the front door answers; asked again, ever later, while it is out of order or out of reach."""
        pause_s = FIRST_PAUSE_S
        for attempt in range(1, ATTEMPTS + 1):
            try:
                found = self._once(self._signed(method, path, body, dict(headers or {})))
                if found.status not in _RETRIED or attempt == ATTEMPTS:
                    return _Http(found.status, found.headers, found.body, attempt)
            except (ConnectionError, HTTPClientError):
                if attempt == ATTEMPTS:
                    raise
            time.sleep(random.uniform(0, pause_s))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        raise AssertionError("the last attempt returns or raises")

    def _signed(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Any:
        door = urlsplit(self._front_door)
        request = AWSRequest(method, f"{door.scheme}://{door.netloc}{path}", headers, body)
        found = _URL_HOST.search(door.hostname or "")
        region = found[1] if found else self._session.region_name
        credentials = self._session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        SigV4Auth(credentials.get_frozen_credentials(), "lambda", region).add_auth(request)
        prepared = request.prepare()
        if self._instead:  # signed for the front door, and sent to where this account's Lambda is
            prepared.headers["Host"] = door.netloc
            prepared.url = f"{self._instead}{path}"
        return prepared

    def _once(self, prepared: Any) -> _Http:
        answer = self._http(urlsplit(prepared.url).netloc, prepared.url).send(prepared)
        return _Http(answer.status_code, {name.lower(): each for name, each in answer.headers.items()}, answer.content)

    def _http(self, host: str, url: str) -> URLLib3Session:
        """Return the connections to a host, through the proxy and with the certificates that boto3 would use."""
        if host not in self._hosts:
            bundle = self._session._session.get_config_variable("ca_bundle")
            timeouts: Any = (5, 160)  # connecting; reading, longer than the front door takes at most
            self._hosts[host] = URLLib3Session(
                verify=bundle or True,
                proxies=get_environ_proxies(url),
                timeout=timeouts,
                max_pool_connections=50,
            )
        return self._hosts[host]

    @cached_property
    def _front_door(self) -> str:
        if self._given_door:
            return self._given_door.rstrip("/")
        found = self._client("cloudformation").describe_stacks(StackName=self._stack)["Stacks"][0].get("Outputs", [])
        door = next((each["OutputValue"] for each in found if each["OutputKey"] == "FrontDoorUrl"), None)
        if door is None:
            raise FrontDoorNotFoundError(stack=self._stack)
        return str(door).rstrip("/")

    @cached_property
    def _instead(self) -> str | None:
        """Where Lambda is, when that is not AWS: an `endpoint_url`, AWS_ENDPOINT_URL or one of the profile's."""
        if not _URL_HOST.search(urlsplit(self._front_door).hostname or ""):
            return None
        url = str(self._client("lambda").meta.endpoint_url)
        return None if _AWS_HOST.search(urlsplit(url).hostname or "") else url.rstrip("/")

    def _client(self, service: str) -> Any:
        make: Any = self._session.client  # the stubs want literal names
        return make(service, endpoint_url=self._endpoint_url, config=self._config)


def _bytes(body: Any) -> bytes:
    """Return a body that can be sent again: boto3 takes bytes, text and files."""
    if hasattr(body, "read"):
        body = body.read()
    return body.encode() if isinstance(body, str) else bytes(body)
