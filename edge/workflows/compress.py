"""A recipe with all its seeds, side by side; and the proof of a packed model from scratch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge.children import side_by_side
from edge.compress.folder import RECIPE, RECORD, Compressed, check_files, read_record
from edge.compress.recipe import Recipe, fingerprint, steps_of
from edge.compress.result import MEASURED, SUFFIX, Result, read_result, result_of
from edge.errors import BadInput, CheckFailed, EdgeError
from edge.files import check_folder, write_atomic
from edge.jobs import run_job
from edge.workflows.speed import Clock
from edge.workflows.training import cores, training_flags

#: Called with (seed, done, total, note).
SeedProgress = Callable[[int, int, int, str], None]
#: Errors of the proof and of the record may differ by so much, in points: one image of ten thousand is 0.01.
SAME_ERROR = 0.005
#: What a proof finds beside the figures that stand in the record.
SAME_WEIGHTS = "same_weights"


def compress(
    recipe: Recipe, text: bytes, out: Path, progress: SeedProgress, *, cache: Path | None = None, clock: Clock | None = None
) -> dict[int, Compressed]:
    """Run the recipe for each seed into ``out/seed-N``; what is there is kept, what was interrupted is gone on with.

    Args:
        text: of the recipe's file, which is kept beside what it made.
        cache: see `edge.compress.run.run_recipe`. clock: how steps measure a latency that they aim at.

    Raises:
        BadInput: ``out`` cannot be written, or holds the models of another recipe. Else as `edge.compress.run.run_recipe`.
    """
    check_folder(out, "--out DIR")
    if cache:
        check_folder(cache, "--cache DIR")
    if other := other_recipe(recipe, out, clock.place if clock else ""):
        raise BadInput(f"{other}: was made by another recipe, or by this one as it was", hint=f"name another --out, or remove {out}")
    alone = any(step.measures for step in steps_of(recipe))  # the training of another seed would disturb what is measured
    with side_by_side(1 if alone else min(cores(), len(recipe.seeds))) as pool:
        futures = {pool.submit(_run, recipe, seed, out / f"seed-{seed}", progress, cache, clock): seed for seed in recipe.seeds}
        found = {futures[future]: future.result() for future in as_completed(futures)}
    for seed in recipe.seeds:
        write_atomic(out / f"seed-{seed}" / RECIPE, text)
    return {seed: found[seed] for seed in recipe.seeds}


def other_recipe(recipe: Recipe, out: Path, place: str = "") -> Path | None:
    """The first folder in ``out`` with the model of other steps, data, or a place where steps measure; a damaged one is nobody's."""
    for path in sorted(out.glob(f"seed-*/{RECORD}")):
        with contextlib.suppress(BadInput):
            record = read_record(path.parent)
            if record.fingerprint != fingerprint(recipe, record.seed, len(recipe.steps), place):
                return path.parent
    return None


def verify_all(folder: Path) -> dict[str, dict[str, Any]]:
    """`verify` a compressed model, or each one that a recipe has made in a folder, and its result file: its name -> what was found.

    Raises:
        BadInput: there is none. CheckFailed: the result file says something else than the records. Else as `verify`.
    """
    found = [folder] if (folder / RECORD).is_file() else sorted(path.parent for path in folder.glob(f"seed-*/{RECORD}"))
    if not found:
        raise BadInput(f"{folder}: no compressed model is in it", hint="make one with: edge compress RECIPE --out DIR")
    proven = {str(each): verify(each) for each in found}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        _check_result(path, read_result(path))
    return proven


def _check_result(path: Path, result: Result) -> None:
    """All figures but those that were timed follow from the records."""
    records = {each.seed: read_record(path.parent / f"seed-{each.seed}") for each in result.seeds}
    right = result_of(result.name, result, records)
    wrong = [name for name in Result.model_fields if name not in MEASURED and getattr(result, name) != getattr(right, name)]
    if wrong:
        raise CheckFailed(
            f"{path}: {', '.join(wrong)} differ from the records of its seeds", hint="write it again with: edge compress RECIPE --out DIR"
        )


def verify(folder: Path) -> dict[str, Any]:
    """Decode the packed model, run it on the test images, and recompute its bytes, parameters, multiplications and error.

    Raises:
        BadInput: no compressed model, or a damaged one. Unavailable: its data are not on this machine.
        CheckFailed: something else than the record says came out.
    """
    record = read_record(folder)
    found: dict[str, Any] = run_job("edge.compress.proof:prove", {"folder": str(folder.absolute())}, flags=training_flags(cores()))
    said = {name: getattr(record, name) for name in found if name != SAME_WEIGHTS}
    wrong = [f"{name} is {found[name]}, the record says {figure}" for name, figure in said.items() if not _same(found[name], figure)]
    if not found[SAME_WEIGHTS]:
        wrong.append("the packed file decodes to other weights than model.safetensors")
    if wrong:
        raise CheckFailed(f"{folder}: {'; '.join(wrong)}")
    return found


def _same(found: float | None, said: float | None) -> bool:
    """Counts are equal; an error may differ by less than an image."""
    return found == said if found is None or said is None else abs(found - said) <= SAME_ERROR


def _run(recipe: Recipe, seed: int, folder: Path, progress: SeedProgress, cache: Path | None, clock: Clock | None) -> Compressed:
    with contextlib.suppress(BadInput):  # not there, or damaged: it is made (again)
        record = read_record(folder)
        check_files(folder, record)
        return record
    arguments = {
        "recipe": json.loads(recipe.model_dump_json()),
        "seed": seed,
        "folder": str(folder.absolute()),
        "cache": str(cache.absolute()) if cache else None,
        "clock": asdict(clock) if clock else None,
    }
    for stray in folder.glob(".*"):
        if stray.is_file():  # what a run that was killed was writing
            stray.unlink()
    try:
        report = run_job(
            "edge.workflows.compress_job:run",
            arguments,
            flags=training_flags(1),
            on_progress=lambda done, total, note: progress(seed, done, total, note),
        )
    except EdgeError as error:
        error.message = f"seed {seed}: {error.message}"
        raise
    return Compressed.model_validate(report)
