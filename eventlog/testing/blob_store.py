"""The contract of `eventlog.blobs.BlobStore`, test by test."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, ClassVar, Final

from eventlog.blobs import NOT_MODIFIED, Blob, BlobStore
from eventlog.errors import ClosedError, InvalidNameError, PreconditionFailedError
from eventlog.testing.expecting import raises
from eventlog.testing.races import (
    CONTESTED,
    RACERS,
    Opener,
    create_and_delete,
    increment,
    race,
    writing,
)

__all__ = ["BlobStoreContract"]

_MIB: Final = 1024 * 1024
_PATIENCE_SECONDS: Final = 60.0
_SIZES: Final = (0, 1, 300, 2000, 4000, *range(4030, 4100, 10), 8160, 8161, 65_536, _MIB)

_NAMES: Final = (
    "a",
    "0",
    "_",
    "-",
    "a.json",
    "groups/0b/cars/fraud/group.json",
    "UPPER/lower/Mixed-Case_0.9",
    "con/nul/aux.txt",
    "a" * 255,
    "/".join(["b" * 255] * 4),
    "/".join(["c"] * 512),
)
_BAD_NAMES: Final = (
    *("", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".a", "a/.b"),
    *("a b", "a\n", "a\0b", "a\\b", "a:b", "a?b", "a#b", "a%41", "a*", "~", "ä", "a/ä", "\ud800"),
    *("a" * 256, "b/" + "a" * 256, "/".join(["c"] * 513), "/".join(["b" * 255] * 5)),
)
_ORDERED: Final = ("a", "a-b", "a.b", "a0", "aA", "a_b", "aa-/x", "aa./x", "aa/x", "aa0/x", "b")
"""In the order of their bytes, which is not that of their segments."""


class BlobStoreContract:
    """The contract of `eventlog.blobs.BlobStore`, test by test.

    Who derives from it supplies the fixture `store`, a new and empty store for each test.

    Attributes:
        new_etag_with_every_put: whether content that is put a second time gets another etag; not
            so on a store whose etags are hashes.
        many: how many blobs are put to be listed; more than one page of a listing that has pages.
        closes: whether `close` closes it; not so what is a part of something else.
    """

    new_etag_with_every_put: ClassVar[bool] = True
    many: ClassVar[int] = 1100
    closes: ClassVar[bool] = True

    def opener(self, store: BlobStore) -> Opener | None:  # noqa: ARG002 - others look at it
        """What opens `store` in another process; None if no other process can."""
        return None

    # Putting and getting

    def test_what_is_not_there_is_none(self, store: BlobStore) -> None:
        """Whatever version the caller knows."""
        assert store.get("a/b/c") is None
        assert store.get("a", if_none_match="0123") is None

    def test_a_blob_comes_back_as_it_was_put(self, store: BlobStore) -> None:
        """Its name, its data, byte by byte, and the etag that the put returned."""
        data = bytes(range(256)) * 2
        etag = store.put("groups/cars/group.json", data)
        blob = _get(store, "groups/cars/group.json")
        assert (blob.name, blob.data, blob.etag) == ("groups/cars/group.json", data, etag)
        assert type(blob.data) is bytes
        assert isinstance(etag, str)
        assert etag

    def test_a_blob_says_when_it_was_put(self, store: BlobStore) -> None:
        """In UTC."""
        store.put("a", b"1")
        assert _get(store, "a").modified_at.utcoffset() == timedelta(0)

    def test_data_of_every_size_come_back(self, store: BlobStore) -> None:
        """Nothing at all, and sizes around those that a store may cut them into."""
        for size in _SIZES:
            data = _bytes(size)
            store.put("a", data)
            assert _get(store, "a").data == data, size

    def test_the_largest_blob_can_replace_and_be_replaced(self, store: BlobStore) -> None:
        """4 MiB: nothing of a longer version is left behind a shorter one."""
        largest = _bytes(4 * _MIB)
        for data in (b"small", largest, largest[::-1], b"", largest, b"small again"):
            etag = store.put("a", data)
            assert _get(store, "a") == Blob("a", data, etag, _get(store, "a").modified_at)
        store.put("a", largest)
        store.delete("a")
        assert store.get("a") is None

    def test_too_much_data_are_refused(self, store: BlobStore) -> None:
        """One byte more than 4 MiB, and what was there stays."""
        store.put("a", b"kept")
        with raises(ValueError):
            store.put("a", bytes(4 * _MIB + 1))
        assert _get(store, "a").data == b"kept"

    def test_wrong_types_are_refused(self, store: BlobStore) -> None:
        """Text is not encoded, and a blob is not taken for its etag."""
        wrong: Any = "text"
        store.put("a", b"1")
        blob: Any = store.get("a")
        calls: list[Callable[[], object]] = [
            lambda: store.put("a", wrong),
            lambda: store.put("a", None),  # type: ignore[arg-type]
            lambda: store.put("a", b"2", if_match=blob),
            lambda: store.get("a", if_none_match=blob),
            lambda: store.delete("a", if_match=blob),
        ]
        not_text: Any
        for not_text in (b"a", None, 1, ["a"]):
            calls += [
                functools.partial(store.get, not_text),
                functools.partial(store.put, not_text, b"2"),
                functools.partial(store.list, not_text),
                functools.partial(store.delete, not_text),
            ]
        for call in calls:
            with raises(TypeError):
                call()
        assert store.get("a") == blob

    # Etags

    def test_every_put_gives_another_etag(self, store: BlobStore) -> None:
        """However quickly they follow each other."""
        etags = [store.put("a", b"%d" % number) for number in range(100)]
        assert len(set(etags)) == len(etags)

    def test_content_put_again_gets_another_etag(self, store: BlobStore) -> None:
        """A deletion in between changes nothing about that."""
        if self.new_etag_with_every_put:
            etags = [store.put("a", b"same") for _ in range(50)]
            for _ in range(50):
                store.delete("a")
                etags.append(store.put("a", b"same"))
            assert len(set(etags)) == len(etags)

    def test_what_did_not_change_is_not_sent(self, store: BlobStore) -> None:
        """Another version is, and so is that behind an etag that never was one."""
        first = store.put("a", b"1")
        assert store.get("a", if_none_match=first) is NOT_MODIFIED
        second = store.put("a", b"2")
        for other in (first, "", "*", f'"{second}"', "nonsense"):
            assert _get(store, "a", if_none_match=other).data == b"2"
        assert store.get("a", if_none_match=second) is NOT_MODIFIED

    # Conditions

    def test_a_put_with_the_etag_that_is_there_replaces(self, store: BlobStore) -> None:
        """And so does the next with the one it returned."""
        etag = store.put("a", b"0")
        for number in range(5):
            etag = store.put("a", b"%d" % number, if_match=etag)
            assert _get(store, "a").data == b"%d" % number

    def test_a_put_with_another_etag_changes_nothing(self, store: BlobStore) -> None:
        """An older one, another blob's, or one that never was."""
        old = store.put("a", b"1")
        etag = store.put("a", b"2")
        other = store.put("b", b"other")
        for stale in (old, other, "", "*", f'"{etag}"', "nonsense"):
            with raises(PreconditionFailedError):
                store.put("a", b"3", if_match=stale)
        assert (_get(store, "a").data, _get(store, "a").etag) == (b"2", etag)

    def test_a_put_with_an_etag_needs_a_blob(self, store: BlobStore) -> None:
        """What was deleted has no etag any more, and is not brought back."""
        etag = store.put("a", b"1")
        store.delete("a")
        for stale in (etag, "", "*"):
            with raises(PreconditionFailedError):
                store.put("a", b"2", if_match=stale)
        assert store.get("a") is None

    def test_a_put_that_creates_needs_a_free_name(self, store: BlobStore) -> None:
        """It is free again after a deletion; an empty blob takes it too."""
        etag = store.put("a", b"", if_absent=True)
        with raises(PreconditionFailedError):
            store.put("a", b"2", if_absent=True)
        assert (_get(store, "a").data, _get(store, "a").etag) == (b"", etag)
        store.delete("a")
        store.put("a", b"3", if_absent=True)
        assert _get(store, "a").data == b"3"

    def test_a_put_has_one_condition_at_most(self, store: BlobStore) -> None:
        """Both together could never hold."""
        with raises(ValueError):
            store.put("a", b"1", if_match="0", if_absent=True)

    # Deleting

    def test_what_is_deleted_is_gone(self, store: BlobStore) -> None:
        """From gets and from lists, and nothing else is."""
        for name in ("d/a", "d/a.b", "d/a-b", "d/aa", "e/a"):
            store.put(name, b"1")
        store.delete("d/a")
        assert store.get("d/a") is None
        assert _names(store) == ["d/a-b", "d/a.b", "d/aa", "e/a"]

    def test_deleting_nothing_is_no_error(self, store: BlobStore) -> None:
        """Twice is once; and a name is free for one blob after the last under it is deleted."""
        store.delete("a/b/c")
        store.put("a/b/c", b"1")
        store.delete("a/b/c")
        store.delete("a/b/c")
        store.put("a/b", b"2")
        assert _names(store) == ["a/b"]

    def test_a_deletion_with_an_etag_deletes_that_version_only(self, store: BlobStore) -> None:
        """Another version stays, and what is not there is no version."""
        old = store.put("a", b"1")
        etag = store.put("a", b"2")
        for stale in (old, "", "*", "nonsense"):
            with raises(PreconditionFailedError):
                store.delete("a", if_match=stale)
        assert _get(store, "a").data == b"2"
        store.delete("a", if_match=etag)
        for stale in (etag, "*"):
            with raises(PreconditionFailedError):
                store.delete("a", if_match=stale)

    # Listing

    def test_nothing_is_listed_of_an_empty_store(self, store: BlobStore) -> None:
        """Whatever the prefix."""
        assert store.list("") == []
        assert store.list("a/b/") == []

    def test_a_list_has_the_names_in_order_with_the_etags_of_now(self, store: BlobStore) -> None:
        """In the order of their bytes, whatever the order in which they were put."""
        etags = {name: store.put(name, b"old") for name in reversed(_ORDERED)}
        for name in ("a.b", "aa/x"):
            etags[name] = store.put(name, b"new")
        assert store.list("") == [(name, etags[name]) for name in _ORDERED]
        for name, etag in etags.items():
            assert store.get(name, if_none_match=etag) is NOT_MODIFIED

    def test_a_prefix_is_the_beginning_of_a_name(self, store: BlobStore) -> None:
        """It may end anywhere, in a segment, behind one or at the end of a name."""
        names = [
            *("groups/0/cars/a/group.json", "groups/0/cars/a/hosts/h1", "groups/0/cars/a/hosts/h2"),
            *("groups/0/cars/ab/group.json", "groups/0/carsten/a/group.json", "group", "h"),
        ]
        for name in names:
            store.put(name, b"1")
        prefixes = {name[:length] for name in names for length in range(len(name) + 1)}
        for prefix in sorted(prefixes | {"x", "groups/0/cars/a/hosts/h1/x", "group/", "h/"}):
            assert _names(store, prefix) == sorted(n for n in names if n.startswith(prefix)), prefix

    def test_a_long_list_is_whole(self, store: BlobStore) -> None:
        """Also where a store hands it out page by page."""
        names = sorted(f"many/{number % 7}/{number}" for number in range(self.many))
        with ThreadPoolExecutor(RACERS) as pool:
            list(pool.map(lambda name: store.put(name, b""), names))
        assert _names(store, "many/") == names
        assert _names(store, "many/3") == [name for name in names if name.startswith("many/3")]

    # Names

    def test_names_of_every_kind_come_back(self, store: BlobStore) -> None:
        """Up to the longest, and those that mean something to some operating system."""
        for name in _NAMES:
            store.put(name, name.encode())
        assert _names(store) == sorted(_NAMES)
        for name in _NAMES:
            assert _get(store, name).data == name.encode()
            store.delete(name)
        assert store.list("") == []

    def test_names_that_differ_in_case_differ(self, store: BlobStore) -> None:
        """In every segment, whatever the file system thinks."""
        names = sorted(["Cars/A", "Cars/a", "cars/A", "cars/a", "CARS/a"])
        for name in names:
            store.put(name, name.encode(), if_absent=True)
        assert _names(store) == names
        assert [_get(store, name).data for name in names] == [name.encode() for name in names]
        assert _names(store, "cars/") == ["cars/A", "cars/a"]
        store.delete("Cars/A")
        assert _names(store, "C") == ["CARS/a", "Cars/a"]

    def test_long_names_that_begin_alike_differ(self, store: BlobStore) -> None:
        """They are told apart by their last byte, and listed in order."""
        beginning = "/".join(["x" * 200] * 5)[:1000] + "/"
        names = [beginning + end for end in ("0", "1", "a/b", "a/c", "z")]
        for name in reversed(names):
            store.put(name, name.encode())
        assert _names(store, beginning[:600]) == names
        assert _names(store, beginning + "a/") == names[2:4]
        assert [_get(store, name).data for name in names] == [name.encode() for name in names]

    def test_bad_names_are_refused(self, store: BlobStore) -> None:
        """What would leave the store, or mean something else somewhere."""
        for name in _BAD_NAMES:
            for call in (store.get, store.delete, functools.partial(store.put, data=b"1")):
                with raises(InvalidNameError, about=name):
                    call(name)
        assert store.list("") == []

    def test_prefixes_that_no_name_begins_with_are_refused(self, store: BlobStore) -> None:
        """Rather than answered with nothing."""
        for prefix in set(_BAD_NAMES) - {"", "a/"}:
            with raises(InvalidNameError, about=prefix):
                store.list(prefix)

    # Watching

    def test_a_watch_tells_of_what_becomes_of_its_blob(self, store: BlobStore) -> None:
        """Where the store has any: of a put, of another in its place, of a deletion."""
        watch = store.watch("a/b")
        if watch is None:
            return
        store.put("other", b"0")
        for change in (
            lambda: store.put("a/b", b"1"),
            lambda: store.put("a/b", b"2"),
            lambda: store.delete("a/b"),
        ):
            watch.mark()
            assert not watch.wait(0)
            change()
            assert watch.changed()
            assert watch.wait()
        watch.close()
        assert not watch.wait()

    def test_a_watch_ends_the_wait_of_another_thread(self, store: BlobStore) -> None:
        """Whenever the change comes, and when the watch is closed."""
        watch = store.watch("a")
        if watch is None:
            return
        with ThreadPoolExecutor(1) as pool:
            for number in range(50):
                watch.mark()
                waiting = pool.submit(watch.wait)
                store.put("a", str(number).encode())
                assert waiting.result(_PATIENCE_SECONDS)
            watch.mark()
            waiting = pool.submit(watch.wait)
            watch.close()
            assert not waiting.result(_PATIENCE_SECONDS)

    def test_what_hosts_keep_beside_the_blobs_is_none_of_them(self, store: BlobStore) -> None:
        """Where users of the store share a directory."""
        directory = store.shared_directory
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "host.lock").write_bytes(b"")
        assert store.list("") == []
        store.put("a", b"1")
        assert _names(store) == ["a"]
        store.delete("a")
        assert (directory / "host.lock").exists()

    # Others at the same time

    def test_threads_lose_noincrement(self, store: BlobStore) -> None:
        """Each read, then swapped, and tried again if another came first."""
        race(store, None, functools.partial(increment, times=10))
        assert _get(store, "counter").data == b"%d" % (10 * RACERS)

    def test_processes_lose_noincrement(self, store: BlobStore) -> None:
        """The same with eight processes."""
        race(store, self.opener(store), functools.partial(increment, times=25))
        assert _get(store, "counter").data == b"%d" % (25 * RACERS)

    def test_of_all_that_create_or_delete_a_blob_one_does(self, store: BlobStore) -> None:
        """Eight processes try each of some names, and each learns rightly who was first."""
        for name in CONTESTED:
            store.put(f"doomed/{name}", b"", if_absent=True)
        won = race(store, self.opener(store), create_and_delete)
        for name in CONTESTED:
            creators = [number for number, (created, _) in enumerate(won) if name in created]
            deleters = [number for number, (_, deleted) in enumerate(won) if name in deleted]
            assert (len(creators), len(deleters)) == (1, 1)
            assert _get(store, f"new/{name}").data == b"%d" % creators[0]
        assert store.list("doomed/") == []

    def test_a_reader_sees_whole_versions(self, store: BlobStore) -> None:
        """Data of one put, under its etag, while another thread puts one after the other."""
        put: dict[str, bytes] = {}

        def write(number: int) -> None:
            data = b"%d " % number * (1 + number % 5 * 5000)
            put[store.put("a", data)] = data

        seen = []
        write(0)
        with writing(write):
            seen += [_get(store, "a") for _ in range(100)]
        for blob in seen:
            assert put[blob.etag] == blob.data

    def test_what_is_there_all_the_time_is_in_every_list(self, store: BlobStore) -> None:
        """However often it is replaced meanwhile, and whatever comes and goes beside it."""
        names = [f"hosts/h{number}" for number in range(5)]
        for name in names:
            store.put(name, b"0")

        def write(number: int) -> None:
            store.put(names[number % 5], b"%d" % number)
            store.put(f"hosts/x{number % 3}", b"")
            store.delete(f"hosts/x{number % 2}")

        with writing(write):
            for _ in range(100):
                assert [name for name in _names(store, "hosts/") if name in names] == names

    def test_others_see_what_was_put(self, store: BlobStore) -> None:
        """Who opens the store anew has the same blobs and etags, and may go on from there."""
        opener = self.opener(store)
        if opener is not None:
            etag = store.put("a", b"1")
            with opener() as other:
                assert other.get("a") == store.get("a")
                assert other.list("") == store.list("")
                other.put("a", b"2", if_match=etag)
            assert _get(store, "a").data == b"2"

    def test_what_is_apart_is_the_same_store(self, store: BlobStore) -> None:
        """Closed, if it is another object, it leaves the store open."""
        etag = store.put("a", b"1")
        apart = store.apart()
        assert apart.list("") == [("a", etag)]
        etag = apart.put("a", b"2", if_match=etag)
        if apart is not store:
            apart.close()
            assert apart.is_closed
        assert not store.is_closed
        assert store.list("") == [("a", etag)]

    # Closing

    def test_a_closed_store_says_so(self, store: BlobStore) -> None:
        """Whatever it is asked; closing it again is fine."""
        with store as entered:
            assert entered is store
        store.close()
        calls: list[Callable[[], object]] = [
            lambda: store.get("a"),
            lambda: store.put("a", b"1"),
            lambda: store.list(""),
            lambda: store.delete("a"),
        ]
        for call in calls:
            with raises(ClosedError) if self.closes else contextlib.nullcontext():
                call()


# ---- Asking --------------------------------------------------------------------------------------


def _get(store: BlobStore, name: str, if_none_match: str | None = None) -> Blob:
    blob = store.get(name, if_none_match=if_none_match)
    assert isinstance(blob, Blob), f"{name}: {blob}"
    return blob


def _names(store: BlobStore, prefix: str = "") -> list[str]:
    return [name for name, _ in store.list(prefix)]


def _bytes(size: int) -> bytes:
    """Bytes of which no part looks like another."""
    return b"".join(number.to_bytes(4) for number in range(-(-size // 4)))[:size]
