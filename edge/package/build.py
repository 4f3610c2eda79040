"""The folder of a bundle, from proven artifacts: the same content gives the same bytes."""

from __future__ import annotations

import gzip
import io
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.artifact import MANIFEST as ARTIFACT_MANIFEST
from edge.artifact import Artifact, FileEntry
from edge.compress.packing import pack_file
from edge.datasets.preprocessing import Preprocessing
from edge.files import sha256_of
from edge.package.archive import add
from edge.package.manifest import Bundle, Limits, Outcome, PackedArtifact, PackedDevice, PackedFile, Sizes
from edge.package.regions import tensor_regions
from edge.package.run.bundle import MANIFEST, SUMS
from edge.package.run.decode import Damaged, unpack_file
from edge.vocabulary import Format

HERE = Path(__file__).parent
#: Format -> the package of its runtime; numpy comes beside each.
RUNTIMES = {Format.ONNX: "onnxruntime", Format.PADDLE_INFERENCE: "paddlepaddle", Format.PADDLE_LITE: "paddlelite"}
#: Stands where Python would put its bytecode: a bundle writes nothing into itself.
NO_BYTECODE = "A file with this name keeps Python from writing bytecode here.\n"
#: A program is read by its suffix, and is small: it stays as it is.
PLAIN_SUFFIXES = (".json", ".pdmodel")
#: Of a packed file's name.
PACKED = ".packed"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Item:
    """An artifact for a bundle, and what the desk has found. ``verdict`` is None where nothing is known, and ``says`` why."""

    artifact: Artifact
    limits: Limits
    any_flag: tuple[str, ...]
    verdict: Outcome | None
    says: str


@dataclass(frozen=True)
class Content:
    """What goes into a bundle.

    Attributes:
        best: name of the artifact that runs where none is named. worker: the worker's folder.
        data: name in the bundle -> content, of what goes along as it is. wheels, licences: files.
        packs: whether model files are packed; else they are as the runtime loads them.
    """

    name: str
    tool: str
    device: PackedDevice
    items: tuple[Item, ...]
    best: str
    worker: Path
    bench: dict[str, Any]
    data: Mapping[str, bytes]
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    wheels: tuple[Path, ...] = ()
    licences: tuple[Path, ...] = ()
    forced: tuple[str, ...] = ()
    packs: bool = True
    fp32_model: int | None = None


def build(content: Content, folder: Path, progress: Progress = lambda *_: None) -> Bundle:
    """Fill the folder, which is empty and has the bundle's name."""
    artifacts = []
    for number, item in enumerate(content.items):
        progress(number, len(content.items), item.artifact.name)
        artifacts.append(_put_artifact(item, folder, content.packs, _requirements(content, item)))
    _put_code(HERE / "run", folder / "run")
    _put_code(content.worker, folder / "edge_worker")
    _put_texts(content, folder)
    bundle = Bundle(
        name=content.name,
        tool=content.tool,
        device=content.device,
        artifacts=tuple(artifacts),
        best=content.best,
        preprocessing=content.preprocessing,
        labels=content.labels,
        bench=content.bench,
        forced=content.forced,
    )
    bundle = bundle.model_copy(update={"sizes": _sizes(bundle, content, folder)})
    (folder / MANIFEST).write_text(bundle.model_dump_json(indent=1), encoding="utf-8")
    (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in _digests(folder)), encoding="utf-8")
    progress(len(content.items), len(content.items), "done")
    return bundle


def _requirements(content: Content, item: Item) -> str:
    """The name of the file in the bundle: one a format, where there are several."""
    alone = len({each.artifact.manifest.format for each in content.items}) == 1
    return "requirements.txt" if alone else f"requirements-{item.artifact.manifest.format.value}.txt"


def _put_artifact(item: Item, folder: Path, packs: bool, requirements: str) -> PackedArtifact:
    artifact, manifest = item.artifact, item.artifact.manifest
    home = folder / "artifacts" / artifact.name
    home.mkdir(parents=True)
    shutil.copyfile(artifact.folder / ARTIFACT_MANIFEST, home / ARTIFACT_MANIFEST)
    files = tuple(_put_file(artifact, entry, home, packs) for entry in manifest.files if entry.role != "vectors")
    vectors = next(entry.path for entry in manifest.files if entry.role == "vectors")
    (home / vectors).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(artifact.folder / vectors, home / vectors)
    return PackedArtifact(
        name=artifact.name,
        folder=f"artifacts/{artifact.name}",
        format=manifest.format,
        precision=manifest.precision,
        files=files,
        vectors=vectors,
        inputs=tuple(tensor.name for tensor in manifest.inputs),
        outputs=len(manifest.outputs),
        requirements=requirements,
        packages=packages_of(manifest.format),
        any_flag=item.any_flag,
        limits=item.limits,
        parity=manifest.parity.passed,
        verdict=item.verdict,
        says=item.says,
    )


