"""What the tests of other vector stores share: texts, and an embedder of vectors of length 1."""

from __future__ import annotations

import numpy as np
from index_tools import bag_of_words
from numpy.typing import NDArray

QUESTION = "Who runs the ferry to Karrow?"
TEXTS = {
    "Ferry": "The ferry to Karrow is run by Ada Quill.",
    "Market": "The market of Brennick sells fish and bread.",
    "Lamp": "The lamp is lit by Mirele Arrow.",
}


def unit_vectors(texts: list[str]) -> NDArray[np.float64]:
    """[len(texts), 32] bags of words."""
    vectors = bag_of_words(texts)
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def cosines(texts: list[str], question: str = QUESTION) -> list[float]:
    """Of some texts with a question."""
    whole: list[float] = (unit_vectors(texts) @ unit_vectors([question])[0]).tolist()
    return whole
