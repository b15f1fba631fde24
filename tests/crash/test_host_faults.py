"""What befalls hosts in processes of their own, one thing at a time."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from eventlog import EARLIEST, PreconditionFailedError
from eventlog.processor.dead_letters import read_dead_letter
from eventlog.processor.failures import CRASHES
from tests.crash.hosts_scene import Scene
from tests.crash.hosts_theatre import until
from tests.crash.test_kill import wait_until_stopped

if TYPE_CHECKING:
    from tests.conftest import Child, Start

LONG: Final = 600.0
"""Seconds of a lease that no test sees the end of."""

ATTEMPTS: Final = 3

STORES = pytest.mark.parametrize("store", [False, True], ids=["in the log", "in a directory"])


# ---- Death ---------------------------------------------------------------------------------------


@STORES
def test_the_kernel_tells_that_a_host_was_killed_long_before_its_lease_is_over(
    store: bool, tmp_path: Path, start: Start
) -> None:
    scene = Scene(start, tmp_path, store=store)
    scene.host("a", lease=LONG)
    scene.host("b", lease=LONG)
    scene.until_shared("a", "b")
    scene.kill("a")
    scene.send(5)
    scene.until_shared("b")
    scene.until_done()
    assert scene.given() == Counter(scene.events())
    scene.judge()


def test_hosts_hear_of_each_other_through_the_log_long_before_their_next_interval(
    tmp_path: Path, start: Start
) -> None:
    """Joining, leaving and dying: none of it waits for a heartbeat."""
    scene = Scene(start, tmp_path)
    scene.host("a", lease=LONG, renew=LONG / 3)
    scene.until_shared("a")
    scene.host("b", lease=LONG, renew=LONG / 3)
    scene.until_shared("a", "b")
    scene.host("c", lease=LONG, renew=LONG / 3)
    scene.until_shared("a", "b", "c")
    scene.end("a")
    scene.until_shared("b", "c")
    scene.kill("b")
    scene.until_shared("c")
    scene.judge()


@pytest.mark.parametrize("in_hand", [False, True], ids=["before", "with events in hand"])
@STORES
def test_latest_is_the_same_place_for_the_next_owner_if_the_first_is_killed_before_it_checkpoints(
    store: bool, in_hand: bool, tmp_path: Path, start: Start
) -> None:
    scene = Scene(start, tmp_path, store=store)
    scene.send(5)
    scene.host("a", start="latest", first=5)
    scene.until_opened()
    if in_hand:
        scene.send(3, order="block@a")
        scene.hear("a", "blocking")
    scene.kill("a")
    scene.send(3)
    scene.host("b", start="latest", first=5)
    scene.until_done()
    assert set(scene.given()) == {place for place in scene.events() if place[1] >= 5}
    scene.judge()


# ---- Events that kill ----------------------------------------------------------------------------


POISONED = [
    pytest.param(False, {"output": "out"}, id="transactions"),
    pytest.param(True, {"auto": True}, id="checkpoints of the host in a directory"),
    pytest.param(False, {}, id="checkpoints", marks=pytest.mark.soak),
    pytest.param(False, {"auto": True}, id="checkpoints of the host", marks=pytest.mark.soak),
    pytest.param(False, {"plain": True}, id="plain functions", marks=pytest.mark.soak),
    pytest.param(True, {}, id="checkpoints in a directory", marks=pytest.mark.soak),
    pytest.param(
        True, {"plain": True}, id="plain functions in a directory", marks=pytest.mark.soak
    ),
]


def keep_two_alive(scene: Scene, done: Callable[[], object], **more: Any) -> int:
    """Start another host for each that dies, until it is done; how many have died."""
    deaths = started = 0

    def is_done() -> bool:
        nonlocal deaths, started
        deaths += scene.bury()
        while scene.living < 2:
            started += 1
            scene.host(f"h{started}", attempts=ATTEMPTS, max_batch=5, **more)
        return bool(done())

    until(is_done, "what kills is put aside")
    return deaths


@pytest.mark.parametrize(("store", "more"), POISONED)
def test_events_that_kill_whoever_is_given_them_are_put_aside_and_their_neighbours_processed(
    store: bool, more: dict[str, Any], tmp_path: Path, start: Start
) -> None:
    scene = Scene(start, tmp_path, store=store)
    poisons = [(1, 7), (1, 8), (2, 12)]
    fill(scene, poisons)

    def is_done() -> bool:
        return len(scene.group.checkpoints()) == 4 and not any(
            lag.events for lag in scene.group.lag().values()
        )

    deaths = keep_two_alive(scene, is_done, **more)
    assert set(scene.given()) == set(scene.events()), "neighbours were left out"
    letters = [read_dead_letter(event) for event in scene.log.topic("dead").read(0)]
    put_aside = [(one.partition, one.offset) for one in letters if one]
    assert sorted(set(put_aside)) == poisons, "the innocent were put aside"
    # Elsewhere than in the log a host may die between putting it aside and the checkpoint.
    assert store or len(put_aside) == len(poisons)
    assert {one.reason for one in letters if one} == {CRASHES}
    # One more than the attempts: at first it is one of a batch. And one more for who had finished
    # something before, and so did not end at the events it began with.
    assert deaths <= len(poisons) * (ATTEMPTS + 2)


def fill(scene: Scene, poisons: list[tuple[int, int]]) -> None:
    """Twenty events in each partition, with these among them."""
    for partition in range(4):
        scene.send_orders(
            {partition: ["poison" if (partition, n) in poisons else "" for n in range(20)]}
        )


# ---- Handlers ------------------------------------------------------------------------------------


def test_a_handler_that_blocks_the_event_loop_for_longer_than_the_lease_keeps_its_partitions(
    tmp_path: Path, start: Start
) -> None:
    scene = Scene(start, tmp_path)
    scene.host("a", lease=2.0, renew=0.2)
    scene.host("b", lease=2.0, renew=0.2)
    owners = scene.until_shared("a", "b")
    blocked = next(partition for partition, owner in owners.items() if owner == "a")
    scene.send(1, blocked, order="block@a")
    scene.hear("a", "blocking")
    before = scene.beats("a")
    until(lambda: scene.beats("a") >= before + 20, "its heart beats")
    assert scene.owners() == owners
    scene.send(3)
    scene.tell("a")
    scene.until_done()
    assert scene.owners() == owners
    assert scene.given() == Counter(scene.events())
    assert not any("LEASE_LOST" in line for line in scene.end("a"))
    scene.judge()


@pytest.mark.parametrize("plain", [False, True], ids=["coroutine", "plain function"])
@STORES
def test_a_handler_that_hangs_holds_up_its_own_partition_alone_and_that_until_its_host_ends(
    plain: bool, store: bool, tmp_path: Path, start: Start
) -> None:
    scene = Scene(start, tmp_path, store=store)
    scene.host("a", lease=LONG, grace=0.3, plain=plain)
    scene.until_shared("a")
    scene.send(1, 1, order="hang@a")
    scene.hear("a", "hanging 1")
    scene.send(10)
    until(lambda: sum(lag.events for lag in scene.group.lag().values()) == 11, "others go on")
    scene.host("b", lease=LONG, plain=plain)
    said = scene.end("a")
    assert ("closed 1 SHUTDOWN" in said) == (not plain)
    scene.until_shared("b")
    scene.until_done()
    assert scene.given() == Counter([*scene.events(), (1, 0)])
    scene.judge()


def test_a_second_signal_ends_a_host_that_would_wait_for_a_handler_that_hangs(
    tmp_path: Path, start: Start
) -> None:
    scene = Scene(start, tmp_path)
    scene.host("a", lease=LONG, grace=LONG)
    scene.until_shared("a")
    scene.send(1, 1, order="hang@a")
    scene.hear("a", "hanging 1")
    scene.signal("a", signal.SIGINT)
    scene.hear("a", "closed 0 SHUTDOWN")  # and waits for partition 1
    assert "closed 1 SHUTDOWN" in scene.end("a")
    assert scene.group.members() == []
    scene.host("b")
    scene.until_done()
    assert scene.given() == Counter([*scene.events(), (1, 0)])
    scene.judge()


def test_a_handler_that_takes_too_long_each_time_has_its_event_put_aside(
    tmp_path: Path, start: Start
) -> None:
    scene = Scene(start, tmp_path)
    scene.send(2)
    scene.send(1, 1, order="hang")
    scene.send(2)
    scene.host("a", handler_timeout=0.2, attempts=2)
    scene.until_done()
    (letter,) = (read_dead_letter(event) for event in scene.log.topic("dead").read(0))
    assert letter is not None
    assert (letter.partition, letter.offset) == (1, 2)
    assert letter.last_error is not None
    assert letter.last_error.startswith("TimeoutError")
    scene.end("a")


# ---- Stopped, and woken --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "more"),
    [
        pytest.param(False, {"output": "out"}, id="transactions"),
        pytest.param(False, {}, id="in the log", marks=pytest.mark.soak),
        pytest.param(True, {}, id="in a directory", marks=pytest.mark.soak),
        pytest.param(True, {"plain": True}, id="plain functions in a directory"),
    ],
)
def test_a_host_that_wakes_when_others_have_its_partitions_can_finish_nothing_any_more(
    store: bool, more: dict[str, Any], tmp_path: Path, start: Start
) -> None:
    scene = Scene(start, tmp_path, store=store)
    scene.host("a", **more)
    scene.until_shared("a")
    scene.send(10, 1)
    scene.send(1, 1, order="block@a")
    scene.send(10)
    scene.hear("a", "blocking 1")
    if more.get("plain"):
        scene.until_stuck_in(1)
    zombie = scene.pause("a")
    scene.host("b", **more)
    scene.until_shared("b")
    scene.until_done()
    scene.tell("a")
    zombie.send(signal.SIGCONT)
    scene.hear("a", "closed 1 LEASE_LOST")
    scene.until_shared("a", "b")
    scene.send(10)
    scene.until_done()
    scene.judge()


def stopped_inside_a_commit(scene: Scene) -> Child:
    """A host that is, with events in the hands of another one that cannot commit either."""
    scene.host("a", output="out", lock_timeout=5)
    scene.host("b", output="out", lock_timeout=5)
    owners = scene.until_shared("a", "b")
    scene.send(1)
    scene.until_done()
    stopping = next(partition for partition, owner in owners.items() if owner == "a")
    child = scene.pausing("a")
    scene.send_orders(
        {
            partition: [""] * 9 + ["stop-commit@a" if partition == stopping else ""]
            for partition in owners
        }
    )
    wait_until_stopped(child)
    scene.hear("b", "LEASE_LOST")  # its lease is over, since it can write no heartbeat
    return child


def test_a_host_stopped_inside_a_commit_holds_up_all_the_others_and_nothing_is_lost_or_doubled(
    tmp_path: Path, start: Start
) -> None:
    scene = Scene(start, tmp_path)
    stopped_inside_a_commit(scene).send(signal.SIGCONT)
    scene.until_shared("a", "b")
    scene.send(10)
    scene.until_done()
    require_processed_once(scene)


def test_a_host_killed_inside_a_commit_holds_up_nobody_any_more_and_nothing_is_lost_or_doubled(
    tmp_path: Path, start: Start
) -> None:
    scene = Scene(start, tmp_path)
    stopped_inside_a_commit(scene)
    scene.kill("a")
    scene.until_shared("b")
    scene.send(10)
    scene.until_done()
    require_processed_once(scene)


def require_processed_once(scene: Scene) -> None:
    """There is one event of each, in the end."""
    output = scene.log.topic("out").partition_info(0).next_offset
    assert output == len(list(scene.events()))
    scene.judge()


# ---- People --------------------------------------------------------------------------------------


@STORES
def test_a_group_that_is_reset_while_hosts_run_goes_on_there_by_itself(
    store: bool, tmp_path: Path, start: Start
) -> None:
    scene = Scene(start, tmp_path, store=store)
    scene.send(10)
    scene.host("a")
    scene.host("b", plain=True)
    scene.until_shared("a", "b")
    scene.until_done()
    with pytest.raises(PreconditionFailedError):
        scene.group.reset(EARLIEST)
    scene.reset({0: 0, 1: 5, 2: 9, 3: 10})
    scene.until_done()
    scene.send(1)
    scene.until_done()
    again = [(p, o) for p, first in {0: 0, 1: 5, 2: 9}.items() for o in range(first, 10)]
    assert scene.given() == Counter([*scene.events(), *again])
    scene.judge()


@STORES
def test_what_is_under_way_when_a_group_is_reset_counts_no_more(
    store: bool, tmp_path: Path, start: Start
) -> None:
    scene = Scene(start, tmp_path, store=store)
    scene.send(10)
    scene.host("a")
    scene.until_done()
    scene.send(1, 1, order="block@a")
    scene.send(1, 1)
    scene.hear("a", "blocking")
    scene.reset({1: 3})
    scene.tell("a")
    scene.tell("a")  # it is given the event again
    scene.until_done()
    assert {scene.given()[1, offset] for offset in range(3, 10)} == {2}
    assert {scene.given()[1, offset] for offset in range(3)} == {1}
    scene.judge()


@STORES
def test_hosts_of_a_group_that_is_deleted_begin_it_anew(
    store: bool, tmp_path: Path, start: Start
) -> None:
    scene = Scene(start, tmp_path, store=store)
    scene.send(10)
    scene.host("a")
    scene.host("b", plain=True)
    scene.until_shared("a", "b")
    scene.until_done()
    scene.group.delete()
    scene.until_shared("a", "b")
    scene.until_done()
    assert scene.given() == Counter([*scene.events()] * 2)


@STORES
def test_hosts_go_on_with_the_topic_that_is_made_under_the_name_of_theirs(
    store: bool, tmp_path: Path, start: Start
) -> None:
    scene = Scene(start, tmp_path, store=store)
    scene.send(10)
    scene.host("a")
    scene.host("b", plain=True)
    scene.until_shared("a", "b")
    scene.until_done()
    scene.recreate(partitions=6)
    scene.send(3)
    scene.until_shared("a", "b")
    scene.until_done()
    assert scene.given() == Counter(scene.events())
    scene.judge()


def test_a_function_that_is_left_behind_with_a_deleted_topic_holds_up_nothing_of_the_new_one(
    tmp_path: Path, start: Start
) -> None:
    scene = Scene(start, tmp_path)
    scene.host("a", plain=True)
    scene.until_shared("a")
    scene.send(1, 0, order="block@a")
    scene.hear("a", "blocking 0")
    scene.recreate()
    scene.send(3)
    scene.until_done()
    scene.tell("a")
    assert scene.given() == Counter(scene.events())
    scene.judge()


@STORES
def test_partitions_added_under_running_hosts_are_shared_and_processed_from_their_beginning(
    store: bool, tmp_path: Path, start: Start
) -> None:
    scene = Scene(start, tmp_path, store=store)
    scene.send(10)
    for name in ("a", "b"):
        scene.host(name, start="latest", renew=0.3)
    scene.until_shared("a", "b")
    scene.until_opened()
    with pytest.warns(UserWarning, match="keys"):
        scene.topic.add_partitions(3)
    scene.send(3, 6)
    scene.until_shared("a", "b")
    scene.send(2)
    scene.until_done()
    new = [place for place in scene.events() if place[0] >= 4 or place[1] >= 10]
    assert scene.given() == Counter(new)
