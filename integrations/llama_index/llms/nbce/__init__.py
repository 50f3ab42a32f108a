"""`from llama_index.llms.nbce import NBCELLM`, the place where LlamaHub's integrations are looked for."""

from llama_index_nbce.llm import NBCELLM

__all__ = ["NBCELLM"]
