#!/usr/bin/env python3
"""Runs recipes and puts each result beside its recipe: all that have none of today, or those that are named.

.venv/bin/python scripts/run_recipes.py [NAME...] [--jobs N] [--no-time | --repeats N]

Recipes that begin alike share what their first steps have made. Interrupted, it goes on where it was. Without --no-time each dense and compressed
model is exported to every format and timed; keep the machine quiet then, and --jobs at 1.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edge.compress.recipe import fingerprint, read_recipe
from edge.compress.result import SUFFIX, read_result
from edge.files import write_atomic
from edge.workflows.compress import other_recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPES, OUT = ROOT / "edge" / "recipes", ROOT / "out" / "recipes"


def is_current(recipe: Path, timed: bool) -> bool:
    """Whether the result beside a recipe is of its steps as they are now, of all its seeds, and has latencies where they are wanted."""
    path = recipe.with_name(f"{recipe.stem}{SUFFIX}")
    if not path.is_file():
        return False
    read, result = read_recipe(recipe), read_result(path)
    same = result.fingerprint == fingerprint(read, result.seed, len(read.steps)) and {each.seed for each in result.seeds} == {*read.seeds}
    return same and bool(result.speed or not timed)


def run(recipe: Path, cache: Path, timing: list[str]) -> int:
    out = OUT / recipe.stem
    if other_recipe(read_recipe(recipe), out):
        shutil.rmtree(out)
    command = [sys.executable, "-m", "edge", "compress", str(recipe), "--out", str(out), "--cache", str(cache), *timing]
    code = subprocess.run(command, cwd=ROOT).returncode
    if code == 0:
        write_atomic(recipe.with_name(f"{recipe.stem}{SUFFIX}"), (out / f"{recipe.stem}{SUFFIX}").read_bytes())
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--no-time", dest="timed", action="store_false")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--cache", type=Path, default=OUT / ".steps")
    asked = parser.parse_args()
    recipes = [RECIPES / f"{name}.toml" for name in asked.names] or sorted(RECIPES.glob("*.toml"))
    due = [recipe for recipe in recipes if asked.names or not is_current(recipe, asked.timed)]
    timing = [*(["--time"] if asked.timed else []), *(["--repeats", str(asked.repeats)] if asked.repeats else [])]
    with ThreadPoolExecutor(asked.jobs) as pool:
        codes = list(pool.map(lambda recipe: run(recipe, asked.cache, timing), due))
    for recipe, code in zip(due, codes, strict=True):
        print(f"{recipe.stem}: {'done' if code == 0 else f'failed with exit code {code}'}")
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
