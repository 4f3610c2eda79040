"""onnxruntime on the CPU provider, or on the CUDA provider (which has not run yet: only its refusals are tested)."""

from __future__ import annotations

import json
import os
import tempfile

from edge_worker.failures import Unavailable, UnsupportedPrecision
from edge_worker.runtimes import on_gpu

#: Operators that multiply and accumulate, standard and onnxruntime's fused ones.
COMPUTE = {
    "Conv", "ConvTranspose", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul",
    "QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
}  # fmt: skip
#: Inferences whose mean is a profile.
PROFILED = 20
CUDA = "CUDAExecutionProvider"
PRECISION = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8", "int8": "int8", "double": "fp64"}


def start(spec):
    # from 1.32 on the library reports to its maker on Linux too, and keeps an identifier in the home directory (microsoft/onnxruntime#27379)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    if on_gpu(spec):
        onnxruntime.preload_dlls()  # CUDA and cuDNN, from the packages that were installed beside it


def load(spec):
    return _runner(_session(spec), spec)


def load_resident(spec, feeds):
    """Inputs are copied to the device once, outputs stay there (onnxruntime's documentation, "I/O Binding"); a run ends when the device has."""
    import onnxruntime

    session, device = _session(spec), "cuda" if on_gpu(spec) else "cpu"
    half = _half_inputs(session)

    def bind(arrays):
        binding = session.io_binding()
        for name, array in zip(spec["input_names"], arrays):
            array = array.astype("float16") if name in half else array
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0))
        for tensor in session.get_outputs():
            binding.bind_output(tensor.name, device, 0)
        return binding

    def infer(binding):
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return binding.get_outputs()

    return infer, [bind(arrays) for arrays in feeds]


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
    half = _half_inputs(session)
    if half:
        return lambda arrays: run(outputs, {name: array.astype("float16") if name in half else array for name, array in zip(names, arrays)})
    return lambda arrays: run(outputs, dict(zip(names, arrays)))


def _half_inputs(session):
    return {tensor.name for tensor in session.get_inputs() if tensor.type == "tensor(float16)"}


def _session(spec, profile_prefix=None):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec["threads"]
    options.inter_op_num_threads = 1
    if profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    if not on_gpu(spec):
        return onnxruntime.InferenceSession(spec["model"], options, providers=["CPUExecutionProvider"])
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(spec["model"], options, providers=[CUDA])
    _require_cuda(session)
    return session


def _require_cuda(session):
    """onnxruntime says nothing when its CUDA provider does not load: it computes on the processor, as it does with nodes that have no CUDA kernel."""
    session.disable_fallback()
    if CUDA not in session.get_providers():
        raise Unavailable(
            "onnxruntime could not start its CUDA provider and would compute on the processor: "
            "it needs the driver, CUDA and cuDNN that its version was built for"
        )
    nodes = [(part.ep_name, node.op_type) for part in session.get_provider_graph_assignment_info() for node in part.get_nodes()]
    elsewhere = sorted({kind for provider, kind in nodes if provider != CUDA and kind in COMPUTE})
    if elsewhere:
        raise UnsupportedPrecision("onnxruntime has no CUDA kernel for %s here and would compute it on the processor" % ", ".join(elsewhere))
