"""Storage: atomic writes, publication that leaves the old or the new, listing and checksums."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from sparton import storage
from sparton.errors import DataError


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_text_and_json_round_trip(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "a.json")
    storage.write_json(path, {"mass": 80.4, "name": "größe"})
    assert storage.read_json(path) == {"mass": 80.4, "name": "größe"}
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_failed_write_leaves_the_old_text_and_no_rest(tmp_path: Path) -> None:
    path = str(tmp_path / "a.txt")
    storage.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        storage.write_text(path, "\ud800")
    assert tree(tmp_path) == {"a.txt": "old"}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_damaged_json_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json: not readable as JSON"):
        storage.read_json(str(tmp_path / "a.json"))


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        storage.read_json(str(tmp_path / "a.json"))


def test_checksum_is_sha256(tmp_path: Path) -> None:
    content = os.urandom(3 * storage.READ_BLOCK + 17)
    (tmp_path / "a").write_bytes(content)
    assert storage.sha256(str(tmp_path / "a")) == hashlib.sha256(content).hexdigest()
    assert storage.size(str(tmp_path / "a")) == len(content)


def test_listing_is_relative_and_sorted(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a"):
        storage.write_text(str(tmp_path / name), name)
    assert storage.list_files(str(tmp_path)) == ["a", "b/1", "b/2"]
    assert storage.list_files(f"{tmp_path}/") == ["a", "b/1", "b/2"]
    assert storage.list_folders(str(tmp_path)) == ["b"]
    assert storage.list_folders(str(tmp_path / "missing")) == []


def test_publish_a_new_folder(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with storage.publish(str(output)) as staging:
        storage.write_text(storage.join(staging, "a"), "new")
        assert not output.exists()
    assert tree(tmp_path) == {"out/a": "new"}


def test_publish_replaces_the_whole_folder(tmp_path: Path) -> None:
    storage.write_text(str(tmp_path / "out" / "old"), "old")
    with storage.publish(str(tmp_path / "out")) as staging:
        storage.write_text(storage.join(staging, "new"), "new")
    assert tree(tmp_path) == {"out/new": "new"}


def test_error_inside_publish_keeps_the_old_folder(tmp_path: Path) -> None:
    storage.write_text(str(tmp_path / "out" / "old"), "old")

    def fail() -> None:
        with storage.publish(str(tmp_path / "out")) as staging:
            storage.write_text(storage.join(staging, "new"), "new")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        fail()
    assert tree(tmp_path) == {"out/old": "old"}


def test_publication_without_exchange_and_recovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_exchange", lambda first, second: False)
    output = str(tmp_path / "out")
    for text in ("first", "second"):
        with storage.publish(output) as staging:
            storage.write_text(storage.join(staging, "a"), text)
    assert tree(tmp_path) == {"out/a": "second"}
    # A process that died between the two renames leaves the old content set aside.
    storage.rename(output, str(tmp_path / ".out.retired"))
    with pytest.raises(RuntimeError), storage.publish(output):
        raise RuntimeError("no")
    assert tree(tmp_path) == {"out/a": "second"}


def test_killed_publisher_leaves_the_old_folder(tmp_path: Path) -> None:
    storage.write_text(str(tmp_path / "out" / "a"), "old")
    code = (
        "import os, signal, sys\nfrom sparton import storage\n"
        "with storage.publish(sys.argv[1]) as staging:\n"
        "    storage.write_text(storage.join(staging, 'a'), 'new')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (tmp_path / "out" / "a").read_text() == "old"


def test_extension_keeps_adds_and_replaces(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for path in ("a", "split=x/b", "c"):
        storage.write_text(str(output / path), f"old {path}")
    inode = (output / "split=x" / "b").stat().st_ino
    with (output / "a").open() as reader, storage.extend(str(output)) as staging:
        storage.write_text(storage.join(staging, "a"), "new a")
        storage.write_text(storage.join(staging, "d"), "new d")
        storage.remove(storage.join(staging, "c"))
        assert tree(output) == {"a": "old a", "c": "old c", "split=x/b": "old split=x/b"}
        assert reader.read() == "old a"
    assert tree(tmp_path) == {"out/a": "new a", "out/d": "new d", "out/split=x/b": "old split=x/b"}
    assert (output / "split=x" / "b").stat().st_ino == inode  # a link, not a copy


def test_extension_of_nothing_is_a_publication(tmp_path: Path) -> None:
    with storage.extend(str(tmp_path / "out")) as staging:
        assert tree(Path(staging)) == {}
        storage.write_text(storage.join(staging, "a"), "new")
    assert tree(tmp_path) == {"out/a": "new"}


def test_extension_copies_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", refuse)
    storage.write_text(str(tmp_path / "out" / "deep" / "a"), "old")
    with storage.extend(str(tmp_path / "out")) as staging:
        storage.write_text(storage.join(staging, "b"), "new")
    assert tree(tmp_path) == {"out/b": "new", "out/deep/a": "old"}


def test_extension_of_a_remote_folder() -> None:
    fsspec.filesystem("memory").store.clear()
    output = "memory://bucket/out"
    storage.write_text(storage.join(output, "part", "a"), "old")
    with storage.extend(output) as staging:
        storage.write_text(storage.join(staging, "b"), "new")
    assert storage.list_files(output) == ["b", "part/a"]
    assert storage.read_text(storage.join(output, "part", "a")) == "old"


def test_extension_notices_another_writer(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    storage.write_text(storage.join(output, "a"), "old")

    def race() -> None:
        with storage.extend(output) as staging:
            storage.write_text(storage.join(output, "b"), "by hand")
            storage.write_text(storage.join(staging, "c"), "first")

    with pytest.raises(DataError, match="another run changed it while it was being extended"):
        race()
    assert tree(tmp_path) == {"out/a": "old", "out/b": "by hand"}


def test_killed_extension_leaves_the_old_folder(tmp_path: Path) -> None:
    for path in ("a", "b"):
        storage.write_text(str(tmp_path / "out" / path), "old")
    code = (
        "import os, signal, sys\nfrom sparton import storage\n"
        "with storage.extend(sys.argv[1]) as staging:\n"
        "    storage.write_text(storage.join(staging, 'a'), 'new')\n"
        "    storage.remove(storage.join(staging, 'b'))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert tree(tmp_path / "out") == {"a": "old", "b": "old"}


def test_remote_file_system_goes_the_same_way() -> None:
    fsspec.filesystem("memory").store.clear()
    output = "memory://bucket/out"
    for text in ("first", "second"):
        with storage.publish(output) as staging:
            storage.write_text(storage.join(staging, "part", "a"), text)
    assert storage.list_files(output) == ["part/a"]
    assert storage.read_text(storage.join(output, "part", "a")) == "second"
    assert storage.absolute(output) == output
    assert storage.spark_url(output) == output
    with pytest.raises(DataError, match="local or mounted"):
        storage.local_path(output)


def test_local_paths_become_urls_for_spark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.spark_url("data/jets") == f"file://{tmp_path}/data/jets"
    assert storage.absolute("data/jets") == f"{tmp_path}/data/jets"


def test_expand_files_folders_and_patterns(tmp_path: Path) -> None:
    for path in ("a.h5", "deep/b.h5", "deep/.hidden.h5", "_quarantine/c.h5", "notes.txt"):
        storage.write_text(str(tmp_path / path), "x")
    assert storage.expand(str(tmp_path)) == [str(tmp_path / path) for path in ("a.h5", "deep/b.h5", "notes.txt")]
    assert storage.expand(str(tmp_path / "*.h5")) == [str(tmp_path / "a.h5")]
    assert storage.expand(str(tmp_path / "a.h5")) == [str(tmp_path / "a.h5")]
    assert storage.expand(str(tmp_path / "gone")) == []


def test_expand_remote() -> None:
    fsspec.filesystem("memory").store.clear()
    for path in ("a.h5", "deep/b.h5"):
        storage.write_text(f"memory://bucket/{path}", "x")
    for found in (storage.expand("memory://bucket/*.h5"), storage.expand("memory://bucket")[:1]):
        assert [storage.read_text(path) for path in found] == ["x"]
        assert not storage.is_local(found[0])


def test_schemes_of_hadoop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage.local_path("file:/data/a.h5") == storage.local_path("file:///data/a.h5") == "/data/a.h5"
    monkeypatch.setattr(storage, "DBFS_MOUNT", str(tmp_path))
    storage.write_text(str(tmp_path / "in" / "a"), "mounted")
    assert storage.read_text("dbfs:/in/a") == "mounted"
    assert storage._known_scheme("s3a://bucket/a") == "s3://bucket/a"
    assert storage._known_scheme("abfss://box@account/a") == "abfss://box@account/a"
