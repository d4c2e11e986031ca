import io
import tarfile

import pytest

from ebb_jobs import bundle
from ebb_jobs.errors import BundleError


def archive(tmp_path, *members):
    file = tmp_path / "model.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        for member in members:
            member.size = 0 if member.issym() or member.islnk() or member.isdir() else 1
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return file


def link(name, to):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, to
    return member


@pytest.mark.parametrize("patched", [True, False], ids=["with tarfile's filter", "as before Python 3.11.4"])
@pytest.mark.parametrize(
    "member",
    [
        pytest.param(tarfile.TarInfo("../outside"), id="above the folder"),
        pytest.param(tarfile.TarInfo("code/../../outside"), id="above it by a detour"),
        pytest.param(tarfile.TarInfo("/outside"), id="an absolute path"),
        pytest.param(link("code", "/tmp"), id="a link"),
    ],
)
def test_an_archive_that_reaches_outside_its_folder_is_refused(tmp_path, monkeypatch, member, patched):
    if not patched:
        monkeypatch.delattr(tarfile, "data_filter")
        monkeypatch.setattr(tarfile.TarFile, "extractall", as_before_3_11_4(tarfile.TarFile.extractall))
    with pytest.raises(BundleError, match="no bundle"):
        bundle.unpack(archive(tmp_path, member), tmp_path / "out")
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "out/outside").exists()


def as_before_3_11_4(extractall):
    def old(self, path=".", members=None, *, numeric_owner=False):
        return extractall(self, path, members, numeric_owner=numeric_owner)

    return old


def test_a_bundle_is_unpacked_by_a_python_without_the_filter(tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")
    monkeypatch.setattr(tarfile.TarFile, "extractall", as_before_3_11_4(tarfile.TarFile.extractall))
    file = archive(tmp_path, tarfile.TarInfo("model.onnx"), tarfile.TarInfo("code/serve.py"))
    model = bundle.unpack(file, tmp_path / "out")
    assert (model / "code/serve.py").read_bytes() == b"x"
