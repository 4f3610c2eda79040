"""From proven artifacts and what is known of them to a bundle for a device."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

from edge.artifact import MANIFEST, Artifact, load_artifact
from edge.bench.launch import SPEC_VERSION, WORKER
from edge.bench.measure import ARTIFACT, BenchRequest
from edge.bench.results import Results, read_results
from edge.bench.scenarios import timing
from edge.bench.verdict import Check, Verdict, check
from edge.bench.worker.machine import TELLING_FLAGS
from edge.datasets.known import known_pictures
from edge.datasets.preprocessing import Preprocessing
from edge.devices.local import LocalTarget
from edge.devices.profile import Profile, load_profile
from edge.errors import BadInput, CheckFailed, Unavailable
from edge.export.parity import THRESHOLDS
from edge.export.support import cell_of
from edge.files import check_place, naming, read_limited, sha256_of
from edge.package.archive import bundle_name, write_archive
from edge.package.build import Content, Item, build
from edge.package.manifest import MAX_TEXT, Bundle, Limits, Outcome, PackedDevice
from edge.package.signature import private_key, sign, signature_path
from edge.vocabulary import Arch, Precision

Progress = Callable[[int, int, str], None]
#: Larger files of labels and licences are refused, in bytes.
MAX_FILE = 4 << 20
#: Of licences and wheels (PEP 427 has versions with + and !).
FILE_NAME = r"[\w.+!-]+"
#: A difference of int8 outputs that was found here may be so many times as large there, and this share of the largest output more.
SLACK, LEAST = 3.0, 0.01
NOT_JUDGED = "no results of it were given: edge pack --results FILE"


@dataclass(frozen=True)
class PackRequest:
    """What to pack.

    Attributes:
        artifacts: folders. device: name or file of a profile. results: files of `edge bench`, for the verdict.
        preprocessing: how a picture becomes an input; without it that of the data set that judged. labels: a line a class.
        wheels: a folder of them for the device. key: that signs. packs: see `edge.package.build.Content`.
        force: pack what failed its gate or its verdict too, marked.
    """

    artifacts: Sequence[Path]
    device: str
    out: Path
    results: Sequence[Path] = ()
    preprocessing: Preprocessing | None = None
    labels: Path | None = None
    wheels: Path | None = None
    licences: Sequence[Path] = ()
    key: Path | None = None
    packs: bool = True
    force: bool = False


@dataclass(frozen=True)
class Packed:
    """What came of it; ``signature`` where it was signed."""

    bundle: Bundle
    path: Path
    bytes: int
    signature: Path | None


def pack(request: PackRequest, progress: Progress = lambda *_: None) -> Packed:
    """Write the bundle, and its signature where a key is named.

    Raises:
        BadInput: an artifact, a profile or another file that cannot be used, or that is not for the device.
        CheckFailed: an artifact failed its parity gate or its verdict, and nothing was forced. Unavailable: this tool is not installed whole.
    """
    bundle_name(request.out)
    for path in (request.out, signature_path(request.out)):
        check_place(path, "--out camera.bundle.tar.zst")
    key = private_key(request.key) if request.key else None
    profile = load_profile(request.device)
    artifacts = [load_artifact(folder) for folder in request.artifacts]
    _check_fit(artifacts, profile)
    results = Results(cells=tuple(cell for path in request.results for cell in read_results(path).cells))
    found = check(results.cells, profile) if results.cells else None
    verdicts = {artifact.name: _verdict_of(artifact, found, results) for artifact in artifacts}
    wheels = _wheels(request.wheels)
    refused = tuple(reason[:MAX_TEXT] for reason in _refusals(artifacts, verdicts, profile, sum(map(_unpacks_to, wheels))))
    if refused and not request.force:
        raise CheckFailed(f"not packed: {'; '.join(refused)}", hint="mend it, leave that artifact out, or mark the bundle: --force")
    content = _content(request, profile, artifacts, verdicts, refused, results, found, wheels)
    with tempfile.TemporaryDirectory(prefix="edge-pack.") as scratch:
        folder = Path(scratch, content.name)
        folder.mkdir()
        with naming(Path(scratch)):
            bundle = build(content, folder, progress)
        write_archive(folder, request.out)
    signature_path(request.out).unlink(missing_ok=True)  # of what stood there before
    return Packed(bundle, request.out, request.out.stat().st_size, sign(request.out, key) if key else None)


def _check_fit(artifacts: Sequence[Artifact], profile: Profile) -> None:
    names = [artifact.name for artifact in artifacts]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise BadInput(f"{double} is named twice", hint="pack each artifact once")
    for artifact in artifacts:
        arch = artifact.manifest.target_arch
        if arch not in (Arch.ANY, profile.arch):
            raise BadInput(f"{artifact.name} is for {arch.value}, and {profile.name} is {profile.arch.value}", hint="name the artifact for it")
        artifact.vectors()  # a damaged one is found here, not on the device


def _verdict_of(artifact: Artifact, found: Check | None, results: Results) -> Verdict | None:
    """Of this very artifact: by its manifest where the results tell it, else by name and size."""
    mine = [cell for cell in results.cells if cell.artifact == artifact.name]
    sizes, digests = {cell.size.value for cell in mine}, {str(cell.environment[ARTIFACT]) for cell in mine if ARTIFACT in cell.environment}
    if (sizes and artifact.size not in sizes) or (digests and sha256_of(artifact.folder / MANIFEST) not in digests):
        raise BadInput(
            f"{artifact.folder}: the results are of another export of {artifact.name}", hint="measure again: edge bench ARTIFACT --out FILE"
        )
    return next((verdict for verdict in found.cells if verdict.artifact == artifact.name), None) if found and sizes else None


def _refusals(artifacts: Sequence[Artifact], verdicts: dict[str, Verdict | None], profile: Profile, wheels: int) -> Iterator[str]:
    """``wheels``: bytes that they unpack to."""
    for artifact in artifacts:
        parity, verdict = artifact.manifest.parity, verdicts[artifact.name]
        if parity.passed is False:
            yield f"{artifact.name} failed its parity gate: {parity.reason}"
        if verdict and verdict.verdict == "FAIL":
            yield f"{artifact.name} will not live on {profile.name}: {_budgets(verdict, 'FAIL')}"
        elif artifact.size > profile.storage_limit:
            yield f"{artifact.name} has {artifact.size:,} bytes, {profile.name} has room for {profile.storage_limit:,}"
    models, room = sum(artifact.size for artifact in artifacts), int(profile.storage.total.base)
    if len(artifacts) > 1 and models > profile.storage_limit:
        yield f"the models have {models:,} bytes together, {profile.name} has room for {profile.storage_limit:,}"
    if wheels and models + wheels > room:
        yield f"models and unpacked wheels have {models + wheels:,} bytes, the storage of {profile.name} has {room:,}"


def _budgets(verdict: Verdict, outcome: Outcome) -> str:
    """What is said of the budgets that have this outcome."""
    return "; ".join(f"{budget.name.replace('_', ' ')}: {budget.says}" for budget in verdict.budgets if budget.verdict == outcome)


def _content(
    request: PackRequest,
    profile: Profile,
    artifacts: Sequence[Artifact],
    verdicts: dict[str, Verdict | None],
    refused: tuple[str, ...],
    results: Results,
    found: Check | None,
    wheels: tuple[Path, ...],
) -> Content:
    preprocessing, labels = _pictures(request, artifacts)
    tool = distribution("paddle-edge")
    best = _best(artifacts, found)
    licence = tool.read_text("licenses/LICENSE")
    if licence is None:
        raise Unavailable("the licence of this tool is not installed with it, and a bundle holds its code", hint="install it again: make setup")
    data = {"LICENSE": licence.encode()}
    if found:
        mine = {artifact.name for artifact in artifacts}
        kept = tuple(cell for cell in results.cells if cell.artifact in mine)
        data |= {"results.json": Results(cells=kept).model_dump_json(indent=1).encode(), "verdict.json": found.model_dump_json(indent=1).encode()}
    return Content(
        name=bundle_name(request.out),
        tool=f"paddle-edge {tool.version}",
        device=_device(profile),
        items=tuple(_item(artifact, verdicts[artifact.name]) for artifact in artifacts),
        best=best.name,
        worker=WORKER,
        bench=_bench(BenchRequest(LocalTarget())),
        preprocessing=preprocessing,
        labels=labels,
        data=data,
        wheels=wheels,
        licences=_licences(request.licences),
        forced=refused,
        packs=request.packs,
        fp32_model=_fp32(best, artifacts, results),
    )


def _pictures(request: PackRequest, artifacts: Sequence[Artifact]) -> tuple[Preprocessing | None, tuple[str, ...] | None]:
    """One preprocessing and one set of labels for all of them, which fit each."""
    known = {known_pictures(artifact.manifest.provenance.dataset) for artifact in artifacts}
    if len(known) > 1:
        raise BadInput("the artifacts are of models of different data", hint="pack those of one model in a bundle")
    preprocessing, labels = next(iter(known))
    preprocessing = request.preprocessing or preprocessing
    labels = _labels(request.labels) if request.labels else labels
    for artifact in artifacts:
        first, last = artifact.manifest.inputs[0].shape, artifact.manifest.outputs[0].shape
        if preprocessing and not _fits(preprocessing.shape, first[1:]):
            raise BadInput(
                f"{artifact.name} takes {_sides(first)}, and {preprocessing} gives {_sides(preprocessing.shape)}", hint="mend --preprocess"
            )
        if labels and len(last) == 2 and last[1] not in (None, len(labels)):
            raise BadInput(f"{artifact.name} has {last[1]} classes, and there are {len(labels)} labels", hint="--labels FILE: a line a class")
    return preprocessing, labels


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(side in (None, mine) for mine, side in zip(shape, wanted, strict=True))


def _sides(shape: Sequence[int | None]) -> str:
    return "x".join("?" if side is None else str(side) for side in shape)


def _best(artifacts: Sequence[Artifact], found: Check | None) -> Artifact:
    """That of the best verdict, else the first that was named."""
    order = [verdict.artifact for verdict in found.cells] if found else []
    return min(artifacts, key=lambda artifact: order.index(artifact.name) if artifact.name in order else len(order))


def _device(profile: Profile) -> PackedDevice:
    flags = tuple(flag for flag in TELLING_FLAGS if all(flag in cluster.isa for cluster in profile.clusters))
    return PackedDevice(name=profile.name, title=profile.title, arch=profile.arch, flags=flags, identity=profile.identity)


def _item(artifact: Artifact, verdict: Verdict | None) -> Item:
    manifest = artifact.manifest
    limits, cell = THRESHOLDS[manifest.precision], cell_of(manifest.format, manifest.precision, manifest.target_arch)
    max_rel, parity = limits.max_rel, manifest.parity
    if max_rel is None and parity.max_rel is not None:
        # the gate sets int8 no bound; on the device it is held to what it was on the desk, with room for other kernels and fewer samples
        max_rel = SLACK * parity.max_rel + LEAST
    held = parity.real or manifest.precision is Precision.FP32
    return Item(
        artifact,
        Limits(max_rel=max_rel, cosine=limits.cosine, agreement=limits.agreement if held else None),
        cell.cpu_flags if cell else (),
        verdict.verdict if verdict else None,
        _budgets(verdict, verdict.verdict)[:MAX_TEXT] if verdict else NOT_JUDGED,
    )


def _bench(request: BenchRequest) -> dict[str, object]:
    """What `edge bench` asks for where nothing else is said."""
    settings = {**timing(request.scenario, request.warmup), "growth_seconds": request.growth_seconds}
    seconds = 2 * max(request.scenario.max_seconds, request.scenario.seconds) + request.warmup[1]
    return {"spec_version": SPEC_VERSION, "repeats": request.repeats, "seconds": seconds, "settings": settings}


def _fp32(best: Artifact, artifacts: Sequence[Artifact], results: Results) -> int | None:
    """Bytes of the fp32 model in the best one's format."""
    wanted = (best.manifest.model, best.manifest.format, Precision.FP32)
    packed = (each.size for each in artifacts if (each.manifest.model, each.manifest.format, each.manifest.precision) == wanted)
    known = (cell.size.value for cell in results.cells if (cell.model, cell.format, cell.precision) == wanted and cell.size.value)
    return next((int(size) for size in (*packed, *known)), None)


