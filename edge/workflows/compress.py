"""A recipe with all its seeds, side by side; and the proof of a packed model from scratch."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from edge.children import side_by_side
from edge.compress.folder import Compressed, read_record
from edge.compress.recipe import Recipe
from edge.errors import CheckFailed
from edge.jobs import run_job
from edge.workflows.training import cores, thread_flags

#: Called with (seed, done, total, note).
SeedProgress = Callable[[int, int, int, str], None]
#: Errors of the proof and of the record may differ by so much, in points: one image of ten thousand is 0.01.
SAME_ERROR = 0.005


def compress(recipe: Recipe, out: Path, progress: SeedProgress) -> dict[int, Compressed]:
    """Run the recipe for each seed into ``out/seed-N``; what is there is kept, what was interrupted is gone on with.

    Raises:
        BadInput, CheckFailed: see `edge.compress.run.run_recipe`.
    """
    with side_by_side(min(cores(), len(recipe.seeds))) as pool:
        futures = {pool.submit(_run, recipe, seed, out / f"seed-{seed}", progress): seed for seed in recipe.seeds}
        found = {futures[future]: future.result() for future in as_completed(futures)}
    return {seed: found[seed] for seed in recipe.seeds}


def verify(folder: Path) -> dict[str, Any]:
    """Decode the packed model, run it on the test images, and recompute its bytes and its error.

    Raises:
        BadInput: no compressed model, or a damaged one.
        CheckFailed: something else than the record says came out.
    """
    record = read_record(folder)
    found: dict[str, Any] = run_job("edge.compress.proof:prove", {"folder": str(folder.absolute())}, flags=thread_flags(cores()))
    wrong = [
        f"{name} is {found[name]:g}, the record says {getattr(record, name):g}"
        for name, least in (("packed_bytes", 0.5), ("baseline_bytes", 0.5), ("error_after", SAME_ERROR))
        if abs(found[name] - getattr(record, name)) > least
    ]
    if not found["same_weights"]:
        wrong.append("the packed file decodes to other weights than model.safetensors")
    if wrong:
        raise CheckFailed(f"{folder}: {'; '.join(wrong)}")
    return found


def _run(recipe: Recipe, seed: int, folder: Path, progress: SeedProgress) -> Compressed:
    asked = json.loads(recipe.model_dump_json())
    if (folder / "compressed.json").is_file():
        record = read_record(folder)
        if [step.step for step in record.steps] == asked["steps"] and (record.model, record.seed) == (recipe.model, seed):
            return record
    arguments = {"recipe": asked, "seed": seed, "folder": str(folder.absolute())}
    report = run_job(
        "edge.compress.run:run_recipe", arguments, flags=thread_flags(1), on_progress=lambda done, total, note: progress(seed, done, total, note)
    )
    return Compressed.model_validate(report)
