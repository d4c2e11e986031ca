"""The networks for images: as large as asked for, prunable, exportable; and how the kind reads what process wrote."""

import io
import json

import duckdb
import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from ebb_jobs import dataset, export, fitting, image, image_networks, networks, runtimes
from ebb_jobs.errors import InputMissingError
from ebb_jobs.image_networks import ConvNet
from ebb_jobs.kinds.image import KIND, SHIFT
from ebb_jobs.report import Report

EIGHT_BIT_ERROR = 2e-3
DIGIT = {"height": 28, "width": 28, "channels": 1}
SCHEMA = {
    "kind": "image",
    "task": "image-classification",
    "input": {"height": 14, "width": 18, "channels": 3},
    "target": {"name": "label", "classes": ["bright", "dark"]},
    "columns": [],
    "features": [],
}


def pictures(count: int, shape: dict[str, int] = DIGIT) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, *shape.values()), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def trained(network: ConvNet) -> ConvNet:
    """Return the network after some steps, so that its batch norms have seen something and no weight is left zero."""
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    batch = pictures(16, network.shape)
    network.train()
    for _ in range(3):
        network(batch).square().mean().backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def original() -> ConvNet:
    torch.manual_seed(0)
    network = image_networks.original(DIGIT, rows=500, classes=4)
    network.calibrate(pictures(64))
    return trained(network)


@pytest.fixture(scope="module")
def pruned(original) -> ConvNet:
    network = KIND.prune(original, 0.5, pictures(2))
    assert network is not None
    return trained(network)


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """24 bright and dark pictures of many sizes, PNG and JPEG by turns, as process leaves them."""
    folder = tmp_path_factory.mktemp("curated")
    chance = np.random.default_rng(5)
    files, labels = [], []
    for number in range(24):
        label = ("bright", "dark")[number % 3 == 0]
        size = (*chance.integers(9, 40, 2), 3)
        array = chance.integers(*((150, 256) if label == "bright" else (0, 100)), size, dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(array).save(file, ("PNG", "JPEG")[number % 2])
        files.append(file.getvalue())
        labels.append(label)
    samples = []
    for number, data in enumerate(files[::5]):
        name = f"samples/test/{number:05d}" + (".jpg" if image.media_type(data) == "image/jpeg" else ".png")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        samples.append({"row": number * 5, "file": name})
    np.save(folder / "test.pixels.npy", np.stack([image.pixels(data, **SCHEMA["input"]) for data in files]))
    (folder / "samples.json").write_text(json.dumps({"test": samples}))
    rows = ", ".join(f"('{number}.png', '{label}')" for number, label in enumerate(labels))
    with duckdb.connect() as connection:
        connection.execute(f"COPY (FROM (VALUES {rows}) AS t(path, label)) TO '{folder / 'test.parquet'}'")
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder


@pytest.fixture(scope="module")
def codec(curated):
    return KIND.fit_codec(curated, SCHEMA, Report("train"))


def test_a_network_is_wider_where_there_are_more_pictures():
    few, many = (image_networks.original(DIGIT, rows, 10) for rows in (500, 60_000))
    assert many.parameter_count() > 3 * few.parameter_count()


def test_a_larger_picture_costs_less_than_its_area_says():
    work = {
        side: fitting.multiplications(
            image_networks.original({**DIGIT, "height": side, "width": side}, 500, 10),
            np.zeros((1, side, side, 1), dtype=np.uint8),
        )
        for side in (48, 96)
    }
    assert work[96] < 1.1 * work[48]


@pytest.mark.parametrize("side", [8, 28, 96])
def test_students_do_a_quarter_of_the_work_or_less(side):
    shape = {"height": side, "width": side, "channels": 3}
    teacher = image_networks.original(shape, 500, 10)
    one = np.zeros((1, side, side, 3), dtype=np.uint8)
    narrow, wide = (
        fitting.multiplications(student, one) for student in (image_networks.student(teacher, s) for s in (1.0, 1.5))
    )
    assert narrow < wide
    assert narrow < fitting.multiplications(teacher, one) / 4


def test_a_student_scales_pixels_as_its_teacher_does(original):
    student = image_networks.student(original, 1.0)
    assert torch.equal(student.center, original.center)
    assert torch.equal(student.scale, original.scale)


def test_calibrated_pixels_have_mean_0_and_deviation_1(original):
    scaled = (pictures(64).permute(0, 3, 1, 2).float() - original.center) * original.scale
    assert abs(float(scaled.mean())) < 1e-3
    assert abs(float(scaled.std()) - 1) < 1e-3


def test_pictures_of_one_colour_do_not_divide_by_zero():
    network = image_networks.original(DIGIT, 500, 4)
    network.calibrate(torch.full((4, 28, 28, 1), 9, dtype=torch.uint8))
    assert network.eval()(pictures(2)).isfinite().all()


@pytest.mark.parametrize("name", ["original", "pruned"])
def test_a_network_comes_back_from_its_file_as_it_was(name, request, tmp_path):
    network = request.getfixturevalue(name)
    networks.save(network, tmp_path / "network.safetensors")
    restored = networks.load(tmp_path / "network.safetensors")
    assert restored.config() == network.config()
    assert torch.equal(restored(pictures(5)), network(pictures(5)))


def test_pruning_halves_the_channels_and_leaves_the_original_alone(original):
    before = original(pictures(3))
    pruned = KIND.prune(original, 0.5, pictures(2))
    assert pruned.config()["stages"] == [[[8, 8]] * 2, [[16, 16]] * 2, [[32, 32]] * 2]
    assert pruned(pictures(3)).shape == (3, 4)
    assert torch.equal(original(pictures(3)), before)


def test_pruning_twice_gives_the_same_network(original):
    once, again = (KIND.prune(original, 0.5, pictures(2)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), again.parameters(), strict=True))


