#!/bin/bash
# Installs from gpu-kit/ without network and runs the GPU tests and benchmarks in their order.
# PYTHON names the interpreter that has torch, NumPy, onnx, onnxruntime, OpenCV and pytest. STEPS chooses among the
# steps below; each ends after STEP_SECONDS at the latest, and none stops the next.
set -euo pipefail
cd "$(dirname "$0")/../.."
kit=$PWD/gpu-kit
base=${PYTHON:-python3}
steps=${STEPS:-kernels sanitizer warp runtime runtime-engines ap ap-engines benchmark benchmark_training}
export PATH="$PATH:/usr/local/cuda/bin" PYTHONUNBUFFERED=1
[ -d "$kit/wheels" ] || { echo "gpu-kit/ is empty: run 'make gpu-kit' on a machine with network, and copy it here"; exit 1; }
"$base" -c 'import torch, numpy, onnx, onnxruntime, cv2, pytest' || { echo "$base lacks a package: set PYTHON"; exit 1; }

venv=$kit/venv
[ -x "$venv/bin/python" ] || "$base" -m venv --system-site-packages --without-pip "$venv"
# A virtual environment that the base interpreter itself lives in is not passed on.
"$base" -c 'import site; print("\n".join(site.getsitepackages()))' >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip
pip=("$venv/bin/python" -m pip install --quiet --no-index --find-links "$kit/wheels" --find-links "$kit/built")
mkdir -p "$kit/built"
"${pip[@]}" setuptools wheel pydantic pyyaml safetensors typer rich hypothesis pytools platformdirs mako
"${pip[@]}" --no-deps pycocotools onnxsim || echo "warning: pycocotools or onnxsim did not install"

if ! ls "$kit"/built/pycuda-*.whl >/dev/null 2>&1; then
    echo "building pycuda, once"
    "$venv/bin/python" tests/gpu/build_pycuda.py "$kit"/wheels/pycuda-*.tar.gz "$kit/built"
fi
"${pip[@]}" --no-deps pycuda
if ! ls "$kit"/rtx/libtensorrt_rtx.so.*.xz.0 "$kit"/rtx/libtensorrt_rtx.so.*.xz.1 >/dev/null 2>&1; then
    echo "gpu-kit/rtx is incomplete: TensorRT-RTX is left out"
elif ! tests/gpu/install_rtx.sh "$kit" "$venv"; then
    echo "TensorRT-RTX did not install: it is left out"
fi
if ls "$kit"/built/hhrnet_deploy-*.whl >/dev/null 2>&1; then
    "${pip[@]}" --no-deps --force-reinstall "$kit"/built/hhrnet_deploy-*.whl
else
    "${pip[@]}" scikit-build-core nanobind ninja
    command -v cmake >/dev/null || "${pip[@]}" cmake
    "${pip[@]}" --no-deps --no-build-isolation --force-reinstall \
        --config-settings=cmake.define.HHRNET_CUDA=ON --config-settings=cmake.define.HHRNET_CUDA_LINEINFO=ON .
fi

[ -d "$kit/coco" ] && export HHRNET_COCO=${HHRNET_COCO:-$kit/coco}
export HHRNET_REQUIRE_GPU=1 PYTHONPATH=$PWD/tests/unit/decode
results=${OUT:-$kit/results}
mkdir -p "$results"
pytest=("$venv/bin/python" -m pytest -c ../pyproject.toml --rootdir .. -p no:cacheprovider -m gpu)
parallel=()
"$venv/bin/python" -c 'import xdist' 2>/dev/null && parallel=(-n 8)
status=0
cd "$kit" # the package that is installed is tested, not the checkout
for step in $steps; do
    case $step in
    kernels) words=("${pytest[@]}" -rs "${parallel[@]}" ../tests/gpu/test_gpu_1_kernels.py) ;;
    sanitizer) words=("${pytest[@]}" -s ../tests/gpu/test_gpu_2_sanitizer.py) ;;
    warp) words=("${pytest[@]}" -rs ../tests/gpu/test_gpu_3_warp.py) ;;
    runtime) words=("${pytest[@]}" -rs -k "not tensorrt" ../tests/gpu/test_gpu_4_runtime.py) ;;
    runtime-engines) words=("${pytest[@]}" -rs -k tensorrt ../tests/gpu/test_gpu_4_runtime.py) ;;
    ap) words=("${pytest[@]}" -s -k "not tensorrt" ../tests/gpu/test_gpu_5_ap.py) ;;
    ap-engines) words=("${pytest[@]}" -s -rs -k tensorrt ../tests/gpu/test_gpu_5_ap.py) ;;
    decode) words=("$venv/bin/python" ../tests/gpu/benchmark.py --batches "") ;;
    benchmark | benchmark_training) words=("$venv/bin/python" "../tests/gpu/$step.py") ;;
    *) echo "there is no step $step" && exit 2 ;;
    esac
    echo "== $step, $(date +%T)"
    timeout "${STEP_SECONDS:-900}" "${words[@]}" 2>&1 | tee "$results/$step.log" || status=1
done
exit $status
