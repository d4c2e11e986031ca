import gzip
import io
import stat
import tarfile
import zipfile

import pytest

from ebb_jobs import archives
from ebb_jobs.archives import Limits
from ebb_jobs.rejection import RejectedError

FILES = {"pets/cat/1.png": b"one", "pets/dog/2.png": b"two" * 1000}


def packed_zip(files, *, kinds=None, method=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files:
            archive.writestr(name, content)
        for name, kind in (kinds or {}).items():
            member = zipfile.ZipInfo(name)
            member.create_system, member.external_attr = 3, (kind | 0o644) << 16
            archive.writestr(member, "/etc/passwd")
    return out.getvalue()


def packed_tar(files, *, members=()):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return out.getvalue()


def special(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def with_flag(data, offset, value):
    """Set a field of the first member in both places where a zip holds it: before its data, and in the directory."""
    changed = bytearray(data)
    for magic, shift in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        changed[changed.index(magic) + shift + offset] = value
    return bytes(changed)


@pytest.fixture
def extract(tmp_path):
    """Unpack in a folder beside a canary: whatever happens, nothing else may appear or change there."""
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary/alive").write_text("yes")

    def act(name, data, **limits):
        file = tmp_path / name
        file.write_bytes(data)
        try:
            return archives.extract(file, tmp_path / "out", limits=Limits(**limits))
        finally:
            inside = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")}
            assert inside <= {"canary", name, "out"}
            assert [path.name for path in (tmp_path / "canary").iterdir()] == ["alive"]
            assert (tmp_path / "canary/alive").read_text() == "yes"
            assert file.read_bytes() == data

    return act


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param("pets.zip", packed_zip(FILES.items()), id="zip"),
        pytest.param("pets.ZIP", packed_zip(FILES.items(), method=zipfile.ZIP_STORED), id="zip that only stores"),
        pytest.param("pets.tar.gz", packed_tar(FILES.items()), id="tar.gz"),
        pytest.param("pets.tgz", packed_tar((f"./{name}", data) for name, data in FILES.items()), id="tar of ./"),
        pytest.param(
            "pets.zip",
            packed_zip((name.replace("/", "\\"), data) for name, data in FILES.items()),
            id="zip with the separators of Windows",
        ),
        pytest.param(
            "pets.zip",
            packed_zip([*FILES.items(), ("__MACOSX/pets/cat/._1.png", b"x"), ("pets/.DS_Store", b"x")]),
            id="what macOS adds is left out",
        ),
    ],
)
def test_files_come_out_as_they_went_in(extract, tmp_path, name, data):
    found = extract(name, data)
    assert {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in found} == FILES
    listed = archives.listing(name, len(data), io.BytesIO(data))
    sizes = {member.name: member.size_bytes for member in listed.members}
    assert {name: sizes[name] for name in FILES} == {name: len(content) for name, content in FILES.items()}
    assert listed.complete


EVIL = [
    pytest.param("../canary/alive", "archive-path", id="above its folder"),
    pytest.param("pets/../../canary/alive", "archive-path", id="above its folder, further in"),
    pytest.param("/tmp/ebb-canary", "archive-path", id="an absolute path"),
    pytest.param("..\\canary\\alive", "archive-path", id="above its folder, as Windows writes it"),
    pytest.param("C:\\ebb-canary", "archive-path", id="a drive"),
    pytest.param("pets/\x1b[2Jx.png", "archive-path", id="a name that clears the terminal"),
    pytest.param("C:/ebb-canary", "archive-path", id="a drive, with the other slash"),
    pytest.param("../.hidden", "archive-path", id="above its folder, hidden"),
    pytest.param("pets/a\x85b.png", "archive-path", id="a control character of 8 bits"),
    pytest.param("pets//x.png", "archive-path", id="a folder without a name"),
    pytest.param("x" * 300, "archive-path", id="a name that is too long"),
    pytest.param("a/" * 600 + "x", "archive-path", id="a path that is too long"),
    pytest.param("pets/cat/1.png", "archive-duplicate", id="a file twice"),
    pytest.param("pets/cat", "archive-duplicate", id="a file where a folder is"),
    pytest.param("pets/cat/1.png/more.png", "archive-duplicate", id="a folder where a file is"),
]