def _put_file(artifact: Artifact, entry: FileEntry, home: Path, packs: bool) -> PackedFile:
    """Packed where that is smaller."""
    path = artifact.folder / entry.path
    data, stored = path.read_bytes(), entry.path
    if packs and path.suffix not in PLAIN_SUFFIXES:
        packed = pack_file(data, tensor_regions(path, data, artifact.manifest.format))
        if len(packed) < len(data) and _decodes(packed, data):  # a strange file may be more than the decoder takes
            data, stored = packed, entry.path + PACKED
    (home / stored).parent.mkdir(parents=True, exist_ok=True)
    (home / stored).write_bytes(data)
    return PackedFile(role=entry.role, path=entry.path, stored=stored, bytes=entry.bytes, sha256=entry.sha256)


def _decodes(packed: bytes, data: bytes) -> bool:
    try:
        return unpack_file(packed) == data
    except Damaged:
        return False


def _put_code(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*.py")):
        (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / path.relative_to(source))
    for package in [target, *(path for path in sorted(target.rglob("*")) if path.is_dir())]:
        (package / "__pycache__").write_text(NO_BYTECODE)


def _put_texts(content: Content, folder: Path) -> None:
    for item in content.items:
        shutil.copyfile(HERE / "runtimes" / f"{item.artifact.manifest.format.value}.txt", folder / _requirements(content, item))
    (folder / "README.md").write_text(_readme(content), encoding="utf-8")
    for name, data in content.data.items():
        (folder / name).write_bytes(data)
    for kind, files in (("licences", content.licences), ("wheels", content.wheels)):
        for path in files:
            (folder / kind).mkdir(exist_ok=True)
            shutil.copyfile(path, folder / kind / path.name)


def _readme(content: Content) -> str:
    text = (HERE / "device_readme.md").read_text(encoding="utf-8")
    return text.replace("NAME", content.name).replace("REQUIREMENTS", _requirements(content, content.items[0]))


def packages_of(format: Format) -> dict[str, tuple[str, ...]]:
    """What a format needs on the device, and the versions in the requirements that go along. Any numpy: only Paddle Lite misreads numpy 2."""
    numpy = _versions(format, "numpy") if format is Format.PADDLE_LITE else ()
    return {RUNTIMES[format]: _versions(format, RUNTIMES[format]), "numpy": numpy}


def _versions(format: Format, package: str) -> tuple[str, ...]:
    text = (HERE / "runtimes" / f"{format.value}.txt").read_text()
    return tuple(sorted(set(re.findall(rf"^{package}==([^ ;\\]+)", text, re.MULTILINE))))


def _digests(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), sha256_of(path)


def _sizes(bundle: Bundle, content: Content, folder: Path) -> Sizes:
    """Of the bundle as it is on the device, and of the same with plain models in a tar.gz: what packing them is worth."""
    plain = {f"{each.folder}/{entry.path}": entry.bytes for each in bundle.artifacts for entry in each.files}
    packed = {f"{each.folder}/{entry.stored}" for each in bundle.artifacts for entry in each.files}
    others = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.relative_to(folder).as_posix() not in packed]
    mine = [path for path in others if path.relative_to(folder).parts[0] != "wheels"]
    models = {f"{item.artifact.name}/{entry.path}": item.artifact.folder / entry.path for item in content.items for entry in _models(item)}
    return Sizes(
        installed=sum(plain.values()) + sum(path.stat().st_size for path in mine),
        plain_tar_gz=_targz([*((str(path.relative_to(folder)), path) for path in others), *models.items()]),
        fp32_model=content.fp32_model,
    )


def _models(item: Item) -> list[FileEntry]:
    return [entry for entry in item.artifact.manifest.files if entry.role != "vectors"]


def _targz(files: Sequence[tuple[str, Path]]) -> int:
    counter = _Counter()
    with gzip.GzipFile(filename="", mode="wb", fileobj=counter, mtime=0) as packed, tarfile.open(fileobj=packed, mode="w|") as archive:
        for name, path in files:
            add(archive, path, name)
    return counter.size


class _Counter(io.RawIOBase):
    """A file of which only the size is wanted."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.size += len(data)
        return len(data)
