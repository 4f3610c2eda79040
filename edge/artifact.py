"""An artifact: a folder with ``manifest.json`` and the files it lists. Reading verifies everything, for it may come from a stranger."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from edge.errors import BadArtifact, BadInput
from edge.files import inside, read_npz, sha256_of, write_atomic
from edge.vocabulary import Arch, Format, Frozen, Precision

SCHEMA_VERSION = 1
#: Names of models: they become names of folders.
MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
MANIFEST = "manifest.json"
#: Sample inputs, the source's outputs for them, and the source's class for each test sample.
VECTORS = "vectors.npz"
#: A larger manifest is refused unread, in bytes.
MAX_MANIFEST = 1 << 20
#: A larger file is refused, in bytes.
MAX_FILE = 4 << 30
#: A vectors file that unpacks to more is refused, in bytes.
MAX_VECTORS = 256 << 20

#: ``model`` is what the runtime is pointed at, ``params`` its weights where they are a file of their own.
Role = Literal["model", "params", "vectors"]


class FileEntry(Frozen):
    path: str
    bytes: int = Field(ge=0, le=MAX_FILE)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    role: Role


class TensorInfo(Frozen):
    """Name, shape (null where dynamic) and numpy dtype name.

    Attributes:
        ranges: (lowest, highest) of each side that was stated as a range, which is dynamic too.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    ranges: tuple[tuple[int, int] | None, ...] | None = None

    @model_validator(mode="after")
    def _a_range_for_each_side(self) -> TensorInfo:
        if self.ranges is not None and len(self.ranges) != len(self.shape):
            raise ValueError(f"{len(self.ranges)} ranges for {len(self.shape)} sides")
        return self


class Kernels(Frozen):
    """Compute nodes (convolution, matrix product) that ran in the artifact's reduced precision, of all of them."""

    reduced: int | None
    total: int | None
    reason: str | None = None


class SizedParity(Frozen):
    """The comparison with the Paddle model on inputs of other ``shapes`` than the judging samples have, batch first."""

    shapes: tuple[tuple[int, ...], ...]
    max_rel: float | None = None
    cosine: float | None = None
    passed: bool | None = None
    reason: str | None = None


class Parity(Frozen):
    """How the artifact's own runtime compares with the Paddle model on ``samples`` inputs.

    Attributes:
        max_abs: largest absolute difference of an output.
        max_rel: ``max_abs`` / largest absolute output of the Paddle model; of several outputs the largest.
        cosine: of the angle between an output and the Paddle model's, over all samples; of several outputs the smallest.
        top1_agreement: share of samples with the same largest output, in %; null where the first output is not [N, classes].
        accuracy: top-1 of the artifact in %, null without labels.
        real: the samples are real data; false for random input.
        passed: null when no runtime here can run it.
        twin: name of the artifact that was compared in its place: the x86 file of one for ARM.
        sizes: where the model's sides were stated as ranges: the same samples at both ends of them.
    """

    max_abs: float | None = None
    max_rel: float | None = None
    cosine: float | None = None
    top1_agreement: float | None = None
    accuracy: float | None = None
    samples: int = 0
    real: bool = True
    passed: bool | None = None
    reason: str | None = None
    twin: str | None = None
    sizes: tuple[SizedParity, ...] = ()


#: What an artifact may lose points of.
Metric = Literal["accuracy", "agreement", "cosine"]


class Side(Frozen):
    """One of the two artifacts that are set side by side: what it loses of the metric in points, ``size`` in B, median latency ``p50`` in ms."""

    float_layers: int
    drop: float
    size: int
    p50: float


class Tuning(Frozen):
    """Plain int8, and what was kept; all measured on ``samples`` calibration samples.

    Attributes:
        metric: see `edge.export.parity.metric_of`.
        trials: how many artifacts were made and run.
    """

    metric: Metric
    samples: int
    trials: int
    plain: Side
    kept: Side


class Int8(Frozen):
    """How an int8 artifact was quantized.

    Attributes:
        method: how the ranges were taken; from ``samples`` samples of ``data``.
        signed_activations: of an ONNX file: S8 instead of U8. full_range: all 8 bits, see `edge.export.quantize`.
        ranges: weight -> (lowest, highest) value of the activation that its layer reads. The same for every format.
        float_layers: weights of the layers that were kept in float to hold ``max_drop`` points.
        tuning: what keeping them brought and cost.
    """

    method: str
    data: str
    samples: int
    ranges: dict[str, tuple[float, float]]
    signed_activations: bool = False
    full_range: bool = False
    float_layers: tuple[str, ...] = ()
    max_drop: float | None = None
    tuning: Tuning | None = None


#: No net has more, whatever is counted of it.
Counted = Annotated[int, Field(ge=0, le=10**18)]


class LayerWork(Frozen):
    """Work of one layer for one sample, in elements and in multiplications that each go with an addition, ``macs``.

    Attributes:
        name: of its weight, the same as in `Int8.ranges`; of a product of two activations, and where there is none, of the operator.
        kind: of the ONNX operator.
        weight_elements: of its weight and bias. input_elements, output_elements: of the activations that it reads and writes.
    """

    name: str
    kind: str
    macs: Counted
    weight_elements: Counted
    input_elements: Counted
    output_elements: Counted


