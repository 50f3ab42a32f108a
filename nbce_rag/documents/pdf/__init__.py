"""PDF as text that flows, every character of which knows its place on its page.

PDFium, through pypdfium2, finds the characters in the order in which they were drawn, joins what belongs to
one word, and takes ligatures apart. `pages` takes in lines and their boxes, `running` tells heads and feet
of pages, `layout` tables and columns; `reading` makes one text of it, and `boxes` finds spans of that again.
"""
