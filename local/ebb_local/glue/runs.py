"""One run of a Spark job: its files fetched under the job's role, its script on this machine's Spark, its end.

Spark of Glue reads and writes `s3://` itself. Spark by itself does not, so here a folder stands for each bucket
(Hadoop's ViewFileSystemOverloadScheme): before the script starts, the objects that its arguments name are fetched into
it, a manifest's with them, and what the script has written is stored when it has ended, however it ended. The script is
told the same URIs as on AWS. So a run sees no object that its arguments do not name, and deletes none.
"""

import importlib.metadata
import logging
import re
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ministack.services import glue

from ebb_local.glue import spark
from ebb_local.sagemaker import processes, roles, settings
from ebb_local.sagemaker.containers import Container, container_env
from ebb_local.sagemaker.errors import JobFailure
from ebb_local.sagemaker.images import Environment
from ebb_local.sagemaker.logs import LogStream
from ebb_local.sagemaker.storage import Bucket, Location, files_below, inside

INTERRUPTED_TEXT = "the embedded cloud was stopped while the job ran (interrupted)"
SESSION_NAME = "GlueJobRunnerSession"
_CREDENTIALS_S = 7 * 86_400
_TICK_S = 0.1
_MAX_ERROR = 2_000
_CHECKSUM = re.compile(r"\..*\.crc")  # which Hadoop keeps beside files of this machine
_logger = logging.getLogger("ebb.glue")
_stops: dict[str, threading.Event] = {}


@dataclass
class _Files:
    """The folder that stands for S3, and what of it came from there."""

    folder: Path
    bucket: Bucket
    fetched: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def fetch(self, location: Location) -> Path:
        """Fetch an object."""
        path = inside(self.folder / location.bucket, location.key)
        self.bucket.download(location, path)
        self.fetched[path] = _stamp(path)
        return path

    def store(self, kms_key_id: str | None) -> None:
        """Store what is new or was changed."""
        for path in sorted(files_below(self.folder)):
            if not _CHECKSUM.fullmatch(path.name) and self.fetched.get(path) != _stamp(path):
                bucket, *key = path.relative_to(self.folder).parts
                self.bucket.upload(path, Location(bucket, "/".join(key)), kms_key_id)


def begin(record: dict[str, Any]) -> None:
    """Let a run be stopped from now on."""
    _stops[record["Id"]] = threading.Event()


def run(record: dict[str, Any], job: dict[str, Any]) -> None:
    """Take a run from STARTING to one of its ends."""
    stop = _stops[record["Id"]]
    base = settings.current().home / "glue" / record["Id"][:16]
    began = time.monotonic()
    try:
        state, words = _work(record, job, base, stop)
    except JobFailure as failure:
        state, words = "FAILED", str(failure)
    except Exception as error:
        _logger.exception("run %s of %s", record["Id"], job["Name"])
        state, words = "FAILED", f"InternalServiceError: {error}"
    finally:
        _stops.pop(record["Id"], None)
        if not settings.current().keep_job_files:
            shutil.rmtree(base, ignore_errors=True)
    if processes.closing():
        return  # its script ended because the server does: it is told as interrupted by the next one
    moment = time.time()
    record.update(
        ExecutionTime=max(1, round(time.monotonic() - began)),
        CompletedOn=moment,
        LastModifiedOn=moment,
        **({"ErrorMessage": words[:_MAX_ERROR]} if words else {}),
    )
    record["JobRunState"] = state


def ask_to_stop(record: dict[str, Any]) -> bool:
    """Ask a run to end; return whether it was one that can be stopped."""
    stop = _stops.get(record["Id"])
    if stop is None or record["JobRunState"] not in ("STARTING", "RUNNING", "WAITING"):
        return False
    record.update(JobRunState="STOPPING", LastModifiedOn=time.time())
    stop.set()
    return True