@pytest.mark.parametrize("pack", [packed_zip, packed_tar])
@pytest.mark.parametrize(("name", "code"), EVIL)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_must_not_be_written_is_refused(extract, tmp_path, pack, name, code):
    data = pack([*FILES.items(), (name, b"evil")])
    archive = "a.zip" if pack is packed_zip else "a.tar.gz"
    assert rejected(lambda: extract(archive, data)).code == code
    found = rejected(lambda: archives.listing(archive, len(data), io.BytesIO(data)))
    assert found.code == code
    assert found.message.isprintable()
    assert found.remedy
    assert len(found.message) < 300


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        pytest.param("a.zip", packed_zip([], kinds={"x": stat.S_IFLNK}), "archive-link", id="link in a zip"),
        pytest.param("a.zip", packed_zip([], kinds={"x": stat.S_IFCHR}), "archive-special", id="device in a zip"),
        pytest.param(
            "a.tar.gz", packed_tar([], members=[special("x", tarfile.SYMTYPE, "/etc")]), "archive-link", id="link"
        ),
        pytest.param(
            "a.tar.gz",
            packed_tar(FILES.items(), members=[special("x", tarfile.LNKTYPE, "pets/cat/1.png")]),
            "archive-link",
            id="hard link",
        ),
        pytest.param(
            "a.tar.gz", packed_tar([], members=[special("x", tarfile.CHRTYPE)]), "archive-special", id="device"
        ),
        pytest.param(
            "a.tar.gz", packed_tar([], members=[special("x", tarfile.FIFOTYPE)]), "archive-special", id="pipe"
        ),
        pytest.param("a.zip", with_flag(packed_zip(FILES.items()), 0, 0x1), "archive-encrypted", id="encrypted"),
        pytest.param("a.zip", with_flag(packed_zip(FILES.items()), 2, 99), "archive-method", id="unknown method"),
        pytest.param("a.zip", packed_zip(FILES.items())[:-30], "broken-archive", id="cut zip"),
        pytest.param("a.zip", packed_tar(FILES.items()), "broken-archive", id="tar called zip"),
        pytest.param("a.zip", b"PK", "broken-archive", id="two bytes"),
        pytest.param("a.tar.gz", packed_tar(FILES.items())[:-9], "broken-archive", id="cut gzip"),
        pytest.param("a.tar.gz", gzip.compress(b"no tar " * 200), "broken-archive", id="gzip without a tar"),
        pytest.param("a.tar.gz", b"no gzip " * 200, "broken-archive", id="no gzip"),
        pytest.param(
            "a.tar.gz",
            gzip.compress(gzip.decompress(packed_tar(FILES.items()))[:1200]),
            "broken-archive",
            id="tar that ends inside a file",
        ),
        pytest.param("a.zip", packed_zip([]), "no-data", id="empty zip"),
        pytest.param("a.tar.gz", packed_tar([]), "no-data", id="empty tar"),
    ],
)
def test_what_else_is_refused(extract, name, data, code):
    for act in (lambda: archives.listing(name, len(data), io.BytesIO(data)), lambda: extract(name, data)):
        found = rejected(act)
        assert found.code == code
        assert found.file
        assert found.file.startswith(name)
        assert found.remedy


def test_a_damaged_header_is_no_end_of_the_archive():
    plain = bytearray(gzip.decompress(packed_tar([("a", b"1"), ("b", b"2"), ("c", b"3")])))
    plain[1024 + 148] ^= 1  # in the checksum of the second header
    data = gzip.compress(bytes(plain))
    assert rejected(lambda: archives.listing("a.tar.gz", len(data), io.BytesIO(data))).code == "broken-archive"


def test_damage_inside_a_file_is_found_while_unpacking(extract):
    data = bytearray(packed_zip([("a.csv", bytes(range(256)) * 50)], method=zipfile.ZIP_STORED))
    data[200] ^= 1
    assert rejected(lambda: extract("a.zip", bytes(data))).code == "broken-archive"


@pytest.mark.parametrize("pack", [packed_zip, packed_tar])
@pytest.mark.parametrize(
    ("limits", "code"),
    [
        pytest.param({"members": 1}, "archive-too-many-files", id="too many files"),
        pytest.param({"bytes": 2000}, "archive-too-large", id="too many bytes"),
    ],
)
def test_limits(extract, pack, limits, code):
    archive = "a.zip" if pack is packed_zip else "a.tar.gz"
    data = pack(FILES.items())
    assert rejected(lambda: extract(archive, data, **limits)).code == code
    assert rejected(lambda: archives.listing(archive, len(data), io.BytesIO(data), limits=Limits(**limits)))


@pytest.mark.parametrize("pack", [packed_zip, packed_tar])
def test_a_bomb_is_told_by_what_it_would_become(extract, tmp_path, pack):
    archive = "a.zip" if pack is packed_zip else "a.tar.gz"
    data = pack([("zeros.csv", b"\0" * (archives.RATIO_FROM_BYTES + 2**20))])
    assert len(data) < 2**20
    assert rejected(lambda: extract(archive, data)).code == "archive-bomb"
    written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*"))
    assert written <= archives.RATIO_FROM_BYTES + archives.CHUNK_BYTES


