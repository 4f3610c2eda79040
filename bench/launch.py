"""One measurement: hand a spec to a target, which runs the worker on it; read the result back and validate it."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from edge.artifact import Artifact
from edge.children import cause_of_death, last_words
from edge.devices.target import LOG, RESULT, Ending, Job, Target
from edge.errors import CheckFailed, EdgeError, OutOfMemory, Unavailable, UnsupportedPrecision
from edge.vocabulary import Frozen

WORKER = Path(__file__).with_name("worker")
Task = Literal["latency", "memory", "outputs", "kernels", "profile", "count"]
#: What a worker is told where nothing else is asked for.
SETTINGS: dict[str, Any] = {"threads": 1, "batch": 1, "affinity": None}
#: Failures of the worker that are no failed check, by the name it gives them.
FAILURES: dict[str, type[EdgeError]] = {"UnsupportedPrecision": UnsupportedPrecision, "Unavailable": Unavailable, "MemoryError": OutOfMemory}
#: Of the spec file, and of the result.
SPEC_VERSION = 2
#: A worker's result larger than this is refused, in bytes.
MAX_RESULT = 256 << 20


class WorkerResult(Frozen):
    """The worker's answer, checked as untrusted input.

    Attributes:
        seconds: that its task took, the start of Python left out. seen: what the target saw of it, `edge.devices.target.Ending.figures`.
    """

    schema_version: Literal[2]
    task: Task
    status: Literal["ok", "failed"]
    error: str | None = Field(max_length=2000)
    figures: dict[str, Any]
    environment: dict[str, Any]
    seconds: float
    seen: dict[str, tuple[float, str]] = Field(default_factory=dict)


def run_worker(
    task: Task,
    artifact: Artifact,
    inputs: list[Path],
    target: Target,
    *,
    outputs: Path | None = None,
    settings: Mapping[str, Any] = SETTINGS,
    timeout: float = 600,
) -> WorkerResult:
    """Run one task of the worker on an artifact.

    Args:
        inputs: one .npy file an input, first axis samples.
        outputs: an empty folder for what the worker writes, where its arrays are wanted.
        settings: what the task needs beside the artifact, see `bench/worker/tasks.py`.

    Raises:
        CheckFailed: the worker died, timed out, wrote no valid result, or reports a failure.
        OutOfMemory: it needed more memory than the target has.
        UnsupportedPrecision: the runtime would compute in another precision than was asked for.
        Unavailable: the target lacks the runtime.
    """
    manifest, params = artifact.manifest, artifact.path("params")
    with contextlib.ExitStack() as scratch:
        folder = outputs or Path(scratch.enter_context(tempfile.TemporaryDirectory(prefix="edge-worker.")))
        spec = {
            "schema_version": SPEC_VERSION,
            "task": task,
            "format": manifest.format.value,
            "precision": manifest.precision.value,
            "model": target.push(_model(artifact)),
            "params": target.push(params) if params else None,
            "inputs": [target.push(path) for path in inputs],
            "input_names": [tensor.name for tensor in manifest.inputs],
            "outputs": ".",
            **SETTINGS,
            **settings,
        }
        try:
            ending = target.run(Job(target.push(WORKER), manifest.format, spec, folder, timeout))
        except subprocess.TimeoutExpired:
            raise CheckFailed(f"the {task} worker did not finish within {timeout:g} s and was killed") from None
        result = _result(folder, task, ending)
    if result.status == "failed":
        if ending.out_of_memory:
            raise OutOfMemory(f"the {task} worker {ending.out_of_memory}")
        kind, _, said = (result.error or "").partition(": ")
        if kind in FAILURES:
            raise FAILURES[kind](said)
        raise CheckFailed(result.error or "failed without a reason")
    return result.model_copy(update={"seen": ending.figures})


def write_inputs(folder: Path, arrays: Sequence[np.ndarray]) -> list[Path]:
    """Write ``input_I.npy`` into the folder, which is made: what `run_worker` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"input_{index}.npy" for index in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    return paths


def read_outputs(folder: Path, count: int, samples: int) -> list[np.ndarray]:
    """The outputs a worker wrote, each [samples, ...], half precision as float32.

    Raises:
        CheckFailed: one is missing, or holds another number of samples.
    """
    arrays = []
    for index in range(count):
        try:
            array: np.ndarray = np.load(folder / f"output_{index}.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise CheckFailed(f"output {index} of the worker cannot be read: {error}") from error
        if array.ndim == 0 or len(array) != samples:
            raise CheckFailed(f"output {index} of the worker has shape {array.shape} for {samples} samples")
        arrays.append(array.astype(np.float32) if array.dtype == np.float16 else array)
    return arrays


def _result(folder: Path, task: Task, ending: Ending) -> WorkerResult:
    path = folder / RESULT
    if ending.out_of_memory and (ending.status or not path.is_file()):
        raise OutOfMemory(f"the {task} worker {ending.out_of_memory}")
    if not path.is_file():
        raise CheckFailed(f"the {task} worker died of {cause_of_death(ending.status)}; its last words: {last_words(folder / LOG)}")
    try:
        if path.stat().st_size > MAX_RESULT:
            raise CheckFailed(f"the {task} worker wrote a result larger than {MAX_RESULT >> 20} MiB")
        return WorkerResult.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise CheckFailed(f"the {task} worker wrote an unreadable result: {' '.join(str(error).split())[:300]}") from error


def _model(artifact: Artifact) -> Path:
    path = artifact.path("model")
    if path is None:
        raise CheckFailed("the artifact has no model file")
    return path
