"""HTML as its reader sees it, as text in the manner of Markdown.

The parser is Lexbor's, through selectolax, which builds the tree that browsers build. `walk` goes through
that tree once and writes `blocks`; `tables`, `formulas` and `visibility` know their part of it.
"""
