# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet
DEMO = .demo
LOWEST = .lowest
S3 = .s3
VLLM = .vllm
STORES = .stores
WORKERS ?= 2

.PHONY: demo test lint types contracts unit matrix llama vllm lowest gpu s3 stores clean

demo: $(VENV)/local.stamp
	$(BIN)/nbce-rag index examples/corpus --index $(DEMO)/index
	$(BIN)/nbce-rag ask "Who is the chief pilot at Skarrowmouth?" --index $(DEMO)/index
	$(BIN)/nbce-rag ask "Who designed the Tide Engine Mark IV?" --index $(DEMO)/index
	$(BIN)/nbce-rag ask "连珠水碓由哪位工师设计？" --index $(DEMO)/index

test: lint types contracts unit

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

# Which room may import which, as pyproject.toml has it.
contracts: $(VENV)/dev.stamp
	PYTHONPATH=integrations $(BIN)/lint-imports --no-cache

# What fails beside the others, on a machine that has other work too, has to pass alone.
unit: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
		|| { test $$? -eq 1 && $(BIN)/python -m pytest --last-failed; }

# Every architecture of transformers, tried anew; MODELS="llama gpt2" tries these and writes nothing.
matrix: $(VENV)/dev.stamp
	PYTHONPATH=.:tests OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/models/matrix_table.py $(MODELS)

# llama.cpp is built for this machine, which takes some minutes; GGUF=FILE tries a file of yours too.
llama: $(VENV)/llama.stamp
	$(BIN)/python -m pytest tests/models/test_llama_cpp.py tests/models/test_llama_cpp_contract.py

# The plugin in a real vLLM, on this processor: its scheduler at random, then servers that answer as the engine
# in this process does. Some 4 GB of disk, up to 6 GB of memory, and half an hour on two cores.
vllm: $(VLLM)/stamp $(VENV)/dev.stamp
	PYTHONPATH=.:tests $(VLLM)/bin/python -m pytest --noconftest --config-file tests/vllm_engine/environment.ini tests/vllm_engine/test_vllm_scheduler.py
	NBCE_VLLM_COMMAND=$(CURDIR)/$(VLLM)/bin/vllm $(BIN)/python -m pytest -s tests/vllm_engine/test_answers.py

# What only an NVIDIA GPU can show, in under eight minutes; needs a torch that knows the GPU.
gpu:
	$(PYTHON) tests/gpu/measure.py --out gpu-results

# The adapters with the oldest LangChain and LlamaIndex that pyproject.toml allows, laid over the newest here.
lowest: $(LOWEST)/stamp
	PYTHONPATH=$(CURDIR)/$(LOWEST) $(BIN)/python -m pip list --path $(LOWEST) --disable-pip-version-check
	PYTHONPATH=$(CURDIR)/$(LOWEST) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests/langchain tests/llama_index

# The remote KV store against a server that speaks S3 over HTTP, which is laid over the environment for it.
s3: $(S3)/stamp
	PYTHONPATH=$(CURDIR)/$(S3) $(BIN)/python -m pytest tests/test_kv_remote.py -k over_http

# Other vector stores through both frameworks, in local mode, laid over the environment for it (1 GB).
stores: $(STORES)/stamp
	PYTHONPATH=$(CURDIR)/$(STORES) $(BIN)/python -m pytest -rs tests/langchain/test_langchain_other_stores.py \
		tests/llama_index/test_llama_other_stores.py tests/test_docs.py -k "stores"

clean:
	rm -rf $(VENV) $(DEMO) $(LOWEST) $(S3) $(VLLM) $(STORES) .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nbce-rag needs Python 3.11 or later; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

# torch first and alone: another package's range would take the registry's newest, with CUDA.
$(VENV)/torch.stamp: $(VENV)/bin/python constraints.txt
	$(PIP) --constraint constraints.txt torch
	touch $@

$(VENV)/local.stamp: $(VENV)/torch.stamp pyproject.toml
	$(PIP) --constraint constraints.txt --editable '.[local]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/torch.stamp pyproject.toml
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@

$(VENV)/llama.stamp: $(VENV)/dev.stamp
	$(PIP) --constraint constraints.txt --editable '.[dev,llama-cpp]'
	touch $@

$(LOWEST)/stamp: tests/lowest.txt $(VENV)/dev.stamp
	rm -rf $(LOWEST)
	$(PIP) --no-deps --target $(LOWEST) --requirement tests/lowest.txt
	touch $@

$(VLLM)/stamp: tests/vllm_engine/make_environment.sh pyproject.toml
	rm -rf $(VLLM)
	tests/vllm_engine/make_environment.sh $(VLLM) $(PYTHON)
	touch $@

$(STORES)/stamp: tests/stores.txt $(VENV)/dev.stamp
	rm -rf $(STORES)
	$(PIP) --constraint constraints.txt --target $(STORES) --requirement tests/stores.txt
	touch $@

$(S3)/stamp: $(VENV)/dev.stamp
	rm -rf $(S3)
	$(PIP) --target $(S3) 'moto[server]>=5.2,<6'
	touch $@
