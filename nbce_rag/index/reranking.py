"""Scoring what was found anew, by a model that reads question and passage together."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from ..checks import check_count
from ..errors import InputError, ModelError
from ..openmp import give_back_team

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

__all__ = ["CrossEncoderReranker", "Reranker", "RerankerLike", "Scores", "rerank_scores", "resolve_reranker"]


@runtime_checkable
class Reranker(Protocol):
    """Anything that scores texts for a query."""

    def score(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """A score for each text, in [-1, 1], the best the highest."""
        ...


class CrossEncoderReranker:
    """A cross-encoder of sentence-transformers, loaded when it is first used.

    Its logits go through the logistic function, so that scores are in (0, 1): fusion takes a passage's score
    as it takes a cosine. No code from the model's repository is run, and only safetensors are read.

    Args:
        model: Name on the hub, or folder.
        device: As in torch; default: the best there is.
        batch_size: Pairs in one forward pass.

    Raises:
        InputError: `batch_size` < 1.
        ModelError: On first use: the model cannot be loaded, or gives more than one score for a pair.
    """

    def __init__(self, model: str, device: str | None = None, batch_size: int = 32) -> None:
        self.model = model
        self._device = device
        self._batch_size = check_count("batch_size", batch_size, "32 is a good start")
        self._encoder: CrossEncoder | None = None
        self._lock = threading.Lock()

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """A score in (0, 1) for each text."""
        if not texts:
            return []
        import torch

        with self._lock:
            if self._encoder is None:
                self._encoder = self._load()
            scores = self._encoder.predict(
                [(query, text) for text in texts],
                batch_size=self._batch_size,
                show_progress_bar=False,
                activation_fn=torch.nn.Sigmoid(),
            )
        give_back_team()
        if getattr(scores, "ndim", 1) != 1:
            raise ModelError(f"{self.model} gives several scores for a pair: give a model with one label.")
        return [float(score) for score in scores]

    def _load(self) -> CrossEncoder:
        from sentence_transformers import CrossEncoder

        try:
            encoder: CrossEncoder = CrossEncoder(
                self.model,
                device=self._device,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except Exception as error:  # hub, file system, configuration: each has its own
            raise ModelError(
                f"The cross-encoder {self.model!r} cannot be loaded ({error}): give a name such as "
                "'cross-encoder/ms-marco-MiniLM-L6-v2', or a folder with safetensors."
            ) from error
        return encoder


Scores: TypeAlias = Callable[[str, Sequence[str]], Sequence[float]]
"""(query, texts) -> a score for each text."""

RerankerLike: TypeAlias = "str | Reranker | Scores"


def resolve_reranker(reranker: RerankerLike) -> Reranker | Scores:
    """A reranker of a cross-encoder's name or folder, an object with `score`, or a callable.

    Raises:
        InputError: It is none of these.
    """
    if isinstance(reranker, str):
        return CrossEncoderReranker(reranker)
    if isinstance(reranker, Reranker):
        return reranker
    if callable(reranker):
        return reranker
    raise InputError(
        f"rerank takes the name of a cross-encoder, an object with score(query, texts), or a callable; "
        f"got {type(reranker).__name__}."
    )


def rerank_scores(reranker: Reranker | Scores, query: str, texts: Sequence[str]) -> list[float]:
    """The scores, checked.

    Raises:
        InputError: They are not one finite number for each text.
    """
    score = reranker.score if isinstance(reranker, Reranker) else reranker
    scores = [float(value) for value in score(query, texts)]
    if len(scores) != len(texts) or not all(map(math.isfinite, scores)):
        raise InputError(
            f"The reranker gave {len(scores)} scores for {len(texts)} texts, or one that is not finite."
        )
    return scores
