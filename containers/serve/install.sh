#!/bin/sh
# Everything that the serve image holds, for one Python: sh install.sh [PYTHON]
# The same steps in the image (Dockerfile), in .venvs/serve (Makefile) and in CI. PIP names another pip than PYTHON's own.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=$(command -v "${1:-python3}") # `pip --python` takes a path, not a name on PATH
PIP=${PIP:-$python -m pip}

# --no-deps: the list is complete, and what it does not name shall not come.
$PIP --python "$python" install --no-deps -r "$here/requirements.txt"

# Of OpenVINO, endpoints load the CPU plugin and the reader of its own format. The plugins of GPU and NPU with their
# cache of kernels, and the readers of other frameworks' formats, are 72 of its 180 MB.
libraries=$("$python" -c 'import importlib.util as u; print(u.find_spec("openvino").submodule_search_locations[0])')/libs
for name in cache.json \
    libopenvino_intel_gpu_plugin.so libopenvino_intel_npu_plugin.so \
    libopenvino_gguf_frontend.so libopenvino_jax_frontend.so libopenvino_paddle_frontend.so \
    libopenvino_pytorch_frontend.so libopenvino_tensorflow_frontend.so libopenvino_tensorflow_lite_frontend.so; do
    rm -f "$libraries/$name"*
done

"$python" -c 'import numpy, onnxruntime, openvino, PIL, tokenizers; assert "CPU" in openvino.Core().available_devices'
