"""Lambda: name what was dropped, refuse what cannot be used, and find the run that did the same work already.

Reads the data and the spec; writes the manifest and the ledger. No job starts before it has answered.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import features, identity, ledger, names, sources, spec_text
from ebb import spec as specs
from ebb.aws import objects, storage
from ebb.aws.ledger import Ledger
from ebb.aws.storage import ObjectFacts
from ebb.errors import (
    AttemptOutdatedError,
    DropRejectedError,
    InvalidSpecError,
    ObjectChangedError,
    ObjectDeniedError,
    ObjectMissingError,
    Rejection,
)
from ebb.settings import IdentifySettings
from ebb.sources import Source
from ebb.spec import PipelineSpec
from ebb.spec_values import CUSTOM
from ebb.steps import Identified, IdentifyRequested
from ebb.telemetry import logger
from ebb_jobs import archives, glimpse, infer, precheck, pretrained, refusals
from ebb_jobs.rejection import RejectedError
from ebb_jobs.rejection import Rejection as JobRejection

HEAD_BYTES = 1024 * 1024
TAR_BYTES = 16 * 1024 * 1024  # a tar has no directory: to list all of it, all of it would have to be unpacked


@dataclass(frozen=True)
class _Found:
    """What a drop holds: its data, the script that lies apart from it, and what its names say that they are."""

    data: list[ObjectFacts]
    script: ObjectFacts | None
    form: str
    task: str | None

    @property
    def by_name(self) -> bool:
        """Whether the names of the objects say something too: a picture's folder is its class."""
        return self.form in ("images", "script")


@dataclass(frozen=True)
class _Seen:
    """An object that is usable as far as its first look shows, and what it lets expect."""

    facts: ObjectFacts
    task: str | None = None
    inside: glimpse.ArchiveGlimpse = glimpse.UNKNOWN


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
        raise objects.missing(drop.key)
    if drop.etag and marker.etag != drop.etag:
        raise ObjectChangedError(f"s3://{drop.bucket}/{drop.key} was written again")
    spec, spec_given = _spec(asked)
    owned = book.project(asked.project)
    if spec.features.wanted or features.SHARE in owned:
        book.apply(ledger.share_features(asked.project, spec.features.share))
    if spec.data.features is not None:
        return _reusing(asked, spec, marker, settings, book)
    found = _found(asked, marker, spec, settings)
    naming = objects.Naming(objects.HASH_LIMIT_BYTES)
    seen = _checked(found, spec, own=marker)
    read = naming.named([each.facts for each in seen], own=marker)
    # First noted, then looked up: of two drops that come close, the one that looks last sees both.
    book.accept(asked.project, asked.run_id, generation, spec.data.mode, read)
    form = found.form
    if spec.data.mode == "append":
        read = sources.appended(naming.current(book.accepted(asked.project, generation)), read, by_name=found.by_name)
        with _told():
            keys = [each.key for each in read]
            form = precheck.content_format(keys, entry_point=spec.train.entry_point, script=found.script is not None)
    contents = _contents(read, by_name=found.by_name)
    if found.script is not None:
        [script] = naming.named([found.script], own=marker)
        contents.append(f"script:{script.fingerprint}")
        read = [*(each for each in read if each.key != script.key), script]
    encoder = _pretrained(asked, spec, settings, naming)
    contents += [f"pretrained:{each.fingerprint}" for each in encoder]
    sources.together(read, granted=_granted(asked, spec, settings))
    work = identity.run_identity(asked.project, spec.resolved(), settings.jobs_hash, contents)
    force = marker.metadata.get("ebb-force") == "1"
    earlier = book.successful_run(work)
    served = owned.get("served") or {}
    reuse = earlier is not None and earlier != asked.run_id and bool(served) and not force
    documents = {
        names.manifest_key(asked.run_id): sources.manifest(read),
        names.sources_key(asked.run_id): sources.digests(read),
    }
    manifest_uri, sources_uri = (f"s3://{settings.artifact_bucket}/{key}" for key in documents)
    if not reuse:
        for key, document in documents.items():
            storage.write_json(settings.artifact_bucket, key, document)
    told = Identified(
        outcome="reuse" if reuse else "run",
        reason=_reason(earlier, reuse=reuse, force=force, served=served.get("run_id")),
        identity=work,
        reuses=earlier if reuse else None,
        spec=spec.resolved(),
        sources=tuple(read) if len(read) <= sources.INLINE else (),
        source_count=len(read),
        size_bytes=sum(each.size_bytes for each in read),
        compressed=any(sources.is_packed(each.key) for each in read),
        manifest_uri=manifest_uri,
        sources_uri=sources_uri,
        format=form,  # type: ignore[arg-type]  # `content_format` returns nothing else
        task=found.task or seen[0].task,
        **_expected(form, seen, read, spec),
        pretrained=tuple(encoder),
        force=force,
    )
    _record(asked, told, found, spec, spec_given=spec_given, book=book)
    return told


