"""Storage: atomic writes, publication that leaves the old or the new, listing and checksums."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from sparton import publication, storage
from sparton.errors import DataError
from tests import unprivileged


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
    with publication.publish(str(output)) as staging:
        storage.write_text(storage.join(staging, "a"), "new")
        assert not output.exists()
    assert tree(tmp_path) == {"out/a": "new"}


def test_publish_replaces_the_whole_folder(tmp_path: Path) -> None:
    storage.write_text(str(tmp_path / "out" / "old"), "old")
    with publication.publish(str(tmp_path / "out")) as staging:
        storage.write_text(storage.join(staging, "new"), "new")
    assert tree(tmp_path) == {"out/new": "new"}


def test_error_inside_publish_keeps_the_old_folder(tmp_path: Path) -> None:
    storage.write_text(str(tmp_path / "out" / "old"), "old")

    def fail() -> None:
        with publication.publish(str(tmp_path / "out")) as staging:
            storage.write_text(storage.join(staging, "new"), "new")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        fail()
    assert tree(tmp_path) == {"out/old": "old"}


def test_publication_without_exchange_and_recovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_exchange", lambda first, second: False)
    output = str(tmp_path / "out")
    for text in ("first", "second"):
        with publication.publish(output) as staging:
            storage.write_text(storage.join(staging, "a"), text)
    assert tree(tmp_path) == {"out/a": "second"}
    # A process that died between the two renames leaves the old content set aside, and the new one for the next.
    storage.rename(output, str(tmp_path / ".out.retired"))
    storage.write_text(str(tmp_path / "out.staging-1" / "a"), "third")
    storage.write_text(str(tmp_path / ".out.journal"), "out.staging-1")
    with pytest.raises(RuntimeError), publication.publish(output):
        raise RuntimeError("no")
    assert tree(tmp_path) == {"out/a": "third"}
    # After the second rename it leaves the journal.
    storage.write_text(str(tmp_path / ".out.journal"), "out.staging-1")
    publication.recover(output)
    assert tree(tmp_path) == {"out/a": "third"}


NAMES = ("a", "part/b", "part/c", "_quarantine/d", "_stage.json")


@pytest.mark.parametrize("copied", range(len(NAMES)))
@pytest.mark.parametrize("way", ["publish", "extend"])
def test_an_interrupted_copy_on_object_storage_is_finished_by_the_next(
    copied: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old content, interrupted after some files were put into place, then whoever comes next."""
    fsspec.filesystem("memory").store.clear()
    output = "memory://bucket/out"
    for name in ("a", "old", "_stage.json"):
        storage.write_text(storage.join(output, name), "old")
    links: list[str] = []
    copy = storage.link

    def fail_later(source: str, target: str) -> None:
        if target.startswith(f"{output}/"):
            if len(links) == copied:
                raise ConnectionError("gone")
            links.append(target)
        copy(source, target)

    def write() -> None:
        with getattr(publication, way)(output) as staging:
            for name in NAMES:
                storage.write_text(storage.join(staging, name), "new")
            storage.remove(storage.join(staging, "old"))

    with monkeypatch.context() as patched:
        patched.setattr(storage, "link", fail_later)
        patched.setattr(publication, "COPY_THREADS", 1)
        with pytest.raises(ConnectionError):
            write()
    assert links == [storage.join(output, name) for name in NAMES[:copied]]
    with pytest.raises(DataError, match="being published, or that was interrupted"):
        publication.require_whole(output)
    publication.recover(output)
    publication.require_whole(output)
    assert storage.list_files("memory://bucket") == sorted(f"out/{name}" for name in NAMES)
    assert {storage.read_text(storage.join(output, name)) for name in NAMES} == {"new"}


