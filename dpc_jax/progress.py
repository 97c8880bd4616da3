"""What long work shows while it runs: lines on the screen, and scalars in TensorBoard's event files.

On a terminal a bar is redrawn in place and removed at the end, also after an exception or Ctrl-C.
Anywhere else (a file, a pipe, CI) the same words are printed as plain lines now and then, without control
characters. The event files are written without TensorFlow and are on the disk when `update` returns, so a killed
search has lost none.
"""

import math
import operator
import os
import pathlib
import time
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import image, scalar

PLAIN_INTERVAL_SECONDS = 30.0  # between two plain lines
BAR_WIDTH = 30
REFRESHES_PER_SECOND = 2  # of the bar; each takes a little of the processor that the search needs

T = TypeVar('T')
Opened = TypeVar('Opened', bound='Reported')
Clock = Callable[[], float]


@runtime_checkable
class Work(Protocol):
    """What a screen asks of the work that it shows."""

    total: int
    done: int

    def facts(self) -> list[str]:
        """Rate, time left and the like, as far as they are known."""

    def note(self) -> str:
        """What is said after the numbers."""


class Reported:
    """Work that is shown while it runs: on a screen, and in event files in `logdir`, both open within a `with`.

    A subclass gives `total`, `done`, `facts` and `note` (see `Work`).
    """

    total: int
    done: int

    def __init__(
        self, description: str, logdir: pathlib.Path | None, console: Console | None, clock: Clock = time.monotonic
    ) -> None:
        self._clock, self._start = clock, clock()
        self._logdir = logdir
        self._events: Events | None = None
        self._screen = Screen(self, description, console, clock)

    def __enter__(self: Opened) -> Opened:
        if self._logdir is not None:
            self._events = Events(self._logdir)
        self._screen.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._screen.stop()
        if self._events is not None:
            self._events.close()

    def facts(self) -> list[str]:
        """Rate, time left and the like, as far as they are known."""
        raise NotImplementedError

    def note(self) -> str:
        """What is said after the numbers."""
        raise NotImplementedError


class StepProgress(Reported):
    """How far a training is: `with StepProgress(total, done, logdir) as progress: progress.advance(step)`.

    `total` steps, of which an earlier start took `done`. Scalars and images go to event files in `logdir`.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        logdir: pathlib.Path | None = None,
        *,
        console: Console | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.total, self.done = total, done
        self._before, self._said, self._compiled = done, '', False
        super().__init__('step', logdir, console, clock)

    def advance(self, step: int) -> None:
        """Shows that `step` steps have been taken."""
        if not self._compiled:  # the first step compiles: rates are of those after it
            self._compiled, self._before, self._start = True, step, self._clock()
        self.done = step
        self._screen.show()

    def say(self, text: str) -> None:
        """Sets the text after the numbers."""
        self._said = text

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes the values that are finite to the event files."""
        if self._events is not None:
            self._events.add(step, {tag: value for tag, value in values.items() if math.isfinite(value)})
            self._events.flush()

    def image(self, tag: str, step: int, pixels: UInt8[np.ndarray, 'H W 3']) -> None:
        """Writes a picture to the event files."""
        if self._events is not None:
            self._events.image(tag, step, pixels)
            self._events.flush()

    def facts(self) -> list[str]:
        """Rate and time left, as far as they are known."""
        here, seconds = self.done - self._before, self._clock() - self._start
        if here < 1 or not seconds:
            return []
        facts = [f'{here / seconds:.3g} steps/s']
        if self.done < self.total:
            facts.append(f'{duration((self.total - self.done) * seconds / here)} left')
        return facts

    def note(self) -> str:
        """The text that `say` was given last."""
        return self._said


