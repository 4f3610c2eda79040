"""Paddle Lite. On x86 it has one thread, whatever is asked for."""

from __future__ import annotations

import re

import numpy as np

#: Operators that multiply and accumulate.
COMPUTE = {"conv2d", "depthwise_conv2d", "conv2d_transpose", "fc", "matmul", "matmul_v2", "mul"}
#: Paddle Lite's PrecisionType (lite/api/paddle_place.h).
PRECISION = {1: "fp32", 2: "int8", 5: "fp16"}
#: A kernel that opt picked stands in the .nb file as operator/alias/target/precision/layout.
KERNEL = re.compile(rb"([a-z0-9_]+)/[A-Za-z0-9_]*/\d+/(\d+)/\d+")


def start(spec):
    import paddlelite.lite  # noqa: F401

    if int(np.__version__.split(".")[0]) >= 2:
        raise RuntimeError("paddlelite 2.13 reads garbage from numpy 2 arrays: install numpy 1.26 beside it")


def load(spec):
    from paddlelite.lite import MobileConfig, create_paddle_predictor

    config = MobileConfig()
    config.set_model_from_file(spec["model"])
    predictor = create_paddle_predictor(config)

    def infer(arrays):
        for name, array in zip(spec["input_names"], arrays):
            predictor.get_input_by_name(name).from_numpy(array)
        predictor.run()
        return [np.array(predictor.get_output(index).numpy()) for index in range(count)]

    count = len(predictor.get_output_names())
    return infer


def executed_kernels(spec, feed):
    """The kernel list that opt wrote into the file: it holds for any machine, also one that cannot run it."""
    with open(spec["model"], "rb") as file:
        data = file.read()
    counts: dict = {}
    for operator, code in KERNEL.findall(data):
        if operator.decode() in COMPUTE:
            precision = PRECISION.get(int(code), "other")
            counts[precision] = counts.get(precision, 0) + 1
    return counts


def operator_times(spec, feed):
    return None, "Paddle Lite has no profiler in its released Python library"
