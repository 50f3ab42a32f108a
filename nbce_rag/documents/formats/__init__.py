"""Formats of files: one a module, which says in `DOCUMENTS` or `RECORDS` how each suffix is read.

A module here is all that another format takes. `DOCUMENTS` has functions of a path and the content of the
file that give a `Document`; `RECORDS` those of a file that holds many, which give its passages (see `Reader`
in `nbce_rag.documents.readers`). Libraries are imported inside them: reading text files should not wait
for those of other formats.

`VERSION` is raised whenever a reader, or what it calls, comes to make another text of a file: files whose
reader has changed are read anew by the next `nbce-rag index`. Without it files are text as they stand.
"""