def _reusing(
    asked: IdentifyRequested, spec: PipelineSpec, marker: ObjectFacts, settings: IdentifySettings, book: Ledger
) -> Identified:
    """Return the work of a project that learns from another one's features: the objects behind them are its sources."""
    file, name = _spec_key(asked), str(spec.data.features)
    if asked.drop.kind != "spec":
        raise features.misplaced(file)
    given = features.granted(book.project(name), name, to=asked.project, file=file)
    bucket, _, prefix = given.curated_uri.removeprefix("s3://").partition("/")
    try:
        storage.head(bucket, prefix + "schema.json")
    except ObjectMissingError:
        raise features.aged(given, file=file) from None
    made = book.run(given.run_id)
    if made is None:  # its record tells what the rows came from, and is gone
        raise features.aged(given, file=file)
    work = identity.run_identity(asked.project, spec.resolved(), settings.jobs_hash, [f"features:{given.identity}"])
    force = marker.metadata.get("ebb-force") == "1"
    earlier, served = book.successful_run(work), book.project(asked.project).get("served") or {}
    reuse = earlier is not None and earlier != asked.run_id and bool(served) and not force
    artifacts = f"s3://{settings.artifact_bucket}/"
    told = Identified(
        outcome="reuse" if reuse else "run",
        reason=_reason(earlier, reuse=reuse, force=force, served=served.get("run_id")),
        identity=work,
        reuses=earlier if reuse else None,
        spec=spec.resolved(),
        sources=tuple(Source.model_validate(each) for each in made.get("sources") or ()),
        source_count=int(made["source_count"]),
        size_bytes=int(made["size_bytes"]),
        compressed=any(sources.is_packed(each["key"]) for each in made.get("sources") or ()),
        manifest_uri=artifacts + names.manifest_key(given.run_id),
        sources_uri=artifacts + names.sources_key(given.run_id),
        format=made["format"],
        task=made.get("task"),
        features=given,
        force=force,
    )
    _record(asked, told, None, spec, spec_given=True, book=book)
    known: dict[str, Any] = {
        name: made[name] for name in ("task", "target", "rows") if name in made
    }  # what `process` found then
    book.apply(ledger.change_run(asked.run_id, asked.attempt, known))
    return told


def _head_or_none(asked: IdentifyRequested) -> ObjectFacts | None:
    try:
        return storage.head(asked.drop.bucket, asked.drop.key)
    except ObjectMissingError:
        return None


def _spec(asked: IdentifyRequested) -> tuple[PipelineSpec, bool]:
    key = _spec_key(asked)
    try:
        text = storage.read(asked.drop.bucket, key, first_bytes=spec_text.MAX_BYTES + 1)
        return specs.parse(text, file=key), True
    except ObjectMissingError:
        if asked.drop.kind == "spec":
            raise objects.missing(key) from None
        return PipelineSpec(), False


def _found(asked: IdentifyRequested, marker: ObjectFacts, spec: PipelineSpec, settings: IdentifySettings) -> _Found:
    """Return what the drop holds, after its names and sizes have been judged."""
    prefix, data = _listed(asked, marker, spec, settings)
    script = _script(asked, spec, settings, bucket=data[0].bucket)
    relative = [each.key.removeprefix(prefix) for each in data]
    given: dict[str, Any] = {"entry_point": spec.train.entry_point}
    _accept(
        precheck.check_listing(
            list(zip(relative, (each.size_bytes for each in data), strict=True)),
            task=spec.task,
            target=spec.data.target,
            source=script is not None,
            alone=spec.data.mode == "replace",
            **given,
        ),
        file=prefix if len(data) > 1 else relative[0],
    )
    form = precheck.content_format(relative, script=script is not None, **given)
    task = infer.drop_task(form, spec.task, source=script is not None)
    _heeded(asked, spec, form, script)
    return _Found(data, script, form, task)


