"""MODEL on the command line: every form of it, every refusal, and the models of the zoo."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.artifact import Artifact, Kernels, Manifest, Origin, Parity, TensorInfo, file_entry, write_manifest
from edge.errors import BadArtifact, BadInput
from edge.models import ZOO, model_entry
from edge.models.source import DTYPES, VISION, ModelSource, build_layer, inputs_of, parse_input, resolve_model
from edge.models.weights import save_weights
from edge.vocabulary import Arch, Format, Precision

IMAGE = TensorInfo(name="x", shape=(None, 3), dtype="float32")

USER_MODULE = """
import paddle
from paddle import nn

def plain():
    return nn.Linear(3, 2)

def described():
    layer = nn.Linear(3, 2)
    layer.input_spec = [paddle.static.InputSpec([None, 3], "float32", "x"), paddle.static.InputSpec([-1], "int64")]
    return layer

def by_factory():
    return nn.Linear(3, 2)

by_factory.input_spec = paddle.static.InputSpec([None, 3], "float32", "x")

def wrongly_described():
    layer = nn.Linear(3, 2)
    layer.input_spec = [(3, 2)]
    return layer

def strange_dtype():
    layer = nn.Linear(3, 2)
    layer.input_spec = [paddle.static.InputSpec([None, 3], "float64", "x")]
    return layer

def failing():
    raise ValueError("no such\\nthing")

def leaving():
    raise SystemExit(3)

def number():
    return 7

SEVEN = 7
ready = nn.Linear(3, 2)
"""


def saved(folder: Path, name: str, *, pir: bool) -> Path:
    """A small program, saved by Paddle: the prefix."""
    code = (
        "import sys, paddle; layer = paddle.nn.Linear(3, 2); spec = [paddle.static.InputSpec([None, 3], 'float32', 'x')]; "
        "paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), sys.argv[1])"
    )
    environment = {**os.environ, "FLAGS_enable_pir_api": "1" if pir else "0"}
    subprocess.run([sys.executable, "-c", code, folder / name], env=environment, check=True, capture_output=True)
    return folder / name


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``pir/net.*`` and ``legacy/net.*``; tests copy what they change."""
    root = tmp_path_factory.mktemp("programs")
    for kind in ("pir", "legacy"):
        (root / kind).mkdir()
        saved(root / kind, "net", pir=kind == "pir")
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the command, with a module of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "usernet.py").write_text(USER_MODULE)
    (tmp_path / "broken.py").write_text("import not_installed_anywhere\n")
    sys.modules.pop("usernet", None)
    return tmp_path


def refusal(text: str, **options: Any) -> str:
    with pytest.raises(BadInput) as caught:
        resolve_model(text, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def through_json(source: ModelSource) -> ModelSource:
    return ModelSource.from_dict(json.loads(json.dumps(source.as_dict())))


def test_resolving_imports_neither_paddle_nor_the_user_s_code(here: Path) -> None:
    code = (
        "import sys; from edge.models.source import resolve_model; "
        "[resolve_model(m) for m in ('usernet:plain', 'paddle.vision:resnet18', 'lenet5')]; "
        "sys.exit(any(m.split('.')[0] in ('paddle', 'usernet') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=here).returncode == 0


@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_zoo_name_is_enough(name: str) -> None:
    source = resolve_model(name)
    assert (source.kind, source.label, source.weights, source.search_path) == ("zoo", name, None, None)
    assert source.inputs is not None and [i.name for i in source.inputs] == list(model_entry(name).inputs)
    assert through_json(source) == source


def test_the_vision_models_are_those_of_paddle() -> None:
    from paddle.vision import models

    assert set(VISION) == {"LeNet", *(name for name in models.__all__ if name.islower())}


@pytest.mark.parametrize(
    ("text", "name", "shape"),
    [
        ("paddle.vision:mobilenet_v1", "mobilenet_v1", (None, 3, 224, 224)),
        ("paddle.vision.models:resnet18", "resnet18", (None, 3, 224, 224)),
        ("paddle.vision:lenet", "LeNet", (None, 1, 28, 28)),
        ("paddle.vision:LeNet", "LeNet", (None, 1, 28, 28)),
    ],
)
def test_a_vision_model_has_its_input(text: str, name: str, shape: tuple[int | None, ...]) -> None:
    assert resolve_model(text) == ModelSource("vision", name, (TensorInfo(name="image", shape=shape, dtype="float32"),))


def test_a_seed_gives_the_same_weights() -> None:
    first, again, other = (build_layer(through_json(resolve_model("paddle.vision:lenet", seed=seed))) for seed in (7, 7, 8))
    weights = [layer.state_dict()["fc.0.weight"].numpy() for layer in (first, again, other)]
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])
    assert not first.training


