"""Models that vLLM serves, behind the seam of `nbce_rag.models.model`. Imports no vLLM: it runs elsewhere."""
