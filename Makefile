# make demo   sets everything up and runs the main job      make test   sets everything up and runs the tests
# make check  format, lint, types                           make test-slow  the long tests
# make recipes  runs the recipes of edge/recipes whose results are not of today: hours
.PHONY: setup data demo test test-slow recipes check format clean

setup:
	@python3 scripts/setup.py

data: setup
	@python3 scripts/fetch_mnist.py
	@python3 scripts/fetch_fashion.py
	@python3 scripts/fetch_ppocr.py

demo: data
	.venv/bin/edge demo --out out/demo

test: data
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not alone"
	.venv/bin/python -m pytest -m "alone and not slow"

test-slow: data
	.venv/bin/python -m pytest -m slow

recipes: data
	.venv/bin/python scripts/run_recipes.py
	.venv/bin/python scripts/readme.py

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

clean:
	rm -rf .venv .venv-lite .cache out
