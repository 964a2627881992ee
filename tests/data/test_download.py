"""Archives: fetched from a server of this process, and unpacked although they were made to do harm."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import random
import re
import shutil
import socket
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clearloop import durable
from clearloop.data import download
from clearloop.data.download import check_url, unpack
from clearloop.data.sample import untar_data
from clearloop.errors import ConfigError, DataError, StorageError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache; and no proxy stands between these tests and this machine."""
    monkeypatch.setenv("CLEARLOOP_HOME", str(tmp_path / "home"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    return tmp_path / "home"


# -- archives to order -------------------------------------------------------------------------------------------------


def entry(name, data=b"", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def symlink(name, target) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.SYMTYPE, linkname=target)


def hardlink(name, target) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.LNKTYPE, linkname=target)


def tar_of(*entries, mode="w:gz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zip_of(*entries, compression=zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as found:
        for info, data in entries:
            found.writestr(info, data)
    return file.getvalue()


BIG = random.Random(0).randbytes(3 * 2**20 + 17)
PETS = [("pets/cat/1.txt", b"one"), ("pets/dog/2.bin", BIG), ("pets/dog/empty", b""), ("pets/a b/ü.txt", b"x")]
TAR = tar_of(*[entry(*pet) for pet in PETS])
ARCHIVES = {"tgz": TAR, "tar.gz": TAR, "tar": gzip.decompress(TAR), "zip": zip_of(*PETS)}


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nothing_left(home) -> bool:
    return not home.exists() or not [path for path in home.rglob("*") if path.is_file() or path.name.startswith(".tmp")]


def address(tmp_path, data: bytes, name="pets.tgz") -> str:
    path = tmp_path / name
    path.write_bytes(data)
    return path.as_uri()


# -- a server ----------------------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves `data` under any path but /missing and /elsewhere; breaks off after `cuts` bytes, once for each."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.cuts, self.ranges, self.etag, self.to = TAR, [], True, '"one"', ""
        self.lying = 0  # bytes more than there are, in what is announced
        self.asked = []

    def handle_error(self, request, client_address):
        pass

    def url(self, name="pets.tgz") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        if self.path.startswith("/missing"):
            return self.send_error(404)
        if self.path.startswith("/elsewhere"):
            self.send_response(302)
            self.send_header("Location", server.to)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        start = 0
        wanted = self.headers.get("Range")
        if wanted and server.ranges and self.headers.get("If-Range") in (None, server.etag):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.data) - 1}/{len(server.data)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(server.data) - start + server.lying))
        self.end_headers()
        stop = server.cuts.pop(0) if server.cuts else len(server.data)
        self.wfile.write(server.data[start:stop])
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


# -- what is good ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ARCHIVES)
def test_an_archive_is_fetched_once_and_its_one_folder_given(ending, server, home):
    server.data = ARCHIVES[ending]
    folder = untar_data(server.url(f"pets.{ending}"))
    assert folder.name == "pets"
    assert home in folder.parents
    assert contents(folder.parent) == dict(PETS)
    assert untar_data(server.url(f"pets.{ending}")) == folder
    assert len(server.asked) == 1
    assert not list(home.rglob(".tmp-*"))


@pytest.mark.parametrize("ending", ARCHIVES)
def test_a_file_of_this_machine_is_unpacked_and_again_once_it_has_changed(ending, tmp_path):
    url = address(tmp_path, ARCHIVES[ending], f"my pets.{ending}")
    assert contents(untar_data(url).parent) == dict(PETS)
    again = address(tmp_path, tar_of(entry("x/new", b"1")), f"my pets.{ending}")
    assert again == url
    assert contents(untar_data(url)) == {"new": b"1"}
    assert contents(untar_data(url.replace("file://", "file:"))) == {"new": b"1"}


def test_what_is_not_in_one_folder_comes_with_the_folder_around_it(tmp_path):
    folder = untar_data(address(tmp_path, tar_of(entry("train/a/1", b"1"), entry("./valid/a/2", b"2"))))
    assert contents(folder) == {"train/a/1": b"1", "valid/a/2": b"2"}
    folder = untar_data(address(tmp_path, zip_of(("x/1", b"1"), ("__MACOSX/x", b""), (".DS_Store", b"")), "mac.zip"))
    assert folder.name == "x"


