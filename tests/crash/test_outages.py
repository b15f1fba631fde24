"""Stores that are away, slow, or fail now and then, under hosts in processes of their own.

Hosts go to the store through a proxy that does to them what the test says; the test itself goes
there directly. A host stops itself at 0.9 of its lease, so an outage that is shorter by an interval
and by the time of one call moves nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.crash.hosts_scene import GROUP, Scene
from tests.crash.hosts_theatre import document_of, until
from tests.servers import S3, through
from tests.servers.fixtures import REMOTE, on
from tests.servers.proxy import Fault, Proxy

if TYPE_CHECKING:
    from tests.conftest import Start
    from tests.servers import Server

LEASE: Final = 6.0
RENEW: Final = 1.0
CALLS: Final = ("get", "put", "list", "delete")
TIMEOUT: Final = 1.0
SHORT: Final = 0.9 * LEASE - RENEW - TIMEOUT - 0.4
"""An outage, in seconds; less by what a loaded machine may take to notice that it is over."""


@pytest.fixture
def proxy(remote: Server) -> Iterator[Proxy]:
    with contextlib.closing(through(remote)) as proxy:
        yield proxy


class Outage:
    """Two hosts, and a store that goes away.

    Attributes:
        scene: what there is.
        away: URL of the store as hosts see it.
    """

    def __init__(self, scene: Scene, url: str) -> None:
        self.scene = scene
        self.away = f"{url}{'&' if '?' in url else '?'}timeout={TIMEOUT}"

    def host(self, name: str, **more: Any) -> None:
        """A host that gets to the store only through the proxy."""
        more = {"lease": LEASE, "renew": RENEW, "store": self.away, **more}
        self.scene.host(name, **more)

    def epochs(self) -> dict[int, tuple[str | None, int]]:
        """Who owns each partition, and by which epoch."""
        shares = document_of(self.scene.log, GROUP, self.scene.store, "in").partitions
        return {partition: (share.owner, share.epoch) for partition, share in shares.items()}


@pytest.fixture
def outage(remote: Server, proxy: Proxy, tmp_path: Path, start: Start) -> Outage:
    url = remote.store_url()
    return Outage(Scene(start, tmp_path, store=url), proxy.url(url))


def let_pass(seconds: float) -> None:
    """For as long as the store is to be away."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() >= end)


def ways(refuses: tuple[str, ...], silent: tuple[str, ...]) -> pytest.MarkDecorator:
    """How a store is away: each way on some servers, and in a soak on all."""
    every = [
        pytest.param(name, how, id=f"{name} {way}", marks=() if name in some else pytest.mark.soak)
        for way, how, some in (
            ("refuses", Proxy.cut, refuses),
            ("does not answer", Proxy.hang, silent),
        )
        for name in REMOTE
    ]
    return pytest.mark.parametrize(("remote", "how"), every, indirect=["remote"])


def opened_by(scene: Scene) -> dict[int, str]:
    """By partition, which host has opened it."""
    return {
        partition: (checkpoint.owner or "").rpartition("-")[0]
        for partition, checkpoint in scene.group.checkpoints().items()
    }


@ways(refuses=("s3", "postgresql"), silent=("azurite", "google"))
def test_an_outage_shorter_than_the_self_stop_limit_allows_moves_nothing(
    how: Callable[[Proxy], None], outage: Outage, proxy: Proxy
) -> None:
    scene = outage.scene
    outage.host("a")
    outage.host("b", plain=True)
    scene.until_shared("a", "b")
    scene.send(10)
    scene.until_done()
    before = outage.epochs()
    how(proxy)
    scene.send(10)
    let_pass(SHORT)
    proxy.mend()
    scene.until_done()
    scene.send(10)
    scene.until_done()
    assert outage.epochs() == before
    said = [*scene.end("a"), *scene.end("b")]
    assert not any("LEASE_LOST" in line for line in said)
    scene.judge()


@ways(refuses=("azurite", "google"), silent=("s3", "postgresql"))
def test_in_a_longer_outage_all_hosts_stop_and_when_it_is_over_they_go_on(
    how: Callable[[Proxy], None], outage: Outage, proxy: Proxy
) -> None:
    scene = outage.scene
    outage.host("a")
    outage.host("b", plain=True)
    owners = scene.until_shared("a", "b")
    scene.send(10)
    scene.until_done()
    how(proxy)
    scene.send(10)
    for partition, owner in owners.items():
        scene.hear(owner, f"closed {partition} LEASE_LOST")
    proxy.mend()
    scene.until_shared("a", "b")
    scene.until_done()
    scene.send(10)
    scene.until_done()
    scene.judge()


