#!/bin/bash
# TensorRT-RTX from gpu-kit/ into a virtual environment: install_rtx.sh KIT VENV. Its libraries come packed and in parts.
set -euo pipefail
kit=$1 venv=$2
pip=("$venv/bin/python" -m pip install --quiet --no-index --find-links "$kit/wheels" --no-deps)
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$site/tensorrt_rtx_libs"
cp "$kit/rtx/__init__.py" "$site/tensorrt_rtx_libs/"
for first in "$kit"/rtx/*.xz.0; do
    whole=${first%.xz.0}
    library=$site/tensorrt_rtx_libs/$(basename "$whole")
    [ -s "$library" ] && continue
    cat "$whole".xz.* | xz -dc >"$library.part"
    mv "$library.part" "$library"
done
"${pip[@]}" tensorrt_rtx_cu13_bindings
"${pip[@]}" --no-build-isolation "$kit"/wheels/tensorrt_rtx_cu13-*.tar.gz
