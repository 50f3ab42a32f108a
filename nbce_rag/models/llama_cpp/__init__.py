"""The backend over llama.cpp: GGUF files whose weights stay packed."""
