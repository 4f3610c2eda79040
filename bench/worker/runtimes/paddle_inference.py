"""Paddle Inference on the CPU, through oneDNN; or on an NVIDIA card, also through TensorRT (neither has run yet: only the refusals are tested)."""

from __future__ import annotations

import ctypes
import os
import tempfile

from edge_worker.failures import Unavailable, UnsupportedPrecision
from edge_worker.machine import cpuinfo
from edge_worker.runtimes import on_gpu

#: oneDNN primitives that multiply and accumulate.
COMPUTE = ("convolution", "deconvolution", "inner_product", "matmul")
#: Data type of the source in ONEDNN_VERBOSE -> precision.
PRECISION = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "s8": "int8", "u8": "int8"}
#: Inferences whose mean is a profile.
PROFILED = 20
#: oneDNN's bf16 kernels need one of these (Paddle checks avx512_core and otherwise only logs a line).
BF16_FLAGS = {"avx512bw", "amx_bf16", "avx_ne_convert"}
#: Precision -> that of paddle.inference.
MODES = {"fp32": "Float32", "fp16": "Half", "bf16": "Bfloat16", "int8": "Int8"}
#: Memory on the card to begin with, in MiB; it grows.
POOL_MIB = 100


def start(spec):
    import paddle.inference  # noqa: F401


def load(spec):
    predictor, inputs, outputs = _predictor(spec)

    def infer(arrays):
        for handle, array in zip(inputs, arrays):
            handle.copy_from_cpu(array)
        predictor.run()
        return [handle.copy_to_cpu() for handle in outputs]  # waits for the card

    return infer


def load_resident(spec, feeds):
    """Inputs are copied to the card once and shared with the predictor, outputs stay there; a run ends when the card has."""
    import paddle

    predictor, inputs, outputs = _predictor(spec)

    def infer(tensors):
        for handle, tensor in zip(inputs, tensors):
            handle.share_external_data(tensor)
        predictor.run()
        paddle.device.cuda.synchronize()
        return outputs

    return infer, [[paddle.to_tensor(array, place=paddle.CUDAPlace(0)) for array in arrays] for arrays in feeds]


def _predictor(spec):
    """The predictor with the handles of its inputs and outputs."""
    from paddle.inference import Config, create_predictor

    config = Config(spec["model"], spec["params"])
    config.disable_glog_info()
    if on_gpu(spec):
        _set_gpu(config, spec)
    else:
        _set_cpu(config, spec)
    if not spec["model"].endswith(".json"):
        config.enable_memory_optim()  # with a PIR program it raises: Not find ... memory_optimize_pass
    predictor = create_predictor(config)
    inputs = [predictor.get_input_handle(name) for name in spec["input_names"]]
    return predictor, inputs, [predictor.get_output_handle(name) for name in predictor.get_output_names()]


def _set_cpu(config, spec):
    config.disable_gpu()
    config.set_cpu_math_library_num_threads(spec["threads"])
    config.enable_mkldnn()
    if spec["precision"] == "bf16":
        _require_bf16()
        config.enable_mkldnn_bfloat16()
    if spec["precision"] == "int8":
        config.enable_mkldnn_int8()


def _set_gpu(config, spec):
    """The precision is Paddle's own, or that of the TensorRT engines; what TensorRT does not take stays with Paddle, in float32.

    A Paddle without CUDA or TensorRT only logs a line when it is asked for them.
    """
    import paddle
    from paddle.inference import PrecisionType

    if not paddle.is_compiled_with_cuda():
        raise Unavailable("this Paddle was built without CUDA: it needs the package paddlepaddle-gpu")
    if not paddle.device.cuda.device_count():
        raise Unavailable("Paddle was built for CUDA %s and finds no card it can use: is the driver too old?" % paddle.version.cuda())
    mode, engine = getattr(PrecisionType, MODES[spec["precision"]]), spec.get("tensorrt")
    if spec["precision"] == "int8" and not engine:
        raise UnsupportedPrecision("Paddle has no int8 kernels of its own on NVIDIA cards: it would compute the quantized program in float")
    config.enable_use_gpu(POOL_MIB, 0, PrecisionType.Float32 if engine else mode)
    if engine:
        _require_tensorrt()
        config.enable_tensorrt_engine(max_batch_size=spec["batch"], precision_mode=mode, use_calib_mode=False)


def _require_tensorrt():
    from paddle.inference import get_trt_compile_version, get_trt_runtime_version

    built = get_trt_compile_version()
    if not any(built):
        raise Unavailable("this Paddle was built without TensorRT")
    try:
        get_trt_runtime_version()
    except RuntimeError as error:
        raise Unavailable(
            "Paddle finds no TensorRT %d.%d.%d, for which it was built: name the folder of its libraries in LD_LIBRARY_PATH" % tuple(built)
        ) from error


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
    flags = set((cpuinfo().get("flags") or "").split())
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
