"""`from llama_index.question_gen.nbce import NBCEQuestionGenerator`: sub-questions that fit the tools."""

from llama_index_nbce.selectors import NBCEQuestionGenerator

__all__ = ["NBCEQuestionGenerator"]
