"""Does a runtime run? One tiny inference each, as jobs (`edge.jobs`)."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np

from edge.errors import CheckFailed


def onnxruntime(progress: Any) -> str:
    """Add two numbers; returns the version."""
    import onnxruntime as runtime
    from onnx import TensorProto, helper

    node = helper.make_node("Add", ["a", "a"], ["b"])
    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("a", "b"))
    graph = helper.make_graph([node], "probe", [a], [b])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    _expect(session.run(None, {"a": np.array([1, 2], np.float32)})[0], [2, 4])
    return f"{runtime.__version__} runs"


def paddle_inference(progress: Any) -> str:
    """Save and run y = x W + b with ones; returns the version."""
    import paddle
    from paddle.inference import Config, create_predictor

    layer = paddle.nn.Linear(2, 1, paddle.nn.initializer.Constant(1.0), paddle.nn.initializer.Constant(1.0))
    with tempfile.TemporaryDirectory() as folder:
        spec = [paddle.static.InputSpec([None, 2], "float32", "x")]
        paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), f"{folder}/probe")
        config = Config(f"{folder}/probe.json", f"{folder}/probe.pdiparams")
        config.disable_gpu()
        config.disable_glog_info()
        predictor = create_predictor(config)
    handle = predictor.get_input_handle("x")
    handle.copy_from_cpu(np.array([[1, 2]], np.float32))
    predictor.run()
    _expect(predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu(), [[4]])
    return f"{paddle.__version__} runs"


def _expect(got: Any, wanted: Any) -> None:
    if not np.allclose(got, wanted):
        raise CheckFailed(f"it computes {np.asarray(got).tolist()} where {wanted} is right")
