"""What takes too long is left alone, and the next is done all the same."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from eventlog.blobs import aside
from eventlog.blobs.aside import Aside
from eventlog.blobs.remote import Late, LateUndone
from tests.conftest import PATIENCE


def test_what_is_done_in_time_is_answered() -> None:
    assert Aside("test").run(lambda: 1, PATIENCE) == 1

    def fail() -> None:
        raise KeyError("it")

    with pytest.raises(KeyError, match="it"):
        Aside("test").run(fail, PATIENCE)


def test_who_waits_for_what_does_not_end_does_so_for_its_time_only() -> None:
    beside, go_on = Aside("test"), threading.Event()
    with pytest.raises(Late, match="no answer in time"):
        beside.run(lambda: go_on.wait(PATIENCE), 0.01)
    assert beside.run(lambda: 1, PATIENCE) == 1
    go_on.set()


def test_where_nothing_ends_no_more_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once something does, it is. A child has nothing of all that."""
    monkeypatch.setattr(aside, "_MOST_LEFT", 2)
    beside, ends = Aside("test"), [threading.Event() for _ in range(3)]
    for end in ends[:2]:
        with pytest.raises(Late):
            beside.run(end.wait, 0.01)
    with pytest.raises(LateUndone, match="2 requests before it have not even ended"):
        beside.run(ends[2].wait, PATIENCE)
    child = os.fork()
    if not child:
        os._exit(beside.run(lambda: 7, PATIENCE))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    left = beside._left[0]
    ends[0].set()
    left.join(PATIENCE)
    assert beside.run(lambda: 1, PATIENCE) == 1
    ends[1].set()


def test_many_may_be_under_way() -> None:
    beside, meeting = Aside("test"), threading.Barrier(30)
    with ThreadPoolExecutor(30) as threads:
        answers = list(threads.map(lambda _: beside.run(meeting.wait, PATIENCE), range(30)))
    assert sorted(answers) == list(range(30))
