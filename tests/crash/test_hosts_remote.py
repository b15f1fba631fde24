"""Hosts in processes of their own, with their group in each store that is behind a network."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.conftest import seed_of_today
from tests.crash.hosts_scene import Scene
from tests.crash.hosts_theatre import Cast, Theatre

if TYPE_CHECKING:
    from tests.conftest import Start
    from tests.servers import Server

ROUGH: Final = ("kill", "pause", "pause", "leave", "join", "join")


@pytest.fixture
def scene(remote: Server, tmp_path: Path, start: Start) -> Scene:
    return Scene(start, tmp_path, store=remote.store_url())


def test_the_partitions_of_a_killed_host_are_taken_over_when_its_lease_is_over(
    scene: Scene,
) -> None:
    scene.host("a")
    scene.host("b", plain=True)
    scene.until_shared("a", "b")
    scene.send(10)
    scene.kill("a")
    scene.send(5)
    scene.until_shared("b")
    scene.until_done()
    scene.judge()


@pytest.mark.parametrize(
    ("remote", "plain"),
    [("azurite", False), ("s3", True), ("google", False), ("postgresql", True)],
    indirect=["remote"],
)
def test_a_host_that_wakes_when_another_has_its_partitions_can_finish_nothing_any_more(
    plain: bool, scene: Scene
) -> None:
    scene.host("a", plain=plain)
    scene.until_shared("a")
    scene.send(10, 1)
    scene.send(1, 1, order="block@a")
    scene.send(10)
    scene.hear("a", "blocking 1")
    if plain:  # a coroutine that blocks holds up the other partitions too
        scene.until_stuck_in(1)
    zombie = scene.pause("a")
    scene.host("b", plain=plain)
    scene.until_shared("b")
    scene.until_done()
    scene.tell("a")
    zombie.send(signal.SIGCONT)
    scene.hear("a", "closed 1 LEASE_LOST")
    scene.until_shared("a", "b")
    scene.send(10)
    scene.until_done()
    scene.judge()


def test_hosts_that_join_and_leave_in_good_order_process_every_event_once(scene: Scene) -> None:
    scene.host("a")
    scene.send(10)
    scene.host("b", plain=True)
    scene.until_shared("a", "b")
    scene.send(10)
    scene.host("c", auto=True)
    scene.until_shared("a", "b", "c")
    scene.send(10)
    scene.end("a")
    scene.until_shared("b", "c")
    scene.send(10)
    scene.until_done()
    assert scene.given() == Counter(scene.events())
    scene.judge()


def test_hosts_see_that_their_group_is_reset_and_deleted(scene: Scene) -> None:
    scene.host("a")
    scene.send(10)
    scene.until_done()
    scene.reset({1: 5})
    scene.until_done()
    again = [(1, offset) for offset in range(5, 10)]
    assert scene.given() == Counter([*scene.events(), *again])
    scene.group.delete()
    scene.until_shared("a")
    scene.until_done()
    assert scene.given() == Counter([*scene.events()] * 2 + again)


@pytest.mark.soak
def test_hosts_that_are_killed_stopped_and_woken_lose_nothing_and_double_nothing_they_finished(
    remote: Server, tmp_path: Path, start: Start
) -> None:
    url = remote.store_url()
    casts = [Cast("g", store=url)]
    theatre = Theatre(start, tmp_path / "log", tmp_path / "histories", casts, seed=seed_of_today())
    theatre.begin()
    for _ in range(60):
        theatre.strike(ROUGH)
    theatre.end(patience=1800)  # each event alone, after a death: some calls for each
    theatre.judge(least=10)
