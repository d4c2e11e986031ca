"""Lambda: name what was dropped, refuse what cannot be used, and find the run that did the same work already.

Reads the data and the spec; writes the manifest and the ledger. No job starts before it has answered.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import identity, ledger, names, sources, spec_text
from ebb import spec as specs
from ebb.aws import storage
from ebb.aws.ledger import Ledger
from ebb.aws.storage import ObjectFacts
from ebb.errors import (
    AttemptOutdatedError,
    DropRejectedError,
    ObjectChangedError,
    ObjectDeniedError,
    ObjectMissingError,
    Rejection,
)
from ebb.settings import IdentifySettings
from ebb.sources import Source
from ebb.spec import PipelineSpec
from ebb.steps import Identified, IdentifyRequested
from ebb.telemetry import logger
from ebb_jobs import infer, precheck

HEAD_BYTES = 1024 * 1024
HASH_LIMIT_BYTES = 2 * 1024**3  # of a whole drop: about half a minute of this function; above, S3's checksums must do

T = TypeVar("T")


@logger.inject_lambda_context
@event_parser
def handler(asked: IdentifyRequested, context: LambdaContext) -> dict[str, Any]:
    """Answer whether there is anything to run."""
    settings = IdentifySettings.from_env()
    book = Ledger(settings.ledger_table)
    try:
        found = _identify(asked, settings, book)
    except ObjectChangedError as changed:  # only the uploaded object itself: see _steadily
        found = Identified(outcome="superseded", reason=f"{changed} after this event: its own event follows")
    return found.model_dump(mode="json")


def _identify(asked: IdentifyRequested, settings: IdentifySettings, book: Ledger) -> Identified:
    drop = asked.drop
    marker = _head_or_none(asked)
    drop_id = marker.metadata.get("ebb-drop-id") if marker else None
    if not book.apply(ledger.open_run(asked, execution_arn=asked.execution_arn, drop_id=drop_id, now=asked.now)):
        raise AttemptOutdatedError(f"{asked.run_id} has ended or a newer attempt runs")
    if not book.apply(ledger.note_object(drop.bucket, drop.key, drop.sequencer, asked.run_id)):
        return Identified(outcome="superseded", reason=f"a later upload of {drop.key} has been seen")
    # Now, not when it is planned: a large drop takes longer to read, and must not pass for the newer one.
    generation = book.generation(asked.project, asked.run_id)
    if marker is None:
        raise _missing(drop.key)
    if drop.etag and marker.etag != drop.etag:
        raise ObjectChangedError(f"s3://{drop.bucket}/{drop.key} was written again")
    spec, spec_given = _spec(asked)
    listed = _listed(asked, marker, spec, settings)
    form = sources.together([_unread(each) for each in listed], [_form(each.key) for each in listed])
    hashing = _Hashing(HASH_LIMIT_BYTES)
    alone = len(listed) == 1 and spec.data.mode == "replace"
    seen = [_steadily(each, partial(_checked, spec=spec, alone=alone), own=marker) for each in listed]
    read = [_steadily(each, hashing.named, own=marker) for each in seen]
    # First noted, then looked up: of two drops that come close, the one that looks last sees both.
    book.accept(asked.project, asked.run_id, generation, spec.data.mode, read)
    if spec.data.mode == "append":
        earlier_read = [_current(each, hashing) for each in book.accepted(asked.project, generation)]
        read = sources.appended(earlier_read, read)
        form = sources.together(read, [_form(each.key) for each in read])
    work = identity.run_identity(
        asked.project, spec.resolved(), settings.jobs_hash, [each.fingerprint for each in read]
    )
    force = marker.metadata.get("ebb-force") == "1"
    earlier = book.successful_run(work)
    served = book.project(asked.project).get("served") or {}
    reuse = earlier is not None and earlier != asked.run_id and bool(served) and not force
    documents = {
        names.manifest_key(asked.run_id): sources.manifest(read),
        names.sources_key(asked.run_id): sources.digests(read),
    }
    manifest_uri, sources_uri = (f"s3://{settings.artifact_bucket}/{key}" for key in documents)
    if not reuse:
        for key, document in documents.items():
            storage.write_json(settings.artifact_bucket, key, document)
    reason = _reason(earlier, reuse=reuse, force=force, served=served.get("run_id"))
    found = Identified(
        outcome="reuse" if reuse else "run",
        reason=reason,
        identity=work,
        reuses=earlier if reuse else None,
        spec=spec.resolved(),
        sources=tuple(read) if len(read) <= sources.INLINE else (),
        source_count=len(read),
        size_bytes=sum(each.size_bytes for each in read),
        compressed=any(sources.is_packed(each.key) for each in read),
        manifest_uri=manifest_uri,
        sources_uri=sources_uri,
        format=form,  # type: ignore[arg-type]  # `_form` lets nothing else pass
        task=spec.task,
        force=force,
    )
    _record(asked, found, spec_given=spec_given, book=book)
    return found


def _head_or_none(asked: IdentifyRequested) -> ObjectFacts | None:
    try:
        return storage.head(asked.drop.bucket, asked.drop.key)
    except ObjectMissingError:
        return None


def _spec(asked: IdentifyRequested) -> tuple[PipelineSpec, bool]:
    key = f"{asked.project}/{specs.FILE_NAME}"
    try:
        text = storage.read(asked.drop.bucket, key, first_bytes=spec_text.MAX_BYTES + 1)
        return specs.parse(text, file=key), True
    except ObjectMissingError:
        if asked.drop.kind == "spec":
            raise _missing(key) from None
        return PipelineSpec(), False


def _listed(
    asked: IdentifyRequested, marker: ObjectFacts, spec: PipelineSpec, settings: IdentifySettings
) -> list[ObjectFacts]:
    """Return the objects that the drop consists of, as S3 knows them now."""
    drop = asked.drop
    if drop.kind == "object":
        return [marker]
    if drop.kind == "prefix":
        bucket, prefix = drop.bucket, drop.key.rsplit("/", 1)[0] + "/"
    else:
        bucket, prefix = sources.place(
            spec.data.uri or "",
            project=asked.project,
            landing_bucket=settings.landing_bucket,
            external_buckets=settings.external_data_buckets,
            file=drop.key,
        )
        if infer.file_format(prefix):
            return [_head(bucket, prefix)]
        prefix = prefix.rstrip("/") + "/"
    try:
        found = [key for key, size in storage.keys(bucket, prefix) if sources.is_data(key, size)]
    except (ObjectDeniedError, ObjectMissingError) as error:
        raise _denied(f"s3://{bucket}/{prefix}") from error
    if not found:
        rejection = Rejection(
            "no-objects", f"there is no data below s3://{bucket}/{prefix}", file=prefix, remedy="Upload the data first."
        )
        raise DropRejectedError(rejection)
    return [_head(bucket, key) for key in sorted(found)]


def _head(bucket: str, key: str) -> ObjectFacts:
    try:
        return storage.head(bucket, key)
    except ObjectMissingError as error:
        raise _missing(key) from error
    except ObjectDeniedError as error:
        raise _denied(f"s3://{bucket}/{key}") from error


def _form(key: str) -> str:
    """Return the format that a key announces; another one is refused with the words of the early check."""
    name = key.rsplit("/", 1)[-1]
    announced = infer.file_format(name)
    if announced is None:
        rejection = precheck.check(name, 1, b"", complete=False, target=None)
        raise DropRejectedError(Rejection.of(rejection))
    return str(announced.name)


def _steadily(facts: ObjectFacts, read: Callable[[ObjectFacts], T], *, own: ObjectFacts | None) -> T:
    """Return what reading an object gives; one that is written meanwhile is read once more.

    The uploaded object's next version brings its own event, so this run gives way to it. Others (parts of a folder,
    data left where it is, older data) bring none: giving way would leave them without a run.
    """
    try:
        return read(facts)
    except ObjectChangedError:
        if own and (facts.bucket, facts.key) == (own.bucket, own.key):
            raise
    try:
        return read(_head(facts.bucket, facts.key))
    except ObjectChangedError as error:
        message, remedy = f"{facts.key} was written again while it was read", "Write it to the end, then drop again."
        raise DropRejectedError(Rejection("changed", message, file=facts.key, remedy=remedy)) from error


def _checked(facts: ObjectFacts, spec: PipelineSpec, *, alone: bool) -> ObjectFacts:
    """Return an object that the first MiB does not show to be unusable; `alone`: no other brings rows to the run."""
    head = b""
    if facts.size_bytes:
        try:
            head = storage.read(facts.bucket, facts.key, etag=facts.etag, first_bytes=HEAD_BYTES)
        except ObjectMissingError as error:
            raise _missing(facts.key) from error
        except ObjectDeniedError as error:
            raise _denied(f"s3://{facts.bucket}/{facts.key}") from error
    rejection = precheck.check(
        facts.key.rsplit("/", 1)[-1],
        facts.size_bytes,
        head,
        complete=facts.size_bytes <= HEAD_BYTES,
        target=spec.data.target,
        task=spec.task,
        alone=alone,
    )
    if rejection is not None:
        raise DropRejectedError(Rejection.of(rejection))
    return facts


class _Hashing:
    """Names contents, as long as the whole drop leaves the function time to read them."""

    def __init__(self, limit_bytes: int):
        self._left_bytes = limit_bytes

    def named(self, facts: ObjectFacts) -> Source:
        """Return a source with the name of its content: SHA-256, or S3's checksum when there is too much to read."""
        source = _unread(facts)
        if facts.size_bytes <= self._left_bytes:
            self._left_bytes -= facts.size_bytes
            try:
                return source.model_copy(update={"sha256": storage.sha256(facts.bucket, facts.key, etag=facts.etag)})
            except ObjectMissingError as error:
                raise _missing(facts.key) from error
        if facts.checksum is None:
            rejection = Rejection(
                "no-checksum",
                f"the drop is larger than {HASH_LIMIT_BYTES} bytes and S3 has no checksum of the whole of {facts.key}",
                file=facts.key,
                remedy="Upload less at a time, or with aws s3 cp --checksum-algorithm CRC64NVME.",
            )
            raise DropRejectedError(rejection)
        return source.model_copy(update={"checksum": facts.checksum})


