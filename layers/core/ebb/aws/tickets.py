"""Tickets in S3 and their messages in SQS: writes what `ebb.tickets` describes."""

from typing import Any, TypeVar

from ebb import tickets
from ebb.aws import storage
from ebb.aws.clients import client
from ebb.errors import ObjectMissingError
from ebb.tickets import Ended, HandedOver, Message, Waiting

UPLOAD_EXPIRES_S = 900
_JSON = "application/json"
_D = TypeVar("_D", Waiting, HandedOver, Ended)


class Box:
    """Where requests wait and answers lie: two prefixes of the artifact bucket."""

    def __init__(self, bucket: str):
        self._bucket = bucket

    def waiting(self, address: str, ticket: str) -> Waiting | None:
        """Return what was asked, None when there is no such ticket."""
        return self._read(Waiting, tickets.waiting_key(address, ticket))

    def handed_over(self, asked: Waiting) -> HandedOver | None:
        """Return where an asynchronous endpoint will put the answer, None when none has the request."""
        return self._read(HandedOver, tickets.handed_over_key(asked.address, asked.id))

    def ended(self, address: str, ticket: str) -> Ended | None:
        """Return how a ticket ended, None while it has not."""
        return self._read(Ended, tickets.ended_key(address, ticket))

    def payload(self, address: str, ticket: str) -> bytes:
        """Return a payload.

        Raises: ObjectMissingError, StorageUnavailableError.
        """
        return storage.read(self._bucket, tickets.payload_key(address, ticket))

    def payload_size(self, address: str, ticket: str) -> int | None:
        """Return the size of what was uploaded, None when nothing was."""
        try:
            return storage.head(self._bucket, tickets.payload_key(address, ticket)).size_bytes
        except ObjectMissingError:
            return None

    def payload_uri(self, asked: Waiting) -> str:
        """Return where the payload lies."""
        return f"s3://{self._bucket}/{tickets.payload_key(asked.address, asked.id)}"

    def keep(self, asked: Waiting, payload: bytes | None) -> None:
        """Keep a request until it is answered; None: its payload has been uploaded. A repeat changes nothing."""
        if payload is not None:
            key = tickets.payload_key(asked.address, asked.id)
            storage.write(self._bucket, key, payload, content_type=asked.content_type)
        self._write_once(tickets.waiting_key(asked.address, asked.id), asked)

    def note_handed_over(self, asked: Waiting, handed: HandedOver) -> None:
        """Note where the answer will lie; handed to another endpoint meanwhile, the later note counts."""
        key = tickets.handed_over_key(asked.address, asked.id)
        storage.write(self._bucket, key, handed.model_dump_json().encode(), content_type=_JSON)

    def take_late_turn(self, asked: Waiting, turn: int) -> bool:
        """Note that a request is queued once more in this turn; return False when it has been."""
        key = tickets.late_key(asked.address, asked.id, turn)
        return storage.write_once(self._bucket, key, b"", content_type=_JSON)

    def end(self, address: str, ticket: str, ended: Ended, body: bytes | None = None) -> bool:
        """Record how a ticket ended; return False when it had ended before: what is recorded stays."""
        if body is not None:
            key = tickets.body_key(address, ticket)
            storage.write(self._bucket, key, body, content_type=ended.content_type)
            ended = ended.model_copy(update={"body_uri": f"s3://{self._bucket}/{key}", "size_bytes": len(body)})
        return self._write_once(tickets.ended_key(address, ticket), ended)

    def body(self, ended: Ended) -> bytes:
        """Return an answer's body."""
        return storage.read(*tickets.location(ended.body_uri or ""))

    def holds(self, location: str) -> bool:
        """Return whether an answer at this location can be read: it lies among Ebb's own."""
        bucket, key = tickets.location(location)
        return bucket == self._bucket and key.startswith("answers/")

    def settled(self, handed: HandedOver, asked: Waiting) -> Ended | None:
        """Return how a request ended that an asynchronous endpoint had, None while it has not.

        What it answered lies at the output location; why it could not, at the failure location.
        """
        if not self.holds(handed.output_location):
            return None
        if found := self._described(handed.output_location):
            return Ended(
                state="answered",
                at=found["LastModified"],
                content_type=found.get("ContentType") or asked.accept or "application/octet-stream",
                body_uri=handed.output_location,
                size_bytes=found["ContentLength"],
            )
        if handed.failure_location and (found := self._described(handed.failure_location)):
            text = storage.read(*tickets.location(handed.failure_location), first_bytes=4096).decode(errors="replace")
            error = {"code": "ModelError", "message": text, "remedy": "", "OriginalMessage": text}
            return tickets.failed(found["LastModified"], 424, error)
        return None

    def download_url(self, ended: Ended) -> str:
        """Return a URL by which an answer can be fetched for a while, with no other permission."""
        bucket, key = tickets.location(ended.body_uri or "")
        return self._presigned("get_object", Bucket=bucket, Key=key)

    def upload_url(self, address: str, ticket: str, content_type: str) -> str:
        """Return a URL to which a payload can be put for a while, with no other permission."""
        key = tickets.payload_key(address, ticket)
        return self._presigned("put_object", Bucket=self._bucket, Key=key, ContentType=content_type)

    def _presigned(self, operation: str, **request: Any) -> str:
        url = client("s3").generate_presigned_url(operation, Params=request, ExpiresIn=UPLOAD_EXPIRES_S)
        return str(url)

    def _described(self, location: str) -> dict[str, Any] | None:
        return storage.described(*tickets.location(location))

    def _read(self, kind: type[_D], key: str) -> _D | None:
        try:
            return kind.model_validate_json(storage.read(self._bucket, key))
        except ObjectMissingError:
            return None

    def _write_once(self, key: str, document: Waiting | Ended) -> bool:
        return storage.write_once(self._bucket, key, document.model_dump_json().encode(), content_type=_JSON)


class Queue:
    """The requests queue, and the one for what could not be answered."""

    def __init__(self, url: str, dead_letter_url: str = ""):
        self._url, self._dead_letter_url = url, dead_letter_url

    def send(self, asked: Waiting) -> None:
        """Let a ticket be delivered as soon as its endpoint answers.

        Each address is a tenant of the queue: SQS hands out the messages of the others first while one of them takes
        more than its share of the deliveries, by number or by time. Those of one address still go side by side.
        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-fair-queues.html
        """
        message = Message(address=asked.address, id=asked.id, deadline=asked.deadline)
        self._send(self._url, message.model_dump_json(), MessageGroupId=asked.address)

    def give_up(self, body: str) -> None:
        """Put a message where people look: nothing more can be done about it by itself."""
        self._send(self._dead_letter_url, body)

    def look_again(self, receipt: str, after_s: int) -> None:
        """Let a message that has to wait come back after this many seconds."""
        client("sqs").change_message_visibility(QueueUrl=self._url, ReceiptHandle=receipt, VisibilityTimeout=after_s)

    def _send(self, url: str, body: str, **more: str) -> None:
        client("sqs").send_message(QueueUrl=url, MessageBody=body, **more)
