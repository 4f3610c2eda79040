"""Paddle Inference on CPU, through oneDNN."""

from __future__ import annotations

import ctypes
import os
import tempfile

#: oneDNN primitives that multiply and accumulate.
COMPUTE = ("convolution", "deconvolution", "inner_product", "matmul")
#: Data type of the source in ONEDNN_VERBOSE -> precision.
PRECISION = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "s8": "int8", "u8": "int8"}
#: Inferences whose mean is a profile.
PROFILED = 20
#: oneDNN's bf16 kernels need one of these (Paddle checks avx512_core and otherwise only logs a line).
BF16_FLAGS = {"avx512bw", "amx_bf16", "avx_ne_convert"}


def start(spec):
    import paddle.inference  # noqa: F401


def load(spec):
    from paddle.inference import Config, create_predictor

    config = Config(spec["model"], spec["params"])
    config.disable_gpu()
    config.disable_glog_info()
    config.set_cpu_math_library_num_threads(spec["threads"])
    config.enable_mkldnn()
    if spec["precision"] == "bf16":
        _require_bf16()
        config.enable_mkldnn_bfloat16()
    if spec["precision"] == "int8":
        config.enable_mkldnn_int8()
    if not spec["model"].endswith(".json"):
        config.enable_memory_optim()  # with a PIR program it raises: Not find ... memory_optimize_pass
    predictor = create_predictor(config)
    inputs = [predictor.get_input_handle(name) for name in spec["input_names"]]
    outputs = [predictor.get_output_handle(name) for name in predictor.get_output_names()]

    def infer(arrays):
        for handle, array in zip(inputs, arrays):
            handle.copy_from_cpu(array)
        predictor.run()
        return [handle.copy_to_cpu() for handle in outputs]

    return infer


def executed_kernels(spec, feed):
    """From ONEDNN_VERBOSE: the source type of each compute primitive of one warm inference.

    Linear layers that Paddle runs in its own fp32 kernels do not appear: the parent knows how many compute nodes there are.
    """
    counts: dict = {}
    for primitive in _primitives(spec, feed, 1)[0]:
        if primitive["kind"] in COMPUTE:
            precision = PRECISION.get(primitive["source"], primitive["source"])
            counts[precision] = counts.get(precision, 0) + 1
    return counts


def operator_times(spec, feed):
    """From ONEDNN_VERBOSE: oneDNN's primitives in the order of the program, means over `PROFILED` warm inferences.

    What Paddle runs in kernels of its own is not among them.
    """
    runs = _primitives(spec, feed, PROFILED)
    if not runs[0]:
        return None, "oneDNN ran no primitive of this model"
    rows = [
        ["%d %s" % (index, each[0]["shape"]), "%s %s" % (each[0]["kind"], each[0]["source"]), sum(one["ms"] for one in each) / len(each)]
        for index, each in enumerate(zip(*runs))
    ]
    return sorted(rows, key=lambda row: -row[2]), None


def _primitives(spec, feed, runs):
    """For each warm inference the primitives that oneDNN says it executed (its documentation, "Verbose mode": fields by position)."""
    os.environ["ONEDNN_VERBOSE"] = "1"
    start(spec)
    infer = load(spec)
    infer(feed)
    found = []
    for _ in range(runs):
        executed = []
        for line in _stdout_of(lambda: infer(feed)).splitlines():
            parts = line.split(",")
            if parts[0] == "onednn_verbose" and "exec" in parts:
                at = parts.index("exec")
                if len(parts) > at + 5:
                    source = next((word for word in parts[at + 5].split() if word.startswith("src")), "src:?").split(":")[1]
                    executed.append({"kind": parts[at + 2], "source": source, "shape": parts[-2], "ms": float(parts[-1])})
        found.append(executed)
    return found


def _require_bf16():
    from edge_worker.machine import _cpuinfo
    from edge_worker.tasks import UnsupportedPrecision

    flags = set((_cpuinfo().get("flags") or "").split())
    if not flags & BF16_FLAGS:
        raise UnsupportedPrecision("oneDNN has no bf16 kernels for this processor (needs AVX-512); Paddle would compute in fp32")


def _stdout_of(action):
    """What C and Python code print to file descriptor 1 while ``action`` runs."""
    libc = ctypes.CDLL(None)
    libc.fflush(None)
    kept = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            action()
            libc.fflush(None)
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        file.seek(0)
        return file.read().decode("utf-8", "replace")
