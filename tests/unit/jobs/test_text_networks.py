"""The networks for texts: they average what stands in a text, export to both runtimes, and shrink."""

import numpy as np
import pytest
import torch

from ebb_jobs import export, networks, runtimes, text_networks
from ebb_jobs.kinds.text import KIND
from ebb_jobs.text_networks import TextNet


def tokens(*texts: list[int], length: int = 12) -> torch.Tensor:
    batch = torch.zeros((len(texts), length), dtype=torch.int32)
    for row, found in zip(batch, texts, strict=True):
        row[: len(found)] = torch.tensor(found)
    return batch


@pytest.fixture(scope="module")
def network() -> TextNet:
    torch.manual_seed(0)
    made = TextNet(vocabulary=50, pairs=64, width=8, hidden=16, classes=3)
    for weights in (made.token_weights, made.pair_weights):
        torch.nn.init.normal_(weights.weight)
    return made.eval()


@torch.inference_mode()
def test_padding_changes_nothing(network):
    short, long = (network(tokens([7, 3, 9], [4], length=length)) for length in (4, 30))
    assert torch.allclose(short, long, atol=1e-6)


@torch.inference_mode()
def test_the_order_of_words_matters(network):
    one, other = network(tokens([7, 3, 9, 5], [5, 9, 3, 7]))
    assert not torch.allclose(one, other, atol=1e-3)


@torch.inference_mode()
def test_a_text_without_tokens_has_an_answer(network):
    assert torch.isfinite(network(tokens([]))).all()


def test_pairs_are_told_apart_and_stay_in_their_table():
    every = torch.cartesian_prod(torch.arange(1, 40), torch.arange(1, 40)).int()
    found = text_networks.paired(every.long(), 2**14)[:, 0]
    assert 0 <= int(found.min()) <= int(found.max()) < 2**14
    assert len(found.unique()) > 0.9 * len(every)


def test_the_hash_of_pairs_fits_into_32_bits():
    last = text_networks.MAX_VOCABULARY - 1
    wide = text_networks.paired(torch.tensor([[last, last]]), 2**14)
    narrow = text_networks.paired(torch.tensor([[last, last]], dtype=torch.int32), 2**14)
    assert torch.equal(wide, narrow.long())
    with pytest.raises(ValueError, match="overflow"):
        TextNet(last + 2, 64, 4, 4, 2)


def test_a_network_is_read_as_it_was_written(network, tmp_path):
    networks.save(network, tmp_path / "network.safetensors")
    read = networks.load(tmp_path / "network.safetensors")
    assert isinstance(read, TextNet)
    assert read.config() == network.config()
    batch = tokens([1, 2, 3], [4]).numpy()
    assert (networks.predict(read, batch) == networks.predict(network, batch)).all()


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    file = tmp_path_factory.mktemp("exported") / "network.onnx"
    rows = np.random.default_rng(2).integers(0, 50, (200, 12), dtype=np.int32)
    export.to_onnx(network, file, rows)
    return file, rows


@pytest.mark.parametrize("runtime", KIND.runtimes)
def test_both_runtimes_answer_as_pytorch_does(network, exported, runtime):
    file, rows = exported
    if runtime == "openvino":
        export.to_openvino(file, file := file.with_suffix(".xml"))
    loaded = runtimes.load(file, runtime)
    expected = networks.predict(network, rows)
    assert np.abs(loaded.run(rows) - expected).max() < 1e-5
    assert np.abs(loaded.run(rows[:1]) - expected[:1]).max() < 1e-5


def test_eight_bits_make_the_tables_a_quarter_and_keep_the_answers(network, exported, tmp_path):
    file, rows = exported
    expected = networks.predict(network, rows)
    export.quantize(file, tmp_path / "static.onnx", rows, KIND.quantized_operators)
    export.quantize_while_running(file, tmp_path / "dynamic.onnx", rows)
    for made in ("static", "dynamic"):
        answers = export.run(export.session(tmp_path / f"{made}.onnx"), rows)
        assert np.abs(answers - expected).max() < 0.03, made


def test_left_out_tokens_are_chosen_by_the_generator_alone():
    batch = torch.ones((50, 40), dtype=torch.int32)
    once, again = (KIND.augment(batch, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(once, again)
    assert once.dtype == batch.dtype
    assert 0.05 < float((once == 0).float().mean()) < 0.5
