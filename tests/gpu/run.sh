#!/bin/bash
# Installs from gpu-kit/ without network and runs the GPU tests in their order, then the benchmark.
# PYTHON names the interpreter that has torch, NumPy, onnx, onnxruntime, OpenCV and pytest.
set -euo pipefail
cd "$(dirname "$0")/../.."
kit=$PWD/gpu-kit
base=${PYTHON:-python3}
export PATH="$PATH:/usr/local/cuda/bin"
[ -d "$kit/wheels" ] || { echo "gpu-kit/ is empty: run 'make gpu-kit' on a machine with network, and copy it here"; exit 1; }

venv=$kit/venv
[ -x "$venv/bin/python" ] || "$base" -m venv --system-site-packages "$venv"
# A virtual environment that the base interpreter itself lives in is not passed on.
"$base" -c 'import site; print("\n".join(site.getsitepackages()))' >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
pip=("$venv/bin/python" -m pip install --quiet --no-index --find-links "$kit/wheels" --find-links "$kit/built")
mkdir -p "$kit/built"
"${pip[@]}" setuptools wheel scikit-build-core nanobind ninja pydantic pyyaml safetensors typer rich hypothesis \
    pytools platformdirs mako
command -v cmake >/dev/null || "${pip[@]}" cmake
"${pip[@]}" --no-deps pycocotools onnxsim || echo "warning: pycocotools or onnxsim did not install"

if ! ls "$kit"/built/pycuda-*.whl >/dev/null 2>&1; then
    echo "building pycuda, once"
    "$venv/bin/python" tests/gpu/build_pycuda.py "$kit"/wheels/pycuda-*.tar.gz "$kit/built"
fi
"${pip[@]}" --no-deps pycuda
if ls "$kit"/rtx/libtensorrt_rtx.so.*.xz.0 "$kit"/rtx/libtensorrt_rtx.so.*.xz.1 >/dev/null 2>&1; then
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir -p "$site/tensorrt_rtx_libs"
    cp "$kit/rtx/__init__.py" "$site/tensorrt_rtx_libs/"
    for first in "$kit"/rtx/*.xz.0; do
        whole=${first%.xz.0}
        library=$site/tensorrt_rtx_libs/$(basename "$whole")
        [ -s "$library" ] || cat "$whole".xz.* | xz -dc >"$library"
    done
    "${pip[@]}" --no-deps tensorrt_rtx_cu13_bindings
    "${pip[@]}" --no-deps --no-build-isolation "$kit"/wheels/tensorrt_rtx_cu13-*.tar.gz
else
    echo "gpu-kit/rtx is incomplete: TensorRT-RTX is left out"
fi
"${pip[@]}" --no-deps --no-build-isolation --force-reinstall --config-settings=cmake.define.HHRNET_CUDA=ON .

[ -d "$kit/coco" ] && export HHRNET_COCO=${HHRNET_COCO:-$kit/coco}
export HHRNET_REQUIRE_GPU=1 PYTHONPATH=$PWD/tests/unit/decode
results=${OUT:-$kit/results}
mkdir -p "$results"
status=0
for step in "$PWD"/tests/gpu/test_gpu_*.py; do
    (cd "$kit" && "$venv/bin/python" -m pytest -c ../pyproject.toml --rootdir .. -p no:cacheprovider -m gpu -rs "$step") |
        tee "$results/$(basename "$step" .py).log" || status=1
done
for step in benchmark benchmark_training; do
    (cd "$kit" && "$venv/bin/python" "../tests/gpu/$step.py") | tee "$results/$step.txt" || status=1
done
exit $status
