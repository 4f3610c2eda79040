#!/usr/bin/env bash
# Rewrites the hash-pinned requirements from pyproject.toml (needs uv). One file serves CPython 3.10 to 3.12.
set -eu
cd "$(dirname "$0")/.."
options=(--generate-hashes --no-header --no-annotate --quiet)
uv pip compile pyproject.toml --extra dev --extra loadgen --extra tables --extra video --universal --python-version 3.10 "${options[@]}" -o requirements/main.txt
printf 'paddlelite==2.13rc0\nnumpy==1.26.4\n' | uv pip compile - --python-version 3.10 "${options[@]}" -o requirements/lite.txt
