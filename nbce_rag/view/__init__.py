"""How answers look: as a page or in a notebook, and as a picture.

Importing this package loads nothing heavy; matplotlib (extra `[plot]`) and IPython are imported where they
are used.
"""

from __future__ import annotations

from .comparison_html import comparison_html
from .figure import plot
from .html import answer_html, answer_page

__all__ = ["answer_html", "answer_page", "comparison_html", "plot"]
