"""`nbce-rag mcp` in a process of its own, on a model that reads, with an index opened slowly and loudly.

python mcp_child.py INDEX SECONDS
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from nbce_rag.server import served
from nbce_rag.server.mcp.stdio import run_stdio
from nbce_rag.server.settings import ServerSettings

sys.path[:0] = [str(Path(__file__).parents[1])]


def opened(settings: ServerSettings) -> served.Served:
    """What `Served.open` would open, if there were a model for it."""
    time.sleep(float(sys.argv[2]))
    print("a library prints something")
    os.write(1, b"and so does one that is written in C\n")
    from index_tools import bag_of_words
    from scripted_model import ScriptedModel
    from tiny_models import build_tokenizer

    from nbce_rag.engine.nbce import NBCE
    from nbce_rag.index import PassageIndex
    from nbce_rag.models.transformers.loading import wrap_model

    tokenizer = build_tokenizer(chat=True)
    nbce = NBCE(wrap_model(ScriptedModel(tokenizer), tokenizer), max_tokens=24)
    indexes = {name: PassageIndex.open(path, bag_of_words) for name, path in settings.indexes.items()}
    made = served.Served(nbce, indexes)
    made._stack.callback(lambda: os.write(2, b"closed\n"))
    return made


class Slow(served.Served):
    open: Any = staticmethod(opened)


served.Served = Slow  # type: ignore[misc]

if __name__ == "__main__":
    run_stdio(ServerSettings(indexes={"codes": Path(sys.argv[1])}))
