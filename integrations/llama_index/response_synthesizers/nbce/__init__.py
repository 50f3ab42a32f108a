"""`from llama_index.response_synthesizers.nbce import NBCESynthesizer`: all nodes in one call."""

from llama_index_nbce.synthesizer import NBCESynthesizer

__all__ = ["NBCESynthesizer"]