def test_pruning_keeps_the_channels_that_matter(original):
    """The pruned network's stem is made of channels of the original's: those with the largest weights."""
    pruned = KIND.prune(original, 0.5, pictures(2))
    kept = {tuple(channel.flatten().tolist()) for channel in pruned.stem.weight}
    assert kept < {tuple(channel.flatten().tolist()) for channel in original.stem.weight}


def test_there_is_nothing_to_prune_from_the_narrowest_network():
    assert KIND.prune(ConvNet(DIGIT, 8, 1, [[[8, 8]]], 3), 0.5, pictures(2)) is None


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A network for pictures whose sides cannot be halved evenly, its channels pruned, and its ONNX file."""
    shape = {"height": 9, "width": 15, "channels": 3}
    network = KIND.prune(trained(image_networks.original(shape, 500, 3)), 0.5, pictures(2, shape))
    assert network is not None
    file = tmp_path_factory.mktemp("exported") / "network.onnx"
    export.to_onnx(trained(network), file, pictures(2, shape).numpy())
    return network, file


@pytest.mark.parametrize("runtime", runtimes.RUNTIMES)
def test_an_exported_network_answers_any_number_of_pictures_alike(uneven, runtime):
    network, file = uneven
    executable = runtimes.load(file, runtime)
    for rows in (1, 3, 40):
        asked = pictures(rows, network.shape).numpy()
        np.testing.assert_allclose(executable.run(asked), networks.predict(network, asked), atol=1e-4)


@pytest.fixture(scope="module")
def eight_bits(uneven):
    network, file = uneven
    made = file.with_name("int8.onnx")
    export.quantize(file, made, pictures(64, network.shape).numpy(), KIND.quantized_operators)
    return made


def test_all_weights_are_kept_in_8_bits(uneven, eight_bits):
    weights = onnx.load(eight_bits).graph.initializer
    kept = sum(int(np.prod(weight.dims)) for weight in weights if weight.data_type == onnx.TensorProto.INT8)
    assert kept > 0.95 * uneven[0].parameter_count()


@pytest.mark.parametrize("runtime", runtimes.RUNTIMES)
def test_8_bits_are_computed_as_their_graph_says(uneven, eight_bits, runtime):
    """Every runtime fuses what lies between two roundings; only an unfused graph shows whether it does so rightly."""
    asked = pictures(64, uneven[0].shape).numpy()
    exact = runtimes.load(eight_bits, "onnxruntime", optimise=False).run(asked)
    assert np.abs(runtimes.load(eight_bits, runtime).run(asked) - exact).max() < EIGHT_BIT_ERROR


def test_augmentation_moves_a_picture_a_little_and_repeats_its_edge():
    spot = torch.zeros((200, 28, 28, 1), dtype=torch.uint8)
    spot[:, 14, 20] = 255
    moved = KIND.augment(spot, torch.Generator().manual_seed(0))
    assert moved.dtype == torch.uint8
    assert (moved.flatten(1).sum(1) == 255).all()
    places = moved.flatten(1).argmax(1)
    reach = round(28 * SHIFT)
    assert set((places // 28).tolist()) == set(range(14 - reach, 15 + reach))
    assert set((places % 28).tolist()) == set(range(20 - reach, 21 + reach))
    even = torch.full((5, 28, 28, 1), 9, dtype=torch.uint8)
    assert torch.equal(KIND.augment(even, torch.Generator().manual_seed(0)), even)


def test_augmentation_is_all_in_its_generator():
    batch = pictures(8)
    one, same, other = (KIND.augment(batch, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_split_pairs_pixels_with_the_class_of_their_row(curated, codec):
    split = KIND.read_split(curated, "test", codec)
    assert split.inputs.shape == (24, 14, 18, 3)
    assert [codec.classes[target] for target in split.targets] == json.loads((curated / "labels.json").read_text())
    assert list(split.raw_targets) == json.loads((curated / "labels.json").read_text())


def test_a_split_that_process_did_not_write_is_named(curated, codec):
    with pytest.raises(InputMissingError, match=r"train\.pixels\.npy"):
        KIND.read_split(curated, "train", codec)


def test_every_body_that_a_client_may_send_gives_the_pixels_that_training_saw(curated, codec):
    seen = KIND.read_split(curated, "test", codec).inputs
    rows = [sample["row"] for sample in json.loads((curated / "samples.json").read_text())["test"]]
    singles = KIND.singles(curated, "test", codec, 4)
    assert len(singles) == 4
    bodies = KIND.bodies(codec, singles)
    assert [media_type for _, media_type, _ in bodies] == ["image/png", "image/jpeg", "application/json"]
    for body, media_type, holds in bodies:
        found = codec.encode(codec.parse(body, media_type))
        assert (found == seen[[rows[number] for number in holds]]).all()


def test_a_codec_comes_back_from_its_files(codec, tmp_path):
    for name, data in codec.files().items():
        (tmp_path / name).write_bytes(data)
    assert KIND.open_codec(tmp_path).state == codec.state


def test_the_networks_fit_what_the_codec_encodes(curated, codec):
    split = KIND.read_split(curated, "test", codec)
    teacher = KIND.original(codec, split)
    for network in (teacher, *(make() for make in KIND.students(teacher, codec, split))):
        assert networks.predict(network, split.inputs).shape == (24, 2)
        assert networks.ARCHITECTURES[network.config()["architecture"]].endswith(type(network).__name__)


def test_a_served_model_of_another_geometry_cannot_be_measured_on_these_pictures():
    signature = {"input": {"shape": [14, 18, 3]}}
    assert KIND.misfit(signature, SCHEMA) is None
    grey = {**SCHEMA, "input": {**SCHEMA["input"], "channels": 1}}
    assert KIND.misfit(signature, grey) == (
        "the served model takes pictures as 18 x 14 pixels in colour, these were made 18 x 14 pixels in grey"
    )


def test_no_convolution_of_one_pixel_has_a_stride(original):
    """oneDNN overwrites memory in their training where pruning has left fewer than 16 channels (its issue 6035)."""
    for part in original.modules():
        if isinstance(part, torch.nn.Conv2d) and part.kernel_size == (1, 1):
            assert part.stride == (1, 1)


def test_a_wider_student_is_tried_only_where_there_are_enough_pictures(original):
    few, many = (dataset.Split(np.empty((rows, 0)), np.zeros(rows), np.zeros(rows)) for rows in (200, 5000))
    assert len(KIND.students(original, None, few)) == 1
    narrow, wide = (make().parameter_count() for make in KIND.students(original, None, many))
    assert narrow < wide
