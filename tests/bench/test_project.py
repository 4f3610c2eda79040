"""Project files: a whole matrix from TOML, wrong ones in one sentence, and no code chosen by a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge.bench.results import read_results
from edge.cli.main import main
from edge.errors import BadInput
from edge.vocabulary import Status
from edge.workflows.project import export_all, matrix_of, read_project
from tests.conftest import Demo, Ran, run_edge

HEAD = 'schema_version = 1\nout = "results.json"\n'
BENCH = '[[bench]]\nartifacts = ["artifacts"]\n'
EXPORT = '[[export]]\nmodel = "lenet5"\nout = "artifacts"\n'


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        (tmp_path / "matrix.toml").write_text(text)
        return tmp_path / "matrix.toml"

    return write


@pytest.fixture
def edge_main(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """The command line, in this process."""
    return lambda *arguments: Ran(main([str(argument) for argument in arguments]), *capsys.readouterr())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("schema_version = ", "not a TOML file"),
        ("\x00", "not a TOML file"),
        (HEAD, "bench: Field required"),
        (HEAD + "bench = []", "bench: "),
        (BENCH, "schema_version: Field required"),
        (HEAD.replace("1", "2") + BENCH, "schema_version: Input should be 1"),
        ("schema_version = 1\n" + BENCH, "out: Field required"),
        (HEAD + BENCH + "speed = 9", "bench.0.speed: "),
        (HEAD + "colour = 3\n" + BENCH, "colour: "),
        (HEAD + "[[bench]]\nartifacts = []", "bench.0.artifacts: "),
        (HEAD + BENCH + "threads = [0]", "bench.0.threads.0: "),
        (HEAD + BENCH + "threads = []", "bench.0.threads: "),
        (HEAD + BENCH + "batch = [-1]", "bench.0.batch.0: "),
        (HEAD + BENCH + "affinity = [[-1]]", "bench.0.affinity.0.0: "),
        (HEAD + BENCH + "shapes = [{image = [1, 0]}]", "bench.0.shapes.0.image.1: "),
        (HEAD + BENCH + "repeats = 0", "bench.0.repeats: "),
        (HEAD + BENCH + 'scenarios = ["sprint"]', "bench.0.scenarios.0: Input tag 'sprint'"),
        (HEAD + BENCH + 'scenarios = [{name = "camera", fsp = 5}]', "bench.0.scenarios.0.camera.fsp: "),
        (HEAD + BENCH + "scenarios = [{fps = 5}]", "bench.0.scenarios.0: "),
        (HEAD + BENCH + 'scenarios = ["server"]', "bench.0.scenarios.0.server.rate: "),
        (HEAD + BENCH + 'parts = ["beauty"]', "bench.0.parts.0: "),
        (HEAD + BENCH + 'targets = ["moon"]', "bench.0.targets.0: "),
        (HEAD + EXPORT + 'precisions = ["fp7"]\n' + BENCH, "export.0.precisions.0: "),
    ],
)
def test_a_wrong_file_is_one_sentence_with_the_file_and_the_place(project: Callable[[str], Path], text: str, words: str) -> None:
    path = project(text)
    with pytest.raises(BadInput) as caught:
        read_project(path)
    assert caught.value.message.startswith(f"{path}: ") and words in caught.value.message and "\n" not in caught.value.message


def test_what_is_wrong_is_said_before_anything_is_exported(project: Callable[[str], Path], edge_main: Callable[..., Ran], tmp_path: Path) -> None:
    for wrong in (EXPORT + BENCH + 'scenarios = ["sprint"]', EXPORT + EXPORT.replace("lenet5", "lenet6") + BENCH):
        ran = edge_main("bench", project(HEAD + wrong))
        assert ran.code == 2 and ("sprint" in ran.err or "lenet6" in ran.err) and "Traceback" not in ran.err
        assert [path.name for path in tmp_path.iterdir()] == ["matrix.toml"]


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_factory_is_refused_and_its_module_is_not_imported(
    project: Callable[[str], Path], edge_main: Callable[..., Ran], tmp_path: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hostile.py").write_text("open('imported', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    ran = edge_main("bench", project(HEAD + EXPORT.replace("lenet5", "hostile:net") + BENCH), *options)
    assert ran.code == 2 and "hostile:net: a project file cannot name code to run" in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.py", "matrix.toml"]


def test_a_project_file_stands_alone(project: Callable[[str], Path], edge_main: Callable[..., Ran], tmp_path: Path) -> None:
    ran = edge_main("bench", project(HEAD + BENCH), tmp_path)
    assert ran.code == 2 and "stands alone" in ran.err


def test_the_matrix_is_every_combination_of_what_each_table_lists(project: Callable[[str], Path], demo: Demo) -> None:
    net = demo.artifacts / "mnist_student_distilled-onnx-fp32"
    text = f"""{HEAD}