def test_weights_are_loaded(tmp_path: Path) -> None:
    trained = build_layer(resolve_model("lenet5", seed=5))
    save_weights(trained, tmp_path / "w.safetensors")
    loaded = build_layer(resolve_model("lenet5", weights=tmp_path / "w.safetensors"))
    assert np.array_equal(trained.fc3.weight.numpy(), loaded.fc3.weight.numpy())
    with pytest.raises(BadInput, match=r"w\.safetensors: "):
        build_layer(resolve_model("fashion_net", weights=tmp_path / "w.safetensors"))


def test_inputs_of_a_layer_may_be_given() -> None:
    given_input = parse_input("pixels:4x1x32x32:float32")
    assert resolve_model("lenet5", inputs=[given_input]).inputs == (given_input,)
    assert "takes image:?x1x28x28:float32, not pixels:4x1x32x32:int64" in refusal("lenet5", inputs=[parse_input("pixels:4x1x32x32:int64")])
    assert "takes image:?x3x32x32:float32, ids:?x16:int64, not" in refusal("two_tower", inputs=[given_input])
    assert "given twice" in refusal("two_tower", inputs=[given_input, given_input])
    assert "no input is given" in refusal("lenet5", inputs=[])


def test_a_factory_is_built_in_the_folder_of_the_command(here: Path) -> None:
    source = resolve_model("usernet:plain", inputs=[IMAGE])
    assert (source.kind, source.search_path, source.label) == ("factory", str(here), "usernet-plain")
    layer = build_layer(through_json(source))
    assert inputs_of(source, layer) == (IMAGE,)
    assert list(layer.weight.shape) == [3, 2]


def test_a_factory_may_state_its_inputs(here: Path) -> None:
    for name, expected in [
        ("usernet:described", (IMAGE, TensorInfo(name="input_1", shape=(None,), dtype="int64"))),
        ("usernet:by_factory", (IMAGE,)),
    ]:
        source = resolve_model(name)
        assert source.inputs is None
        assert inputs_of(source, build_layer(source)) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("usernet:plain", "usernet:plain: nothing says what the model is called with (add --input"),
        ("usernet:ready", "nothing says what the model is called with"),
        ("usernet:wrongly_described", "its input_spec is no list of paddle.static.InputSpec"),
        ("usernet:strange_dtype", "input x: dtype 'float64' is none of"),
        ("usernet:failing", "usernet:failing() raised ValueError: no such thing (usernet.py, line 29)"),
        ("usernet:leaving", "usernet:leaving() raised SystemExit: 3"),
        ("usernet:number", "usernet:number() returned int, not a paddle.nn.Layer"),
        ("usernet:SEVEN", "SEVEN is of type int, not a function"),
        ("usernet:plane", "the module has no 'plane' (did you mean plain?)"),
        ("broken:make", "importing broken raised ModuleNotFoundError: No module named 'not_installed_anywhere' (broken.py, line 1)"),
        ("os:getcwd", "os:getcwd() returned str, not a paddle.nn.Layer"),
    ],
)
def test_a_factory_that_makes_no_layer_is_refused_in_one_sentence(here: Path, name: str, message: str) -> None:
    source = resolve_model(name)
    with pytest.raises(BadInput) as caught:
        inputs_of(source, build_layer(source))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_module_that_is_nowhere_is_refused_at_once(here: Path) -> None:
    assert f"no module 'nowhere_at_all' in {here}" in refusal("nowhere_at_all.deep:make")


