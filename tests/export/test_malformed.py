"""What is malformed or unsuitable is refused by `edge export` in one sentence with the right exit code, and leaves nothing behind."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from _pytest.mark import ParameterSet
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from edge.errors import BadInput
from edge.models.saved import find_program, stored_tensors
from tests.conftest import Ran, run_edge

NETS = """
import paddle
from paddle import nn
from paddle.static import InputSpec

class Net(nn.Layer):
    input_spec = [InputSpec([None, 4], "float32", "x")]

    def __init__(self, width=3):
        super().__init__()
        self.fc = nn.Linear(4, width)

    def forward(self, x):
        return nn.functional.relu(self.fc(x))

class Svd(Net):
    def forward(self, x):
        return paddle.linalg.svd(self.fc(x))[1]

class Lgamma(Net):
    def forward(self, x):
        return paddle.lgamma(self.fc(x)) + paddle.erfinv(x).sum(1, keepdim=True)

class Whole(Net):
    def forward(self, x):
        return paddle.unique(self.fc(x))

class Numpy(Net):
    def forward(self, x):
        return x + 1 if float(self.fc(x).numpy().sum()) > 0 else x

class Bare(nn.Layer):
    input_spec = [InputSpec([None, 4], "float32", "x")]

    def forward(self, x):
        return x + 1

def any_rank():
    net = Net()
    net.input_spec = [InputSpec(None, "float32", "x")]
    return net

def raises():
    raise OSError("no such backbone: resnet-900")

def nothing():
    return None
"""
SAVE = """
import os, sys
os.environ["FLAGS_enable_pir_api"] = sys.argv[1]
import numpy as np, paddle
from nets import Net, Svd

def save(net, name):
    net.eval()
    paddle.jit.save(paddle.jit.to_static(net, input_spec=net.input_spec, full_graph=True), f"{sys.argv[2]}/{name}")

save(Net(), "net")
save(Net(9), "other")
nan = Net()
nan.fc.weight.set_value(np.full([4, 3], np.nan, np.float32))
save(nan, "nan")
if sys.argv[1] == "1":
    save(Svd(), "svd")
else:
    paddle.enable_static()
    program, start = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(program, start):
        x, y = paddle.static.data("x", [None, 4], "float32"), paddle.static.data("y", [None, 1], "int64")
        loss = paddle.nn.functional.cross_entropy(paddle.static.nn.fc(x, 3), y)
        paddle.optimizer.SGD(0.1).minimize(loss)
    open(f"{sys.argv[2]}/training.pdmodel", "wb").write(program.desc.serialize_to_string())
"""


@dataclass(frozen=True)
class Case:
    """Arguments of `edge export` in the user's folder, the exit code, and what the sentence on stderr holds."""

    arguments: str
    code: int
    words: tuple[str, ...]


def case(name: str, arguments: str, code: int, *words: str) -> ParameterSet:
    return pytest.param(Case(arguments, code, words), id=name)


def slow(name: str, arguments: str, code: int, *words: str) -> ParameterSet:
    """A case that loads Paddle and is close to another one."""
    return pytest.param(Case(arguments, code, words), id=name, marks=pytest.mark.slow)


