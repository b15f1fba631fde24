"""What happened, so that a person can follow it: times, who, calls and their outcomes, changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from eventlog.blobs import Blob

__all__ = ["Entry", "History", "difference"]

_SHOWN: Final = 160


class Entry(NamedTuple):
    """One thing that happened.

    Attributes:
        at: true time, in seconds.
        who: whoever did it.
        what: in words; or a function that finds them, once somebody wants to read it.
        partition: which one it is about; None if about several, or none.
        dull: whether it matters only to who follows everything.
    """

    at: float
    who: object
    what: str | Callable[[], str]
    partition: int | None
    dull: bool

    def __str__(self) -> str:
        what = self.what if isinstance(self.what, str) else self.what()
        return f"{self.at:9.3f}  {self.who!s:<24}  {what}"


class History:
    """Keeps what happened, in order. Cheap: words are made when it is read.

    Attributes:
        kept: whether it keeps anything.
    """

    def __init__(self, *, kept: bool = True) -> None:
        self.kept = kept
        self.entries: list[Entry] = []

    def note(
        self,
        at: float,
        who: object,
        what: str | Callable[[], str],
        *,
        partition: int | None = None,
        dull: bool = False,
    ) -> None:
        """Keep one thing."""
        if self.kept:
            self.entries.append(Entry(at, who, what, partition, dull))

    def told(self, partition: int | None = None, *, whole: bool = False) -> str:
        """The end of it, in lines.

        Args:
            partition: leave out what is about other partitions.
            whole: all of it, and the dull entries too.
        """
        wanted = [
            entry
            for entry in self.entries
            if whole
            or not (
                entry.dull or (partition is not None and entry.partition not in (None, partition))
            )
        ]
        left_out = 0 if whole else max(len(wanted) - _SHOWN, 0)
        lines = [f"... {left_out} entries before" for _ in range(min(left_out, 1))]
        return "\n".join([*lines, *map(str, wanted[left_out:])])


def difference(old: Blob | None, new: Blob | None) -> str:
    """What changed in a document, field by field."""
    before, after = _fields(old), _fields(new)
    if not after:
        return "deleted"
    changes = [
        f"{name}: {_short(before[name])} -> {_short(after[name])}"
        if name in before and name in after
        else f"{name}: {_short(after[name])}"
        if name in after
        else f"{name}: {_short(before[name])} is gone"
        for name in sorted(before.keys() | after.keys(), key=_order)
        if before.get(name) != after.get(name)
    ]
    return "; ".join(changes) or "nothing"


_DULL: Final = {"revision", "updated_at", "beat_at", "enqueued_at", "log", "topic"}


def _fields(blob: Blob | None) -> dict[str, Any]:
    if blob is None:
        return {}
    return dict(_flat("", msgspec.json.decode(blob.data)))


def _flat(prefix: str, document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if name in _DULL:
            continue
        if name == "partitions":
            for partition, share in value.items():
                yield f"[{partition}]", _share(share)
        else:
            yield f"{prefix}{name}", value


def _share(share: dict[str, Any]) -> str:
    going = f" => {share['next']}" if share["next"] else ""
    return f"{share['owner'] or 'nobody'} ({share['epoch']}){going}"


def _short(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return str(value)


def _order(name: str) -> tuple[bool, int, str]:
    inside = name.startswith("[")
    return inside, int(name[1:-1]) if inside else 0, name