def test_a_server_that_is_stopped_and_started_again_moves_nothing(
    remote: Server, tmp_path: Path, start: Start
) -> None:
    url = remote.store_url()
    outage = Outage(Scene(start, tmp_path, store=url), url)
    scene = outage.scene
    outage.host("a", lease=20.0)
    outage.host("b", lease=20.0, plain=True)
    scene.until_shared("a", "b")
    scene.send(10)
    scene.until_done()
    before = outage.epochs()
    remote.stop()
    scene.send(10)
    remote.start()
    scene.until_done()
    assert outage.epochs() == before
    scene.judge()


@on("azurite", "postgresql")
def test_a_host_that_is_alone_in_an_outage_does_not_hold_up_the_others(
    outage: Outage, proxy: Proxy
) -> None:
    """It stops by itself before they take its partitions over."""
    scene = outage.scene
    outage.host("a")
    outage.host("b", store=scene.store)
    scene.until_shared("a", "b")
    proxy.cut()
    scene.send(10)
    scene.until_shared("b")
    scene.until_done()
    proxy.mend()
    scene.until_shared("a", "b")
    scene.send(10)
    scene.until_done()
    scene.judge()


@on("s3", "postgresql")
def test_hosts_work_where_one_call_in_five_fails_and_answers_get_lost(
    outage: Outage, proxy: Proxy
) -> None:
    """Whatever their processes go through besides."""
    scene = outage.scene
    proxy.add(Fault.REFUSED, *CALLS, every=5)
    proxy.add(Fault.LOST, "put", every=6)
    proxy.add(Fault.RESET, *CALLS, every=17)
    outage.host("a")
    outage.host("b", plain=True)
    scene.until_shared("a", "b")
    scene.send(20)
    outage.host("c", auto=True)
    scene.until_shared("a", "b", "c")
    scene.send(20)
    scene.kill("b")
    scene.send(20)
    scene.until_shared("a", "c")
    scene.end("a")
    scene.until_shared("c")
    scene.until_done()
    scene.judge()


@pytest.mark.parametrize("remote", ["azurite"], indirect=True)
def test_no_partition_is_taken_from_anyone_where_listings_lag(outage: Outage, proxy: Proxy) -> None:
    scene = outage.scene
    proxy.stale_lists = 2.0
    outage.host("a")
    outage.host("b")
    scene.until_shared("a", "b")
    before, beats = outage.epochs(), scene.beats("a")
    until(lambda: scene.beats("a") >= beats + 8, "its heart beats")
    assert outage.epochs() == before
    scene.send(10)
    scene.until_done()
    assert scene.given() == Counter(scene.events())
    scene.judge()


@on("s3")
@pytest.mark.parametrize("delay", [0.5, pytest.param(2.0, marks=pytest.mark.soak)])
def test_hosts_work_where_every_call_takes_seconds(
    delay: float, remote: Server, proxy: Proxy, tmp_path: Path, start: Start
) -> None:
    """With the lease and the interval that are the default where it takes two, and more partitions
    than a store serves at a time: no heartbeat waits for their checkpoints.
    """
    url = remote.store_url()
    scene = Scene(start, tmp_path, store=url, partitions=8)
    proxy.delay = delay
    for name in ("a", "b"):
        scene.host(name, store=proxy.url(url), lease=15 * delay, renew=5 * delay)
    scene.until_shared("a", "b")
    scene.send(10)
    scene.until_done()
    assert scene.given().keys() == Counter(scene.events()).keys()
    proxy.delay = 0
    said = [*scene.end("a"), *scene.end("b")]
    assert not any("LEASE_LOST" in line for line in said)
    scene.judge()


def test_a_host_makes_three_calls_an_interval_however_many_partitions_there_are(
    remote: Server, proxy: Proxy, tmp_path: Path, start: Start
) -> None:
    """Counted at the server."""
    url = remote.store_url()
    scene = Scene(start, tmp_path, store=url, partitions=100 if isinstance(remote, S3) else 20)
    for name in ("a", "b", "c"):
        scene.host(name, store=proxy.url(url), lease=30.0, renew=0.3)
    scene.until_shared("a", "b", "c")
    until(lambda: opened_by(scene) == scene.owners(), "all are opened by their owners")
    began = time.monotonic()
    proxy.counts.clear()
    proxy.wait_for("put", 30)
    counts = {kind: proxy.counts[kind] for kind in CALLS}
    intervals = (time.monotonic() - began) / 0.3
    assert counts["put"] <= 3 * (intervals + 1) + 3, (counts, intervals)
    assert counts["delete"] == 0
    for kind in ("get", "list"):
        assert abs(counts[kind] - counts["put"]) <= 3, counts  # for the rounds that are under way
    scene.judge()
