import io
import tarfile
import tracemalloc

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


def test_files_with_long_names_are_packed_and_come_back(tmp_path):
    name = "code/" + "a" * 120 + "/" + "b" * 150 + ".whl"
    digest = bundle.pack(tmp_path / "one.tar.gz", {name: b"x", "signature.json": b"{}"})
    assert (bundle.unpack(tmp_path / "one.tar.gz", tmp_path) / name).read_bytes() == b"x"
    assert bundle.pack(tmp_path / "other.tar.gz", {"signature.json": b"{}", name: b"x"}) == digest


def test_a_large_file_is_packed_without_being_in_memory(tmp_path):
    large = tmp_path / "model.pt"
    with large.open("wb") as file:
        file.truncate(30_000_000)
    tracemalloc.start()
    try:
        digest = bundle.pack(tmp_path / "a.tar.gz", {"model.pt": large})
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert digest == bundle.pack(tmp_path / "b.tar.gz", {"model.pt": large.read_bytes()})


@pytest.mark.parametrize(("codec", "starts"), [("tabular", False), ("as_is", True)])
def test_a_users_own_code_has_longer_to_start(tmp_path, monkeypatch, codec, starts):
    """PyTorch alone takes a minute to import on a busy machine."""
    monkeypatch.setattr(bundle, "START_TIMEOUT_S", 0.05)
    server = b"""
import http.server, os, time
time.sleep(0.3)
class Ping(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
http.server.HTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Ping).serve_forever()
"""
    members = {"signature.json": b'{"codec": "%s"}' % codec.encode(), "code/serve.py": server}
    bundle.pack(tmp_path / "model.tar.gz", members)
    if starts:
        with bundle.served(tmp_path / "model.tar.gz") as running:
            assert running.process.poll() is None
    else:
        with pytest.raises(BundleError, match="did not answer"), bundle.served(tmp_path / "model.tar.gz"):
            pass