CASES = [
    case("cut pdmodel", "cut/net.pdmodel", 2, "cut/net.pdmodel", "the program is cut off"),
    case("empty pdmodel", "empty/net.pdmodel", 2, "empty/net.pdmodel", "the file is empty"),
    case("garbage pdmodel", "garbage/net.pdmodel", 2, "garbage/net.pdmodel", "not a Paddle program"),
    case("garbage in a pdmodel", "inner/net.pdmodel", 2, "inner/net.pdmodel", "Paddle cannot read the program"),
    case("json of something else", "config.json", 2, "config.json", "not a Paddle program"),
    case("cut PIR program", "cutpir/net.json", 2, "cutpir/net.json", "the program is cut off"),
    case("damaged PIR program", "badpir/net.json", 2, "badpir/net.json", "the program is damaged", "line 1 column"),
    slow("rubbish in a PIR program", "rubbish/net.json", 2, "rubbish/net.json", "Paddle cannot load the program"),
    case("training program", "legacy/training.pdmodel", 2, "training.pdmodel", "is a training program", "sgd"),
    case("ONNX model", "m.onnx", 2, "m.onnx", "is an ONNX model"),
    case("PyTorch model", "m.pt", 2, "m.pt", "is a PyTorch file"),
    case("folder of nothing", "void", 2, "void", "holds neither"),
    case("no pdiparams", "alone/net.pdmodel", 2, "alone/net.pdiparams is not there"),
    case("cut pdiparams", "cutparams/net.pdmodel", 2, "cutparams/net.pdiparams", "the parameters are cut off"),
    case("cut pdiparams of PIR", "cutparams/net.json", 2, "cutparams/net.pdiparams", "the parameters are cut off"),
    case("params of another model", "mixed/net.pdmodel", 2, "mixed/net.pdiparams", "holds [9] where", "needs linear_0.b_0 [3]", "belong together"),
    slow("params of another PIR model", "mixed/net.json", 2, "mixed/net.pdiparams", "holds [9] where", "needs linear_0.b_0 [3]"),
    slow("fewer params", "fewer/net.pdmodel", 2, "fewer/net.pdiparams", "holds 1 tensors", "needs 2"),
    case("NaN in a program", "legacy/nan", 2, "nan: the parameter linear_2.w_0 holds NaN"),
    slow("NaN in a PIR program", "pir/nan", 2, "nan: the parameter linear_2.w_0 holds NaN"),
    case("pickle as weights", "nets:Net --weights evil.pdparams", 2, "evil.pdparams", "asks to run posix.system"),
    slow("cut weights", "nets:Net --weights cut.safetensors", 2, "cut.safetensors", "not a readable safetensors file"),
    slow("NaN in weights", "nets:Net --weights nan.safetensors", 2, "nan.safetensors: fc.weight holds NaN"),
    slow("weights of another net", "nets:Net --weights other.safetensors", 2, "other.safetensors", "fc.weight"),
    case("factory that raises", "nets:raises", 2, "nets:raises() raised OSError: no such backbone: resnet-900 (nets.py, line"),
    slow("factory of nothing", "nets:nothing", 2, "nets:nothing() returned NoneType, not a paddle.nn.Layer"),
    slow("no fixed rank", "nets:any_rank", 2, "nets:any_rank() raised TypeError", "shape"),
    case("wrong input", "nets:Net --input x:?x5", 2, "nets:Net", "does not run on inputs of shape [1, 5]", "[0] dimension of Input(Y) is [4]"),
    slow("wrong side where dynamic", "nets:Net --input x:?x?", 2, "nets:Net", "does not run on inputs of shape [16, 16]"),
    case("forward that cannot be traced", "nets:Numpy", 1, "nets:Numpy: Paddle cannot trace the layer", "(nets.py, line"),
    slow("output without rows", "nets:Whole", 2, "nets:Whole: output 0 has the shape [48]", "not one row a sample"),
    case("no parameters", "nets:Bare", 2, "nets:Bare: the model has no parameters"),
    case("unknown operator", "nets:Svd", 3, "nets-Svd-onnx-fp32: ONNX", "no converter for the operator svd (behind layer linear_0.w_0)"),
    slow("two unknown operators", "nets:Lgamma", 3, "no converter for the operators", "lgamma (behind layer linear_0.w_0)", "erfinv"),
    slow("unknown operator in PIR", "pir/svd", 3, "svd-onnx-fp32: ONNX", "no converter for the operator svd (behind layer linear_3.w_0)"),
    case("bomb", "mnist_student --calibration bomb.npz", 2, "bomb.npz: unpacks to more than 2048 MiB"),
    case("pickle in an npz", "mnist_student --calibration objects.npz", 2, "objects.npz", "Object arrays cannot be loaded"),
    case("wrong shape", "mnist_student --calibration shape.npz", 2, "shape.npz: array 'image' has the shape [N, 5]", "needs [N, 1, 28, 28]"),
    case("wrong dtype", "mnist_student --calibration dtype.npz", 2, "dtype.npz: array 'image' is float64", "needs float32"),
    case("missing array", "mnist_student --calibration missing.npz", 2, "missing.npz: has no array for the model's input 'image'", "'a', 'b'"),
    case("broken picture", "mnist_student --calibration photos --preprocess size=28x28,order=grey", 2, "photos/2.png: not a readable"),
    case("pictures as they are", "mnist_student --calibration photos", 2, "photos: a folder of pictures needs its preprocessing", "size=224x224"),
    case("out is a file", "mnist_student --out m.pt", 2, "m.pt: artifacts cannot be written there"),
    case("out under a file", "mnist_student --out m.pt/deep/er", 2, "m.pt/deep/er: artifacts cannot be written there"),
    case("out that cannot be made", "mnist_student --out /proc/edge-out", 2, "/proc/edge-out: artifacts cannot be written there"),
    case("name that climbs", "mnist_student --name ../x", 2, "'../x' is no name for a model", "--name"),
    case("name of nothing", "mnist_student --name=", 2, "'' is no name for a model"),
    case("long name", f"mnist_student --name {'x' * 300}", 2, "is no name for a model", "100 characters"),
    case("max-drop of fp32", "mnist_student --max-drop 1 --precision fp32", 2, "--max-drop bounds what int8 loses", "add int8 to --precision"),
    slow("int8 of nothing", "nets:Net --precision int8", 3, "nets-Net-onnx-int8: int8 needs calibration data", "--calibration"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user to whom everything has happened."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "nets.py").write_text(NETS)
    (folder / "save.py").write_text(SAVE)
    for kind in ("pir", "legacy"):
        (folder / kind).mkdir()
    saving = [
        subprocess.Popen([sys.executable, "save.py", flag, kind], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for flag, kind in (("1", "pir"), ("0", "legacy"))
    ]
    assert [process.wait() for process in saving] == [0, 0]
    shutil.copy(folder / "legacy/net.pdiparams", folder / "legacy/training.pdiparams")
    spoil_programs(folder)
    spoil_weights(folder)
    spoil_data(folder)
    return folder


def spoil_programs(folder: Path) -> None:
    legacy, pir = (folder / "legacy/net.pdmodel").read_bytes(), (folder / "pir/net.json").read_bytes()
    params, other = (folder / "legacy/net.pdiparams").read_bytes(), (folder / "legacy/other.pdiparams").read_bytes()
    first = 20 + int.from_bytes(params[16:20], "little") + 4 * 3  # header, description and three numbers: the second tensor begins

    def place(name: str, program: bytes, parameters: bytes | None = params, suffix: str = ".pdmodel") -> None:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / f"net{suffix}").write_bytes(program)
        if parameters is not None:
            (folder / name / "net.pdiparams").write_bytes(parameters)

    place("cut", legacy[: len(legacy) // 2])
    place("empty", b"")
    place("garbage", bytes(range(256)) * 20)
    place("inner", legacy[:40] + bytes(range(256)) * 3 + legacy[808:])
    place("alone", legacy, None)
    place("fewer", legacy, params[:first])
    for suffix, program in ((".pdmodel", legacy), (".json", pir)):
        place("cutparams", program, params[:-20], suffix)
        place("mixed", program, other, suffix)
    place("cutpir", pir[: pir.index(b"}", len(pir) // 2) + 1], suffix=".json")
    place("badpir", pir.replace(b'"regions":', b'"regions"', 1), suffix=".json")
    place("rubbish", pir.replace(b'"regions":', b'"region":', 1), suffix=".json")
    (folder / "config.json").write_text('{"model": "mine"}')
    (folder / "m.onnx").write_bytes(b"\x08\x07")
    (folder / "m.pt").write_bytes(b"PK\x03\x04")
    (folder / "void").mkdir()


def spoil_weights(folder: Path) -> None:
    zeros = {"fc.weight": np.zeros((4, 3), np.float32), "fc.bias": np.zeros(3, np.float32)}
    (folder / "evil.pdparams").write_bytes(pickle.dumps({"fc.weight": Run(folder)}, protocol=2))
    (folder / "cut.safetensors").write_bytes(save(zeros)[:-10])
    (folder / "nan.safetensors").write_bytes(save({**zeros, "fc.weight": np.full((4, 3), np.nan, np.float32)}))
    (folder / "other.safetensors").write_bytes(save({**zeros, "fc.weight": np.zeros((4, 9), np.float32)}))


def spoil_data(folder: Path) -> None:
    np.savez(folder / "shape.npz", image=np.zeros((8, 5), np.float32))
    np.savez(folder / "dtype.npz", image=np.zeros((8, 1, 28, 28)))
    np.savez(folder / "missing.npz", a=np.zeros((8, 4), np.float32), b=np.zeros((8, 4), np.float32))
    np.savez(folder / "objects.npz", image=np.array([Run(folder)] * 8, dtype=object))
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", bytes(1 << 20))
        archive.infolist()[0].file_size = 3 << 30  # written into the directory when it is closed
    (folder / "photos").mkdir()
    for index in range(3):
        Image.new("L", (8, 8)).save(folder / f"photos/{index}.png")
    whole = (folder / "photos/2.png").read_bytes()
    (folder / "photos/2.png").write_bytes(whole[:40])


class Run:
    """A pickle of this runs a command when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch {folder}/ran"

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, home: Path) -> Iterator[dict[Case, Future[tuple[Ran, Path]]]]:
    """The commands of all cases that this run of pytest has chosen, two at a time."""
    parameters = [found.params for item in request.session.items if (found := getattr(item, "callspec", None))]
    chosen = [each["case"] for each in parameters if isinstance(each.get("case"), Case)]
    pool = ThreadPoolExecutor(2)

    def run(number: int, case: Case) -> tuple[Ran, Path]:
        arguments = case.arguments.split(" ")
        named = arguments[arguments.index("--out") + 1] if "--out" in arguments else f"out{number}"
        given = [] if "--out" in arguments else ["--out", named]
        given += ["--format", "onnx"] + ([] if "--precision" in arguments else ["--precision", "fp32"])
        return run_edge("export", *arguments, *given, cwd=home), home / named

    yield {case: pool.submit(run, number, case) for number, case in enumerate(chosen)}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("case", CASES)
def test_is_refused_in_one_sentence_and_leaves_nothing(home: Path, outcomes: dict[Case, Future[tuple[Ran, Path]]], case: Case) -> None:
    ran, out = outcomes[case].result()
    sentences = [line for line in ran.err.splitlines() if line.startswith("edge: ")]
    assert ran.code == case.code, ran.err
    assert len(sentences) == 1 and len(sentences[0]) < 600, ran.err
    whole = ran.err[ran.err.index("edge: ") :]
    assert all(word in whole for word in case.words), ran.err
    assert not [
        word
        for word in ("Traceback", "internal error", "ValidationError", "<class", " object at 0x", ".work.", "[Hint", "/paddle/")
        if word in ran.err
    ]
    assert not out.is_dir() or {path.name for path in out.iterdir()} <= {"export.json"}
    assert not (home / "ran").exists(), "code from a file was run"


def test_parameters_cut_off_anywhere_are_noticed(home: Path, tmp_path: Path) -> None:
    whole, path = (home / "legacy/net.pdiparams").read_bytes(), tmp_path / "net.pdiparams"
    both = [[(each.shape, each.nbytes) for each in stored_tensors(home / f"{kind}/net.pdiparams")] for kind in ("legacy", "pir")]
    assert both[0] == both[1] == [((3,), 12), ((4, 3), 48)]
    counts = []
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        try:
            counts.append(len(stored_tensors(path)))
        except BadInput as error:
            assert str(path) in error.message
    assert counts == [1], "only a cut between two tensors leaves parameters, and those are too few"


@given(data=st.binary(max_size=200), head=st.sampled_from([b"", b"\0" * 12, b"\0" * 16, b"\0" * 4 + b"\xff" * 8, b"\0" * 16 + b"\x02\0\0\0\x08\x05"]))
def test_any_bytes_as_parameters_are_shapes_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes, head: bytes) -> None:
    path = tmp_path_factory.mktemp("params") / "net.pdiparams"
    path.write_bytes(head + data)
    try:
        assert all(isinstance(side, int) for each in stored_tensors(path) for side in each.shape)
    except BadInput as error:
        assert str(path) in error.message


def test_a_deeply_nested_program_is_refused(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.write_text('{"base_code":{"magic":"pir","version":1},"program":' + "[" * 200_000)
    shutil.copy(home / "pir/net.pdiparams", tmp_path)
    with pytest.raises(BadInput, match=r"net\.json: the program is"):
        find_program(path)
