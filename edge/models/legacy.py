"""Makes layers traceable into legacy programs, which Paddle Lite and Paddle's static quantizer read.

In Paddle 3.3.1 some functions (`paddle.matmul`, `paddle.maximum`, `F.gelu`, ...) lead straight to `paddle._C_ops`, which knows dynamic tensors
and PIR values only: with FLAGS_enable_pir_api=0 a trace ends in "must be Value, but got Variable". The operators themselves are still
there, so for a legacy variable they are appended here as Paddle 2.6 did.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paddle import nn

#: One tensor in, one of the same type out; the operator has the function's name.
_UNARY = ("abs", "ceil", "cos", "exp", "floor", "log", "log1p", "round", "rsqrt", "sigmoid", "sign", "sin", "sqrt", "tanh")
#: Function -> operator, for two tensors in and one out.
_BINARY = {"bmm": "bmm", "maximum": "elementwise_max", "minimum": "elementwise_min", "multiply": "elementwise_mul"}

#: As `_BINARY`, with truth values out.
_COMPARISONS = ("greater_than", "logical_and", "logical_or")


def prepare_legacy_trace(layer: nn.Layer) -> None:
    """Let this process trace ``layer`` into a legacy program. Does nothing where PIR is on, the default.

    Ensures: functions on dynamic tensors are as before; buffers that Paddle left without memory (the dropout state of an LSTM) are zeros.
    """
    import paddle

    if paddle.get_flags("FLAGS_enable_pir_api")["FLAGS_enable_pir_api"]:
        return
    _replace_functions()
    for sublayer in layer.sublayers(include_self=True):
        for name, buffer in list(sublayer._buffers.items()):
            if buffer is not None and not buffer._is_initialized():
                sublayer._buffers[name] = paddle.zeros([1], buffer.dtype)


def _replace_functions() -> None:
    """Put the replacements wherever Paddle keeps the originals: its modules import them by name, its variables hold them as methods."""
    from paddle import _C_ops
    from paddle.static import Variable

    homes = [module for name, module in list(sys.modules.items()) if name.startswith("paddle.")]
    for name, append in _appenders().items():
        original = getattr(_C_ops, name)
        if not hasattr(original, "__wrapped__"):
            replaced = _for_variables(original, append)
            for home in (*homes, Variable):
                if vars(home).get(name) is original:
                    setattr(home, name, replaced)


def _for_variables(function: Callable[..., Any], append: Callable[..., Any]) -> Callable[..., Any]:
    """``append`` while a legacy program is built, ``function`` otherwise. (`isinstance` does not tell: a dynamic tensor passes for a Variable.)"""
    from paddle.base.framework import in_dynamic_or_pir_mode

    @functools.wraps(function)
    def chosen(*arguments: Any, **named: Any) -> Any:
        return (function if in_dynamic_or_pir_mode() else append)(*arguments, **named)

    return chosen


def _appenders() -> dict[str, Callable[..., Any]]:
    """Function name -> what appends its operator; the arguments are the function's own."""
    unary = {name: functools.partial(_unary, name) for name in _UNARY}
    binary = {name: functools.partial(_binary, operator) for name, operator in _BINARY.items()}
    comparisons = {name: functools.partial(_comparison, name) for name in _COMPARISONS}
    others: dict[str, Callable[..., Any]] = {
        "matmul": _matmul,
        "gelu": _gelu,
        "softplus": _softplus,
        "sum": _sum,
        "argmax": _argmax,
        "expand_as": _expand_as,
    }
    return {**unary, **binary, **comparisons, **others}


def _append(operator: str, inputs: dict[str, Any], attributes: dict[str, Any] | None = None, dtype: Any = None) -> Any:
    from paddle.base.layer_helper import LayerHelper

    helper = LayerHelper(operator)
    out = helper.create_variable_for_type_inference(inputs["X"].dtype if dtype is None else dtype)
    helper.append_op(type=operator, inputs=inputs, outputs={"Out": out}, attrs=attributes or {})
    return out


def _unary(operator: str, x: Any, name: str | None = None) -> Any:
    return _append(operator, {"X": x})


def _binary(operator: str, x: Any, y: Any, name: str | None = None) -> Any:
    return _append(operator, {"X": x, "Y": y}, None if operator == "bmm" else {"axis": -1})


def _comparison(operator: str, x: Any, y: Any, name: str | None = None) -> Any:
    return _append(operator, {"X": x, "Y": y}, dtype="bool")


def _expand_as(x: Any, y: Any, name: str | None = None) -> Any:
    return _append("expand_as_v2", {"X": x, "Y": y}, {"target_shape": list(y.shape)})


def _softplus(x: Any, beta: float = 1.0, threshold: float = 20.0, name: str | None = None) -> Any:
    return _append("softplus", {"X": x}, {"beta": float(beta), "threshold": float(threshold)})


def _matmul(x: Any, y: Any, transpose_x: bool = False, transpose_y: bool = False, name: str | None = None) -> Any:
    return _append("matmul_v2", {"X": x, "Y": y}, {"trans_x": transpose_x, "trans_y": transpose_y})


def _gelu(x: Any, approximate: bool = False, name: str | None = None) -> Any:
    return _append("gelu", {"X": x}, {"approximate": approximate in (True, "tanh")})


def _sum(x: Any, axis: Any = None, dtype: Any = None, keepdim: bool = False, name: str | None = None) -> Any:
    if dtype is not None:
        x = x.astype(dtype)
    axes = [axis] if isinstance(axis, int) else list(axis or [])
    return _append("reduce_sum", {"X": x}, {"dim": axes or [0], "keep_dim": keepdim, "reduce_all": not axes})


def _argmax(x: Any, axis: int | None = None, keepdim: bool = False, dtype: Any = "int64", name: str | None = None) -> Any:
    from paddle.base.data_feeder import convert_dtype
    from paddle.base.framework import convert_np_dtype_to_proto_type

    kind = convert_np_dtype_to_proto_type(convert_dtype(dtype))
    attributes = {"axis": 0 if axis is None else axis, "flatten": axis is None, "keepdims": keepdim, "dtype": kind}
    return _append("arg_max", {"X": x}, attributes, kind)