class Work(Frozen):
    """Counted work of one inference, for one sample of the shape that the judging samples have: see `edge.export.work`.

    The same for every format and precision. The totals hold what every operator reads and writes; only ``layers`` multiply.

    Attributes:
        weight_elements: read by all operators, each once; a weight that two of them read counts twice.
        activation_elements: read and written by all operators.
    """

    macs: Counted
    weight_elements: Counted
    activation_elements: Counted
    layers: tuple[LayerWork, ...] = ()

    @model_validator(mode="after")
    def _totals_hold_the_layers(self) -> Work:
        if self.macs != sum(layer.macs for layer in self.layers):
            raise ValueError("the MACs of the layers do not add up to the total")
        moved = sum(layer.input_elements + layer.output_elements for layer in self.layers)
        if self.weight_elements < sum(layer.weight_elements for layer in self.layers) or self.activation_elements < moved:
            raise ValueError("the layers move more elements than the total")
        return self


class Origin(Frozen):
    """Where an artifact comes from.

    Attributes:
        source: MODEL as it was named. source_sha256: of the Paddle program that everything was made from, with its parameters.
        dataset: name of the data that calibrated and judged it, as `edge.datasets.samples.export_data` takes it; None for random input.
        source_accuracy: the Paddle model's top-1 on the judging samples, in %.
        fingerprint: of all that decides what the files hold; an export with the same one keeps them.
    """

    source: str
    weights_sha256: str | None = None
    source_sha256: str | None = None
    dataset: str | None = None
    calibration: str | None = None
    source_accuracy: float | None = None
    recipe: dict[str, Any] | None = None
    fingerprint: str | None = None


class Manifest(Frozen):
    schema_version: Literal[1] = 1
    model: str = Field(pattern=MODEL_NAME)
    format: Format
    precision: Precision
    target_arch: Arch
    program: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    files: tuple[FileEntry, ...]
    tools: dict[str, str]
    kernels: Kernels
    parity: Parity
    provenance: Origin
    int8: Int8 | None = None
    work: Work | None = None


@dataclass(frozen=True)
class Artifact:
    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        m = self.manifest
        return artifact_name(m.model, m.format, m.precision, m.target_arch)

    @property
    def size(self) -> int:
        """Bytes that the device needs: model and parameters, not the vectors."""
        return sum(entry.bytes for entry in self.manifest.files if entry.role != "vectors")

    def path(self, role: Role) -> Path | None:
        """The file of a role, or None."""
        return next((self.folder / entry.path for entry in self.manifest.files if entry.role == role), None)

    def vectors(self) -> dict[str, NDArray[Any]]:
        """The arrays ``input_0..`` and ``output_0..``, and ``source_top1`` of a classifier.

        Raises:
            BadArtifact: the file is missing, damaged, too large, or lacks an array.
        """
        path = self.path("vectors")
        if path is None:
            raise BadArtifact(f"{self.folder}: holds no sample vectors", hint="export it again with: edge export")
        try:
            arrays = read_npz(path, MAX_VECTORS, "vectors file")
        except BadInput as error:
            raise BadArtifact(error.message) from error
        wanted = [
            f"{kind}_{index}"
            for kind, tensors in (("input", self.manifest.inputs), ("output", self.manifest.outputs))
            for index in range(len(tensors))
        ]
        if missing := [name for name in wanted if name not in arrays]:
            raise BadArtifact(f"{path}: lacks {', '.join(missing[:3])}")
        return arrays


def artifact_name(model: str, format: Format, precision: Precision, arch: Arch) -> str:
    """``MODEL-FORMAT-PRECISION[-ARCH]``, the folder's name."""
    tail = "" if arch is Arch.ANY else f"-{arch.value}"
    return f"{model}-{format.value}-{precision.value}{tail}"


def file_entry(folder: Path, relative: str, role: Role) -> FileEntry:
    path = folder / relative
    return FileEntry(path=relative, bytes=path.stat().st_size, sha256=sha256_of(path), role=role)


def write_manifest(folder: Path, manifest: Manifest) -> Artifact:
    write_atomic(folder / MANIFEST, manifest.model_dump_json(indent=1))
    return Artifact(folder, manifest)


def load_artifact(folder: str | Path) -> Artifact:
    """Read an artifact and verify every file it lists.

    Raises:
        BadArtifact: no manifest, an unknown schema version, a path that leaves the folder, a file that is missing or
            has another size or checksum than the manifest says.
    """
    root = Path(folder)
    manifest = _read_manifest(root)
    if not any(entry.role == "model" for entry in manifest.files):
        raise BadArtifact(f"{root}: the manifest lists no model file")
    for entry in manifest.files:
        _verify(root, entry)
    return Artifact(root, manifest)


def _read_manifest(root: Path) -> Manifest:
    path = root / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST:
            raise BadArtifact(f"{path}: larger than {MAX_MANIFEST >> 20} MiB, not a manifest")
        raw = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise BadArtifact(f"{root}: not an artifact: it has no {MANIFEST}", hint="make one with: edge export MODEL --out DIR") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadArtifact(f"{path}: not readable JSON: {error}") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise BadArtifact(
            f"{path}: schema version {version!r} is unknown, this tool reads {SCHEMA_VERSION}", hint="export it again, or update this tool"
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadArtifact(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _verify(root: Path, entry: FileEntry) -> None:
    try:
        path = inside(root, entry.path)
    except BadInput as error:
        raise BadArtifact(error.message) from error
    if not path.is_file():
        raise BadArtifact(f"{path}: listed in the manifest but missing", hint="copy the artifact again, or export it again")
    if path.stat().st_size != entry.bytes:
        raise BadArtifact(f"{path}: {path.stat().st_size} bytes, the manifest says {entry.bytes}", hint="copy the artifact again, or export it again")
    if sha256_of(path) != entry.sha256:
        raise BadArtifact(f"{path}: its sha256 is not the one in the manifest", hint="copy the artifact again, or export it again")
