"""``eventlog dead-letters replay``: append what was put aside once more, where it came from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final

import click

from eventlog import Event, EventLogError, PreconditionFailedError, Topic
from eventlog.blobs import BlobStore
from eventlog.cli.dead_letters.replayed import AlreadyReplayedError, Replayed, memory
from eventlog.cli.dead_letters.selection import (
    Letter,
    Selection,
    letters,
    place,
    selection_options,
)
from eventlog.cli.display import show_table
from eventlog.cli.failures import Failure, Interrupted, describe
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.cli.stores import store_option
from eventlog.groups.blobs import ATTEMPTS, pause_a_moment
from eventlog.processor.dead_letters import original

__all__ = ["replay"]

COLUMNS: Final = ("topic", "events replayed", "replayed before")


@click.command
@common_options
@click.argument("name", metavar="TOPIC")
@click.argument("places", metavar="[PARTITION:OFFSET]...", type=place, nargs=-1)
@selection_options
@click.option(
    "--into", metavar="TOPIC", help="Where to append them, instead of the topics they are from."
)
@click.option("--again", is_flag=True, help="Also those that were replayed before.")
@click.option("--dry-run", is_flag=True, help="Only say what would be replayed.")
@store_option
@pass_invocation
def replay(
    invocation: Invocation,
    /,
    *,
    name: str,
    into: str | None,
    again: bool,
    dry_run: bool,
    store_url: str | None,
    **selected: Any,
) -> None:
    """Append the originals of the dead letters in TOPIC: all, those named, or those selected.

    Each goes back to the partition it came from; with --into, where its key says. The letters stay
    in TOPIC. That one was replayed is remembered with the transaction that did it, so that it is
    safe to repeat this command, whatever became of it: nothing is replayed twice. A Kafka cluster
    has no place for that: there --store must be the same each time.

    Prints a line for each topic that was appended to: its name, how many events were replayed, and
    how many of those selected had been before; where the output is no terminal separated by tabs.
    """
    with invocation.open_log(read_only=dry_run) as log:
        if into is not None:
            log.topic(into)  # or it is refused, whether there is something to append or not
        store = memory(log, store_url)
        work = _Replay(log.topic(name), into, store, again=again, dry_run=dry_run)
        found = letters(work.topic, Selection(**selected))
        try:
            for some in found:
                work.replay(some)
        except KeyboardInterrupt as error:
            raise Interrupted(f"interrupted; {work.account()}") from error
        except (EventLogError, OSError, ValueError) as error:
            raise Failure(f"{describe(error)}; {work.account()}") from error
    show_table(COLUMNS, work.rows())


class _Replay:
    """Replays letters, and counts them.

    Args:
        topic: the dead-letter topic.
        into: see `replay`; so are `again` and `dry_run`.
        store: where it is remembered what was replayed.
    """

    def __init__(
        self, topic: Topic, into: str | None, store: BlobStore, *, again: bool, dry_run: bool
    ) -> None:
        self.topic = topic
        self._store = store
        self._into = into
        self._again = again
        self._dry_run = dry_run
        self._replayed: dict[int, Replayed] = {}
        self._done: Counter[str] = Counter()
        self._before: Counter[str] = Counter()

    def replay(self, some: Sequence[Letter]) -> None:
        """Replay some letters of one partition, all or none, but for those that were before."""
        partition = some[0].event.partition
        replayed = self._replayed.get(partition)
        if replayed is None:
            replayed = self._replayed[partition] = Replayed(self.topic, partition, self._store)
        failures = 0
        while True:
            new = [one for one in some if self._again or one.event.offset not in replayed]
            try:
                if new and not self._dry_run:
                    self._append(new, replayed)
            except AlreadyReplayedError:
                replayed.look()
                continue
            except PreconditionFailedError:  # others came first, and nothing was stored
                failures += 1
                if failures >= ATTEMPTS:
                    raise
                pause_a_moment(failures)
                replayed.look()
                continue
            break
        self._done.update(map(self._destination, new))
        self._before.update(map(self._destination, some))
        self._before.subtract(map(self._destination, new))

    def _append(self, some: Sequence[Letter], replayed: Replayed) -> None:
        places: defaultdict[tuple[str, int | None], list[Event]] = defaultdict(list)
        for letter in some:
            partition = None if self._into is not None else letter.says.partition
            places[self._destination(letter), partition].append(original(letter.event))
        offsets = [letter.event.offset for letter in some]
        with self.topic.log.transaction() as transaction:
            replaying = replayed.replaying(offsets, again=self._again)
            transaction.attach(replaying, self._store)
            for (topic, partition), events in places.items():
                transaction.append_batch(topic, events, partition=partition)

    def _destination(self, letter: Letter) -> str:
        return letter.says.topic if self._into is None else self._into

    def rows(self) -> list[tuple[str, int, int]]:
        """What was done, for each topic."""
        return [(topic, self._done[topic], self._before[topic]) for topic in sorted(self._before)]

    def account(self) -> str:
        """What was done until something went wrong."""
        done = self._done.total()
        events = "1 event was" if done == 1 else f"{done:,} events were"
        return f"{events} replayed; repeat it to go on: nothing is replayed twice"
