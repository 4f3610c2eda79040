"""onnxruntime on the CPU provider."""

from __future__ import annotations

import json
import os
import tempfile

#: Operators that multiply and accumulate, standard and onnxruntime's fused ones.
COMPUTE = {
    "Conv", "ConvTranspose", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul",
    "QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
}  # fmt: skip
PRECISION = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8", "int8": "int8", "double": "fp64"}


def start(spec):
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)


def load(spec):
    session = _session(spec)
    return lambda arrays: session.run(None, _feed(session, spec, arrays))


def executed_kernels(spec, feed):
    """From onnxruntime's own profile: the input type of each compute node that ran."""
    start(spec)
    with tempfile.TemporaryDirectory() as folder:
        session = _session(spec, os.path.join(folder, "profile"))
        session.run(None, _feed(session, spec, feed))
        with open(session.end_profiling()) as file:
            events = json.load(file)
    counts: dict = {}
    for event in events:
        details = event.get("args", {})
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and details.get("op_name") in COMPUTE:
            kind = next(iter(details["input_type_shape"][0]))
            precision = PRECISION.get(kind, kind)
            counts[precision] = counts.get(precision, 0) + 1
    return counts


def _feed(session, spec, arrays):
    """Arrays by name. A graph with half-precision inputs is fed float16; the conversion is part of what is timed."""
    half = {tensor.name for tensor in session.get_inputs() if tensor.type == "tensor(float16)"}
    return {name: array.astype("float16") if name in half else array for name, array in zip(spec["input_names"], arrays)}


def _session(spec, profile_prefix=None):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec["threads"]
    options.inter_op_num_threads = 1
    if profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    return onnxruntime.InferenceSession(spec["model"], options, providers=["CPUExecutionProvider"])
