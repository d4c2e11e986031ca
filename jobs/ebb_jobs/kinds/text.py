"""Texts: one text per example, one label each."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from ebb_jobs import (
    dataset,
    encoder_networks,
    fingerprints,
    gradient,
    knobs,
    ladder,
    linear,
    pretrained,
    text,
    tfidf,
)
from ebb_jobs.bodies import Body, filled
from ebb_jobs.dataset import Split
from ebb_jobs.encoder_networks import EncoderNet
from ebb_jobs.kind import KindRecipe
from ebb_jobs.knobs import Turned
from ebb_jobs.ladder import Lesson, Rung
from ebb_jobs.networks import Network
from ebb_jobs.report import Report
from ebb_jobs.sql import literal, quote
from ebb_jobs.text import TextCodec
from ebb_jobs.text_networks import TextNet

CHUNK_ROWS = 4096
SAMPLE_TEXTS = 100_000
SAMPLE_CHARACTERS = 20_000_000
"""What the tokenizer learns from at most: its vocabulary hardly changes beyond that."""
MAX_VOCABULARY = 8_000
LONGEST = 1024
"""Tokens of a text that are read at most: of 3,000 mails a linear model told 98.0 % rightly by 512, 98.7 % by 1,024."""
COVERED = 0.95
"""Share of the training texts that are read whole, if LONGEST allows it."""
CHARACTERS_PER_TOKEN = 8
"""A text is cut before it is tokenized, so that a book costs what its beginning does; of 400 mails none had over 5."""
SINGLE_CHARACTERS = 20_000
"""Of the texts that are sent to prove and to race bundles: longer than a client's mostly are."""
STEP = 16
DROPPED_TOKENS = 0.1
TABLE_WIDTHS = (16, 64)
"""Of the averaged embeddings that an encoder teaches."""
SHALLOWER = (1, 2)
"""Layers of the encoders that a deeper one teaches."""
PRETRAINED_LONGEST = 64
"""Tokens that a pretrained encoder reads at most: its work grows with them."""


def batch_size(rows: int) -> int:
    """Return the batch size for that many rows: enough steps for few texts, enough work per step for many."""
    return next((size for limit, size in ((2_000, 32), (20_000, 64), (200_000, 256)) if rows < limit), 1024)