def _unread(facts: ObjectFacts) -> Source:
    return Source(bucket=facts.bucket, key=facts.key, size_bytes=facts.size_bytes, etag=facts.etag)


def _current(source: Source, hashing: _Hashing) -> Source:
    """Return a source as it is now; only one that has changed is read again."""
    try:
        facts = storage.head(source.bucket, source.key)
    except ObjectMissingError as error:
        message = f"{source.key} is part of what data.mode append adds to, and has been deleted"
        remedy = "Upload it again, or write data: {mode: replace} to begin anew."
        raise DropRejectedError(Rejection("object-missing", message, file=source.key, remedy=remedy)) from error
    except ObjectDeniedError as error:
        raise _denied(f"s3://{source.bucket}/{source.key}") from error
    return source if facts.etag == source.etag else _steadily(facts, hashing.named, own=None)


def _record(asked: IdentifyRequested, found: Identified, *, spec_given: bool, book: Ledger) -> None:
    """Put what was found into the ledger, with the reasons."""
    fields = found.model_dump(mode="json", include={"identity", "spec", "sources", "format"})
    if not book.apply(ledger.change_run(asked.run_id, asked.attempt, fields)):
        raise AttemptOutdatedError(f"{asked.run_id} has ended or a newer attempt runs")
    total = sum(source.size_bytes for source in found.sources)
    mode = found.spec["data"]["mode"]
    decisions: list[dict[str, Any]] = [
        {
            "what": "spec",
            "chosen": "pipeline.yaml" if spec_given else "inferred",
            "reason": "it lies beside the data" if spec_given else f"there is no {asked.project}/{specs.FILE_NAME}",
            "numbers": {},
        },
        {
            "what": "data",
            "chosen": f"{len(found.sources)} objects" if len(found.sources) > 1 else found.sources[0].key,
            "reason": f"data.mode is {mode}, format {found.format} by the names",
            "numbers": {"bytes": total},
        },
        {
            "what": "work",
            "chosen": found.outcome,
            "reason": found.reason,
            "numbers": {},
            "alternatives": [] if found.outcome == "run" else ["run again with ebb drop --force"],
        },
    ]
    book.put_decisions(asked.run_id, "identify", decisions)


def _reason(earlier: str | None, *, reuse: bool, force: bool, served: str | None) -> str:
    if reuse:
        told = f"the same bytes, spec and job code as the successful run {earlier}"
        if served == earlier:
            return told
        return f"{told}; served is run {served}, and ebb drop --force trains this one again and serves it"
    if earlier and force:
        return f"forced, although run {earlier} did the same work"
    if earlier and not served:
        return f"run {earlier} did the same work, and its endpoint has been removed since"
    return "no successful run has had these bytes, this spec and this job code"


def _missing(key: str) -> DropRejectedError:
    message = f"{key} was deleted before it could be read"
    return DropRejectedError(Rejection("object-missing", message, file=key, remedy="Upload it again."))


def _denied(where: str) -> DropRejectedError:
    remedy = "Let this account's stack read it: bucket policy, and the key's policy when it is encrypted with one."
    return DropRejectedError(Rejection("access-denied", f"S3 refused access to {where}", file=where, remedy=remedy))
