"""A recipe with all its seeds, side by side; and the proof of a packed model from scratch."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge.children import side_by_side
from edge.compress.folder import RECIPE, RECORD, Compressed, read_record
from edge.compress.recipe import Recipe, fingerprint, steps_of
from edge.errors import BadInput, CheckFailed
from edge.files import write_atomic
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
        BadInput, CheckFailed: see `edge.compress.run.run_recipe`.
    """
    alone = any(step.measures for step in steps_of(recipe))  # the training of another seed would disturb what is measured
    with side_by_side(1 if alone else min(cores(), len(recipe.seeds))) as pool:
        futures = {pool.submit(_run, recipe, seed, out / f"seed-{seed}", progress, cache, clock): seed for seed in recipe.seeds}
        found = {futures[future]: future.result() for future in as_completed(futures)}
    for seed in recipe.seeds:
        write_atomic(out / f"seed-{seed}" / RECIPE, text)
    return {seed: found[seed] for seed in recipe.seeds}


def verify_all(folder: Path) -> dict[str, dict[str, Any]]:
    """`verify` a compressed model, or each one that a recipe has made in a folder: its name -> what was found.

    Raises:
        BadInput: there is none. Else as `verify`.
    """
    found = [folder] if (folder / RECORD).is_file() else sorted(path.parent for path in folder.glob(f"seed-*/{RECORD}"))
    if not found:
        raise BadInput(f"{folder}: no compressed model is in it", hint="make one with: edge compress RECIPE --out DIR")
    return {str(each): verify(each) for each in found}


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
    if (folder / RECORD).is_file():
        record = read_record(folder)
        if record.fingerprint == fingerprint(recipe, seed, len(recipe.steps), clock.place if clock else ""):
            return record
    arguments = {
        "recipe": json.loads(recipe.model_dump_json()),
        "seed": seed,
        "folder": str(folder.absolute()),
        "cache": str(cache.absolute()) if cache else None,
        "clock": asdict(clock) if clock else None,
    }
    report = run_job(
        "edge.workflows.compress_job:run", arguments, flags=training_flags(1), on_progress=lambda done, total, note: progress(seed, done, total, note)
    )
    return Compressed.model_validate(report)