def _labels(path: Path) -> tuple[str, ...]:
    try:
        found = read_limited(path, MAX_FILE, "file of labels").decode().splitlines()
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text: {error}") from error
    if any(len(line) > 1000 for line in found):
        raise BadInput(f"{path}: a label in it is longer than 1000 characters", hint="a line a class")
    return tuple(found)


def _wheels(folder: Path | None) -> tuple[Path, ...]:
    if folder is None:
        return ()
    found = tuple(sorted(folder.glob("*.whl")))
    if not found:
        raise BadInput(f"{folder}: no wheel is in it", hint="fill it, e.g.: pip download --dest DIR --only-binary=:all: onnxruntime")
    _check_names(found)
    return found


def _unpacks_to(wheel: Path) -> int:
    """In bytes."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BadInput(f"{wheel}: not a readable wheel: {error}", hint="fetch it again") from None


def _check_names(paths: Sequence[Path]) -> None:
    """They stand in lists of a name a line."""
    for path in paths:
        if not re.fullmatch(FILE_NAME, path.name, re.ASCII):
            raise BadInput(f"{str(path)!r}: its name is no plain one: letters, digits, dots, dashes", hint="rename it")


def _licences(paths: Sequence[Path]) -> tuple[Path, ...]:
    for path in paths:
        read_limited(path, MAX_FILE, "licence")
    _check_names(paths)
    if len({path.name for path in paths}) < len(paths):
        raise BadInput("two licences have the same file name", hint="rename one")
    return tuple(paths)
