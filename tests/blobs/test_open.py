"""Opening stores by their URLs, and the store in memory."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog import UnsupportedOperationError, blobs
from eventlog.blobs import memory
from eventlog.blobs.directory import DirectoryBlobs
from eventlog.blobs.memory import MemoryBlobs


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}"])
def test_a_path_is_a_directory_store(form: str, tmp_path: Path) -> None:
    with blobs.open(form.format(tmp_path / "store")) as store:
        store.put("a", b"1")
    assert (tmp_path / "store" / "a").read_bytes() == b"1"


def test_a_path_may_be_an_object_be_relative_and_have_a_colon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stores = {name: blobs.open(name) for name in ("x", "./s3:x", "c:x")}
    stores["m:y"] = blobs.open(Path("m:y"))
    monkeypatch.chdir("/")
    for name, store in stores.items():
        store.put("a", name.encode())
        assert (tmp_path / name / "a").read_bytes() == name.encode()


def test_a_home_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    blobs.open("~/store").put("a", b"1")
    assert (tmp_path / "store" / "a").exists()


def test_a_store_in_memory_without_a_name_is_new_each_time() -> None:
    with blobs.open("memory:") as one, blobs.open("memory:") as other:
        one.put("a", b"1")
        assert other.list("") == []


def test_a_store_in_memory_with_a_name_is_shared_and_goes_with_the_last_who_has_it() -> None:
    with blobs.open("memory:shared") as one:
        with blobs.open("memory:shared") as other, blobs.open("memory:else") as another:
            etag = one.put("a", b"1")
            assert other.list("") == [("a", etag)]
            assert another.list("") == []
        assert one.list("") == [("a", etag)]
    gc.collect()
    with blobs.open("memory:shared") as again:
        assert again.list("") == []


def test_a_forked_child_goes_on_with_a_copy_of_a_store_in_memory() -> None:
    """Even if a thread of its parent's, which it does not have, was just using it."""
    with blobs.open("memory:") as store:
        store.put("a", b"1")
        with memory._mutex:
            child = os.fork()
            if not child:
                signal.alarm(60)
                store.put("b", b"2")
                os._exit(len(store.list("")))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
        assert len(store.list("")) == 1


@pytest.mark.parametrize("url", ["nonsense:x", "mysql://me:secret@host/db"])
def test_what_there_is_no_store_for_is_said_without_what_may_be_secret(url: str) -> None:
    with pytest.raises(UnsupportedOperationError, match=url.partition(":")[0]) as caught:
        blobs.open(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["memory:", "file:x", "x"])
def test_a_store_that_has_no_options_takes_none(url: str) -> None:
    with pytest.raises(ValueError, match="timeout"):
        blobs.open(url, timeout=3)


@pytest.mark.parametrize("url", ["memory:?timeout=3", "file:store?timeout=3"])
def test_an_option_is_not_taken_for_a_part_of_a_name(url: str) -> None:
    with pytest.raises(ValueError, match="no options"):
        blobs.open(url)


def test_a_path_may_have_a_question_mark(tmp_path: Path) -> None:
    blobs.open(tmp_path / "a?b").put("a", b"1")
    assert (tmp_path / "a?b" / "a").exists()


@pytest.mark.parametrize("url", ["", "file:", "file://"])
def test_a_url_that_names_nothing_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="names no directory"):
        blobs.open(url)


@pytest.mark.parametrize("url", [b"store", None, 1])
def test_a_url_of_a_wrong_type_is_refused(url: Any) -> None:
    with pytest.raises(TypeError):
        blobs.open(url)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        blobs.open(tmp_path / "file")


def test_a_log_is_no_directory_of_blobs(log_path: Path) -> None:
    eventlog.open(log_path).close()
    with pytest.raises(UnsupportedOperationError, match="is a log"):
        blobs.open(log_path)


def test_stores_say_where_they_are(tmp_path: Path) -> None:
    assert repr(MemoryBlobs("x")) == "<BlobStore at memory:x>"
    assert repr(DirectoryBlobs(tmp_path)) == f"<BlobStore at {tmp_path}>"


def test_importing_eventlog_is_enough_to_open_a_store() -> None:
    assert eventlog.blobs.open is blobs.open
