"""Downloads from a server on this machine, which breaks off, lies and sends archives that attack."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from drcnn.data.annotations import DataError
from drcnn.data.files.download import ARCHIVES, Archive, download

CONTENT = bytes(range(256)) * 4000


class Host:
    """A server of files.

    Attributes:
        files: by name.
        breaks: after so many bytes each of the next answers ends.
        ranges: whether it knows of ranges.
        asked: the Range header of each request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.breaks: list[int] = []
        self.knows_ranges = True
        self.asked: list[str | None] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers["Range"]
        self.asked.append(wanted)
        content = self.files.get(request.path[1:])
        if content is None:
            request.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.knows_ranges else 0
        rest = content[start:]
        request.send_response(206 if wanted and self.knows_ranges else 200)
        request.send_header("Content-Length", str(len(rest)))
        request.end_headers()
        request.wfile.write(rest[: self.breaks.pop(0)] if self.breaks else rest)

    def offer(self, name: str, content: bytes) -> Archive:
        self.files[name] = content
        url = f"http://127.0.0.1:{self.server.server_port}/{name}"
        return Archive(url, hashlib.md5(content).hexdigest(), len(content))


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.server.shutdown()
    made.server.server_close()


def tar_of(**files: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return target.getvalue()


def zip_of(**files: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def get(archive: Archive, output: Path) -> list[str]:
    lines: list[str] = []
    download([archive], output, lines.append, wait=0.0)
    return lines


@pytest.mark.parametrize("name", ["data.tar", "data.zip"])
def test_an_archive_is_checked_and_unpacked_once(name: str, host: Host, tmp_path: Path) -> None:
    make = {"data.tar": tar_of, "data.zip": zip_of}[name]
    archive = host.offer(name, make(**{"VOC/JPEGImages/a.jpg": CONTENT}))
    lines = get(archive, tmp_path / "out")
    assert (tmp_path / "out/VOC/JPEGImages/a.jpg").read_bytes() == CONTENT
    assert not (tmp_path / "out" / name).exists()
    assert f"{name}: MD5 {archive.md5} is right; unpacking" in lines
    assert get(archive, tmp_path / "out") == [f"{name}: is here already"]
    assert host.asked == [None]


def test_a_download_that_breaks_off_goes_on(host: Host, tmp_path: Path) -> None:
    archive = host.offer("data.tar", tar_of(a=CONTENT))
    host.breaks = [300_000, 200_000]
    get(archive, tmp_path)
    assert host.asked == [None, "bytes=300000-", "bytes=500000-"]
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_later_call_goes_on(host: Host, tmp_path: Path) -> None:
    archive = host.offer("data.tar", tar_of(a=CONTENT))
    (tmp_path / "data.tar.part").write_bytes(host.files["data.tar"][:1000])
    get(archive, tmp_path)
    assert host.asked == ["bytes=1000-"]
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_host_without_ranges_begins_again(host: Host, tmp_path: Path) -> None:
    archive = host.offer("data.tar", tar_of(a=CONTENT))
    host.knows_ranges = False
    host.breaks = [300_000]
    get(archive, tmp_path)
    assert host.asked == [None, "bytes=300000-"]
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_it_gives_up_and_keeps_what_it_has(host: Host, tmp_path: Path) -> None:
    archive = host.offer("data.tar", tar_of(a=CONTENT))
    host.breaks = [1000, *[0] * 10]
    with pytest.raises(OSError, match=r"data\.tar: ended after 1,000 of .* the same command goes on"):
        get(archive, tmp_path)
    assert (tmp_path / "data.tar.part").stat().st_size == 1000
    host.breaks = []
    get(archive, tmp_path)
    assert host.asked[-1] == "bytes=1000-"
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_another_content_is_refused_and_deleted(host: Host, tmp_path: Path) -> None:
    archive = host.offer("data.tar", tar_of(a=CONTENT))
    host.files["data.tar"] = host.files["data.tar"][:-1] + b"x"
    with pytest.raises(DataError, match=rf"data\.tar: its MD5 is .*, expected {archive.md5}; it was deleted"):
        get(archive, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_absent_file_is_not_asked_for_again(host: Host, tmp_path: Path) -> None:
    archive = host.offer("data.tar", b"")
    del host.files["data.tar"]
    missing = Archive(archive.url, archive.md5, 5)
    with pytest.raises(OSError, match=r"data\.tar: Not Found"):
        get(missing, tmp_path)
    assert host.asked == [None]


@pytest.mark.parametrize(
    "member", ["../outside", "/tmp/outside", "a/../../outside", "..\\outside", "C:/outside"]
)
@pytest.mark.parametrize("name", ["data.tar", "data.zip"])
def test_a_path_out_of_the_folder_is_refused(name: str, member: str, host: Host, tmp_path: Path) -> None:
    make = {"data.tar": tar_of, "data.zip": zip_of}[name]
    archive = host.offer(name, make(**{"good": b"1", member: b"2"}))
    with pytest.raises(DataError, match="would lie outside of the folder"):
        get(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind: bytes, host: Host, tmp_path: Path) -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(DataError, match="'link' is a link or a device, which is refused"):
        get(host.offer("data.tar", target.getvalue()), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["data.tar", "data.zip"])
def test_a_damaged_archive_is_named(name: str, host: Host, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{name}: cannot be unpacked"):
        get(host.offer(name, b"no archive" * 100), tmp_path)


def test_a_full_disk_is_foreseen(host: Host, tmp_path: Path) -> None:
    archive = host.offer("data.tar", tar_of(a=CONTENT))
    with pytest.raises(OSError, match="GB are needed to download and unpack"):
        get(Archive(archive.url, archive.md5, 10**16), tmp_path)
    assert host.asked == []


def test_the_official_archives_are_whole() -> None:
    for archives in ARCHIVES.values():
        for archive in archives:
            assert archive.url.startswith(("http://host.robots.ox.ac.uk/", "http://images.cocodataset.org/"))
            assert len(bytes.fromhex(archive.md5)) == 16
            assert archive.name.endswith((".tar", ".zip"))
