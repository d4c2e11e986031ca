"""The sample payload by itself: what goes into it, and that the server that is packed answers it."""

import tarfile

import torch

from ebb_jobs import bundle, export, kinds, sample_payload, text
from ebb_jobs.kinds.text import fit_tokenizer
from ebb_jobs.text_networks import TextNet
from unit.jobs.test_bodies import letters, photo, photos


class Held:
    """A kind whose held-out rows are given."""

    def __init__(self, name, singles):
        self.kind, self.singles_given = kinds.of({"kind": name}), singles

    def singles(self, held, split, codec, count):
        assert split == "validation", "test rows judge the model"
        return self.singles_given[:count]

    def bodies(self, codec, singles):
        return self.kind.bodies(codec, singles)


def unpacked(file):
    with tarfile.open(file) as archive:
        return [archive.extractfile(member).read() for member in archive]


def test_texts_are_answered_by_the_packed_server(tmp_path):
    tokenizer = fit_tokenizer(["dear all", "buy now", "see you"], 300)
    state = {
        "input": {"length": 16, "characters": 128, "column": "letter"},
        "target": {"name": "label", "classes": ["no", "yes"]},
    }
    codec, kind = text.TextCodec(state, tokenizer.to_str()), kinds.of({"kind": "text"})
    torch.manual_seed(0)
    network = TextNet(vocabulary=tokenizer.get_vocab_size() + 2, pairs=64, width=8, hidden=16, classes=2)
    singles = [["dear all, ä"], ["buy now\nor never"], ['see "you", later']]
    export.to_onnx(network, tmp_path / "model.onnx", codec.encode(["dear all"]))
    signature = {"version": 1, "kind": "text", "codec": "text", "runtime": "onnxruntime", "task": "text-classification"}
    bundle.write(tmp_path / "model.tar.gz", [tmp_path / "model.onnx"], codec.files(), signature, kind.code)

    told = sample_payload.write(tmp_path, Held("text", singles), codec, tmp_path)
    assert told == {"file": "sample-payload.tar.gz", "content_type": "text/plain", "requests": 3}
    requests = unpacked(tmp_path / told["file"])
    assert [body.decode() for body in requests] == [one for (one,) in singles]
    with bundle.served(tmp_path / "model.tar.gz") as running:
        answers = [running.invoke(body, told["content_type"])["predictions"] for body in requests]
    assert all(one["label"] in ("no", "yes") for (one,) in answers)


def test_requests_of_one_content_type_only_are_packed_as_the_archive_tells_none(tmp_path):
    _, codec, singles = photos(3)
    told = sample_payload.write(tmp_path, Held("image", [*singles, [photo(9, side=20, kind="PNG")]]), codec, tmp_path)
    assert (told["content_type"], told["requests"]) == ("image/jpeg", 3)
    assert unpacked(tmp_path / told["file"]) == [one for (one,) in singles]


def test_large_requests_are_as_many_as_the_archive_has_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_payload, "MOST_BYTES", 250_000)
    _, codec, singles = photos(8)
    told = sample_payload.write(tmp_path, Held("image", singles), codec, tmp_path)
    assert 1 <= told["requests"] < 8
    assert sum(map(len, unpacked(tmp_path / told["file"]))) <= 250_000


def test_without_a_row_that_fits_into_a_request_there_is_no_sample(tmp_path):
    _, codec, _ = letters(1, 1)
    assert sample_payload.write(tmp_path, Held("text", []), codec, tmp_path) is None
    assert not (tmp_path / sample_payload.FILE).exists()
