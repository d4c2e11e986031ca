"""What the SageMaker tests share: a cloud whose images are this Python, a bucket, roles, and tiny jobs."""

import io
import json
import tarfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.httpsession import URLLib3Session

from contract.support import Cloud, allow, wait_until

_numbers = count(1)

# A model server in ten lines: what it answers is in a file beside it, `crash` makes it refuse to start.
SERVER = """
import http.server, json, os, pathlib, sys, time
model = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"]) / "model"
settings = json.loads((model / "settings.json").read_text())
if settings.get("crash"):
    sys.exit("cannot load the model")
at_once = []
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = 400 if body == b"bad" else 200
        time.sleep(settings.get("sleep_s", 0))
        for hold in [pathlib.Path(settings["hold"])] if "hold" in settings else []:
            at_once.append(1); peak = len(at_once)
            while hold.exists(): time.sleep(0.02)
            at_once.pop()
        answer = json.dumps({"answer": settings["answer"], "got": body.decode()[:20], "argv": sys.argv[1:],
                             **({"peak": peak} if "hold" in settings else {})}).encode()
        print("served", body.decode()[:20], flush=True)
        self.send_response(status); self.send_header("Content-Type", "application/json")
        self.end_headers(); self.wfile.write(answer)
    def log_message(self, *args): pass
address = (os.environ["SAGEMAKER_BIND_TO_HOST"], int(os.environ["SAGEMAKER_BIND_TO_PORT"]))
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""


def next_number() -> int:
    """A number for a name that no other test has."""
    return next(_numbers)


@dataclass
class Lab:
    """A bucket with job code, images in the registry, and short ways to run and look at jobs."""

    cloud: Cloud
    bucket: str = field(default_factory=lambda: f"lab-{next(_numbers)}")

    def __post_init__(self) -> None:
        self.s3, self.sagemaker = self.cloud.client("s3"), self.cloud.client("sagemaker")
        self.runtime = self.cloud.client("sagemaker-runtime")
        self.s3.create_bucket(Bucket=self.bucket)
        self.images = {name: self._image(f"ebb-{name}") for name in ("jobs", "serve")}
        self.role_arn = self.role()

    def role(
        self,
        *statements: dict,
        trust: str = "sagemaker.amazonaws.com",
        given: bool = True,
        account: str = "000000000000",
    ) -> str:
        """A role that a job needs, plus statements; `given=False` leaves only the statements."""
        name = f"job-role-{next(_numbers)}"
        trusted = {
            "Effect": "Allow",
            "Principal": {"Service": trust},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"aws:SourceAccount": account}},
        }
        document = {"Version": "2012-10-17", "Statement": [trusted]}
        iam = self.cloud.client("iam")
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(document))["Role"]["Arn"]
        usual = [
            allow("s3:ListBucket", f"arn:aws:s3:::{self.bucket}"),
            allow(["s3:GetObject", "s3:PutObject"], f"arn:aws:s3:::{self.bucket}/*"),
            allow(["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"]),
            *self.pull(),
        ]
        policy = {"Version": "2012-10-17", "Statement": [*(usual if given else []), *statements]}
        iam.put_role_policy(RoleName=name, PolicyName="given", PolicyDocument=json.dumps(policy))
        return arn

    @staticmethod
    def pull() -> list[dict]:
        pulling = ("BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer")
        repository = "arn:aws:ecr:us-east-1:000000000000:repository/*"
        return [
            allow("ecr:GetAuthorizationToken"),
            allow([f"ecr:{name}" for name in pulling], repository),
        ]

    def put(self, key: str, body: str | bytes) -> str:
        data = body.encode() if isinstance(body, str) else body
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=data)
        return f"s3://{self.bucket}/{key}"

    def get(self, key: str) -> str:
        return self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read().decode()

    def keys(self, prefix: str) -> list[str]:
        listed = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        return [item["Key"] for item in listed]

    def training(self, script: str, **changes: Any) -> dict[str, Any]:
        """A CreateTrainingJob request that runs a script of this Python."""
        name = changes.pop("name", f"train-{next(_numbers)}")
        code = self.put(f"{name}/code/run.py", textwrap.dedent(script))
        request = {
            "TrainingJobName": name,
            "RoleArn": self.role_arn,
            "AlgorithmSpecification": {
                "TrainingImage": self.images["jobs"],
                "TrainingInputMode": "File",
                "ContainerEntrypoint": ["python3", "/opt/ml/input/data/code/run.py"],
                "ContainerArguments": ["--root=/opt/ml"],
            },
            "InputDataConfig": [channel("code", code.removesuffix("run.py"))],
            "OutputDataConfig": {"S3OutputPath": f"s3://{self.bucket}/{name}/out", "CompressionType": "NONE"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        }
        return request | changes

    def processing(self, script: str, **changes: Any) -> dict[str, Any]:
        """A CreateProcessingJob request that runs a script of this Python."""
        name = changes.pop("name", f"process-{next(_numbers)}")
        code = self.put(f"{name}/code/run.py", textwrap.dedent(script))
        where = "/opt/ml/processing/output/table"
        request = {
            "ProcessingJobName": name,
            "RoleArn": self.role_arn,
            "AppSpecification": {
                "ImageUri": self.images["jobs"],
                "ContainerEntrypoint": ["python3", "/opt/ml/processing/input/code/run.py"],
            },
            "ProcessingInputs": [processing_input("code", code.removesuffix("run.py"))],
            "ProcessingOutputConfig": {"Outputs": [
                {"OutputName": "table", "S3Output": {
                    "S3Uri": f"s3://{self.bucket}/{name}/out", "LocalPath": where, "S3UploadMode": "EndOfJob"}},
            ]},
            "ProcessingResources": {
                "ClusterConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10}
            },
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        }  # fmt: skip
        return request | changes

    def train(self, script: str, **changes: Any) -> dict[str, Any]:
        """Run a training job to its end; return how Describe tells it."""
        request = self.training(script, **changes)
        self.sagemaker.create_training_job(**request)
        return self.trained(request["TrainingJobName"])

    def trained(self, name: str) -> dict[str, Any]:
        describe = self.sagemaker.describe_training_job
        return wait_until(lambda: _ended(describe(TrainingJobName=name), "TrainingJobStatus"))

    def processed(self, name: str) -> dict[str, Any]:
        describe = self.sagemaker.describe_processing_job
        return wait_until(lambda: _ended(describe(ProcessingJobName=name), "ProcessingJobStatus"))

    def log_lines(self, group: str, job: str) -> list[str]:
        logs = self.cloud.client("logs")
        streams = logs.describe_log_streams(logGroupName=f"/aws/sagemaker/{group}", logStreamNamePrefix=job)
        return [
            event["message"]
            for stream in streams["logStreams"]
            for event in logs.get_log_events(
                logGroupName=f"/aws/sagemaker/{group}", logStreamName=stream["logStreamName"], startFromHead=True
            )["events"]
        ]

    def model(self, **settings: Any) -> str:
        """Make a model of the tiny server, packed and registered; return its name."""
        name = f"model-{next(_numbers)}"
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz") as tar:
            for path, text in {"code/serve.py": SERVER, "settings.json": json.dumps(settings)}.items():
                member = tarfile.TarInfo(path)
                member.size = len(text.encode())
                tar.addfile(member, io.BytesIO(text.encode()))
        url = self.put(f"{name}/model.tar.gz", data.getvalue())
        container = {"Image": self.images["serve"], "ModelDataUrl": url}
        self.sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=self.role_arn)
        return name

    def config(self, model: str, **variant: Any) -> str:
        """Make an endpoint configuration of one variant, serverless unless said otherwise; return its name."""
        chosen = variant or {"ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 5}}
        name = f"config-{next(_numbers)}"
        self.sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[{"VariantName": "all", "ModelName": model, **chosen}]
        )
        return name

    def endpoint(self, **settings: Any) -> str:
        """Make an endpoint of the tiny server; return its name once it is there or has failed."""
        name = f"endpoint-{next(_numbers)}"
        config = self.config(self.model(**settings))
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
        self.settled(name)
        return name

    def serve(self, *variants: dict[str, Any], **members: Any) -> str:
        """Make an endpoint of these variants and configuration members; return its name once it has settled."""
        name = f"endpoint-{next(_numbers)}"
        self.configure(name, *variants, **members)
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        self.settled(name)
        return name

    def configure(self, name: str, *variants: dict[str, Any], **members: Any) -> str:
        """Make an endpoint configuration on ml.m5.large unless a variant says otherwise; return its name."""
        usual = {"VariantName": "all", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
        rows = [usual | variant for variant in variants]
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=rows, **members)
        return name

    def control(self, operation: str, **body: Any) -> dict[str, Any]:
        """Call `Ebb.<operation>` of the control endpoint as root."""
        return self.send(f"Ebb.{operation}", body, scope="ebb")

    def settled(self, name: str) -> dict[str, Any]:
        describe = self.sagemaker.describe_endpoint
        states = ("Creating", "Updating", "RollingBack")
        wait_until(lambda: describe(EndpointName=name)["EndpointStatus"] not in states)
        return describe(EndpointName=name)

    def invoke(self, name: str, body: bytes = b"1,2") -> dict[str, Any]:
        reply = self.runtime.invoke_endpoint(EndpointName=name, ContentType="text/csv", Body=body)
        assert reply["ContentType"] == "application/json"
        return json.loads(reply["Body"].read())

    def advance(self, seconds: float) -> None:
        """Put the clock forward; nothing that it would have to wait for may be left over."""
        answer = self.control("Advance", Seconds=seconds, BudgetSeconds=30)
        assert answer["WaitsFor"] == "", answer["WaitsFor"]

    def send(
        self, target: str, body: dict[str, Any], scope: str = "sagemaker", keys: tuple[str, str] = ("test", "test")
    ) -> dict[str, Any]:
        """Send a request that no SDK has looked at, as root unless said otherwise; return the answer."""
        headers = {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1"}
        request = AWSRequest("POST", f"{self.cloud.server.endpoint_url}/", headers, json.dumps(body).encode())
        SigV4Auth(Credentials(*keys), scope, "us-east-1").add_auth(request)
        reply = URLLib3Session().send(request.prepare())
        return {"status": reply.status_code, **json.loads(reply.text)}

    def events_of(self, detail_type: str) -> Iterator[str]:
        """Make a queue that gets every SageMaker event of a kind; yield its URL."""
        name = f"events-{next(_numbers)}"
        sqs, rules = self.cloud.client("sqs"), self.cloud.client("events")
        url = sqs.create_queue(QueueName=name)["QueueUrl"]
        arn = f"arn:aws:sqs:us-east-1:000000000000:{name}"
        statement = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage",
                     "Resource": arn}  # fmt: skip
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
        pattern = {"source": ["aws.sagemaker"], "detail-type": [detail_type]}
        rules.put_rule(Name=name, EventPattern=json.dumps(pattern))
        rules.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn}])
        yield url
        rules.remove_targets(Rule=name, Ids=["queue"])
        rules.delete_rule(Name=name)

    def assumable(self, *statements: dict) -> str:
        """A role that trusts the account and holds these statements."""
        name, iam = f"caller-{next(_numbers)}", self.cloud.client("iam")
        root = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:root"}, "Action": "sts:AssumeRole"}
        trust = json.dumps({"Version": "2012-10-17", "Statement": [root]})
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        policy = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
        iam.put_role_policy(RoleName=name, PolicyName="given", PolicyDocument=policy)
        return arn

    def session(self, role_arn: str) -> boto3.Session:
        """A session that acts as a role which trusts the account."""
        keys = self.cloud.client("sts").assume_role(RoleArn=role_arn, RoleSessionName="test")["Credentials"]
        return boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], "us-east-1")

    def _image(self, repository: str) -> str:
        ecr = self.cloud.client("ecr")
        uri = ecr.create_repository(repositoryName=repository)["repository"]["repositoryUri"]
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                    "config": {"digest": f"sha256:{'0' * 64}", "size": 2}, "layers": []}  # fmt: skip
        ecr.put_image(repositoryName=repository, imageTag="v1", imageManifest=json.dumps(manifest))
        return "000000000000.dkr.ecr.us-east-1.amazonaws.com/" + uri.split("/", 1)[1] + ":v1"


def channel(name: str, uri: str, kind: str = "S3Prefix") -> dict[str, Any]:
    source = {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def processing_input(name: str, uri: str, kind: str = "S3Prefix") -> dict[str, Any]:
    path = f"/opt/ml/processing/input/{name}"
    return {"InputName": name, "S3Input": {
        "S3Uri": uri, "S3DataType": kind, "LocalPath": path, "S3InputMode": "File"}}  # fmt: skip


def environments(directory: Path, python: str) -> Path:
    """Make a folder in which this Python stands for both images, and for the runtime of functions."""
    for name in ("jobs", "serve", "lambda"):
        (directory / name / "bin").mkdir(parents=True)
        (directory / name / "bin" / "python").symlink_to(python)
    return directory


def _ended(described: dict[str, Any], member: str) -> dict[str, Any] | None:
    return described if described[member] in ("Completed", "Failed", "Stopped") else None
