"""How answers look: as a page or in a notebook, as a picture, and while they come.

Importing this package loads nothing heavy; matplotlib (extra `[plot]`) and IPython are imported where they
are used.
"""

from __future__ import annotations

from .answer_html import answer_html, answer_page
from .comparison_html import comparison_html
from .figure import plot
from .live import show

__all__ = ["answer_html", "answer_page", "comparison_html", "plot", "show"]