def track(
    items: Iterable[T],
    description: str,
    total: int | None = None,
    *,
    console: Console | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[T]:
    """Yields `items` and shows how many of them are done, of `total` where they have no length themselves."""
    work = _CountedWork(operator.length_hint(items) if total is None else total, clock)
    screen = Screen(work, description, console, clock)
    screen.start()
    try:
        for item in items:
            yield item
            work.done += 1
            screen.show()
    finally:
        screen.stop()


class _CountedWork:
    """Work of any kind that is counted: what `track` shows."""

    def __init__(self, total: int, clock: Clock) -> None:
        self.total, self.done = total, 0
        self._clock, self._start = clock, clock()

    def facts(self) -> list[str]:
        """Time left, as soon as some are done."""
        seconds = self._clock() - self._start
        if 0 < self.done < self.total:
            return [f'{duration((self.total - self.done) * seconds / self.done)} left']
        return []

    def note(self) -> str:
        """Nothing."""
        return ''


class Screen:
    """A bar on a terminal, plain lines elsewhere; both say the same."""

    def __init__(self, work: 'Work', description: str, console: Console | None, clock: Clock) -> None:
        self._work, self._description, self._clock = work, description, clock
        self._console = Console() if console is None else console
        self._live: Live | None = None
        self._start = self._printed_at = clock()
        self._printed = -1
        # rich also takes a pipe for a terminal where FORCE_COLOR is set.
        if self._console.file.isatty() and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                get_renderable=self._bar, console=self._console, transient=True, refresh_per_second=REFRESHES_PER_SECOND
            )

    def start(self) -> None:
        """Shows the bar, where there is a terminal."""
        if self._live is not None:
            self._live.start()

    def show(self) -> None:
        """Shows how far the work is, if that is due."""
        due = self._clock() - self._printed_at >= PLAIN_INTERVAL_SECONDS or self._work.done == self._work.total
        if self._live is None and due:
            self._print()

    def stop(self) -> None:
        """Removes the bar, shows the cursor again, and leaves the last state as a line."""
        if self._live is not None:
            self._live.stop()
        if self._printed != self._work.done:
            self._print()

    def _print(self) -> None:
        self._printed_at, self._printed = self._clock(), self._work.done
        words = [self._count(), self._elapsed(), *self._work.facts(), self._work.note()]
        print(' | '.join(word for word in words if word), file=self._console.file, flush=True)

    def _bar(self) -> Group:
        bar = ProgressBar(total=max(self._work.total, 1), completed=self._work.done, width=BAR_WIDTH)
        facts = ' | '.join([self._elapsed(), *self._work.facts()])
        line = Table.grid(padding=(0, 1))
        line.add_row(self._count(), bar, Text(facts, overflow='ellipsis', no_wrap=True))
        note = self._work.note()
        return Group(line, *[Text(note, overflow='ellipsis', no_wrap=True)] * bool(note))

    def _count(self) -> str:
        return f'{self._description} {self._work.done}' + f'/{self._work.total}' * bool(self._work.total)

    def _elapsed(self) -> str:
        return duration(self._clock() - self._start)


class Events:
    """One event file, with a name of its own: two that the library names in one second would have the same name."""

    def __init__(self, logdir: pathlib.Path) -> None:
        logdir.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(logdir / 'events'), f'.{os.getpid()}.{time.time_ns()}')

    def add(self, step: int, scalars: dict[str, float]) -> None:
        """Adds one point to each curve."""
        for tag, value in scalars.items():
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(tag, value)))

    def image(self, tag: str, step: int, pixels: UInt8[np.ndarray, 'H W 3']) -> None:
        """Adds a picture."""
        summary = image(tag, pixels, dataformats='HWC')
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Writes all to the disk before it returns."""
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


def duration(seconds: float) -> str:
    """A span of time in words: `0.8 s`, `42 s`, `9 min`, `1 h 05 min`, `2 d 3 h`."""
    if seconds < 9.95:
        return f'{seconds:.1f} s'
    if seconds < 99.5:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    if minutes < 60:
        return f'{minutes} min'
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f'{hours} h {minutes:02d} min'
    return f'{hours // 24} d {hours % 24} h'