def _work(record: dict[str, Any], job: dict[str, Any], base: Path, stop: threading.Event) -> tuple[str, str]:
    arguments = {**(job.get("DefaultArguments") or {}), **record["Arguments"]}
    python, packages = spark.python(), spark.packages()
    _require_modules(arguments.get("--additional-python-modules", ""), [packages, *spark.own_packages(python)])
    credentials = roles.credentials(job["Role"], valid_s=_CREDENTIALS_S, session_name=SESSION_NAME)
    prefix = arguments.get("--custom-logGroup-prefix", "/aws-glue/jobs")
    stream = f"{named}-driver" if (named := arguments.get("--custom-logStream-prefix")) else record["Id"]
    log = LogStream(f"{prefix}/output", stream, credentials.principal)
    (base / "s3").mkdir(parents=True)
    files = _Files(base / "s3", Bucket(credentials))
    script = files.fetch(Location.parse(job["Command"]["ScriptLocation"]))
    libraries = [files.fetch(Location.parse(uri)) for uri in arguments.get("--extra-py-files", "").split(",") if uri]
    buckets = _fetch_inputs(files, record["Arguments"])
    if stop.is_set():
        return "STOPPED", ""
    told = {"--JOB_NAME": job["Name"], "--JOB_RUN_ID": record["Id"], **record["Arguments"]}
    last = [""]

    def remember(line: str) -> None:
        last[0] = line.strip() or last[0]

    environment = spark.environment(base, files.folder, buckets, [packages, *libraries])
    container = Container(
        [str(python), str(script), *(part for pair in told.items() for part in pair)],
        environment=Environment(python),
        base=base,
        env=container_env(Environment(python), base, environment, credentials),
        log=log,
        on_line=remember,
    )
    if record["JobRunState"] == "STARTING":
        record.update(JobRunState="RUNNING", LastModifiedOn=time.time())
    deadline = time.monotonic() + record["Timeout"] * 60
    while container.wait(_TICK_S) is None:
        if stop.is_set() or time.monotonic() > deadline:
            container.end()
            files.store(_key_of(record))
            return ("STOPPED", "") if stop.is_set() else ("TIMEOUT", "Job run timed out")
    container.finish()
    files.store(_key_of(record))
    code = container.poll()
    return ("SUCCEEDED", "") if code == 0 else ("FAILED", last[0] or f"Command failed with exit code {code}")


def _fetch_inputs(files: _Files, arguments: dict[str, str]) -> set[str]:
    """Fetch the objects that arguments name, and those that a manifest among them lists; return all buckets."""
    buckets = set()
    for uri in arguments.values():
        if not uri.startswith("s3://"):
            continue
        location = Location.parse(uri)
        buckets.add(location.bucket)
        if not location.key or not files.bucket.exists(location):
            continue
        files.fetch(location)
        if location.key.endswith("manifest.json"):
            for source in files.bucket.sources("ManifestFile", uri):
                buckets.add(source.location.bucket)
                files.fetch(source.location)
    return buckets


def _require_modules(asked: str, folders: list[Path]) -> None:
    """Raise JobFailure unless this machine has exactly the packages that Glue would install for the run."""
    found = {
        each.metadata["Name"].lower(): each.version
        for each in importlib.metadata.distributions(path=[str(folder) for folder in folders])
    }
    for each in filter(None, (part.strip() for part in asked.split(","))):
        name, _, version = each.partition("==")
        if found.get(name.lower()) != version:
            raise JobFailure(
                f"--additional-python-modules asks for {each}, and this machine has {found.get(name.lower(), 'none')}: "
                f"{spark.INSTALL}"
            )


def _key_of(record: dict[str, Any]) -> str | None:
    """Return the key with which the run's security configuration encrypts what is written to S3."""
    configuration = glue._security_configs.get(record.get("SecurityConfiguration", ""))
    encryption = ((configuration or {}).get("EncryptionConfiguration") or {}).get("S3Encryption") or []
    return next((each.get("KmsKeyArn") for each in encryption if each.get("S3EncryptionMode") == "SSE-KMS"), None)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
