"""Read, process, write, exactly once: bank transfers in, running balances out.

Each transfer is read from one topic, and the balance it leads to is appended to another, in one
transaction with the checkpoint behind the transfer: kill the program anywhere, as often as you
like, start it again, and every transfer has led to one balance. What the program itself remembers,
the balances, it reads back from what it wrote.

    python examples/pipeline.py fill DIRECTORY [TRANSFERS]   # make transfers, once
    python examples/pipeline.py run DIRECTORY                # process them; Ctrl-C or kill, repeat
    python examples/pipeline.py prove DIRECTORY              # each was processed once
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator

import msgspec

import eventlog
from eventlog import LATEST, Event, EventLog, StoredEvent

GROUP = "balances"
ACCOUNTS = 20
PARTITIONS = 4
FETCH_BYTES = 64 * 1024  # small transactions: more to be killed in


class Transfer(msgspec.Struct):
    """An amount that goes to an account, or comes from it."""

    account: str
    amount: int


class Balance(msgspec.Struct):
    """What an account has after the transfer at `offset` of the same partition."""

    account: str
    balance: int
    offset: int


def fill(log: EventLog, transfers: int) -> None:
    """Append transfers; nothing if they are there already."""
    topic = log.create_topic("transfers", partitions=PARTITIONS, exist_ok=True)
    log.create_topic("balances", partitions=PARTITIONS, exist_ok=True)
    if any(not topic.partition_info(number).is_empty for number in range(PARTITIONS)):
        return
    dice = random.Random(7)  # noqa: S311 - an example, and the same each time
    accounts = [f"account-{number}" for number in range(ACCOUNTS)]
    with topic.producer() as producer:
        for _ in range(transfers):
            transfer = Transfer(dice.choice(accounts), dice.randint(-100, 100))
            producer.send(msgspec.json.encode(transfer), key=transfer.account)


def run(log: EventLog) -> int:
    """Process what no run before has processed; how many transfers that was."""
    balances = read_back(log)
    done = 0
    topic = log.topic("transfers")
    with topic.consumer(group=GROUP, end=LATEST, prefetch_bytes=FETCH_BYTES) as consumer:
        for transfers in consumer.batches():
            with consumer.transaction() as tx:
                changes = list(processed(balances, transfers))
                tx.append_batch("balances", changes, partition=transfers[0].partition)
            done += len(transfers)
    return done


def processed(balances: dict[str, int], transfers: Iterable[StoredEvent]) -> Iterator[Event]:
    """The balance after each transfer."""
    for event in transfers:
        transfer = msgspec.json.decode(event.body, type=Transfer)
        balance = balances.get(transfer.account, 0) + transfer.amount
        balances[transfer.account] = balance
        yield Event(
            msgspec.json.encode(Balance(transfer.account, balance, event.offset)),
            key=transfer.account,
        )


def read_back(log: EventLog) -> dict[str, int]:
    """The balances as the runs before left them."""
    balances = {}
    for event in log.topic("balances").consumer(end=LATEST):
        balance = msgspec.json.decode(event.body, type=Balance)
        balances[balance.account] = balance.balance
    return balances


def prove(log: EventLog) -> int:
    """Each transfer has led to one balance, in order, and to the right one; how many they are."""
    expected: dict[str, int] = {}
    count = 0
    transfers = log.topic("transfers")
    for number in range(PARTITIONS):
        results = iter(log.topic("balances").consumer(partitions=number, end=LATEST))
        for event in transfers.consumer(partitions=number, end=LATEST):
            transfer = msgspec.json.decode(event.body, type=Transfer)
            expected[transfer.account] = expected.get(transfer.account, 0) + transfer.amount
            wanted = Balance(transfer.account, expected[transfer.account], event.offset)
            found = next(results, None)
            if found is None or msgspec.json.decode(found.body, type=Balance) != wanted:
                raise SystemExit(
                    f"partition {number}, offset {event.offset}: {found}, not {wanted}"
                )
            count += 1
        if (extra := next(results, None)) is not None:
            raise SystemExit(f"partition {number}: {extra} belongs to no transfer")
    return count


def main() -> None:
    """Do what the command line says."""
    if len(sys.argv) < 3:
        raise SystemExit("usage: pipeline.py fill|run|prove DIRECTORY [TRANSFERS]")
    verb, directory, *rest = sys.argv[1:]
    with eventlog.open(directory) as log:
        if verb == "fill":
            fill(log, int(rest[0]) if rest else 100_000)
        elif verb == "run":
            print(f"{run(log):,} transfers processed")
        elif verb == "prove":
            print(f"{prove(log):,} transfers, each processed once")
        else:
            raise SystemExit(f"fill, run or prove, not {verb}")


if __name__ == "__main__":
    main()