@pytest.mark.parametrize("kind", ["pir", "legacy"])
def test_a_saved_model_by_folder_prefix_and_files(programs: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(programs)
    program = programs / kind / ("net.json" if kind == "pir" else "net.pdmodel")
    for text in (kind, f"./{kind}/", f"{kind}/net", f"{kind}/net.pdiparams", f"{kind}/{program.name}", str(program)):
        source = resolve_model(text)
        assert (source.kind, source.name, source.inputs, source.weights) == (kind, "net", None, None)
        assert (source.program, source.params) == (str(program), str(program.with_suffix(".pdiparams")))
        assert through_json(source) == source
    with pytest.raises(BadInput, match="no layer"):
        build_layer(source)
    assert "--input does not go with a saved model" in refusal(kind, inputs=[IMAGE])


@pytest.mark.parametrize(("program", "params"), [("inference.pdmodel", "inference.pdiparams"), ("__model__", "__params__")])
def test_a_nameless_model_is_named_after_its_folder(programs: Path, tmp_path: Path, program: str, params: str) -> None:
    home = tmp_path / "my net"
    home.mkdir()
    shutil.copy(programs / "legacy" / "net.pdmodel", home / program)
    shutil.copy(programs / "legacy" / "net.pdiparams", home / params)
    source = resolve_model(str(home))
    assert (source.name, source.label, source.params) == ("my net", "my-net", str(home / params))


def copy_of(programs: Path, tmp_path: Path) -> Path:
    """A folder with net.json, net.pdmodel, net.pdiparams."""
    home = tmp_path / "copy"
    shutil.copytree(programs / "pir", home)
    shutil.copy(programs / "legacy" / "net.pdmodel", home)
    return home


def test_several_saved_models_are_not_guessed_between(programs: Path, tmp_path: Path) -> None:
    home = copy_of(programs, tmp_path)
    assert "holds 2 saved models: net.json, net.pdmodel (name one:" in refusal(str(home))
    assert "both net.json and net.pdmodel are there" in refusal(str(home / "net"))
    (home / "config.json").write_text('{"Global": {"model_name": "net"}}')
    (home / "net.pdmodel").unlink()
    assert resolve_model(str(home)).kind == "pir"
    assert "not a Paddle program: a PIR program begins with" in refusal(str(home / "config.json"))


def test_damaged_and_missing_parts_are_named(programs: Path, tmp_path: Path) -> None:
    home = copy_of(programs, tmp_path)
    for name in ("net.json", "net.pdmodel"):
        whole = (home / name).read_bytes()
        for data, message in [(b"", "the file is empty"), (whole[: len(whole) // 2], "the program is cut off"), (b"[1, 2]", "not a Paddle program")]:
            (home / name).write_bytes(data)
            assert f"{name}: {message}" in refusal(str(home / name))
        (home / name).write_bytes(whole)
    for data, message in [(b"", "the file is empty"), (b"version https://", "not Paddle parameters")]:
        (home / "net.pdiparams").write_bytes(data)
        assert f"net.pdiparams: {message}" in refusal(str(home / "net.json"))
    (home / "net.pdiparams").unlink()
    assert "its parameters are missing:" in refusal(str(home / "net.pdmodel"))
    shutil.copy(programs / "pir" / "net.pdiparams", home / "alone.pdiparams")
    assert "its program is missing: neither alone.json nor alone.pdmodel" in refusal(str(home / "alone"))
    assert "its program is missing" in refusal(str(home / "alone.pdiparams"))


@given(st.binary(max_size=200))
def test_any_bytes_as_a_program_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    home = tmp_path_factory.mktemp("bytes")
    for name in ("a.json", "b.pdmodel"):
        (home / name).write_bytes(data)
        refusal(str(home / name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("w.pdparams", "holds weights, not a model (name the model too: edge export MODEL --weights"),
        ("w.safetensors", "holds weights, not a model"),
        ("w.pdopt", "an optimizer's state"),
        ("w.onnx", "is an ONNX model"),
        ("w.nb", "is a Paddle Lite model"),
        ("w.pt", "is a PyTorch file"),
        ("w.py", "name its factory: edge export w:FACTORY"),
        ("w.txt", "not a saved Paddle model"),
    ],
)
def test_other_files_are_refused_with_what_to_do(tmp_path: Path, name: str, message: str) -> None:
    assert "no such file" in refusal(str(tmp_path / name))
    (tmp_path / name).write_bytes(b"anything")
    assert message in refusal(str(tmp_path / name))


def artifact(folder: Path, programs: Path, precision: Precision, model: str = "net") -> Artifact:
    folder.mkdir()
    for suffix in (".json", ".pdiparams"):
        shutil.copy(programs / "pir" / f"net{suffix}", folder / f"model{suffix}")
    files = (file_entry(folder, "model.json", "model"), file_entry(folder, "model.pdiparams", "params"))
    manifest = Manifest(
        model=model,
        format=Format.PADDLE_INFERENCE,
        precision=precision,
        target_arch=Arch.ANY,
        program="pir",
        inputs=(IMAGE,),
        outputs=(IMAGE,),
        files=files,
        tools={},
        kernels=Kernels(reduced=None, total=None),
        parity=Parity(),
        provenance=Origin(source="usernet:plain"),
    )
    return write_manifest(folder, manifest)


def test_an_artifact_is_a_source_where_it_holds_the_fp32_program(programs: Path, tmp_path: Path) -> None:
    good = artifact(tmp_path / "good", programs, Precision.FP32, "net.v1")
    for text in (good.folder, good.folder / "manifest.json"):
        source = resolve_model(str(text))
        assert (source.kind, source.name, source.program) == ("pir", "net.v1", str(good.folder / "model.json"))
    small = artifact(tmp_path / "small", programs, Precision.INT8)
    assert "the paddle-inference int8 artifact is no source; a paddle-inference fp32 artifact is" in refusal(str(small.folder))
    (good.folder / "model.json").write_text("{}")
    with pytest.raises(BadArtifact, match=r"model\.json: "):
        resolve_model(str(good.folder))


def test_a_manifest_names_no_factory(programs: Path, tmp_path: Path) -> None:
    """Whatever the manifest says of its origin, the program itself is the source."""
    source = resolve_model(str(artifact(tmp_path / "a", programs, Precision.FP32).folder))
    assert (source.kind, source.search_path) == ("pir", None)


@pytest.mark.parametrize(
    ("text", "close"),
    [("lenet", "paddle.vision:LeNet"), ("resnet18", "paddle.vision:resnet18"), ("Fashion-Net", "fashion_net"), ("mnist_studnet", "mnist_student")],
)
def test_an_unknown_name_lists_what_is_accepted_and_what_is_close(here: Path, text: str, close: str) -> None:
    message = refusal(text)
    assert f"unknown model '{text}'" in message and close in message
    assert all(form in message for form in ("paddle.vision:NAME", "PACKAGE.MODULE:FACTORY", "zoo: alexnet, alexnet28, fashion_net, "))


@pytest.mark.parametrize("text", ["", " ", "a\0b", "x" * 5000, "..:..", "a:b:c", "nowhere/at/all", "paddle.vision:", "paddle.vision:__init__", "é:è"])
def test_odd_texts_are_refused(here: Path, text: str) -> None:
    refusal(text)


def test_odd_options_are_refused(tmp_path: Path) -> None:
    assert "no such weights file" in refusal("lenet5", weights=tmp_path / "none.pdparams")
    (tmp_path / "w.bin").write_bytes(b"x")
    assert "weights are read from .safetensors and .pdparams files" in refusal("lenet5", weights=tmp_path / "w.bin")
    assert "seed -1: not between" in refusal("lenet5", seed=-1)


def written(side: int | None) -> str:
    return "?" if side is None else str(side)


NAMES = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_.]{0,12}\Z")
SIDES = st.lists(st.one_of(st.none(), st.integers(1, 40)), min_size=1, max_size=4)


@given(NAMES, SIDES, st.sampled_from(DTYPES))
def test_an_input_is_read_as_it_is_written(name: str, shape: list[int | None], dtype: str) -> None:
    text = f"{name}:{'x'.join(map(written, shape))}:{dtype}"
    assert parse_input(text) == TensorInfo(name=name, shape=tuple(shape), dtype=dtype)


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_a_range_is_dynamic(low: int, high: int) -> None:
    text = f"image:1x{low}..{high}"
    if low > high:
        with pytest.raises(BadInput, match="is empty"):
            parse_input(text)
    else:
        assert parse_input(text) == TensorInfo(
            name="image", shape=(1, low if low == high else None), dtype="float32", ranges=None if low == high else (None, (low, high))
        )


@given(st.one_of(st.text(), st.from_regex(r"[a-z:?x0-9.]{0,20}")))
def test_any_text_is_an_input_or_one_sentence(text: str) -> None:
    try:
        info = parse_input(text)
    except BadInput as error:
        assert "\n" not in error.message
    else:
        assert info.dtype in DTYPES and all(side is None or side > 0 for side in info.shape)


@pytest.mark.parametrize(
    "text",
    ["x", "x:", ":3", "x:0", "x:-1", "x:3:float64", "x:3:", "x:1:int64:2", "x:1..", "x:?..3", "x:１", "é:3", "x:99999x99999", "x:" + "1x" * 8 + "1"],
)
def test_what_is_no_input_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="input"):
        parse_input(text)


TRACE_ALL = """
import sys
import numpy as np, paddle
from paddle import inference
from edge.models import ZOO
from edge.models.source import build_layer, resolve_model

def numbers(info, batch):
    shape = [batch if side is None else side for side in info.shape]
    rng = np.random.default_rng(batch)
    return rng.normal(size=shape).astype("float32") if info.dtype == "float32" else rng.integers(0, 128, shape)

for name in ZOO:
    source = resolve_model(name)
    layer = build_layer(source)
    drawn = {batch: {i.name: numbers(i, batch) for i in source.inputs} for batch in (1, 3)}
    with paddle.no_grad():
        expected = {batch: layer(*map(paddle.to_tensor, inputs.values())) for batch, inputs in drawn.items()}
    specs = [paddle.static.InputSpec(list(i.shape), i.dtype, i.name) for i in source.inputs]
    prefix = f"{sys.argv[1]}/{name}"
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=specs, full_graph=True), prefix)
    program = resolve_model(prefix)
    print("traced", name, program.kind)
    config = inference.Config(program.program, program.params)
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    for batch, inputs in drawn.items():
        for key in predictor.get_input_names():
            predictor.get_input_handle(key).copy_from_cpu(inputs[key])
        predictor.run()
        outputs = expected[batch] if isinstance(expected[batch], tuple) else (expected[batch],)
        for key, value in zip(predictor.get_output_names(), outputs, strict=True):
            found = predictor.get_output_handle(key).copy_to_cpu()
            assert found.shape == tuple(value.shape), (name, batch, found.shape)
            assert abs(found - value.numpy()).max() <= 1e-4 * abs(value.numpy()).max(), (name, batch, key)
"""


@pytest.mark.parametrize("kind", ["pir", "legacy"])
def test_every_zoo_model_runs_as_a_program_of_either_kind(tmp_path: Path, kind: str) -> None:
    environment = {**os.environ, "FLAGS_enable_pir_api": "1" if kind == "pir" else "0"}
    done = subprocess.run([sys.executable, "-c", TRACE_ALL, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stdout.split("\n") if line.startswith("traced")] == [f"traced {name} {kind}" for name in ZOO]


TRACE_FUNCTIONS = """
import sys
import numpy as np, paddle
from paddle import inference, nn
from paddle.nn import functional as F
from edge.models.legacy import prepare_legacy_trace

FUNCTIONS = [
    lambda x: F.gelu(x), lambda x: F.gelu(x, approximate=True), lambda x: F.sigmoid(x) * paddle.tanh(x), lambda x: F.softplus(x, 2.0),
    lambda x: x.abs().exp().sqrt().log().rsqrt(), lambda x: paddle.floor(x) + paddle.round(x) + paddle.sign(x) + paddle.ceil(x),
    lambda x: paddle.sin(x) + paddle.cos(x) + paddle.log1p(x.abs()), lambda x: paddle.matmul(x, x, transpose_y=True),
    lambda x: x.matmul(x.transpose([0, 2, 1])), lambda x: paddle.bmm(x, x.transpose([0, 2, 1])), lambda x: paddle.multiply(x, x),
    lambda x: paddle.maximum(x, -x) + paddle.minimum(x, x * 2), lambda x: x.sum(), lambda x: paddle.sum(x, axis=[1, 2]),
    lambda x: x.sum(-1, keepdim=True), lambda x: x.argmax(-1), lambda x: paddle.argmax(x, axis=1, keepdim=True, dtype="int32"),
    lambda x: paddle.argmax(x), lambda x: x[:, :1].expand_as(x),
    lambda x: paddle.logical_and(paddle.greater_than(x, x * 2), paddle.logical_or(x > -1, x < -2)).astype("float32"),
]

class Net(nn.Layer):
    def __init__(self, function):
        super().__init__()
        self.function, self.shift = function, self.create_parameter([4])

    def forward(self, x):
        return self.function(x + self.shift) * 1

paddle.seed(0)
x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
for number, function in enumerate(FUNCTIONS):
    layer = Net(function)
    layer.eval()
    prepare_legacy_trace(layer)
    expected = layer(paddle.to_tensor(x)).numpy()
    prefix = f"{sys.argv[1]}/{number}"
    spec = [paddle.static.InputSpec([None, 5, 4], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), prefix)
    config = inference.Config(f"{prefix}.pdmodel", f"{prefix}.pdiparams")
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    predictor.get_input_handle("x").copy_from_cpu(x)
    predictor.run()
    found = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype), (number, found.shape, found.dtype)
    assert np.allclose(found, expected, atol=1e-5), number
"""


def test_functions_that_paddle_cannot_trace_into_a_legacy_program_are_the_same_there(tmp_path: Path) -> None:
    environment = {**os.environ, "FLAGS_enable_pir_api": "0"}
    script = tmp_path / "trace.py"  # a file, for Paddle reads the source of what it traces
    script.write_text(TRACE_FUNCTIONS)
    done = subprocess.run([sys.executable, script, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