def test_files_that_stay_are_not_copied_back_where_storage_tags_content(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("memory").store.clear()
    output = "memory://bucket/out"
    for name in ("a", "b"):
        storage.write_text(storage.join(output, name), "old")
    identities = storage.identities

    def tagged(folder: str) -> dict[str, tuple[object, ...]]:
        return {
            path: (*entry[:3], hashlib.md5(storage.read_text(storage.join(folder, path)).encode()).hexdigest(), None)
            for path, entry in identities(folder).items()
        }

    links: list[str] = []
    copy = storage.link
    monkeypatch.setattr(storage, "identities", tagged)
    monkeypatch.setattr(storage, "link", lambda source, target: (links.append(target), copy(source, target)))
    with publication.extend(output) as staging:
        storage.write_text(storage.join(staging, "b"), "new")
    assert [path for path in links if path.startswith(f"{output}/")] == [f"{output}/b"]
    assert [storage.read_text(storage.join(output, name)) for name in ("a", "b")] == ["old", "new"]


def test_killed_publisher_leaves_the_old_folder(tmp_path: Path) -> None:
    storage.write_text(str(tmp_path / "out" / "a"), "old")
    code = (
        "import os, signal, sys\nfrom sparton import publication, storage\n"
        "with publication.publish(sys.argv[1]) as staging:\n"
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
    with (output / "a").open() as reader, publication.extend(str(output)) as staging:
        storage.write_text(storage.join(staging, "a"), "new a")
        storage.write_text(storage.join(staging, "d"), "new d")
        storage.remove(storage.join(staging, "c"))
        assert tree(output) == {"a": "old a", "c": "old c", "split=x/b": "old split=x/b"}
        assert reader.read() == "old a"
    assert tree(tmp_path) == {"out/a": "new a", "out/d": "new d", "out/split=x/b": "old split=x/b"}
    assert (output / "split=x" / "b").stat().st_ino == inode  # a link, not a copy


def test_extension_of_nothing_is_a_publication(tmp_path: Path) -> None:
    with publication.extend(str(tmp_path / "out")) as staging:
        assert tree(Path(staging)) == {}
        storage.write_text(storage.join(staging, "a"), "new")
    assert tree(tmp_path) == {"out/a": "new"}


def test_extension_copies_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", refuse)
    storage.write_text(str(tmp_path / "out" / "deep" / "a"), "old")
    with publication.extend(str(tmp_path / "out")) as staging:
        storage.write_text(storage.join(staging, "b"), "new")
    assert tree(tmp_path) == {"out/b": "new", "out/deep/a": "old"}


def test_extension_of_a_remote_folder() -> None:
    fsspec.filesystem("memory").store.clear()
    output = "memory://bucket/out"
    storage.write_text(storage.join(output, "part", "a"), "old")
    with publication.extend(output) as staging:
        storage.write_text(storage.join(staging, "b"), "new")
    assert storage.list_files(output) == ["b", "part/a"]
    assert storage.read_text(storage.join(output, "part", "a")) == "old"


def test_extension_notices_another_writer(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    storage.write_text(storage.join(output, "a"), "old")

    def race() -> None:
        with publication.extend(output) as staging:
            storage.write_text(storage.join(output, "b"), "by hand")
            storage.write_text(storage.join(staging, "c"), "first")

    with pytest.raises(DataError, match="another run changed it while it was being extended"):
        race()
    assert tree(tmp_path) == {"out/a": "old", "out/b": "by hand"}


def test_killed_extension_leaves_the_old_folder(tmp_path: Path) -> None:
    for path in ("a", "b"):
        storage.write_text(str(tmp_path / "out" / path), "old")
    code = (
        "import os, signal, sys\nfrom sparton import publication, storage\n"
        "with publication.extend(sys.argv[1]) as staging:\n"
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
        with publication.publish(output) as staging:
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


def test_names_that_look_like_patterns_are_escaped_for_spark() -> None:
    assert storage.spark_source("memory://run [1]/{a,b}*?") == r"memory://run \[1\]/\{a,b\}\*\?"
    assert storage.spark_source("/plain/50%") == "file:///plain/50%"


def test_expand_files_folders_and_patterns(tmp_path: Path) -> None:
    for path in ("a.h5", "deep/b.h5", "deep/.hidden.h5", "_quarantine/c.h5", "notes.txt"):
        storage.write_text(str(tmp_path / path), "x")
    assert storage.expand(str(tmp_path)) == [str(tmp_path / path) for path in ("a.h5", "deep/b.h5", "notes.txt")]
    assert storage.expand(str(tmp_path / "*.h5")) == [str(tmp_path / "a.h5")]
    assert storage.expand(str(tmp_path / "a.h5")) == [str(tmp_path / "a.h5")]
    assert storage.expand(str(tmp_path / "gone")) == []


def test_brackets_may_be_part_of_a_name(tmp_path: Path) -> None:
    for path in ("a[1].h5", "a1.h5", "run[2]/b.h5", "run2/c.h5"):
        storage.write_text(str(tmp_path / path), path)
    assert storage.expand(str(tmp_path / "a[1].h5")) == [str(tmp_path / "a[1].h5")]
    assert storage.expand(str(tmp_path / "a[12].h5")) == [str(tmp_path / "a1.h5")]
    assert storage.expand(str(tmp_path / "run[2]")) == [str(tmp_path / "run[2]" / "b.h5")]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    storage.write_text(str(tmp_path / "disk" / "deep" / "a.h5"), "x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "deep" / "back").symlink_to(tmp_path / "in")
    assert storage.expand(str(tmp_path / "in")) == [str(tmp_path / "in" / "linked" / "deep" / "a.h5")]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    storage.write_text(str(tmp_path / "in" / "a.h5"), "x")
    storage.write_text(str(tmp_path / "in" / "locked" / "b.h5"), "x")
    (tmp_path / "in" / "locked").chmod(0)
    code = (
        "import sys\n"
        "from sparton import storage\n"
        "from sparton.errors import DataError\n"
        "try:\n    print(storage.expand(sys.argv[1]))\n"
        "except DataError as error:\n    print(error)\n"
    )
    ended = unprivileged.run([sys.executable, "-c", code, str(tmp_path / "in")])
    (tmp_path / "in" / "locked").chmod(0o755)
    assert (
        ended.stdout.strip() == f"{tmp_path}/in/locked: cannot be listed (Permission denied); its files would be missed"
    )


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
    assert storage._known_scheme("abfss://box@account/a") == "abfs://box@account/a"
    monkeypatch.setattr(storage, "DBFS_MOUNT", str(tmp_path / "not there"))
    with pytest.raises(DataError, match=r"dbfs:/in/a: .*not there is not mounted"):
        storage.exists("dbfs:/in/a")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3a://bucket/a", "s3fs.* must be installed on the driver and on all executors"),
        ("abfss://box@account.dfs.core.windows.net/a", "adlfs.* must be installed on the driver and on all executors"),
        ("gs://bucket/a", "gcsfs.* must be installed"),
        ("hdfs://host:1/a", "cannot be reached"),
        ("nowhere://a", "cannot be reached .*nowhere"),
    ],
)
def test_storage_that_is_not_there_is_one_line(url: str, reason: str) -> None:
    package = reason.partition(".")[0]
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(DataError, match=f"^{re.escape(url)}: .*{reason}") as error:
        storage.exists(url)
    assert len(str(error.value).splitlines()) == 1
