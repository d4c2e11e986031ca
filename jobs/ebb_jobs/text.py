"""From a text to the network's input, and from its outputs to an answer: numpy and the `tokenizers` library only.

`train` encodes its texts with this file and every bundle carries it with the tokenizer's own file, so that a served
text becomes exactly the token numbers that training saw. That also needs the same `tokenizers` on both sides (Unicode
tables come with it): both images pin one version.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

if __package__:
    from ebb_jobs.bad_request import BadRequestError  # inside the jobs
else:
    from bad_request import BadRequestError  # type: ignore[import-not-found,no-redef]  # beside this file, in a bundle

STATE, TOKENIZER = "preprocess.json", "tokenizer.json"
PADDING = 0
"""What follows a text's last token. The tokenizer's own numbers are raised by one: no text can spell this one."""
FIELD = "text"
"""The name under which a text may always be sent; the name of its column does as well."""
MAX_CHARACTERS = 1_000_000
"""Of a text in a request. Only its beginning is read, so a text of this length is not what somebody wanted to ask."""
MAX_TEXTS = 4096
"""In a request: each becomes a row of tokens however short it is, and two bytes of JSON must not claim 2 KiB."""
CHUNK_TEXTS = 32
"""Texts that are tokenized at once: tokens beyond the length are put aside until the last text of a chunk is done."""
_LINES = ("application/jsonlines", "application/x-ndjson", "application/jsonl")
_REMEDY = 'Send {"instances": ["a text", "another"]}.'


class TextCodec:
    """Tokenizes texts for one network and words its answers.

    Its state is the JSON document `state` (length in tokens, characters that are read, column, classes) and the
    tokenizer, which also normalises: both travel as they were fitted.
    """

    def __init__(self, state: Mapping[str, Any], tokenizer: str) -> None:
        self.state = dict(state)
        self.length = int(state["input"]["length"])
        self.characters = int(state["input"]["characters"])
        self.column = str(state["input"]["column"])
        self.classes: list[str] = list(state["target"]["classes"])
        self._written = tokenizer
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.length)
        self._normalizer = self._tokenizer.normalizer
        self._tokenizer.normalizer = None  # `encode` does it first, and cuts: one letter may become eighteen

    @property
    def vocabulary(self) -> int:
        """Return how many tokens there are, padding included."""
        return self._tokenizer.get_vocab_size() + 1

    def encode(self, raws: Sequence[str]) -> np.ndarray:
        """Return the network's input, int32 [texts, length]: the first tokens of each text, then PADDING."""
        encoded: np.ndarray = np.full((len(raws), self.length), PADDING, dtype=np.int32)
        for start in range(0, len(raws), CHUNK_TEXTS):
            texts = [self._normalized(text) for text in raws[start : start + CHUNK_TEXTS]]
            found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            for row, tokens in zip(encoded[start : start + CHUNK_TEXTS], found, strict=True):
                row[: len(tokens)] = np.array(tokens.ids, dtype=np.int32) + 1
        return encoded

    def parse(self, body: bytes, content_type: str) -> list[str]:
        """Return the texts of a request: text/plain is one text whatever lines it has, the others hold several."""
        try:
            document = body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadRequestError("the body is not UTF-8", remedy="Encode the request as UTF-8.") from error
        if not document.strip():
            raise BadRequestError("the body is empty", field=FIELD, remedy="Send at least one text.")
        kind = content_type.partition(";")[0].strip().lower()
        if kind in ("text/plain", "text/html", ""):
            texts: list[Any] = [document]
        elif kind == "application/json":
            texts = self._of_json(document)
        elif kind in _LINES:
            texts = [
                self._of_object(_json(line, f"line {number}"), f"line {number}")
                for number, line in enumerate(document.split("\n"), start=1)
                if line.strip()
            ]
        elif kind in ("text/csv", "application/csv"):
            texts = self._of_csv(document)
        else:
            raise BadRequestError(
                f"content type {kind} is not supported",
                remedy="Send text/plain (one text), application/json, application/jsonlines or text/csv.",
            )
        return _checked(texts)

    def predictions(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        """Return the answers that a client gets, one per text."""
        return [
            {
                "label": self.classes[int(row.argmax())],
                "probabilities": {label: round(float(p), 6) for label, p in zip(self.classes, row, strict=True)},
            }
            for row in outputs
        ]

    def files(self) -> dict[str, bytes]:
        """Return what `open_codec` needs, by file name."""
        return {
            STATE: (json.dumps(self.state, ensure_ascii=False, allow_nan=False) + "\n").encode(),
            TOKENIZER: self._written.encode(),
        }

    def _normalized(self, text: str) -> str:
        beginning = readable(text, self.characters)
        return self._normalizer.normalize_str(beginning)[: self.characters] if self._normalizer else beginning

    def _of_json(self, document: str) -> list[Any]:
        found = _json(document, "the body")
        if isinstance(found, dict) and isinstance(found.get("instances"), list):
            found = found["instances"]
        if not isinstance(found, list):
            return [self._of_object(found, "the body")]
        return [self._of_object(item, f"text {number}") for number, item in enumerate(found, start=1)]

    def _of_object(self, item: Any, where: str) -> Any:
        if not isinstance(item, dict):
            return item
        for name in (self.column, FIELD):
            if name in item:
                return item[name]
        raise BadRequestError(f"{where} lacks {FIELD!r}", field=FIELD, remedy=_REMEDY)

    def _of_csv(self, document: str) -> list[str]:
        """Return the cells below the text's header, or the only cells where there is no header."""
        try:
            csv.field_size_limit(2 * MAX_CHARACTERS)  # the module's own 128 KiB are less than a long mail
            rows = [row for row in csv.reader(io.StringIO(document, newline=""), strict=True) if row]
        except csv.Error as error:
            raise BadRequestError(f"the body is not CSV: {error}", remedy="Close every quoted cell.") from error
        first = [cell.strip() for cell in rows[0]]
        place = next((first.index(name) for name in (self.column, FIELD) if name in first), None)
        if place is not None:
            rows = rows[1:]
        elif len(first) > 1:
            raise BadRequestError(
                f"row 1 has {len(first)} cells and none is called {self.column!r}",
                field=self.column,
                remedy=f"Begin with a header that names {self.column}, and quote texts with commas.",
            )
        width = len(first)
        for number, row in enumerate(rows, start=1):
            if len(row) != width:
                raise BadRequestError(
                    f"row {number} has {len(row)} cells, expected {width}", remedy="Quote texts with commas."
                )
        return [row[place or 0] for row in rows]


def open_codec(folder: Path) -> TextCodec:
    """Return the codec whose files lie in `folder`."""
    return TextCodec(
        json.loads((folder / STATE).read_text(encoding="utf-8")), (folder / TOKENIZER).read_text(encoding="utf-8")
    )


def readable(text: str, characters: int) -> str:
    """Return the beginning of a text as Unicode that the tokenizer takes: JSON may hold halves of surrogate pairs."""
    beginning = text[:characters]
    try:
        beginning.encode()
    except UnicodeEncodeError:
        return beginning.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return beginning


def _json(document: str, where: str) -> Any:
    try:
        return json.loads(document)
    except (ValueError, RecursionError) as error:  # the second: nested without end
        raise BadRequestError(f"{where} is not JSON", remedy=_REMEDY) from error


def _checked(texts: list[Any]) -> list[str]:
    """Return the texts of a request when each can be answered."""
    if not texts:
        raise BadRequestError("there are no texts", field=FIELD, remedy="Send at least one text.")
    if len(texts) > MAX_TEXTS:
        raise BadRequestError(
            f"the request holds {len(texts):,} texts", field=FIELD, remedy=f"Send at most {MAX_TEXTS:,} at once."
        )
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise BadRequestError(f"text {number} is no text", field=FIELD, remedy=_REMEDY)
        if not text.strip():
            raise BadRequestError(f"text {number} is empty", field=FIELD, remedy="Send at least one word.")
        if len(text) > MAX_CHARACTERS:
            raise BadRequestError(
                f"text {number} has {len(text):,} characters",
                field=FIELD,
                remedy=f"Send at most {MAX_CHARACTERS:,}; only the beginning is read.",
            )
    return texts
