"""Every repair on a program that needs it: it finds its match, leaves none, and the function stays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

#: Legacy programs need a process in which PIR was off when Paddle was imported.
SCRIPT = """
import json, os, sys
os.environ["FLAGS_enable_pir_api"] = "0"
import numpy as np, paddle
from paddle import nn
from edge.export import repairs
paddle.seed(0)

class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 8, 3, padding=1)
        self.plain = nn.Conv2D(8, 8, 3, padding=1, bias_attr=False)
        self.norms = nn.LayerList([nn.BatchNorm2D(8), nn.BatchNorm2D(8)])
        self.shared = nn.Conv2D(8, 8, 1, bias_attr=False)
        self.linear = nn.Linear(8 * 16 * 16, 5)

    def forward(self, x):
        x = self.norms[0](self.conv(x))
        x = self.norms[1](self.plain(x))
        x = self.shared(x) + self.shared(x + 1)
        x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
        return self.linear(x.flatten(1))

net = Net()
for norm in net.norms:
    norm._mean.set_value(np.linspace(-1, 1, 8, dtype="float32")); norm._variance.set_value(np.linspace(0.5, 2, 8, dtype="float32"))
    norm.weight.set_value(np.linspace(0.5, 1.5, 8, dtype="float32")); norm.bias.set_value(np.linspace(-0.5, 0.5, 8, dtype="float32"))
net.conv.bias.set_value(np.arange(8, dtype="float32"))
net.eval()
x = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype("float32")
expected = net(paddle.to_tensor(x)).numpy()
static = paddle.jit.to_static(net, input_spec=[paddle.static.InputSpec([None, 3, 8, 8], "float32", "x")], full_graph=True)
paddle.jit.save(static, "net/model", clip_extra=False)
paddle.enable_static()
executor = paddle.static.Executor(paddle.CPUPlace())
program, feeds, fetches = paddle.static.load_inference_model("net/model", executor)
scope = paddle.static.global_scope()
done = repairs.apply(program, scope)
again = repairs.apply(program, scope)
made, = executor.run(program, feed={feeds[0]: x}, fetch_list=fetches)
types = [op.type for op in program.global_block().ops]
json.dump({"done": done, "again": again, "types": types, "error": float(abs(made - expected).max() / abs(expected).max())}, open("result.json", "w"))
"""


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("repairs")
    (folder / "script.py").write_text(SCRIPT)  # a trace needs the source in a file
    ran = subprocess.run([sys.executable, "script.py"], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    result: dict[str, object] = json.loads(Path(folder, "result.json").read_text())
    return result


@pytest.mark.parametrize(
    ("repair", "times", "gone"),
    [
        ("bias_reshape", 1, None),
        ("batch_norm", 2, "batch_norm"),
        ("flatten", 1, "flatten_contiguous_range"),
        ("interp_scale", 1, None),
    ],
)
def test_a_repair_rewrites_what_it_finds_and_leaves_nothing(repaired: dict[str, dict[str, int]], repair: str, times: int, gone: str | None) -> None:
    assert repaired["done"][repair] == times
    assert repaired["again"][repair] == 0
    assert gone is None or gone not in repaired["types"]


def test_the_function_stays(repaired: dict[str, float]) -> None:
    assert repaired["error"] < 1e-5
