"""The picture of a run: who worked on which partition when, and how far behind the group was.

Plain SVG, on a background of its own, so that it can be read on any page. Hosts differ by colour,
and bars are named, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from xml.sax.saxutils import escape

from examples.balancing.record import Mark, Record, Span

__all__ = ["draw"]

WIDTH, LEFT, RIGHT = 980, 62, 18
TOP = 112  # of the bars
ROW, GAP = 17, 3  # height of a bar, and what is between two of them
LAG_HEIGHT = 84
MARK_LINES = 3
LETTER, BOLD = 6.3, 7.2  # width of one, about, in the size of the labels
INK, PALE, LINE = "#1f2933", "#52606d", "#9aa5b1"
COLORS = ("#9fd3f0", "#f6c177", "#9ddcae", "#f3e38a", "#d9b3e6", "#d8c3ad")
TICK_SECONDS = 10


def draw(record: Record) -> str:
    """The picture, as the text of an SVG file."""
    return "\n".join(_Picture(record).elements()) + "\n"


class _Picture:
    def __init__(self, record: Record) -> None:
        self._record = record
        self._seconds = max(_end(record), 1.0)
        self._bottom = TOP + record.partitions * (ROW + GAP)  # of the bars
        self._lag_top = self._bottom + 34
        self._lag_bottom = self._lag_top + LAG_HEIGHT
        self._height = self._lag_bottom + 52
        names = list(record.hosts)
        self._colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}

    def elements(self) -> Iterator[str]:
        """Line by line."""
        yield from self._head()
        yield from self._legend()
        yield from self._bars()
        yield from self._lag()
        yield from self._axis()
        yield from self._marks()
        yield "</svg>"

    def _x(self, seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(seconds / self._seconds, 0.0), 1.0)

    def _head(self) -> Iterator[str]:
        told = "; ".join(f"{mark.text} at {mark.at:.0f} s" for mark in self._record.marks)
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height}" '
            f'width="{WIDTH}" height="{self._height}" role="img" '
            'aria-labelledby="title description" '
            "font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\" "
            f'font-size="12" fill="{INK}">'
        )
        yield '<title id="title">Who worked on which partition when</title>'
        yield f'<desc id="description">{escape(told)}.</desc>'
        yield (
            '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
            f'patternTransform="rotate(45)"><path d="M0,0 V6" stroke="{LINE}" stroke-width="2"/>'
            "</pattern></defs>"
        )
        yield f'<rect width="{WIDTH}" height="{self._height}" rx="6" fill="#ffffff"/>'
        title = f"{self._record.replayed:,} flights, {self._record.partitions} partitions"
        yield _text(16, 28, f"Who worked on which partition when: {title}", size=15, bold=True)

    def _legend(self) -> Iterator[str]:
        x = float(LEFT)
        for name, color in self._colors.items():
            yield f'<rect x="{x:.1f}" y="42" width="14" height="12" rx="2" fill="{color}"/>'
            yield _text(x + 19, 52, name)
            x += 40 + LETTER * len(name)
        yield (
            f'<rect x="{x:.1f}" y="42" width="14" height="12" rx="2" fill="url(#hatch)" '
            f'stroke="{LINE}"/>'
        )
        yield _text(x + 19, 52, "owned by a host that is dead, or seems to be; numbers are epochs")

    # Bars

    def _bars(self) -> Iterator[str]:
        for partition in range(self._record.partitions):
            y = TOP + partition * (ROW + GAP)
            yield _text(LEFT - 8, y + 13, f"{partition}", anchor="end", color=PALE)
            spans = [span for span in self._record.spans if span.partition == partition]
            spans.sort(key=lambda span: span.epoch)
            for span, after in zip_longest(spans, spans[1:]):
                yield from self._bar(span, after, y)
        middle = (TOP + self._bottom) / 2
        yield (
            f'<text transform="translate(20,{middle:.0f}) rotate(-90)" text-anchor="middle" '
            f'fill="{PALE}">partition</text>'
        )

    def _bar(self, span: Span, after: Span | None, y: int) -> Iterator[str]:
        next_start = self._seconds if after is None else after.start
        end = next_start if span.end is None else min(span.end, next_start)
        x, until = self._x(span.start), self._x(end)
        yield _rect(x, y, until - x, self._colors[span.host])
        for label in (f"{span.host} {span.epoch}", f"{span.host[0]}{span.epoch}"):
            if until - x > LETTER * len(label) + 6:
                yield _text(x + 4, y + 13, label, size=11)
                break
        if span.cut:
            yield _rect(until, y, self._x(next_start) - until, "url(#hatch)")

    # Below the bars

    def _lag(self) -> Iterator[str]:
        samples = [(sample.at, sum(sample.lags)) for sample in self._record.samples]
        most = max((lag for _, lag in samples), default=0) or 1
        yield _text(LEFT - 8, self._lag_top + 9, f"{most:,}", anchor="end", size=11, color=PALE)
        yield _text(LEFT - 8, self._lag_bottom, "0", anchor="end", size=11, color=PALE)
        points = " ".join(
            f"{self._x(at):.1f},{self._lag_bottom - LAG_HEIGHT * lag / most:.1f}"
            for at, lag in samples
        )
        if points:
            first, last = self._x(samples[0][0]), self._x(samples[-1][0])
            yield (
                f'<polygon points="{first:.1f},{self._lag_bottom} {points} '
                f'{last:.1f},{self._lag_bottom}" fill="#d5dbe1"/>'
            )
            yield f'<polyline points="{points}" fill="none" stroke="{PALE}" stroke-width="1.2"/>'

    def _axis(self) -> Iterator[str]:
        bottom = self._lag_bottom
        yield f'<path d="M{LEFT},{bottom} H{WIDTH - RIGHT}" stroke="{LINE}"/>'
        for seconds in range(0, int(self._seconds) + 1, TICK_SECONDS):
            x = self._x(seconds)
            yield f'<path d="M{x:.1f},{bottom} v5" stroke="{LINE}"/>'
            yield _text(x, bottom + 18, f"{seconds} s", anchor="middle", size=11, color=PALE)
        for at, month in self._record.months:
            x = self._x(at)
            yield f'<path d="M{x:.1f},{bottom + 26} v12" stroke="{LINE}"/>'
            yield _text(x + 3, bottom + 37, month, size=10, color=PALE)

    def _marks(self) -> Iterator[str]:
        """Lines across everything; their labels stand above, where there is room, and on top."""
        labels = []
        ends = [0.0] * MARK_LINES
        for mark in sorted(self._record.marks):
            line = self._line_for(mark, ends)
            x, y = self._x(mark.at), TOP - 10 - line * 14
            yield (
                f'<path d="M{x:.1f},{y + 3} V{self._lag_bottom}" stroke="{INK}" '
                'stroke-width="1" stroke-dasharray="3 3"/>'
            )
            labels.append(_text(self._label_x(mark), y, mark.text, size=11, bold=True, halo=True))
            ends[line] = self._label_x(mark) + BOLD * len(mark.text) + 8
        yield from labels
        caption = "flights that are not counted yet"
        yield _text(LEFT + 4, self._lag_top - 8, caption, color=PALE, halo=True)

    def _label_x(self, mark: Mark) -> float:
        return min(self._x(mark.at) - 4, WIDTH - RIGHT - BOLD * len(mark.text))

    def _line_for(self, mark: Mark, ends: list[float]) -> int:
        """The lowest line of labels that has room for it; else the one that ends first."""
        free = [line for line, end in enumerate(ends) if end <= self._label_x(mark)]
        return free[0] if free else ends.index(min(ends))


def _end(record: Record) -> float:
    """When the last thing happened."""
    if any(span.end is None for span in record.spans):
        return record.now()
    moments = [span.end for span in record.spans if span.end is not None]
    return max([*moments, *(mark.at for mark in record.marks)], default=0.0)


def _rect(x: float, y: float, width: float, fill: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{max(width, 0.5):.1f}" height="{ROW}" rx="2" '
        f'fill="{fill}"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 12,
    bold: bool = False,
    halo: bool = False,
    color: str = INK,
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    around = ' stroke="#ffffff" stroke-width="4" paint-order="stroke"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{weight} '
        f'fill="{color}"{around}>{escape(text)}</text>'
    )
