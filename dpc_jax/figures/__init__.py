"""The door of figures: the report of a study, the drawing of a cell."""

from dpc_jax.figures.pictures import is_scored, percent
from dpc_jax.figures.report import draw_cell, write_report

__all__ = ['draw_cell', 'is_scored', 'percent', 'write_report']
