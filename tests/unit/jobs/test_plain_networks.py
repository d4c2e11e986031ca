"""Plain convolutions that learn with branches, encoders that start from public weights, and how both are exported."""

import json

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from ebb_jobs import encoder_networks, export, image_networks, networks
from ebb_jobs.encoder_networks import EncoderNet
from ebb_jobs.image_networks import ConvNet, PlainNet
from ebb_jobs.kinds.image import KIND

SHAPE = {"height": 28, "width": 28, "channels": 1}
OPERATORS = KIND.quantized_operators


def pictures(count: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 28, 28, channels)).astype(np.uint8)


def trained(network):
    """Return the network after a few steps: its norms have seen pictures."""
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    network.train()
    for _ in range(3):
        network(torch.from_numpy(pictures(16))).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return network.eval()


@pytest.fixture(scope="module")
def learned() -> PlainNet:
    torch.manual_seed(0)
    teacher = image_networks.original(SHAPE, rows=20_000, classes=4)
    teacher.calibrate(torch.from_numpy(pictures(64)))
    return trained(image_networks.plain(teacher, (2, 1, 1)))


def test_merging_the_branches_changes_no_answer(learned):
    merged = learned.deployed()
    assert merged.parameter_count() < learned.parameter_count()
    assert np.abs(networks.predict(merged, pictures(20)) - networks.predict(learned, pictures(20))).max() < 1e-5
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in merged.modules())


def test_a_merged_network_is_stored_and_read_as_such(learned, tmp_path):
    networks.save(learned.deployed(), tmp_path / "network.safetensors")
    again = networks.load(tmp_path / "network.safetensors")
    assert again.config() == learned.deployed().config()
    assert np.allclose(networks.predict(again, pictures(5)), networks.predict(learned.deployed(), pictures(5)))


def test_it_is_exported_and_answers_alike_in_8_bits(learned, tmp_path):
    merged = learned.deployed()
    export.to_onnx(merged, tmp_path / "full.onnx", pictures(2))
    assert export.verify(merged, tmp_path / "full.onnx", pictures(30)) < export.TOLERANCE
    export.quantize(tmp_path / "full.onnx", tmp_path / "small.onnx", pictures(64), OPERATORS)
    full, small = (export.session(tmp_path / name).run(pictures(30)) for name in ("full.onnx", "small.onnx"))
    assert np.abs(full - small).max() < 0.05


def test_8_bit_pixels_enter_the_8_bit_network_as_they_are(learned, tmp_path):
    export.to_onnx(learned.deployed(), tmp_path / "full.onnx", pictures(2))
    export.quantize(tmp_path / "full.onnx", tmp_path / "small.onnx", pictures(64), OPERATORS)
    operators = [node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node]
    assert not {"Cast", "Sub", "Mul"} & set(operators)


def test_pixels_whose_center_is_no_whole_number_are_scaled_as_before(tmp_path):
    torch.manual_seed(0)
    network = ConvNet(SHAPE, 16, 2, [[[16, 16]]], 3)
    network.center.fill_(72.5)
    export.to_onnx(trained(network), tmp_path / "full.onnx", pictures(2))
    export.quantize(tmp_path / "full.onnx", tmp_path / "small.onnx", pictures(64), OPERATORS)
    assert "Sub" in [node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node]


def test_only_of_many_pictures_the_students_are_plain():
    teacher = image_networks.original(SHAPE, rows=20_000, classes=4)

    def architectures(rows: int) -> list[str]:
        return [make().config()["architecture"] for make in KIND.students(teacher, None, range(rows))]

    assert architectures(5_000) == ["convnet", "convnet"]
    assert architectures(50_000) == ["plainnet", "plainnet", "convnet", "convnet"]


# ---- encoders ----

SHEET = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 4,
    "layer_norm_eps": 1e-12,
}  # fmt: skip


@pytest.fixture
def public(tmp_path):
    """A folder like that of a public encoder, with weights of chance."""
    torch.manual_seed(0)
    width, inner = SHEET["hidden_size"], SHEET["intermediate_size"]
    weights = {
        "embeddings.word_embeddings.weight": torch.randn(50, width),
        "embeddings.position_embeddings.weight": torch.randn(32, width),
        "embeddings.token_type_embeddings.weight": torch.randn(2, width),
        "embeddings.LayerNorm.weight": torch.ones(width),
        "embeddings.LayerNorm.bias": torch.zeros(width),
    }
    shapes = {
        "attention.self.query": (width, width), "attention.self.key": (width, width),
        "attention.self.value": (width, width), "attention.output.dense": (width, width),
        "attention.output.LayerNorm": (width,), "intermediate.dense": (inner, width), "output.dense": (width, inner),
        "output.LayerNorm": (width,),
    }  # fmt: skip
    for number in range(SHEET["num_hidden_layers"]):
        for name, shape in shapes.items():
            weights[f"encoder.layer.{number}.{name}.weight"] = torch.randn(shape) * 0.2
            weights[f"encoder.layer.{number}.{name}.bias"] = torch.randn(shape[0]) * 0.1
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(SHEET))
    return tmp_path


def texts(*lengths: int) -> np.ndarray:
    tokens: np.ndarray = np.zeros((len(lengths), 12), dtype=np.int32)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = np.arange(1, length + 1)
    return tokens


def test_what_follows_a_text_changes_nothing(public):
    network = encoder_networks.pretrained(public, classes=3, length=12).eval()
    alone = networks.predict(network, texts(5)[:, :5])
    assert np.allclose(networks.predict(network, texts(5)), alone, atol=1e-6)


def test_a_shallower_encoder_begins_as_layers_of_its_teacher(public):
    teacher = encoder_networks.pretrained(public, classes=3, length=12)
    student = encoder_networks.shallower(teacher, 2)
    assert torch.equal(student.layers[0].wide.weight, teacher.layers[1].wide.weight)
    assert torch.equal(student.layers[1].wide.weight, teacher.layers[3].wide.weight)
    assert torch.equal(student.words.weight, teacher.words.weight)


def test_an_encoder_is_stored_exported_and_answers_alike(public, tmp_path):
    network = encoder_networks.pretrained(public, classes=3, length=12).eval()
    networks.save(network, tmp_path / "network.safetensors")
    again = networks.load(tmp_path / "network.safetensors")
    assert isinstance(again, EncoderNet)
    export.to_onnx(again, tmp_path / "network.onnx", texts(12, 3))
    assert export.verify(network, tmp_path / "network.onnx", texts(1, 4, 12, 7)) < export.TOLERANCE
