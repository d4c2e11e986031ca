#!/bin/sh
# Everything that the jobs image holds, for one Python: sh install.sh [PYTHON]
# The same steps in the image (Dockerfile), in .venvs/jobs (Makefile) and in CI. PIP names another pip than PYTHON's own.
# KEEP_TORCH=1 keeps the PyTorch that is there: AWS's deep learning containers bring the one that drives their hardware.
# TORCH_INDEX_URL names an index with CPU builds of PyTorch, where pip does not find one by itself.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=$(command -v "${1:-python3}") # `pip --python` takes a path, not a name on PATH
PIP=${PIP:-$python -m pip}

# --no-deps: the list is complete, and what it does not name shall not come.
install() { $PIP --python "$python" install --no-deps "$@"; }

if [ "${KEEP_TORCH:-0}" != 1 ]; then
    # On x86_64 pip's default index has the CUDA build only, several GB that no job on a CPU uses.
    install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$(grep '^torch==' "$here/requirements.txt")"
fi
rest=$(mktemp)
trap 'rm -f "$rest"' EXIT
grep -v '^torch==' "$here/requirements.txt" > "$rest"
# What the GPUs did and took, where the base image is one for GPUs: a single file of Python.
[ "${KEEP_TORCH:-0}" != 1 ] || echo nvidia-ml-py==13.615.71 >> "$rest"
install -r "$rest"

# OpenVINO compiles for CPUs here: its plugins for GPU and NPU, and their cache of kernels, are 61 MB.
libraries=$("$python" -c 'import importlib.util as u; print(u.find_spec("openvino").submodule_search_locations[0])')/libs
rm -f "$libraries"/cache.json "$libraries"/libopenvino_intel_gpu_plugin.so* "$libraries"/libopenvino_intel_npu_plugin.so*

# What a table of Iceberg needs of Arrow and of AWS's SDK: not the server of Arrow Flight and the headers (45 MB), not the
# descriptions of some 400 other services (25 MB).
place() { "$python" -c "import importlib.util as u; print(u.find_spec('$1').submodule_search_locations[0])"; }
arrow=$(place pyarrow)
rm -rf "$arrow"/include "$arrow"/tests "$arrow"/src "$arrow"/_flight.* "$arrow"/libarrow_flight.so* \
    "$arrow"/libarrow_python_flight.so*
for service in "$(place botocore)"/data/*/; do
    case $service in */glue/ | */s3/ | */sagemaker/ | */sts/) ;; *) rm -rf "$service" ;; esac
done

"$python" -c 'import duckdb, lightgbm, onnx, onnxruntime, openvino, PIL, safetensors, scipy.sparse, tokenizers, torch'
"$python" -c 'import pyiceberg.catalog.glue, pyiceberg.io.pyarrow, boto3; boto3.client("glue", region_name="us-east-1")'
