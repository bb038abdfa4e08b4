"""Runs in a Python that has NNCF: its post-training quantisation, as it is by default, of an ONNX file.

Usage: python nncf_quantize.py heads.onnx images.npy out.xml
"""

import sys

import nncf
import numpy as np
import openvino as ov


def main(source: str, images: str, target: str) -> None:
    batches = np.load(images)
    data = nncf.Dataset([batches[number : number + 1] for number in range(len(batches))], lambda item: {"image": item})
    model = ov.Core().read_model(source)
    quantised = nncf.quantize(model, data, subset_size=len(batches), target_device=nncf.TargetDevice.CPU)
    ov.save_model(quantised, target, compress_to_fp16=False)
    print(nncf.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
