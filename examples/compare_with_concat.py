"""One question, the same passages: all in one prompt, and each as a context of its own.

    python examples/compare_with_concat.py ["a question"] [--docs FOLDER] [-k 8] [--model M]

Both are the same model, the same wording and the same greedy decoding. One prompt is one row with all
passages; it cannot say which of them an answer rests on. The third line asks again, when the passages have
been read before. One question proves nothing: `nbce-rag eval` does this over many, with intervals.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from nbce_rag import NBCE, Answer, MinEntropy, PassageIndex

CORPUS = Path(__file__).parent / "corpus"
# No contrast and no truncation: with one row this is the model itself.
ONE_PROMPT = MinEntropy(beta=0.0, eta=0.0, top_p=1.0)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="NBCE and the concatenated prompt on one question.")
    parser.add_argument("question", nargs="?", default="Who is the chief pilot at Skarrowmouth?")
    parser.add_argument("--docs", type=Path, default=CORPUS, help="folder or file (default: the corpus here)")
    parser.add_argument("-k", type=int, default=8, help="passages to read (default: 8)")
    parser.add_argument("--model", help="hub id, folder or GGUF file (default: the packaged one)")
    parser.add_argument("--max-tokens", type=int, default=24)
    given = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as folder, PassageIndex.create(Path(folder) / "index") as index:
        index.add_files([given.docs])
        passages = index.search(given.question, k=given.k)
    nbce = NBCE.from_pretrained(given.model, max_tokens=given.max_tokens)
    nbce.answer("Ready?", ["Yes."], max_tokens=1)  # what a first call sets up is nobody's cost
    together = nbce.answer(
        given.question, passages, fusion=ONE_PROMPT, passages_per_row=max(1, len(passages))
    )
    apart = nbce.answer(given.question, passages)
    again = nbce.answer(given.question, passages)

    print(f"{'':32} first token  ms a token  prompt tokens  reused")
    for name, answer in (
        ("one prompt", together),
        ("a row for each passage", apart),
        ("the same, passages read before", again),
    ):
        print(f"{name:32} {timing(answer)}")
    print(f"\nOne prompt:\n{together.text}\n\nA row for each passage:\n{apart}\n")
    print("Evidence by token, the leading passage of each:")
    for token in apart.tokens:
        if token.passage is not None:
            share = token.weights[token.passage]
            title = apart.passages[token.passage].title or apart.passages[token.passage].id
            print(f"  {token.text!r:16} {share:4.0%}  {title}")


def timing(answer: Answer) -> str:
    """One line of a table."""
    first = answer.timings.first_token or 0.0
    step = 1000 * answer.timings.decode / max(1, answer.usage.generated_tokens)
    return f"{first:9.2f} s {step:11.0f} {answer.usage.prompt_tokens:14,} {answer.usage.cached_tokens:7,}"


if __name__ == "__main__":
    main()
