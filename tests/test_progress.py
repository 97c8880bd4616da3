"""Lines, bars and event files of long work; the event files are read by hand, as any other program would."""

import io
import itertools
import math
import pathlib
import re
import struct

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from dpc_jax.progress import StepProgress, duration, track
from dpc_jax.study import Progress
from tests.forged import candidate

ESCAPE = '\x1b'
HIDE_CURSOR, SHOW_CURSOR = '\x1b[?25l', '\x1b[?25h'


class Clock:
    def __init__(self):
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def plain():
    return Console(file=io.StringIO())


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv('TERM', 'xterm-256color')
    return Console(file=Terminal(), width=100)


def words(text: str) -> str:
    """What was written, without the control sequences."""
    return re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', text)


# ---- plain lines ----------------------------------------------------------------------------------------------


def test_plain_lines_come_now_and_then_and_at_the_end(plain, clock):
    with Progress(4, console=plain, clock=clock) as progress:
        for number, score in enumerate((0.25, math.nan, 0.5, 0.125)):
            clock.seconds += 20
            progress.update([candidate(number, score)])
    assert plain.file.getvalue().splitlines() == [
        'candidates 2/4 | 40 s | 3 candidates/min | 40 s left | 1 failed | best 25.00 % mIoU: F[cell0]',
        'candidates 4/4 | 80 s | 3 candidates/min | 1 failed | best 50.00 % mIoU: F[cell2]',
    ]


def test_plain_lines_have_no_control_characters(plain, clock):
    with Progress(2, console=plain, clock=clock) as progress:
        progress.update([candidate(0, 0.5), candidate(1)])
    assert list(track(range(2), 'caching', console=plain, clock=clock)) == [0, 1]
    assert plain.file.getvalue().replace('\n', '').isprintable()


@pytest.mark.parametrize('term', ['dumb', 'unknown'])
def test_a_terminal_that_cannot_move_gets_plain_lines(term, terminal, monkeypatch):
    monkeypatch.setenv('TERM', term)
    with Progress(1, console=terminal) as progress:
        progress.update([candidate(0, 0.5)])
    assert ESCAPE not in terminal.file.getvalue()
    assert 'candidates 1/1' in terminal.file.getvalue()


def test_an_interrupted_search_says_how_far_it_came(plain, clock):
    with pytest.raises(KeyboardInterrupt), Progress(9, console=plain, clock=clock) as progress:  # noqa: PT012
        progress.update([candidate(0, 0.5)])
        raise KeyboardInterrupt
    assert plain.file.getvalue() == 'candidates 1/9 | 0.0 s | best 50.00 % mIoU: F[cell0]\n'


def test_a_later_start_counts_on_and_rates_only_itself(plain, clock):
    best = candidate(3, 0.75)
    with Progress(20, 10, best, console=plain, clock=clock) as progress:
        clock.seconds += 60
        progress.update([candidate(10, 0.5), candidate(11, 0.625)])
    assert plain.file.getvalue() == (
        'candidates 12/20 | 60 s | 2 candidates/min | 4 min left | best 75.00 % mIoU: F[cell3]\n'
    )


def test_references_and_pruned_candidates_are_no_best(plain):
    with Progress(3, console=plain) as progress:
        progress.update([candidate(0, 0.9, reference='aspp'), candidate(1, 0.8, state='pruned'), candidate(2, 0.1)])
        assert progress.best.number == 2
        assert (progress.done, progress.failed) == (2, 0)


def test_a_pipe_is_no_terminal_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv('FORCE_COLOR', '1')
    console = Console(file=io.StringIO())
    with Progress(1, console=console) as progress:
        progress.update([candidate(0, 0.5)])
    assert ESCAPE not in console.file.getvalue()


# ---- the bar ----------------------------------------------------------------------------------------------------


def test_the_bar_is_removed_and_the_last_line_stays(terminal):
    with Progress(2, console=terminal) as progress:
        progress.update([candidate(0, 0.5), candidate(1)])
    text = terminal.file.getvalue()
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 1
    bar, _, after = text.partition(SHOW_CURSOR)
    assert '━' in bar
    assert re.fullmatch(r'\s*candidates 2/2 \|.*\| 1 failed \| best 50.00 % mIoU: F\[cell0\]\n', words(after))


@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError])
def test_the_cursor_comes_back_whatever_ends_the_work(terminal, error):
    with pytest.raises(error), Progress(2, console=terminal):
        raise error
    assert terminal.file.getvalue().rindex(SHOW_CURSOR) > terminal.file.getvalue().rindex(HIDE_CURSOR)


