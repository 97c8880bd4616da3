"""Compares each number of README and docs that has a row in `results/` with that row.

  python experiments/check_readme.py          (prints every number that was compared; exit code 1 if one is wrong)
  python experiments/check_readme.py --fix    (writes the numbers of the rows into the documents)

`claims.py` says which phrase of which document comes from which file. A phrase that is absent or stands there twice is
a fault, and so is a number with a decimal point or a unit that no entry of `claims.py` covers.
"""

import pathlib
import re
import string
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from absl import app, flags

from dpc_jax import command_line
from experiments import claims, entry
from experiments.claims import Claim, Stated, Values

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = 'experiments/results'

FIX = flags.DEFINE_bool('fix', False, 'Write the numbers of the rows into the documents.')

NUMBER = r'[-+]?\d+(?:,\d{3})*(?:\.\d+)?'
OPEN = rf'(?<![\d.])({NUMBER})(?!\d|[.,]\d)'  # stands for one number of a phrase
UNIT = r'(?:%|GiB|GB|images/s|(?:m?s|points?|seconds?|minutes?|hours?)\b)'
MEASURED = re.compile(rf'(?<![\w.,:/-])(?:\d+\.\d+(?!\.?\d)|{NUMBER}(?=\s?{UNIT}))')  # needs an entry in claims.py
NOT_PROSE = re.compile(r'^```.*?^```|^    .*?$|`[^`]*`|(?<=\])\([^)]*\)|<[^>]*>|arXiv:[\d.]+', re.DOTALL | re.MULTILINE)


class Number(NamedTuple):
    """One number of a document, and what its row says."""

    document: str
    start: int  # offsets in the document's text
    stop: int
    found: str
    expected: str
    what: str  # its file of rows, and its name there


class Report(NamedTuple):
    """What became of the claims on a set of documents."""

    texts: dict[str, str]  # document -> its text
    numbers: list[Number]
    faults: list[str]  # a line each


def documents(root: pathlib.Path) -> list[str]:
    """The documents in which every number is looked for."""
    return ['README.md', *sorted(f'docs/{path.name}' for path in root.glob('docs/*.md')), 'experiments/README.md']


def check(root: pathlib.Path, stated: Sequence[Claim], elsewhere: Sequence[Stated]) -> Report:
    """Compares; changes nothing."""
    texts = {name: (root / name).read_text(encoding='utf-8') for name in documents(root)}
    report = Report(texts, [], [])
    covered: dict[str, list[tuple[int, int]]] = {name: [] for name in texts}
    read: dict[claims.Source, Values] = {}
    for claim in stated:
        match = sole_match(report, claim.document, pattern(claim.phrase), claim.phrase)
        if match is None:
            continue
        covered[claim.document].append(match.span())
        if claim.source not in read:
            read[claim.source] = rows_of(report, root, claim.source)
        compare(report, claim, match, read[claim.source])
    for known in elsewhere:
        match = sole_match(report, known.document, words(known.phrase), known.phrase)
        if match is not None:
            covered[known.document].append(match.span())
    for name, text in texts.items():
        report.faults.extend(uncovered(name, text, covered[name]))
    return report


def rows_of(report: Report, root: pathlib.Path, source: claims.Source) -> Values:
    """The named values of a file; none, and a fault, if it cannot be read."""
    try:
        return source.read(root / RESULTS / source.path)
    except (OSError, ValueError, KeyError, IndexError) as error:
        report.faults.append(f'{RESULTS}/{source.path} cannot be read: {error!r}')
        return {}


def sole_match(report: Report, document: str, expression: str, phrase: str) -> re.Match[str] | None:
    """The match of the phrase; None, and a fault, unless there is exactly one."""
    found = list(re.finditer(expression, report.texts.get(document, '')))
    if len(found) != 1:
        times = f'stands there {len(found)} times' if found else 'is not there'
        report.faults.append(f"{document}: the phrase '{phrase}' of experiments/claims.py {times}")
        return None
    return found[0]


def pattern(phrase: str) -> str:
    """The regular expression of a claim's phrase: a group for each number."""
    parsed = string.Formatter().parse(phrase)
    return ''.join(words(text) + (OPEN if name else '') for text, name, _, _ in parsed)


def words(text: str) -> str:
    """The regular expression of words between which lines may break."""
    return r'\s+'.join(map(re.escape, re.split(r'\s+', text)))


def compare(report: Report, claim: Claim, match: re.Match[str], values: Values) -> None:
    """Adds the numbers of a phrase, and a fault for each that is not its row's."""
    fields = [(name, form or '') for _, name, form, _ in string.Formatter().parse(claim.phrase) if name]
    for group, (name, form) in enumerate(fields, start=1):
        what = f'{RESULTS}/{claim.source.path}, {name}'
        if name not in values:
            report.faults.append(f'{what}: the file has no such number')
            continue
        start, stop = match.span(group)
        number = Number(claim.document, start, stop, match[group], format(values[name], form), what)
        report.numbers.append(number)
        if number.found != number.expected:
            where = place(claim.document, report.texts[claim.document], start)
            report.faults.append(f'{where}: found {number.found}, expected {number.expected} ({what})')


def uncovered(name: str, text: str, spans: Sequence[tuple[int, int]]) -> Iterator[str]:
    """A line for each measured number of the prose and tables that no entry covers."""
    prose = NOT_PROSE.sub(lambda match: re.sub(r'[^\n]', ' ', match[0]), text)
    for match in MEASURED.finditer(prose):
        if not any(start <= match.start() and match.end() <= stop for start, stop in spans):
            around = ' '.join(text[max(0, match.start() - 40) : match.end() + 20].split())
            where = place(name, text, match.start())
            yield f"{where}: {match[0]} has no entry in experiments/claims.py: '... {around} ...'"


def place(name: str, text: str, offset: int) -> str:
    """README.md:12."""
    return f'{name}:{text.count(chr(10), 0, offset) + 1}'


def fixed(report: Report) -> dict[str, str]:
    """The documents that would change, with the numbers of the rows."""
    texts = dict(report.texts)
    for number in sorted(report.numbers, key=lambda number: number.start, reverse=True):
        text = texts[number.document]
        texts[number.document] = text[: number.start] + number.expected + text[number.stop :]
    return {name: text for name, text in texts.items() if text != report.texts[name]}


def run(root: pathlib.Path, *, fix: bool, say: Callable[[str], object] = print) -> list[str]:
    """Checks the documents below `root`, corrects them if `fix`; returns the faults that are left."""
    report = check(root, claims.CLAIMS, claims.ELSEWHERE)
    if fix:
        for name, text in fixed(report).items():
            (root / name).write_text(text, encoding='utf-8')
            say(f'written: {name}')
        report = check(root, claims.CLAIMS, claims.ELSEWHERE)
    for number in report.numbers:
        where = place(number.document, report.texts[number.document], number.start)
        say(f'{where}: {number.found} ({number.what})')
    say(f'{len(report.numbers)} numbers compared, {len(report.faults)} faults')
    return report.faults


def main(argv: Sequence[str]) -> None:
    """Checks the repository's documents; exit code 1 if something is wrong."""
    del argv
    faults = run(ROOT, fix=FIX.value)
    if faults:
        print('\n'.join(faults), file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    app.run(entry.one_line_errors(main), flags_parser=command_line.parse_flags)
