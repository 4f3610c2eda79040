#!/usr/bin/env bash
# Rewrites the hash-pinned requirements from pyproject.toml (needs uv). One file serves CPython 3.10 to 3.12.
set -eu
cd "$(dirname "$0")/.."
options=(--generate-hashes --no-header --no-annotate --quiet)
uv pip compile pyproject.toml --extra dev --extra loadgen --extra tables --extra video --universal --python-version 3.10 "${options[@]}" -o requirements/main.txt
# for the target gpu, on demand: its metadata are enough to resolve it. paddlepaddle-gpu 3 is not in the package registry.
printf 'paddlepaddle-gpu==2.6.2\nonnxruntime-gpu[cuda,cudnn]==1.31.1\nnumpy==1.26.4\nnvidia-ml-py==13.615.71\nsetuptools\n' |
    uv pip compile - --python-version 3.11 --python-platform x86_64-manylinux_2_28 "${options[@]}" -o requirements/gpu.txt
printf 'paddlelite==2.13rc0\nnumpy==1.26.4\n' | uv pip compile - --python-version 3.10 "${options[@]}" -o requirements/lite.txt
# The aarch64 wheels of the target qemu, for the CPython 3.11 of Debian 12. Paddle's newest aarch64 wheel is 3.2.2.
arm=(--python-version 3.11 --python-platform aarch64-manylinux_2_28 --only-binary :all:)
echo onnxruntime | uv pip compile - "${arm[@]}" "${options[@]}" --constraint requirements/main.txt -o devices/arm-onnx.txt
printf 'paddlepaddle==3.2.2\nsetuptools\n' | uv pip compile - "${arm[@]}" "${options[@]}" -o devices/arm-paddle-inference.txt
# What a bundle names for its device, by the device's own Python: 3.8 or newer, for Paddle 3.9.
device=(--universal --only-binary :all:)
printf 'onnxruntime\nnumpy\n' | uv pip compile - --python-version 3.8 "${device[@]}" "${options[@]}" -o edge/package/runtimes/onnx.txt
printf "paddlepaddle==3.3.1; platform_machine != 'aarch64'\npaddlepaddle==3.2.2; platform_machine == 'aarch64'\nnumpy\nsetuptools\n" |
    uv pip compile - --python-version 3.9 "${device[@]}" "${options[@]}" -o edge/package/runtimes/paddle-inference.txt
cp requirements/lite.txt edge/package/runtimes/paddle-lite.txt