def test_the_right_hash_is_accepted_whatever_its_letters_and_a_wrong_one_is_not(server, home):
    right = hashlib.sha256(TAR).hexdigest()
    with pytest.raises(DataError, match=f"SHA-256 {'0' * 64}, got {right}"):
        untar_data(server.url(), sha256="0" * 64)
    assert nothing_left(home)
    folder = untar_data(server.url(), sha256=right.upper())
    assert untar_data(server.url()) == folder
    with pytest.raises(DataError, match="remove the folder and call again"):
        untar_data(server.url(), sha256="0" * 64)
    assert len(server.asked) == 2


def test_links_within_an_archive_are_kept(tmp_path):
    entries = [entry("x/a/1", b"one"), symlink("x/s", "a/1"), hardlink("x/h", "x/a/1"), symlink("x/b/folder", "../a")]
    folder = untar_data(address(tmp_path, tar_of(*reversed(entries))))
    assert contents(folder) == {"a/1": b"one", "s": b"one", "h": b"one"}
    assert (folder / "b" / "folder" / "1").read_bytes() == b"one"
    assert os.readlink(folder / "s") == os.path.join("a", "1")


def test_a_later_entry_of_a_name_replaces_an_earlier_one(tmp_path):
    assert contents(untar_data(address(tmp_path, tar_of(entry("x/a", b"12"), entry("x/a", b"3"))))) == {"a": b"3"}


def test_permissions_and_owners_are_not_taken_over(tmp_path):
    archive = tar_of(entry("x/a", b"1", mode=0o4777, uid=0), entry("x/b", type=tarfile.DIRTYPE, mode=0))
    folder = untar_data(address(tmp_path, archive))
    assert (folder / "a").stat().st_mode & 0o7111 == 0
    assert os.access(folder / "b", os.R_OK | os.W_OK | os.X_OK)


# -- connections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ranges", "etag"), [(True, '"one"'), (False, '"one"'), (True, None), (True, 'W/"weak"')])
def test_a_connection_that_breaks_is_taken_up_again_or_begun_anew(ranges, etag, server):
    server.cuts, server.ranges, server.etag = [2**20, 2 * 2**20 + 5], ranges, etag
    assert contents(untar_data(server.url(), sha256=hashlib.sha256(TAR).hexdigest()).parent) == dict(PETS)
    resumed = [wanted for _, wanted in server.asked]
    assert resumed == ([None, f"bytes={2**20}-", f"bytes={2 * 2**20 + 5}-"] if etag == '"one"' else [None] * 3)


def test_a_file_that_changes_between_two_attempts_is_taken_whole(server):
    server.cuts = [1000]

    class Changing(durable.FileSystem):
        def append(self, path, data):
            super().append(path, data)
            server.etag, server.data = '"two"', other

    other = tar_of(entry("y/new", b"new"))
    with durable.using(Changing()):
        assert contents(untar_data(server.url())) == {"new": b"new"}


def test_a_download_that_never_ends_whole_is_an_error(server, home):
    server.cuts = [100] * 50
    server.ranges = False
    with pytest.raises(DataError, match=rf"expected {len(TAR)} bytes, got 100 before the connection broke"):
        untar_data(server.url())
    assert len(server.asked) == download.ATTEMPTS
    assert nothing_left(home)
    server.cuts = []
    assert contents(untar_data(server.url()).parent) == dict(PETS)


def test_more_bytes_announced_than_sent_is_an_error(server, home):
    server.lying, server.ranges = 10, False
    with pytest.raises(DataError, match="before the connection broke"):
        untar_data(server.url())
    assert nothing_left(home)


def test_what_is_not_there_is_an_error_with_the_servers_answer(server, home, tmp_path):
    with pytest.raises(DataError, match=r"missing\.tgz: expected an archive, got 404 Not Found"):
        untar_data(server.url("missing.tgz"))
    with pytest.raises(DataError, match=r"none\.tgz: expected an archive, got none .*No such file"):
        untar_data((tmp_path / "none.tgz").as_uri())
    assert nothing_left(home)