class TextKind:
    """Subword tokens, averaged embeddings, both runtimes."""

    name = "text"
    codec_module = "text"
    code = (text,)
    recipe = KindRecipe(
        steps=800,
        student_steps=800,
        peak_rate=2e-3,
        student_peak_rate=4e-3,
        batch_size=batch_size,
        min_epochs=2,  # a million texts are 1,000 steps an epoch
        max_epochs=30,
    )
    runtimes = ("onnxruntime", "openvino")
    quantized_operators = ("Gather", "Gemm", "MatMul")
    skipped = {  # noqa: RUF012 - read only
        "prune": "a narrower student takes its place: tables of embeddings lose nothing by being trained narrow at once"
    }
    trains_itself = False

    def fit_codec(self, curated: Path, schema: dict[str, Any], report: Report) -> TextCodec:
        """Learn the tokenizer from the training texts, and how many tokens of a text are worth reading."""
        sample = _sample(curated, _columns(schema)[0])
        tokenizer = fit_tokenizer(sample, MAX_VOCABULARY)
        lengths = [
            len(found)
            for start in range(0, len(sample), CHUNK_ROWS)
            for found in tokenizer.encode_batch_fast(sample[start : start + CHUNK_ROWS])
        ]
        covering = int(np.quantile(lengths, COVERED, method="higher"))
        length = min(LONGEST, max(STEP, -(-covering // STEP) * STEP))
        report.decide(
            "tokens",
            f"{tokenizer.get_vocab_size()} tokens, {length} of each text",
            f"subwords seen at least twice in {len(sample)} training texts; {np.mean(np.array(lengths) <= length):.0%} "
            "of them are read whole",
            numbers={"vocabulary": tokenizer.get_vocab_size(), "length": length, "longest": max(lengths)},
        )
        state = {
            "version": 1,
            "task": schema["task"],
            "input": {
                "column": schema["input"]["column"],
                "length": length,
                "characters": length * CHARACTERS_PER_TOKEN,
            },
            "target": dict(schema["target"]),
        }
        return TextCodec(state, tokenizer.to_str())

    def open_codec(self, folder: Path) -> TextCodec:
        """Return the codec of a folder."""
        return text.open_codec(folder)

    def read_split(self, curated: Path, split: str, codec: TextCodec) -> Split:
        """Return one split: inputs int32 [rows, tokens], in a memory-mapped file when they are many."""
        column, target = _columns(dataset.read_schema(curated))
        read = [_beginning(column, codec.characters), quote(target)]
        rows = _count(curated, split)
        inputs = _room(rows, codec.length)
        index = {label: position for position, label in enumerate(codec.classes)}
        targets: np.ndarray = np.empty(rows, dtype=np.int64)
        start = 0
        for found in _read(curated, split, read):
            stop = start + len(found)
            inputs[start:stop] = codec.encode([one or "" for one, _ in found])
            targets[start:stop] = [index[label] for _, label in found]
            start = stop
        return Split(inputs, targets, np.asarray(codec.classes)[targets])

    def singles(self, curated: Path, split: str, codec: TextCodec, count: int) -> list[list[str]]:
        """Return the first texts that a client can ask: a blank one is refused."""
        column, _ = _columns(dataset.read_schema(curated))
        read = _beginning(column, SINGLE_CHARACTERS)
        rows = next(_read(curated, split, [read], limit=2 * count), [])
        return [[one] for (one,) in rows if one and one.strip()][:count]

    def join(self, singles: list[list[str]]) -> list[str]:
        """Return the texts of all."""
        return [one for batch in singles for one in batch]

    def bodies(self, codec: TextCodec, singles: list[list[str]]) -> list[Body]:
        """Return a text as itself, and all in JSON, JSON lines and CSV."""
        texts = self.join(singles)

        def lines(some: list[str]) -> bytes:
            return "".join(json.dumps({codec.column: one}) + "\n" for one in some).encode()

        def table(some: list[str]) -> bytes:
            written = io.StringIO()
            writer = csv.writer(written)
            writer.writerow([codec.column])
            writer.writerows([one] for one in some)
            return written.getvalue().encode()

        return [
            *filled("text/plain; charset=utf-8", lambda some: some[0].encode(), texts, at_most=1),
            *filled("application/json", lambda some: json.dumps({"instances": some}).encode(), texts),
            *filled("application/jsonlines", lines, texts),
            *filled("text/csv", table, texts),
        ]

    def rungs(self, codec: TextCodec, training: Split) -> list[Rung]:
        """Return a linear model over TF-IDF, and averages of embeddings."""

        def averages(turned: Turned) -> Network:
            plain = self.original(codec, training)
            if knobs.WIDTH.name not in turned or not isinstance(plain, TextNet):
                return plain
            width = max(8, round(plain.shape["width"] * turned[knobs.WIDTH.name] / 8) * 8)
            return TextNet(codec.vocabulary, pairs=16_384, width=width, hidden=64, classes=len(codec.classes))

        return [
            Rung("linear", ladder.LINEAR, partial(tfidf.fit, vocabulary=codec.vocabulary), linear.load),
            gradient.rung("net", averages, knobs.TEXT_NETWORK),
        ]

    def original(self, codec: TextCodec, training: Split) -> Network:
        """Return wide tables of tokens and pairs.

        Chosen on 4,157 mails and 7,422 film reviews, trained from scratch: as good as linear models over TF-IDF of
        words and pairs on the mails (97.9 against 98.0 %), 2 to 4 points less on the reviews. Convolutions over the
        tokens were 0.7 points worse on the mails and took twice as long; a transformer of two layers was 2.5 points
        worse on the reviews and took as long again.
        """
        return TextNet(codec.vocabulary, pairs=16_384, width=64, hidden=64, classes=len(codec.classes))

    def students(self, teacher: Network, codec: TextCodec, training: Split) -> Sequence[Callable[[], Network]]:
        """Return networks with narrower tables and fewer pairs, narrow and wider; then shallower encoders of one."""
        if isinstance(teacher, EncoderNet):
            tables = partial(TextNet, codec.vocabulary, pairs=16_384, hidden=64, classes=len(codec.classes))
            shallower = [partial(encoder_networks.shallower, teacher, layers) for layers in SHALLOWER]
            return [*(partial(tables, width=width) for width in TABLE_WIDTHS), *shallower]
        assert isinstance(teacher, TextNet)
        return [
            partial(
                TextNet,
                codec.vocabulary,
                pairs=teacher.shape["pairs"] // share,
                width=teacher.shape["width"] // share,
                hidden=teacher.shape["hidden"],
                classes=len(codec.classes),
            )
            for share in (4, 2)
        ]

    def prune(self, network: Network, share: float, example: Tensor) -> None:
        """Prune nothing: see `skipped`."""

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return the tokens with some taken out, so that no text is known by one rare word."""
        kept = torch.rand(inputs.shape, generator=generator) >= DROPPED_TOKENS
        return inputs * kept.to(inputs.device)

    def misfit(self, signature: dict[str, Any], schema: dict[str, Any]) -> str | None:
        """Return nothing: any text can be shown to any model of texts."""
        return None


class PretrainedTextKind(TextKind):
    """Texts read by a public encoder, with its own tokens, which is trained on for a few epochs."""

    recipe = dataclasses.replace(
        TextKind.recipe, steps=200, peak_rate=1e-4, batch_size=lambda rows: 32, min_epochs=2, max_epochs=2
    )

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sheet = json.loads((folder / pretrained.SHEET).read_text(encoding="utf-8"))
        self.longest = min(PRETRAINED_LONGEST, int(sheet["max_position_embeddings"]))

    def fit_codec(self, curated: Path, schema: dict[str, Any], report: Report) -> TextCodec:
        """Return the encoder's own tokenizer: its vocabulary is what the weights know."""
        state = {
            "version": 1,
            "task": schema["task"],
            "input": {
                "column": schema["input"]["column"],
                "length": self.longest,
                "characters": self.longest * CHARACTERS_PER_TOKEN,
            },
            "target": dict(schema["target"]),
        }
        report.decide(
            "tokens of the encoder",
            f"its own, {self.longest} of each text",
            "weights that were learned with a vocabulary mean nothing with another",
        )
        return TextCodec(state, (self.folder / pretrained.TOKENIZER).read_text(encoding="utf-8"))

    def rungs(self, codec: TextCodec, training: Split) -> list[Rung]:
        """Return the encoder alone: its tokens are its own, and the cheaper rungs have been climbed with others."""

        def encoder(turned: Turned) -> Network:
            return self.original(codec, training)

        return [gradient.rung("encoder", encoder, knobs.NETWORK)]

    def original(self, codec: TextCodec, training: Split) -> EncoderNet:
        """Return the public encoder with a fresh head."""
        return encoder_networks.pretrained(self.folder, len(codec.classes), codec.length)

    def last_rung(self, curated: Path, schema: dict[str, Any]) -> Rung:
        """Return the encoder as the last rung above others: only where it is climbed are the texts read as it does."""
        read: list[tuple[TextCodec, Split, Split]] = []

        def sees(lesson: Lesson) -> Lesson:
            if not read:
                codec = self.fit_codec(curated, schema, lesson.report)
                training, validation = (self.read_split(curated, split, codec) for split in ("train", "validation"))
                read.append((codec, training, validation))
            codec, training, validation = read[0]
            previous = lesson.previous
            if previous is not None and _written(text.open_codec(previous)) != _written(codec):
                previous = None  # weights mean nothing with other tokens
            return dataclasses.replace(
                lesson, training=training, validation=validation, codec=codec, recipe=self.recipe, previous=previous,
                fingerprint=fingerprints.of(lesson.fingerprint, fingerprints.of_codec(codec), self.weights()),
            )  # fmt: skip

        def encoder(turned: Turned) -> Network:
            codec, training, _ = read[0]
            return self.original(codec, training)

        return dataclasses.replace(gradient.rung("encoder", encoder, knobs.NETWORK), sees=sees)

    def weights(self) -> str:
        """Return the name of the weights' content."""
        with (self.folder / pretrained.WEIGHTS).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _written(codec: TextCodec) -> bytes:
    return codec.files()[text.TOKENIZER]


def fit_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Return byte-pair encoding learned from these texts: every Unicode text has tokens, and none is unknown.

    Words are cut at blanks and at each punctuation mark, so that a word is the same token after a bracket as elsewhere.
    Normalising is part of the tokenizer's file: compatibility forms (NFKC: full-width letters, ligatures), lower case,
    and control characters as spaces. Markup is left in: whether a mail is HTML, and which, says much about it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(r"\p{Cc}+"), " "), normalizers.NFKC(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    return tokenizer


def _columns(schema: dict[str, Any]) -> list[str]:
    """Return the curated columns of texts and labels."""
    return [schema["columns"][0], schema["target"]["name"]]


def _source(curated: Path, split: str, options: str = "") -> str:
    return f"read_parquet({literal(dataset.file_of(curated, split))}{options})"


def _count(curated: Path, split: str) -> int:
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT count(*) FROM {_source(curated, split)}").fetchone()
    assert found is not None
    return int(found[0])


def _beginning(column: str, characters: int) -> str:
    """Return the expression for the first characters, as Python counts them: no book need be in memory."""
    return f"left({quote(column)}, {characters})"


def _read(curated: Path, split: str, read: list[str], *, limit: int | None = None) -> Iterator[list[tuple[Any, ...]]]:
    """Yield rows in the order of the file, in chunks: a million texts are larger than their tokens."""
    tail = "" if limit is None else f" LIMIT {limit}"
    with duckdb.connect() as connection:
        connection.execute(f"SELECT {', '.join(read)} FROM {_source(curated, split)}{tail}")
        while rows := connection.fetchmany(CHUNK_ROWS):
            yield rows


def _sample(curated: Path, column: str) -> list[str]:
    """Return every n-th training text, what is read of it, so that they are at most SAMPLE_TEXTS."""
    rows = _count(curated, "train")
    every = max(1, -(-rows // SAMPLE_TEXTS))
    each = max(1_000, SAMPLE_CHARACTERS // max(1, rows // every))
    read = _beginning(column, min(each, LONGEST * CHARACTERS_PER_TOKEN))
    source = _source(curated, "train", ", file_row_number = true")
    with duckdb.connect() as connection:
        found = connection.execute(
            f"SELECT {read} FROM {source} WHERE file_row_number % {every} = 0 AND {quote(column)} IS NOT NULL"
        ).fetchall()
    return [one for (one,) in found]


def _room(rows: int, length: int) -> np.ndarray:
    """Return room for the tokens: in memory, or in a memory-mapped file that the epochs read."""
    if rows * length * 4 <= dataset.IN_MEMORY_BYTES:
        return np.zeros((rows, length), dtype=np.int32)
    with tempfile.NamedTemporaryFile(prefix="ebb-", suffix=".i32") as file:  # the map outlives the name
        return np.memmap(file.name, dtype=np.int32, mode="w+", shape=(rows, length))


KIND = TextKind()
