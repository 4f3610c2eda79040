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
#: Inferences whose mean is a profile.
PROFILED = 20
PRECISION = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8", "int8": "int8", "double": "fp64"}


def start(spec):
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)


def load(spec):
    return _runner(_session(spec), spec)


def executed_kernels(spec, feed):
    """From onnxruntime's own profile: the input type of each compute node that ran."""
    counts: dict = {}
    for event in _events(spec, feed, 1):
        details = event["args"]
        if details.get("op_name") in COMPUTE:
            kind = next(iter(details["input_type_shape"][0]))
            precision = PRECISION.get(kind, kind)
            counts[precision] = counts.get(precision, 0) + 1
    return counts


def operator_times(spec, feed):
    """From onnxruntime's profile: kernel times, means over `PROFILED` inferences after as many warm ones."""
    times: dict = {}
    for event in _events(spec, feed, 2 * PROFILED):
        key = (event["name"][: -len("_kernel_time")], event["args"].get("op_name", "?"))
        times.setdefault(key, []).append(event["dur"] / 1e3)
    rows = [[name, kind, sum(each[-PROFILED:]) / len(each[-PROFILED:])] for (name, kind), each in times.items()]
    return sorted(rows, key=lambda row: -row[2]), None


def _events(spec, feed, runs):
    """The kernel events of a profiled session, in order."""
    start(spec)
    with tempfile.TemporaryDirectory() as folder:
        session = _session(spec, os.path.join(folder, "profile"))
        infer = _runner(session, spec)
        for _ in range(runs):
            infer(feed)
        with open(session.end_profiling()) as file:
            events = json.load(file)
    return [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]


def _runner(session, spec):
    """Arrays in, arrays out. A graph with half-precision inputs is fed float16; the conversion is part of what is timed.

    The outputs are asked for by name: with None onnxruntime lists their names at every call, which takes as long as building the feed (0.5 us).
    """
    names, run, outputs = spec["input_names"], session.run, [tensor.name for tensor in session.get_outputs()]
    half = {tensor.name for tensor in session.get_inputs() if tensor.type == "tensor(float16)"}
    if half:
        return lambda arrays: run(outputs, {name: array.astype("float16") if name in half else array for name, array in zip(names, arrays)})
    return lambda arrays: run(outputs, dict(zip(names, arrays)))


def _session(spec, profile_prefix=None):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec["threads"]
    options.inter_op_num_threads = 1
    if profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    return onnxruntime.InferenceSession(spec["model"], options, providers=["CPUExecutionProvider"])