def test_no_network_is_an_error(home):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DataError, match=r"expected an archive, got none \(.*refused"):
        untar_data(f"http://127.0.0.1:{port}/pets.tgz")
    assert nothing_left(home)


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x.tgz", "http://example.org/pets.tgz"])
def test_a_redirection_to_what_would_not_be_taken_itself_is_refused(to, server, home):
    server.to = to
    with pytest.raises((DataError, ConfigError), match=r"[Rr]edirection|not encrypted"):
        untar_data(server.url("elsewhere.tgz"))
    assert nothing_left(home)


def test_a_redirection_is_followed(server):
    server.to = server.url("pets.tgz")
    assert contents(untar_data(server.url("elsewhere.tgz")).parent) == dict(PETS)


@pytest.mark.parametrize("at", ["archive", "files/pets/dog/2.bin"])
def test_a_full_disk_is_an_error_and_nothing_is_left(at, tmp_path, home):
    class Full(durable.FileSystem):
        def append(self, path, data):
            if path.as_posix().endswith(at):
                failed = StorageError("no space left")
                failed.errno = errno.ENOSPC
                raise failed
            super().append(path, data)

    with durable.using(Full()), pytest.raises(StorageError, match="no space"):
        untar_data(address(tmp_path, TAR))
    assert nothing_left(home)


def test_two_at_once_both_get_the_whole_folder(server, home):
    together = threading.Barrier(2, timeout=60)

    class Together(durable.FileSystem):
        def rename(self, old, new):
            together.wait()
            super().rename(old, new)

    found = []
    threads = [threading.Thread(target=lambda: found.append(untar_data(server.url()))) for _ in range(2)]
    with durable.using(Together()):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(found)) == 1 < len(found)
    assert contents(found[0].parent) == dict(PETS)
    assert len(list((home / "archives").iterdir())) == 1


def test_there_is_a_bar_on_a_terminal_and_not_a_character_elsewhere(server, capfd, monkeypatch):
    untar_data(server.url("quiet.tgz"))
    assert capfd.readouterr() == ("", "")
    shown = []
    monkeypatch.setattr(download.sys.stderr, "isatty", lambda: True, raising=False)
    before = random.getstate()
    with download.progress("pets.tgz") as show:
        show(1, 2)
        shown.append(show)
    assert random.getstate() == before
    assert "pets.tgz" in capfd.readouterr().err


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["ftp://x.org/a.tgz", "https://x.org/a.rar", "https://x.org/", "/home/me/a.tgz", "s3://b/a.zip", "data:,a/b.zip"],
)
def test_an_address_of_no_archive_is_refused(url, home):
    with pytest.raises(ConfigError, match=r"expected https:// or file: and a name in \.tar\.gz"):
        untar_data(url)
    assert nothing_left(home)


def test_an_address_without_encryption_needs_the_hash():
    with pytest.raises(ConfigError, match="not encrypted: give https://, or the archive's sha256"):
        check_url("http://example.org/pets.tgz", None)
    assert check_url("http://example.org/pets.tgz?x=1", "a" * 64) == ".tgz"


@pytest.mark.parametrize("sha256", ["", "abc", "g" * 64, "a" * 63])
def test_a_hash_that_is_none_is_refused(sha256):
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        untar_data("https://example.org/pets.tgz", sha256=sha256)


# -- harm --------------------------------------------------------------------------------------------------------------

OUT = {
    "above": entry("../evil", b"1"),
    "far above": entry("x/../../../evil", b"1"),
    "root": entry("/tmp/evil", b"1"),
    "folder above": entry("x/..", type=tarfile.DIRTYPE),
    "windows": entry("..\\evil", b"1"),
    "drive": entry("C:evil", b"1"),
    "link to root": symlink("x/s", "/etc/passwd"),
    "link above": symlink("x/s", "../../archive"),
    "link above by a folder": symlink("s", "x/../../archive"),
    "hard link above": hardlink("x/h", "../archive"),
    "hard link to root": hardlink("x/h", "/etc/passwd"),
    "link to itself": symlink("x/s", "s"),
    "link to nothing": symlink("x/s", "none"),
    "link on a file": symlink("x/good", "../y/good"),
    "device": entry("x/d", type=tarfile.CHRTYPE),
    "block device": entry("x/d", type=tarfile.BLKTYPE),
    "pipe": entry("x/d", type=tarfile.FIFOTYPE),
    "file on a folder": entry("x", b"1"),
    "file in a file": entry("x/good/1", b"1"),
}