def test_the_bar_says_what_the_plain_lines_say(terminal, plain, clock):
    for console in (terminal, plain):
        with Progress(5, console=console, clock=clock) as progress:
            clock.seconds += 60
            progress.update([candidate(0, 0.5), candidate(1)])
    for fact in ('candidates 2/5', '60 s | 2 candidates/min | 90 s left | 1 failed', 'best 50.00 % mIoU: F[cell0]'):
        assert fact in words(terminal.file.getvalue())
        assert fact in plain.file.getvalue()


def test_a_long_cell_does_not_wrap_the_bar(terminal):
    long = candidate(0, 0.5)
    object.__setattr__(long, 'key', 'F[' + 's18x15[' * 40)
    with Progress(2, console=terminal) as progress:
        progress.update([long])
        bar = progress._screen._bar()
        progress._screen._live.console.print(bar)
    assert '…' in words(terminal.file.getvalue())


# ---- other long work --------------------------------------------------------------------------------------------


def test_track_yields_everything_and_says_when_it_is_done(plain, clock):
    for _ in track(iter('abcd'), 'caching', 4, console=plain, clock=clock):
        clock.seconds += 20
    assert plain.file.getvalue().splitlines() == ['caching 2/4 | 40 s | 40 s left', 'caching 4/4 | 80 s']


def test_track_knows_the_length_of_what_has_one_and_does_without(plain, clock):
    assert list(track('ab', 'known', console=plain, clock=clock)) == ['a', 'b']
    assert list(track((x for x in 'ab'), 'unknown', console=plain, clock=clock)) == ['a', 'b']
    assert plain.file.getvalue() == 'known 2/2 | 0.0 s\nunknown 2 | 0.0 s\n'


def test_track_restores_the_cursor_when_its_body_fails(terminal):
    def work():
        for _ in track(range(3), 'caching', console=terminal):
            raise ValueError('broken')

    with pytest.raises(ValueError, match='broken'):
        work()
    assert terminal.file.getvalue().count(HIDE_CURSOR) == terminal.file.getvalue().count(SHOW_CURSOR) == 1


# ---- event files ------------------------------------------------------------------------------------------------


def events(path: pathlib.Path) -> list[Event]:
    """Records of a file: length (8 bytes), its checksum, the message, its checksum."""

    def masked(data):
        value = crc32c(data)
        return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF

    data, found = path.read_bytes(), []
    while data:
        header, (check,) = data[:8], struct.unpack('<I', data[8:12])
        assert check == masked(header)
        (length,) = struct.unpack('<Q', header)
        message, (check,) = data[12 : 12 + length], struct.unpack('<I', data[12 + length : 16 + length])
        assert check == masked(message)
        found.append(Event.FromString(message))
        data = data[16 + length :]
    return found