[[bench]]
artifacts = ["{net}"]
scenarios = ["offline", {{name = "camera", fps = 25}}]
threads = [1, 2]
batch = [1, 8]
repeats = 5
[[bench]]
artifacts = ["{net}"]
affinity = [[0]]
parts = ["latency"]
"""
    path = project(text)
    plans = matrix_of(read_project(path), path.parent).plans
    assert [(p.request.scenario.name, p.threads, p.batch, p.affinity) for p in plans] == [
        *(("offline", threads, batch, None) for threads in (1, 2) for batch in (1, 8)),
        *(("camera", threads, batch, None) for threads in (1, 2) for batch in (1, 8)),
        ("single-stream", 1, 1, (0,)),
    ]
    assert plans[4].request.scenario.fps == 25 and plans[0].request.repeats == 5  # type: ignore[union-attr]
    assert plans[-1].request.parts == ("latency",)


def test_a_dry_run_lists_the_cells_and_a_time_and_runs_nothing(
    project: Callable[[str], Path], edge_main: Callable[..., Ran], demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.workflows.bench.perform", lambda *_: pytest.fail("a worker was run"))
    text = f'{HEAD}[[bench]]\nartifacts = ["{demo.artifacts}"]\nscenarios = ["offline", "camera"]\n'
    ran = edge_main("bench", project(text), "--dry-run")
    assert ran.code == 0
    *cells, total = ran.out.splitlines()
    assert "mnist_student_distilled-onnx-fp32 offline, 1 thread: accuracy, latency x 3, memory" in cells
    assert "mnist_student_distilled-onnx-fp32 camera, 1 thread: accuracy, latency x 3, memory" in cells
    assert any("paddle-lite-int8-arm" in line and ": exported: " in line for line in cells)
    runs = 5 * sum("latency x 3" in line for line in cells)
    assert total.startswith(f"{runs} worker runs, about ") and total.endswith((" s", " min"))
    assert [path.name for path in tmp_path.iterdir()] == ["matrix.toml"]


def test_a_project_is_exported_and_measured_and_the_second_time_its_artifacts_are_kept(project: Callable[[str], Path], tmp_path: Path) -> None:
    quick = "min_seconds = 0.1, min_count = 40"
    path = project(f"""{HEAD}
[[export]]
model = "lenet5"
out = "artifacts"
calibration = "random"
formats = ["onnx"]
precisions = ["fp32"]
[[bench]]
artifacts = ["artifacts"]
scenarios = [{{name = "single-stream", {quick}}}, {{name = "camera", fps = 100, {quick}}}]
repeats = 2
""")
    ran = run_edge("bench", path)
    assert ran.code == 0, ran.err
    cells = read_results(tmp_path / "results.json").cells
    assert [(cell.model, cell.scenario, cell.status, len(cell.processes)) for cell in cells] == [
        ("lenet5", "single-stream", Status.OK, 2),
        ("lenet5", "camera", Status.OK, 2),
    ]
    assert cells[0].latency.p50.value and cells[1].figures["deadline_misses"].unit == "%" and cells[1].settings["fps"] == 100
    kept: list[bool] = []
    export_all(read_project(path), path.parent, lambda cell: kept.append(cell.kept), lambda *_: None)
    assert kept == [True]