@pytest.mark.parametrize("harm", OUT.values(), ids=OUT)
def test_entries_that_lead_outside_or_are_no_files_are_refused(harm, tmp_path, home):
    data = tar_of(entry("x/good", b"good"), entry("y/good", b"good"), harm)
    url, outside = address(tmp_path, data), sorted(tmp_path.rglob("*"))
    with pytest.raises(
        DataError, match=re.escape(url) + ".*" + (re.escape(repr(harm[0].name)) + "|both a file and a folder")
    ):
        untar_data(url)
    assert nothing_left(home)
    assert [path for path in sorted(tmp_path.rglob("*")) if home not in (path, *path.parents)] == outside


def test_nothing_is_written_through_a_link_of_the_archive(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    data = tar_of(symlink("x/s", str(out)), entry("x/s/evil", b"1"))
    with pytest.raises(DataError, match="links that stay inside"):
        untar_data(address(tmp_path, data))
    data = tar_of(symlink("x/a", "b"), symlink("x/b", "../.."), entry("x/c", b""))
    with pytest.raises(DataError, match="link"):
        untar_data(address(tmp_path, data))
    assert not list(out.iterdir())


def test_a_chain_of_links_that_would_leave_is_refused(tmp_path):
    deep = "d" * 200
    entries = [entry(f"{deep}/{deep}/f", b"1"), symlink("a", f"{deep}/{deep}"), symlink("b", "a/../../..")]
    with pytest.raises(DataError, match="links"):
        untar_data(address(tmp_path, tar_of(*entries)))


def test_a_link_through_another_link_is_refused(tmp_path):
    entries = [entry("x/real/1", b"1"), symlink("x/a", "real"), symlink("x/c", "a/1")]
    with pytest.raises(DataError, match=r"links that stay inside, got 'x/c' -> 'a/1'"):
        untar_data(address(tmp_path, tar_of(*entries)))


ZIP_LINK = zipfile.ZipInfo("x/s")
ZIP_LINK.external_attr = 0o120777 << 16


@pytest.mark.parametrize(
    "harm",
    [("../evil", b"1"), ("/tmp/evil", b"1"), ("x/../../evil", b"1"), ("..\\evil", b"1"), (ZIP_LINK, b"/etc/passwd")],
    ids=["above", "root", "far above", "windows", "link"],
)
def test_a_zip_archive_that_leads_outside_is_refused(harm, tmp_path, home):
    with pytest.raises(DataError, match="do not use it"):
        untar_data(address(tmp_path, zip_of(("x/good", b"1"), harm), "pets.zip"))
    assert nothing_left(home)


@pytest.mark.parametrize("make", [lambda: tar_of(*[entry(f"x/{i}", b"1" * 100) for i in range(50)]), None])
@pytest.mark.parametrize(("cap", "most"), [("MAX_MEMBERS", 49), ("MAX_BYTES", 4999)])
def test_more_files_or_bytes_than_anybody_needs_are_refused(make, cap, most, tmp_path, home, monkeypatch):
    data = make() if make else zip_of(*[(f"x/{i}", b"1" * 100) for i in range(50)])
    url = address(tmp_path, data, "many.tgz" if make else "many.zip")
    monkeypatch.setattr(download, cap, most)
    with pytest.raises(DataError, match=r"expected at most .* so far; unpack it yourself"):
        untar_data(url)
    assert nothing_left(home)
    monkeypatch.setattr(download, cap, most + 1)
    assert len(contents(untar_data(url))) == 50


def test_a_name_of_a_gigabyte_is_not_read_into_memory(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**30
    with pytest.raises(DataError, match="header of"):
        untar_data(address(tmp_path, gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(2**20))))


@pytest.mark.parametrize("ending", ["tar", "tgz", "zip"])
def test_an_archive_cut_off_anywhere_is_an_error(ending, tmp_path, home):
    small = [("x/a", b"12345" * 300), ("x/b", b"6" * 700), ("x/c", b"")]
    data = zip_of(*small) if ending == "zip" else tar_of(*[entry(*one) for one in small])
    data = gzip.decompress(data) if ending == "tar" else data
    last = len(data.rstrip(b"\0")) if ending == "tar" else len(data) - 1
    for cut in [*range(0, last, max(1, last // 150)), last]:
        with pytest.raises(DataError):
            untar_data(address(tmp_path, data[:cut], f"pets.{ending}"))
        assert nothing_left(home)


@pytest.mark.parametrize("ending", ["tgz", "zip"])
def test_a_changed_byte_is_an_error_or_does_no_harm(ending, tmp_path, home):
    small = [("x/a", b"12345" * 300), ("x/b", b"6" * 700)]
    data = zip_of(*small) if ending == "zip" else tar_of(*[entry(*one) for one in small])
    good = {"a": b"12345" * 300, "b": b"6" * 700}
    draw = random.Random(1)
    for number in range(200):
        place = draw.randrange(len(data))
        changed = data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]
        try:
            folder = untar_data(address(tmp_path, changed, f"{number}.{ending}"))
        except DataError:
            continue
        assert set(contents(folder).values()) <= set(good.values()) | {b""}  # no content that is not the archive's


@pytest.mark.parametrize(
    "data", [b"", b"x", b"<html>404</html>" * 100, bytes(5000), b"PK\3\4", b"\x1f\x8b", b"\x1f\x8b" + bytes(99)]
)
def test_what_is_no_archive_is_an_error(data, tmp_path, home):
    for ending in ("tgz", "tar", "zip"):
        with pytest.raises(DataError, match=r"expected a whole archive, got a damaged one|got an empty one"):
            untar_data(address(tmp_path, data, f"x.{ending}"))
    assert nothing_left(home)


def test_a_zip_archive_with_a_password_is_an_error(tmp_path):
    data = bytearray(zip_of(("x/a", b"1"), compression=zipfile.ZIP_STORED))
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(magic) + offset] |= 1
    with pytest.raises(DataError, match="encrypted"):
        untar_data(address(tmp_path, bytes(data), "x.zip"))


def test_an_archive_that_holds_an_archive_is_not_taken_for_it(tmp_path):
    data = tar_of(entry("x/inner.zip", zip_of(("evil", b"1"))), mode="w")
    assert list(contents(untar_data(address(tmp_path, data, "x.tar")))) == ["inner.zip"]


def test_a_folder_that_was_tampered_with_is_refused_with_what_to_do(tmp_path, home):
    url = address(tmp_path, TAR)
    untar_data(url)
    record = next(home.rglob("archive.json"))
    for damage in (b"", b"[]", b"{}"):
        record.write_bytes(damage)
        with pytest.raises(DataError, match="remove it and call again"):
            untar_data(url)


def test_unpack_refuses_a_folder_that_is_there(tmp_path):
    (tmp_path / "a.tgz").write_bytes(TAR)
    with pytest.raises(StorageError):
        unpack(tmp_path / "a.tgz", tmp_path, "a.tgz")


def test_a_download_that_grows_beyond_what_anybody_needs_is_stopped(server, home, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", len(TAR) - 1)
    with pytest.raises(DataError, match=r"expected at most .* bytes, got .* so far; unpack it yourself"):
        untar_data(server.url())
    assert len(server.asked) == 1  # another attempt would be of no use
    assert nothing_left(home)


@pytest.mark.parametrize("name", ["pets.tgz", "pets.zip"])
def test_an_archive_that_needs_more_than_is_free_is_stopped_before_the_disk_is_full(name, tmp_path, home, monkeypatch):
    files = [(f"x/{number}", bytes(5000)) for number in range(10)]  # each of some bytes as it is packed
    data = zip_of(*files) if name.endswith(".zip") else tar_of(*[entry(*file) for file in files])
    written = []

    class Counting(durable.FileSystem):
        def write(self, path, data):
            written.append(path.name)
            super().write(path, data)

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 29_999))
    with durable.using(Counting()), pytest.raises(StorageError, match="needs 30000 bytes or more, and 29999 are free"):
        untar_data(address(tmp_path, data, name))
    assert [file for file in written if file.isdigit()] == ["0", "1", "2", "3", "4"]
    assert nothing_left(home)
