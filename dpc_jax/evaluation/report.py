"""What an evaluation found, as text; `results` writes it to files."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dpc_jax.task import Counts, Task


def as_json(row: Mapping[str, Any]) -> str:
    """A row with its cause; NaN, which JSON does not know, is null."""
    return json.dumps(_without_nan(row), indent=2, ensure_ascii=False) + '\n'


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def as_markdown(
    task: Task, row: Mapping[str, Any], counts: Counts, *, picture: str = '', attached: Sequence[str] = ()
) -> str:
    """The scores, the task's tables, the picture of that file name if there is one, and what the numbers depend on.

    `attached` names the files beside the report.
    """
    parts = [f'# {task.headline(row)}', *task.tables(counts, row)]
    if picture:
        parts.append(f'![Images, targets and predictions]({picture})')
    facts = [f'- **{name.replace("_", " ")}**: `{row[name]}`' for name in row if name not in (*task.tabled, 'config')]
    others = ''.join(f' More: [{name}]({name}).' for name in attached)
    elsewhere = f'All of it, with the config: [metrics.json](metrics.json).{others}'
    return '\n\n'.join([*parts, '\n'.join(facts), elsewhere]) + '\n'
