"""Questions over a folder of PDFs.

    python examples/pdf_folder.py papers/ "Who runs the ferry?" [--index DIR] [-k 8] [--html FILE]

The index is kept: the second question starts at once, and only files that have changed are read again. Scans
without a text layer need OCR first; such files are named and the rest goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nbce_rag import IndexNotFoundError, NbceError, PassageIndex, Rag, show


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Questions over a folder of PDFs.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("question")
    parser.add_argument("--index", type=Path, help="where the index is kept (default: FOLDER.index)")
    parser.add_argument("-k", type=int, default=8, help="passages to read (default: 8)")
    parser.add_argument("--html", type=Path, help="also write the answer as a page with its evidence")
    given = parser.parse_args(arguments)
    files = sorted(given.folder.rglob("*.pdf"))
    if not files:
        print(f"There is no PDF in {given.folder}.", file=sys.stderr)
        return 1
    path = given.index or given.folder.with_name(f"{given.folder.resolve().name}.index")
    try:
        try:
            index = PassageIndex.open(path)
        except IndexNotFoundError:
            index = PassageIndex.create(path)
        with index:
            report = index.add_files(files)
            for file, reason in report.files_failed.items():
                print(f"not read: {file}: {reason}", file=sys.stderr)
        with Rag.open(path, k=given.k, max_tokens=64) as rag:
            answer = show(rag.stream(given.question))
    except NbceError as error:
        print(error, file=sys.stderr)
        return 2
    for passage in answer.cited_passages:
        # PDF passages know their page where the reader could tell it.
        print(f"{passage.source}, page {passage.metadata.get('page', '?')}")
    if given.html:
        given.html.write_text(answer.to_html(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
