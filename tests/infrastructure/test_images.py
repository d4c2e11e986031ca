"""Image tags are the hash of what the images are built from, so that the same tag never holds two images."""

import importlib.util

import pytest

from infrastructure import project

_spec = importlib.util.spec_from_file_location("content_hash", project.ROOT / "containers" / "content_hash.py")
content_hash = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(content_hash)


@pytest.mark.parametrize(("name", "parameter"), content_hash.PARAMETERS.items())
def test_the_template_names_the_images_that_these_files_make(name, parameter):
    assert (project.ROOT / "containers" / name / "Dockerfile").is_file()
    found = project.template()["Parameters"][parameter]["Default"]
    wanted = content_hash.content_hash(project.ROOT / "containers" / name)
    assert found == wanted, "run: python containers/content_hash.py --write"


def test_the_hash_follows_names_and_bytes_and_nothing_else(tmp_path):
    folder = tmp_path / "image"
    (folder / "etc").mkdir(parents=True)
    (folder / "Dockerfile").write_text("FROM scratch")
    (folder / "etc" / "a").write_text("1")
    first = content_hash.content_hash(folder)
    assert len(first) == 12
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_bytes(b"x")
    assert content_hash.content_hash(folder) == first
    (folder / "etc" / "a").rename(folder / "etc" / "b")
    renamed = content_hash.content_hash(folder)
    (folder / "etc" / "b").write_text("2")
    assert len({first, renamed, content_hash.content_hash(folder)}) == 3


def test_moving_bytes_from_one_file_to_the_next_changes_the_hash(tmp_path):
    for name, parts in {"one": ("ab", "c"), "other": ("a", "bc")}.items():
        (tmp_path / name).mkdir()
        for file, text in zip("xy", parts, strict=True):
            (tmp_path / name / file).write_text(text)
    assert content_hash.content_hash(tmp_path / "one") != content_hash.content_hash(tmp_path / "other")


def test_writing_the_tags_touches_the_two_defaults_only():
    before = project.TEMPLATE.read_text(encoding="utf-8")
    after = content_hash.with_tags(before, {"jobs": "0123456789ab", "serve": "ba9876543210"})
    changed = [new for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert changed == ['    Default: "0123456789ab"', '    Default: "ba9876543210"']
    with pytest.raises(ValueError, match="JobsImageTag"):
        content_hash.with_tags("Parameters: {}", {"jobs": "0123456789ab"})