def _listed(
    asked: IdentifyRequested, marker: ObjectFacts, spec: PipelineSpec, settings: IdentifySettings
) -> tuple[str, list[ObjectFacts]]:
    """Return the prefix that the objects of the drop share, and the objects as S3 knows them now."""
    drop = asked.drop
    if drop.kind == "object":
        return _folder(drop.key), [marker]
    if drop.kind == "prefix":
        bucket, prefix = drop.bucket, _folder(drop.key)
    else:
        bucket, prefix = _place(asked, spec.data.uri or "", settings, "data.uri")
        if sources.is_file(prefix):
            return _folder(prefix), [objects.head(bucket, prefix)]
        prefix = prefix.rstrip("/") + "/"
    return prefix, objects.below(bucket, prefix)


def _script(
    asked: IdentifyRequested, spec: PipelineSpec, settings: IdentifySettings, *, bucket: str
) -> ObjectFacts | None:
    """Return the training script that lies apart from the data, None when the spec names none."""
    uri = spec.train.source
    if uri is None:
        return None
    its_bucket, key = _place(asked, uri, settings, "train.source")
    if its_bucket != bucket:
        raise sources.uri_refused(
            f"the script lies in the bucket {its_bucket}, the data in {bucket}",
            f"Put the script into the bucket {bucket}: a job reads one.",
            file=_spec_key(asked),
            field="train.source",
        )
    facts = objects.head(bucket, key)
    name = key.rsplit("/", 1)[-1]
    if infer.is_archive(name):
        with _told():
            listed = archives.listing(name, facts.size_bytes, _stream(facts))
        files = [each.name for each in listed.members]
        top = infer.common_folder(files)
        if listed.complete and top + spec.train.entry_point not in files:
            message = f"{name} holds no {spec.train.entry_point} at its top"
            remedy = "Pack it there, or name another file with train.entry_point."
            raise DropRejectedError(Rejection("no-entry-point", message, file=key, remedy=remedy))
    elif not facts.size_bytes:
        _accept(refusals.empty_file(key))
    return facts


def _pretrained(
    asked: IdentifyRequested, spec: PipelineSpec, settings: IdentifySettings, naming: objects.Naming
) -> list[Source]:
    """Return the files of the encoder that the spec names, after their beginnings have shown that it can be loaded."""
    uri = spec.train.pretrained
    if uri is None:
        return []
    bucket, prefix = _place(asked, uri, settings, pretrained.FIELD)
    found, missing = [], []
    for name in pretrained.FILES:
        try:
            found.append(storage.head(bucket, prefix + name))
        except ObjectMissingError:
            missing.append(name)
        except ObjectDeniedError as error:
            raise objects.denied(uri + name) from error
    _accept(pretrained.incomplete(missing, uri) if missing else None)
    sheet, weights, tokenizer = found
    for each in (sheet, tokenizer):
        _accept(pretrained.too_large(each.key) if each.size_bytes > pretrained.MOST_FILE_BYTES else None)
    written, words = (objects.steadily(each, _whole, own=None) for each in (sheet, tokenizer))
    _accept(pretrained.check(written, objects.steadily(weights, _header, own=None), words))
    return naming.named(found, own=None)


def _whole(facts: ObjectFacts) -> bytes:
    """Return all of a small file."""
    return storage.read(facts.bucket, facts.key, etag=facts.etag) if facts.size_bytes else b""


def _header(facts: ObjectFacts) -> bytes | None:
    """Return the JSON before the weights, None where there is none."""
    stream = storage.open_stream(facts.bucket, facts.key, etag=facts.etag, size_bytes=facts.size_bytes)
    length = pretrained.header_bytes(stream.read(pretrained.HEAD_BYTES), facts.size_bytes) if facts.size_bytes else None
    return None if length is None else stream.read(length)


