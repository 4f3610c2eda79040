"""Is the artifact still the model, on this target? Its outputs against the source's, its accuracy, and against its own on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.artifact import Artifact
from edge.bench.launch import read_outputs, run_worker, write_inputs
from edge.bench.metrics import Metric, score
from edge.bench.runnable import why_not_runnable
from edge.datasets import known_datasets
from edge.datasets.samples import export_data
from edge.devices.local import LocalTarget
from edge.devices.target import Target
from edge.errors import CheckFailed, Unavailable
from edge.export.parity import compare, verdict
from edge.package.run.compare import agreement_of
from edge.vocabulary import Format, Precision

#: Times the timeout that a worker may take to run all judging samples.
ALL_SAMPLES = 6
#: Multiplications that are emulated to judge an artifact, at most, where that gives as many samples as there are vectors: some seconds.
EMULATED_MACS = 200_000_000
Arrays = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class Judge:
    """Judges an artifact on a target; ``batch`` samples at once, with a ``metric`` of the user's own beside top-1; ``timeout`` in s."""

    artifact: Artifact
    target: Target
    batch: int = 1
    metric: Metric | None = None
    timeout: float = 600.0

    def judge(self) -> dict[str, Any]:
        """Run the artifact over what judged it, hold it to the source's answers, and count what is right.

        Without a data set on this machine the sample vectors that travel with the artifact judge it, and there is no accuracy; nor is there where
        all samples would take an emulator too long, and some are run. In batches the vectors alone are looked at: the accuracy is that of single
        samples.

        Raises:
            CheckFailed: it is not the model any more.
        """
        manifest, vectors, batch = self.artifact.manifest, self.artifact.vectors(), self.batch
        expected: Arrays = [vectors[f"output_{index}"] for index in range(len(manifest.outputs))]
        inputs, labels = _judging_samples(self.artifact, vectors) if batch == 1 else (_vector_inputs(self.artifact, vectors), None)
        why_no_accuracy = "measured with batch 1" if batch > 1 else _no_accuracy(self.artifact)
        if (count := self._emulated(len(expected[0]))) < len(inputs[0]):
            why_no_accuracy = f"{count:,} of {len(inputs[0]):,} samples were judged: all would take an emulator too long"
            inputs, labels = [array[:count] for array in inputs], None
        if batch > 1:
            rows = np.arange(-(-len(expected[0]) // batch) * batch) % len(expected[0])
            inputs, expected = ([array[rows] for array in arrays] for arrays in (inputs, expected))
        outputs = self._outputs(inputs, self.target)
        # a few samples cannot show the share of equal classes of a reduced precision: that is judged on all, below
        sample = compare(manifest.precision, expected, [array[: len(expected[0])] for array in outputs], real=False)
        if sample.passed is False:
            raise CheckFailed(f"wrong results on the {sample.samples} sample vectors{f' in batches of {batch}' * (batch > 1)}: {sample.reason}")
        top1 = vectors.get("source_top1") if batch == 1 else None
        classes = None if top1 is None else top1[: len(outputs[0])]
        agreement = None if classes is None else agreement_of(outputs[0], classes)
        accuracy = None if classes is None or labels is None else agreement_of(outputs[0], labels)
        drop = 0.0 if accuracy is None else 100.0 * float(np.mean(classes == labels)) - accuracy
        judged = agreement if manifest.parity.real and len(outputs[0]) == manifest.parity.samples else None
        if reason := verdict(manifest.precision, None, judged, drop, max_drop=manifest.int8.max_drop if manifest.int8 else None):
            raise CheckFailed(f"wrong results: {reason}")
        return {
            "top1": accuracy,
            "agreement": agreement,
            "why_no_accuracy": why_no_accuracy,
            "metrics": {self.metric.name: score(self.metric, inputs, outputs, labels)} if self.metric and batch == 1 else {},
            "figures": self._beside_this_machine(inputs, outputs),
        }

    def _emulated(self, vectors: int) -> float:
        """How many samples are run at most."""
        work = self.artifact.manifest.work
        return float("inf") if not self.target.emulated else max(vectors, EMULATED_MACS // work.macs if work and work.macs else 0)

    def _outputs(self, inputs: Arrays, target: Target) -> list[NDArray[Any]]:
        with tempfile.TemporaryDirectory(prefix="edge-cell.") as scratch:
            folder = Path(scratch, "outputs")
            folder.mkdir()
            settings = {"threads": 1, "batch": self.batch}
            files = write_inputs(Path(scratch, "judge"), inputs)
            run_worker("outputs", self.artifact, files, target, outputs=folder, settings=settings, timeout=ALL_SAMPLES * self.timeout)
            return read_outputs(folder, len(self.artifact.manifest.outputs), len(inputs[0]))

    def _beside_this_machine(self, inputs: Arrays, outputs: Arrays) -> dict[str, tuple[float, str]]:
        """Of a target with another processor: share of samples with the same top-1 as here, in %, and the largest difference of an output, over the
        largest output; where outputs are quantized, also in their quantization steps."""
        here = LocalTarget()
        if self.target.arch == here.arch or why_not_runnable(self.artifact, here):
            return {}
        ours = self._outputs(inputs, here)
        figures = {}
        if ours[0].ndim == 2:
            figures["top1_as_here"] = (agreement_of(outputs[0], ours[0].argmax(axis=1)), "%")
        apart = [float(np.abs(a - b).max()) for a, b in zip(outputs, ours, strict=True)]
        figures["difference_from_here"] = (max(each / (float(np.abs(b).max()) or 1.0) for each, b in zip(apart, ours, strict=True)), "1")
        if quanta := _quanta(self.artifact):
            figures["quanta_from_here"] = (max(each / step for each, step in zip(apart, quanta, strict=True)), "quanta")
        return figures


def _quanta(artifact: Artifact) -> list[float] | None:
    """Of each output of an int8 ONNX graph its quantization step; None where an output is computed in float."""
    path = artifact.path("model")
    if (artifact.manifest.format, artifact.manifest.precision) != (Format.ONNX, Precision.INT8) or path is None:
        return None
    import onnx

    graph = onnx.load(str(path)).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    steps = []
    for output in graph.output:
        maker = makers.get(output.name)
        scale = constants.get(maker.input[1]) if maker is not None and maker.op_type == "DequantizeLinear" else None
        if scale is None or scale.size != 1:
            return None
        steps.append(float(scale.reshape(())))
    return steps


def _no_accuracy(artifact: Artifact) -> str:
    name = artifact.manifest.provenance.dataset
    if name is None:
        return "the artifact was exported with random input"
    return f"{name} has no labels for this model's outputs, or is not a named data set"


def _judging_samples(artifact: Artifact, vectors: dict[str, Any]) -> tuple[list[Any], Any]:
    """(inputs, labels): the test set of the named data set, else the vectors."""
    name = artifact.manifest.provenance.dataset
    if name is None or name.partition(":")[0] not in known_datasets():
        return _vector_inputs(artifact, vectors), None
    data = export_data(name, artifact.manifest.inputs, judge_count=artifact.manifest.parity.samples or None)
    if data.name != name or len(data.judge) != artifact.manifest.parity.samples:
        raise Unavailable(f"the data set {name} is not on this machine as it was when this was exported", hint="run: make data")
    return list(data.judge.inputs), data.judge.labels


def _vector_inputs(artifact: Artifact, vectors: dict[str, Any]) -> list[Any]:
    return [vectors[f"input_{index}"] for index in range(len(artifact.manifest.inputs))]
