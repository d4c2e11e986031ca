"""A text becomes the same tokens for training and for serving; what is no text is told apart."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest

from ebb_jobs import bad_request, dataset, text
from ebb_jobs.bad_request import BadRequestError
from ebb_jobs.kinds.text import KIND, SINGLE_CHARACTERS, fit_tokenizer
from ebb_jobs.report import Report

LETTERS = [
    ("The invoice is due on Friday, please pay it in time.", "office"),
    ("Please find the minutes of the meeting on Friday below.", "office"),
    ("Dear colleagues, the meeting is moved to the large room.", "office"),
    ("Could you pay the invoice of the printing works in time?", "office"),
    ("Schöne Grüße vom Strand: das Wetter ist herrlich!", "holiday"),
    ("Das Wetter am Strand ist noch immer herrlich.", "holiday"),
    ("Погода на пляже прекрасная, приезжайте скорее!", "holiday"),
    ("天気がいいです。海がきれいです。", "holiday"),
] * 3
AWKWARD = {
    "lines and tabs": "Dear all,\r\n\r\n\tplease pay.\n",
    "control characters": "pay\x00 the\x07 invoice\x1b[0m\x7f\x85",
    "accents in two ways": "Gru\u0308ße or Grüße",
    "full-width letters": "\uff30\uff21\uff39\u3000\uff2e\uff2f\uff37",
    "emoji of several characters": "👩\u200d👩\u200d👧 on the beach 🏖️",
    "right to left": "سلام \u202eabc",
    "characters that no text held": "ꙮ\U0001f9ff\u0e01",
    "markup": "<html><body><a href='x'>pay&nbsp;now</a>",
    "half of a pair": "a \ud83d b",
    "one long word": "x" * 5000,
    "a book": "the meeting is on Friday " * 20_000,
    "punctuation alone": "?!...",
}


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curated")
    rows = [*LETTERS, *((awkward, "office") for awkward in AWKWARD.values() if "\ud83d" not in awkward)]
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE letters (text VARCHAR, label VARCHAR)")
        connection.executemany("INSERT INTO letters VALUES (?, ?)", rows)
        for split in ("train", "validation", "test"):
            connection.execute(f"COPY letters TO '{folder / f'{split}.parquet'}'")
    (folder / "schema.json").write_text(
        json.dumps(
            {
                "kind": "text",
                "task": "text-classification",
                "input": {"column": "letter"},
                "columns": ["text"],
                "target": {"name": "label", "classes": ["holiday", "office"]},
                "features": [],
            }
        )
    )
    return folder


@pytest.fixture(scope="module")
def codec(curated: Path) -> text.TextCodec:
    return KIND.fit_codec(curated, json.loads((curated / "schema.json").read_text()), Report("train"))


def written(codec: text.TextCodec, folder: Path) -> Path:
    for name, content in codec.files().items():
        (folder / name).write_bytes(content)
    return folder


def test_a_served_text_becomes_the_tokens_that_training_saw(codec, curated, tmp_path):
    trained = KIND.read_split(curated, "train", codec).inputs
    served = text.open_codec(written(codec, tmp_path))
    texts = [one for batch in KIND.singles(curated, "train", codec, 100) for one in batch]
    assert len(texts) == len(trained)
    for one, tokens in zip(texts, trained, strict=True):
        for body, kind, _ in KIND.bodies(codec, [[one]]):
            found = served.encode(served.parse(body, kind))
            assert found.dtype == np.int32
            assert (found == tokens).all(), (kind, one[:40])


def test_many_texts_are_mapped_from_a_file(codec, curated, monkeypatch):
    in_memory = KIND.read_split(curated, "train", codec)
    monkeypatch.setattr(dataset, "IN_MEMORY_BYTES", 0)
    mapped = KIND.read_split(curated, "train", codec)
    assert isinstance(mapped.inputs, np.memmap)
    assert (mapped.inputs == in_memory.inputs).all()
    assert list(mapped.raw_targets[: len(LETTERS)]) == [label for _, label in LETTERS]


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_texts_have_tokens_alone_and_among_others(codec, name):
    alone = codec.encode([AWKWARD[name]])
    assert alone.shape == (1, codec.length)
    assert alone.any()
    assert 0 <= alone.min() <= alone.max() < codec.vocabulary
    assert (codec.encode(["Friday", AWKWARD[name], "x" * 9000])[1] == alone[0]).all()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("PAY the Invoice", "pay the invoice", id="capital letters"),
        pytest.param("Gru\u0308ße", "Grüße", id="an accent by itself or not"),
        pytest.param("\uff50\uff41\uff59", "pay", id="full-width letters"),
        pytest.param("pay\x00now", "pay now", id="a control character is a space"),
        pytest.param("pay\r\nnow", "pay\nnow", id="ends of lines"),
    ],
)
def test_texts_that_differ_in_writing_only_are_one(codec, one, other):
    assert (codec.encode([one]) == codec.encode([other])).all()


def test_every_letter_tells_texts_apart_though_training_never_saw_it(codec):
    assert (codec.encode(["\u0e01"]) != codec.encode(["\u0e02"])).any()


def test_only_the_beginning_of_a_long_text_is_read(codec):
    short = "friday " * codec.length
    assert (codec.encode([short]) == codec.encode([short + "the invoice" * 1000])).all()


def test_a_letter_that_stands_for_a_sentence_is_cut_like_other_text(codec):
    """U+FDFA is 18 letters once it is normalised: as many letters are read as of any text, and no more."""
    letter = "\ufdfa"
    written_out = "صلى الله عليه وسلم"
    long = (written_out * codec.characters)[: codec.characters]
    assert (codec.encode([letter * codec.characters]) == codec.encode([long])).all()


def test_a_full_request_of_letters_that_grow_takes_little_memory(codec, tmp_path):
    """3,000 texts, in a process of its own: its largest size so far is what a server's would be."""
    for module in (text, bad_request):
        shutil.copy(module.__file__, tmp_path)
    written(codec, tmp_path)
    program = (
        "import pathlib, resource, text\n"
        "codec = text.open_codec(pathlib.Path('.'))\n"
        "size = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "codec.encode(['a']); before = size(); codec.encode(['\\ufdfa' * 680] * 3000); print(size() - before)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    largest = int(told.stdout) / (2**20 if sys.platform == "darwin" else 2**10)
    assert largest < 100


def test_of_a_book_only_its_beginning_leaves_the_file(curated, codec):
    longest = max(len(one) for (one,) in KIND.singles(curated, "train", codec, 100))
    assert longest == SINGLE_CHARACTERS
    assert max(map(len, AWKWARD.values())) > SINGLE_CHARACTERS > codec.characters


def test_the_vocabulary_holds_what_the_texts_repeat_and_no_more():
    once = fit_tokenizer(["alpha beta gamma"], 1000)
    often = fit_tokenizer(["alpha beta gamma"] * 2, 1000)
    bytes_alone = 256
    assert once.get_vocab_size() == bytes_alone
    assert often.encode("alpha").tokens == ["Ġalpha"]


def test_no_text_can_spell_padding(codec):
    spelled = codec.encode(["".join(map(chr, range(0x20, 0x180)))])[0]
    assert (np.flatnonzero(spelled == text.PADDING) == np.arange(np.count_nonzero(spelled), codec.length)).all()
    assert (codec.encode(["[PAD]"])[0, :3] != text.PADDING).all()


def test_texts_arrive_in_every_form(codec):
    two = ["Dear all,\nplease pay.", 'They said "no", twice']
    rows = "\n".join(json.dumps({"text": one}) for one in two)
    table = 'letter,id\n"Dear all,\nplease pay.",1\n"They said ""no"", twice",2\n'
    assert codec.parse(two[0].encode(), "text/plain; charset=utf-8") == two[:1]
    assert codec.parse(json.dumps({"instances": two}).encode(), "application/json") == two
    assert codec.parse(json.dumps({"instances": [{"letter": one} for one in two]}).encode(), "application/json") == two
    assert codec.parse(json.dumps(two).encode(), "application/json") == two
    assert codec.parse(json.dumps({"text": two[0]}).encode(), "application/json") == two[:1]
    assert codec.parse(json.dumps(two[0]).encode(), "application/json") == two[:1]
    assert codec.parse(rows.encode(), "application/jsonlines") == two
    assert codec.parse(table.encode(), "text/csv") == two
    assert codec.parse(b"\xef\xbb\xbfpay now\r\nand here\r\n", "text/csv") == ["pay now", "and here"]


def test_a_line_separator_inside_a_text_ends_no_line_of_json(codec):
    assert codec.parse('{"text": "a\u2028b"}\n"c"'.encode(), "application/jsonlines") == ["a\u2028b", "c"]


def test_a_long_mail_fits_into_a_cell(codec):
    mail = "pay now, " * 30_000
    assert codec.parse(f'letter\n"{mail}"\n'.encode(), "text/csv") == [mail]


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        pytest.param(b"", "text/plain", "the body is empty", id="nothing"),
        pytest.param(b" \r\n", "text/plain", "the body is empty", id="blanks"),
        pytest.param("Grüße".encode("latin-1"), "text/plain", "the body is not UTF-8", id="another encoding"),
        pytest.param(b"pay", "image/png", "content type image/png is not supported", id="another kind"),
        pytest.param(b"{", "application/json", "the body is not JSON", id="broken JSON"),
        pytest.param(b'"a"\n{', "application/jsonlines", "line 2 is not JSON", id="a broken line"),
        pytest.param(b"[" * 200_000, "application/json", "the body is not JSON", id="nested without end"),
        pytest.param(b'{"instances": []}', "application/json", "there are no texts", id="no instance"),
        pytest.param(b'["a", null]', "application/json", "text 2 is no text", id="null"),
        pytest.param(b'[{"text": 7}]', "application/json", "text 1 is no text", id="a number"),
        pytest.param(b'["a", "  "]', "application/json", "text 2 is empty", id="a blank text"),
        pytest.param(b'[{"body": "a"}]', "application/json", "text 1 lacks 'text'", id="another name"),
        pytest.param(b"letter\n", "text/csv", "there are no texts", id="a header alone"),
        pytest.param(b"a,b\nc,d\n", "text/csv", "row 1 has 2 cells and none is called 'letter'", id="no text column"),
        pytest.param(b"letter,id\na,1\nb\n", "text/csv", "row 2 has 1 cells, expected 2", id="a short row"),
        pytest.param(b'letter\n"a', "text/csv", "the body is not CSV", id="an open quotation mark"),
        pytest.param(b"x" * 1_000_001, "text/plain", "text 1 has 1,000,001 characters", id="a library"),
        pytest.param(b'["a"' + b',"a"' * 4096 + b"]", "application/json", "holds 4,097 texts", id="very many"),
    ],
)
def test_a_request_without_texts_is_refused_with_a_remedy(codec, body, kind, told):
    with pytest.raises(BadRequestError, match=told) as refused:
        codec.parse(body, kind)
    assert refused.value.remedy


def test_predictions_name_the_likeliest_class(codec):
    answers = codec.predictions(np.array([[0.25, 0.75], [0.9, 0.1]], dtype=np.float32))
    assert answers[0] == {"label": "office", "probabilities": {"holiday": 0.25, "office": 0.75}}
    assert answers[1]["label"] == "holiday"


def test_the_codec_stands_on_its_own_in_a_bundle(codec, tmp_path):
    for module in (text, bad_request):
        shutil.copy(module.__file__, tmp_path)
    written(codec, tmp_path)
    program = (
        "import json, pathlib, text\n"
        "codec = text.open_codec(pathlib.Path('.'))\n"
        "print(json.dumps(codec.encode(json.loads(input())).tolist()))"
    )
    asked = list(AWKWARD.values())
    told = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(told.stdout) == codec.encode(asked).tolist()