def _place(asked: IdentifyRequested, uri: str, settings: IdentifySettings, field: str) -> tuple[str, str]:
    return sources.place(
        uri,
        project=asked.project,
        landing_bucket=settings.landing_bucket,
        external_buckets=settings.external_data_buckets,
        file=_spec_key(asked),
        field=field,
    )


def _granted(asked: IdentifyRequested, spec: PipelineSpec, settings: IdentifySettings) -> list[tuple[str, str]]:
    """Return the places that the plan's roles cover, however many objects lie there: the project's own, the spec's."""
    named = [uri.removeprefix("s3://").partition("/") for uri in (spec.data.uri, spec.train.source) if uri]
    return [(settings.landing_bucket, f"{asked.project}/"), *((bucket, key) for bucket, _, key in named)]


def _heeded(asked: IdentifyRequested, spec: PipelineSpec, form: str, script: ObjectFacts | None) -> None:
    """Refuse what the spec asks of a script and a drop without one cannot heed, and a script that would be added to."""
    if form == "script" and script is None and spec.data.mode == "append":
        raise InvalidSpecError(
            Rejection(
                "spec-invalid-field",
                "data.mode: append adds data to data, and this drop brings its own training script",
                file=_spec_key(asked),
                column="data.mode",
                remedy="Write data: {mode: replace}, or name the script with train.source.",
            )
        )
    tune = spec.train.tune
    unheeded = [*spec.asks_for_script, *(f"tune.{name}" for name in (tune.asks_for_script if tune else ()))]
    if unheeded and script is None and form not in ("script", "archive"):
        field = f"train.{unheeded[0]}"
        raise InvalidSpecError(
            Rejection(
                "spec-invalid-field",
                f"{field}: it is for a training script of your own, and the drop holds none",
                file=_spec_key(asked),
                column=field,
                remedy=f"Remove it, drop {spec.train.entry_point} beside the data, or name it with train.source.",
            )
        )


def _checked(found: _Found, spec: PipelineSpec, *, own: ObjectFacts) -> list[_Seen]:
    """Return the data as it was when its first bytes, or its directory, did not show it to be unusable."""
    alone = len(found.data) == 1 and spec.data.mode == "replace"
    if found.form == "archive":
        look = partial(_look_into_archive, spec=spec, script=found.script is not None, alone=alone)
    elif found.form in infer.TABLES:
        look = partial(_look_at_table, spec=spec, alone=alone, guess=found.data[0].key)
    else:
        return [_Seen(each) for each in found.data]  # pictures, what belongs to a script: their names have been judged
    return objects.side_by_side(lambda each: objects.steadily(each, look, own=own), found.data)


def _look_at_table(facts: ObjectFacts, *, spec: PipelineSpec, alone: bool, guess: str) -> _Seen:
    """Return a table that the first MiB does not show to be unusable; `alone`: no other brings rows to the run.

    `guess` is the key of the one table that tells what task to expect.
    """
    head = storage.read(facts.bucket, facts.key, etag=facts.etag, first_bytes=HEAD_BYTES) if facts.size_bytes else b""
    name, complete = facts.key.rsplit("/", 1)[-1], facts.size_bytes <= HEAD_BYTES
    asked = {"target": spec.data.target, "task": spec.task, "text": spec.data.input}
    _accept(precheck.check(name, facts.size_bytes, head, complete=complete, alone=alone, **asked))
    if facts.key != guess:
        return _Seen(facts)
    task = glimpse.of_table(name, head, complete=complete, **asked).task
    return _Seen(facts, task.value if task else None)


def _look_into_archive(facts: ObjectFacts, *, spec: PipelineSpec, script: bool, alone: bool) -> _Seen:
    """Return an archive whose directory does not show it to be unusable; `alone`: no other brings files to the run."""
    name, entry_point = facts.key.rsplit("/", 1)[-1], spec.train.entry_point
    listed, stream = None, _stream(facts)
    if facts.size_bytes:
        with _told():
            listed = archives.listing(name, facts.size_bytes, stream)
    _accept(
        precheck.check_archive(
            name,
            facts.size_bytes,
            stream,
            task=spec.task,
            target=spec.data.target,
            source=script,
            entry_point=entry_point,
            alone=alone,
            listed=listed,
        ),
        file=name,
    )
    if listed is None:  # empty, which `check_archive` refuses
        raise AssertionError(name)
    share = 1.0 if listed.complete else TAR_BYTES / facts.size_bytes
    return _Seen(facts, inside=glimpse.of_listing(name, listed, share=share, entry_point=entry_point))