def scalars(logdir) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of all event files, in the order of their names."""
    table: dict[str, list[tuple[int, float]]] = {}
    for event in itertools.chain(*map(events, sorted(logdir.iterdir()))):
        for value in event.summary.value:
            table.setdefault(value.tag, []).append((event.step, value.simple_value))
    return table


def test_scalars_are_filed_under_the_number_of_the_candidate(tmp_path, plain):
    with Progress(4, logdir=tmp_path / 'logs', console=plain) as progress:
        progress.update([candidate(0, 0.5, reference='aspp')])
        progress.update([candidate(3, 0.25), candidate(2, 0.125), candidate(1)])
        progress.update([candidate(4, 0.0625)])
    assert scalars(tmp_path / 'logs') == {
        'reference/aspp': [(0, 0.5)],
        'candidate/score': [(2, 0.125), (3, 0.25), (4, 0.0625)],
        'candidate/best_score': [(2, 0.125), (3, 0.25), (4, 0.25)],
        'candidate/loss': [(1, 0.75), (2, 0.75), (3, 0.75), (4, 0.75)],
        'candidate/seconds': [(1, 2.5), (2, 2.5), (3, 2.5), (4, 2.5)],
    }


def test_what_the_sampler_shows_is_filed_once_under_what_it_had_learned(tmp_path, plain):
    def drawn(number, learned, **numbers):
        return candidate(number, 0.5, shown={'learned': float(learned), **numbers})

    first = [drawn(1, 0, entropy=4.0), drawn(2, 0, entropy=4.0), drawn(3, 2, entropy=3.5, reward=0.5)]
    with Progress(6, logdir=tmp_path, console=plain) as progress:
        progress.update([candidate(0, 0.5, reference='aspp')])  # nobody drew it
        progress.update(first)
    with Progress(6, 3, logdir=tmp_path, before=first, console=plain) as progress:
        progress.update([drawn(4, 2, entropy=3.5, reward=0.5), drawn(5, 4, entropy=3.0, reward=0.75)])
    found = {tag: points for tag, points in scalars(tmp_path).items() if tag.startswith('strategy/')}
    assert found == {
        'strategy/entropy': [(0, 4.0), (2, 3.5), (4, 3.0)],
        'strategy/reward': [(2, 0.5), (4, 0.75)],
    }


def test_the_loss_is_the_last_that_was_finite(tmp_path, plain):
    with Progress(4, logdir=tmp_path, console=plain) as progress:
        progress.update([candidate(0, 0.5, losses=(1.5, 1.25, math.nan)), candidate(1, losses=(math.nan,))])
        progress.update([candidate(2, losses=())])
    assert scalars(tmp_path)['candidate/loss'] == [(0, 1.25)]


def test_events_are_on_the_disk_before_anything_is_closed(tmp_path, plain):
    progress = Progress(4, logdir=tmp_path, console=plain)
    with progress:
        progress.update([candidate(0, 0.5)])
        assert scalars(tmp_path)['candidate/score'] == [(0, 0.5)]


def test_a_later_start_adds_a_file_and_goes_on_in_steps(tmp_path, plain):
    with Progress(2, logdir=str(tmp_path), console=plain) as progress:
        progress.update([candidate(0, 0.5)])
    with Progress(2, 1, progress.best, tmp_path, console=plain) as progress:  # within the same second
        progress.update([candidate(1, 0.25)])
    assert len(list(tmp_path.iterdir())) == 2
    assert scalars(tmp_path)['candidate/score'] == [(0, 0.5), (1, 0.25)]
    assert scalars(tmp_path)['candidate/best_score'] == [(0, 0.5), (1, 0.5)]


def test_tensorboard_finds_the_file_by_its_name_and_version(tmp_path, plain):
    with Progress(1, logdir=tmp_path, console=plain):
        pass
    (path,) = tmp_path.iterdir()
    assert 'tfevents' in path.name
    assert events(path)[0].file_version == 'brain.Event:2'


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [
        (0.0, '0.0 s'),
        (9.94, '9.9 s'),
        (9.96, '10 s'),
        (99.4, '99 s'),
        (100.0, '2 min'),
        (3569.0, '59 min'),
        (3571.0, '1 h 00 min'),
        (3900.0, '1 h 05 min'),
        (47.9 * 3600, '47 h 54 min'),
        (51 * 3600.0, '2 d 3 h'),
    ],
)
def test_durations_are_said_in_words(seconds, text):
    assert duration(seconds) == text


# ---- steps of a training --------------------------------------------------------------------------------------------


def test_steps_have_a_rate_without_the_first_which_compiles(plain, clock):
    with StepProgress(10, console=plain, clock=clock) as progress:
        clock.seconds += 100
        progress.advance(1)
        clock.seconds += 20
        progress.say('loss 1.5')
        progress.advance(6)
        clock.seconds += 16
        progress.advance(10)
    lines = plain.file.getvalue().splitlines()
    assert lines[0] == 'step 1/10 | 2 min'
    assert lines[-1] == 'step 10/10 | 2 min | 0.25 steps/s | loss 1.5'


def test_a_later_start_rates_only_its_own_steps(plain, clock):
    with StepProgress(100, 50, console=plain, clock=clock) as progress:
        progress.advance(51)
        clock.seconds += 40
        progress.advance(61)
    assert 'step 61/100 | 40 s | 0.25 steps/s | 3 min left' in plain.file.getvalue()


def test_scalars_and_images_of_steps_are_filed(tmp_path, plain):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    with StepProgress(9, 0, tmp_path, console=plain) as progress:
        progress.scalars(3, {'train/loss': 0.5, 'train/other': math.nan})
        progress.image('evaluation/predictions', 4, pixels)
    (path,) = tmp_path.iterdir()
    found = [event for event in events(path) if event.summary.value]
    assert [(event.step, event.summary.value[0].tag) for event in found] == [
        (3, 'train/loss'),
        (4, 'evaluation/predictions'),
    ]
    assert found[0].summary.value[0].simple_value == 0.5
    stored = np.asarray(Image.open(io.BytesIO(found[1].summary.value[0].image.encoded_image_string)))
    np.testing.assert_array_equal(stored, pixels)
    with StepProgress(9, console=plain) as progress:  # without a folder nothing is filed
        progress.scalars(1, {'a': 1.0})
        progress.image('b', 1, pixels)