def test_a_directory_that_claims_to_be_huge_is_not_read():
    data = bytearray(packed_zip(FILES.items()))
    end = data.rindex(b"PK\x05\x06")
    data[end + 12 : end + 16] = (2**31).to_bytes(4, "little")
    assert rejected(lambda: archives.listing("a.zip", len(data), io.BytesIO(bytes(data)))).code == "broken-archive"


def test_the_first_bytes_of_a_tar_show_its_first_files():
    files = [(f"c{n % 2}/{n}.png", bytes((n * 7919 * k) % 251 for k in range(3000))) for n in range(40)]
    data = packed_tar(files)
    listed = archives.listing("a.tar.gz", len(data), io.BytesIO(data[: len(data) // 2]))
    assert not listed.complete
    assert [member.name for member in listed.members[:3]] == ["c0/0.png", "c1/1.png", "c0/2.png"]


def test_the_first_bytes_of_a_zip_show_nothing():
    data = packed_zip(FILES.items())
    assert archives.listing("a.zip", len(data), io.BytesIO(data[:60])) == ([], False)


def test_a_folder_that_is_there_is_not_written_into(tmp_path):
    (tmp_path / "a.zip").write_bytes(packed_zip(FILES.items()))
    with pytest.raises(FileExistsError):
        archives.extract(tmp_path / "a.zip", tmp_path)


def rejected(act):
    with pytest.raises(RejectedError) as raised:
        act()
    return raised.value.rejection


@pytest.mark.parametrize("pack", [packed_zip, packed_tar])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("Screenshot 2026-11-23 at 9.41.00\u202fAM.png", id="a screenshot of macOS"),
        pytest.param("\U0001f468\u200d\U0001f469\u200d\U0001f467.png", id="an emoji of several"),
        pytest.param("a\u00a0b\u3000c.png", id="spaces that are not ASCII"),
        pytest.param("a:b/1.png", id="a folder of one letter and a colon"),
        pytest.param("\u05d0\u200f.png", id="a mark of direction"),
    ],
)
def test_ordinary_names_are_taken(extract, tmp_path, pack, name):
    data = pack([*FILES.items(), (name, b"x")])
    archive = "a.zip" if pack is packed_zip else "a.tar.gz"
    assert tmp_path / "out" / name in extract(archive, data)


@pytest.mark.parametrize("pack", [packed_zip, packed_tar])
@pytest.mark.parametrize("name", ["pets/Icon\r", "pets/.x\x07", "__MACOSX/" + "y" * 300])
def test_what_is_no_data_may_have_any_name(extract, tmp_path, pack, name):
    data = pack([*FILES.items(), (name, b"x")])
    found = extract("a.zip" if pack is packed_zip else "a.tar.gz", data)
    assert {path.relative_to(tmp_path / "out").as_posix() for path in found} == set(FILES)


def test_a_link_in_a_hidden_folder_is_left_out(extract):
    assert len(extract("a.zip", packed_zip(FILES.items(), kinds={".venv/bin/python": stat.S_IFLNK}))) == len(FILES)


def directory(count, name_bytes=8):
    """Return a zip of nothing but a directory with `count` entries, which says that it has three."""
    entry = b"PK\1\2" + bytes(24) + name_bytes.to_bytes(2, "little") + bytes(16) + b"x" * name_bytes
    size = (len(entry) * count).to_bytes(4, "little")
    return entry * count + b"PK\5\6" + bytes(4) + (3).to_bytes(2, "little") * 2 + size + bytes(6)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(directory(200_001), id="more than are read"),
        pytest.param(directory(150_000, 200), id="names too long to be read together"),
    ],
)
def test_a_directory_of_too_many_files_is_refused_before_it_is_read(data, monkeypatch):
    monkeypatch.setattr(archives.zipfile, "ZipFile", None)
    found = rejected(lambda: archives.listing("a.zip", len(data), io.BytesIO(data)))
    assert found.code == "archive-too-many-files"


def test_a_zip64_is_counted_too(monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 5)
    data = packed_zip([(f"{n}.png", b"x") for n in range(10)])
    assert b"PK\6\6" in data
    assert len(archives.listing("a.zip", len(data), io.BytesIO(data)).members) == 10
    monkeypatch.setattr(archives.zipfile, "ZipFile", None)
    few = Limits(members=9)
    found = rejected(lambda: archives.listing("a.zip", len(data), io.BytesIO(data), limits=few))
    assert found.code == "archive-too-many-files"