def _expected(form: str, seen: Sequence[_Seen], read: Sequence[Source], spec: PipelineSpec) -> dict[str, Any]:
    """Return how many pictures there are, and what archives hold, as far as all of it has been looked at."""
    if form == "images":
        return {"example_count": len(read)}
    if form != "archive" or spec.data.mode == "append":
        return {}
    inside = glimpse.together([each.inside for each in seen])
    return {"content": inside.content, "example_count": inside.pictures, "unpacked_bytes": inside.unpacked_bytes}


def _stream(facts: ObjectFacts) -> BinaryIO:
    """Return an archive as a stream: all of a zip, whose directory is at its end, the beginning of a large tar."""
    whole = facts.key.lower().endswith(".zip")
    size_bytes = facts.size_bytes if whole else min(facts.size_bytes, TAR_BYTES)
    return storage.open_stream(facts.bucket, facts.key, etag=facts.etag, size_bytes=size_bytes)


def _contents(read: Sequence[Source], *, by_name: bool) -> list[str]:
    """Return what the data's identity counts: contents, and with `by_name` what the names below their folder say."""
    if not by_name:
        return [each.fingerprint for each in read]
    shared = infer.common_folder([each.key for each in read])
    return [f"{each.key.removeprefix(shared)}:{each.fingerprint}" for each in read]


def _record(
    asked: IdentifyRequested,
    told: Identified,
    found: _Found | None,
    spec: PipelineSpec,
    *,
    spec_given: bool,
    book: Ledger,
) -> None:
    """Put what was found into the ledger, with the reasons."""
    kept = {"identity", "spec", "sources", "source_count", "size_bytes", "sources_uri", "format", "force", "features"}
    kept |= {"pretrained"} if told.pretrained else set()
    if not book.apply(ledger.change_run(asked.run_id, asked.attempt, told.model_dump(mode="json", include=kept))):
        raise AttemptOutdatedError(f"{asked.run_id} has ended or a newer attempt runs")
    decisions: list[dict[str, Any]] = [
        {
            "what": "spec",
            "chosen": "pipeline.yaml" if spec_given else "inferred",
            "reason": "it lies beside the data" if spec_given else f"there is no {_spec_key(asked)}",
            "numbers": {},
        },
        {
            "what": "data",
            "chosen": f"{told.source_count} objects" if told.source_count > 1 else told.sources[0].key,
            "reason": f"data.mode is {spec.data.mode}, format {told.format} by the names"
            if told.features is None
            else f"the features of {told.features.project} were made of it",
            "numbers": {"bytes": told.size_bytes},
        },
        {
            "what": "work",
            "chosen": told.outcome,
            "reason": told.reason,
            "numbers": {},
            "alternatives": [] if told.outcome == "run" else ["run again with ebb drop --force"],
        },
    ]
    if found is not None and told.task == CUSTOM and found.form != "archive":
        decisions.insert(
            2,
            {
                "what": "training script",
                "chosen": found.script.key if found.script else spec.train.entry_point,
                "reason": "train.source names it" if found.script else "it lies at the top of the drop",
                "numbers": {},
            },
        )
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


def _accept(rejection: JobRejection | None, *, file: str | None = None) -> None:
    """Raise what was found; `file` says where when it is of no single one of the files."""
    if rejection is not None:
        found = Rejection.of(rejection)
        raise DropRejectedError(found if found.file else replace(found, file=file))


@contextmanager
def _told() -> Iterator[None]:
    """Raise a rejection of the jobs' own code as the state machine knows it."""
    try:
        yield
    except RejectedError as rejected:
        raise DropRejectedError(Rejection.of(rejected.rejection)) from rejected


def _folder(key: str) -> str:
    return key[: key.rfind("/") + 1]


def _spec_key(asked: IdentifyRequested) -> str:
    return f"{asked.project}/{specs.FILE_NAME}"
