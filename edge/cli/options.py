"""Option types that several commands share."""

from __future__ import annotations

from typing import Any

import click


class CommaList(click.ParamType[Any]):
    """``a,b,c`` of known words, or of positive integers when no words are given."""

    name = "list"

    def __init__(self, words: tuple[str, ...] = ()) -> None:
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not parts:
            self.fail("names nothing", param, ctx)
        if self.words:
            if unknown := [part for part in parts if part not in self.words]:
                self.fail(f"{unknown[0]!r} is not one of {', '.join(self.words)}", param, ctx)
            return tuple(dict.fromkeys(parts))
        if bad := [part for part in parts if not part.isdecimal() or int(part) < 1]:
            self.fail(f"{bad[0]!r} is not a positive whole number", param, ctx)
        return tuple(dict.fromkeys(int(part) for part in parts))


FORMATS = CommaList(("onnx", "paddle-inference", "paddle-lite"))
PRECISIONS = CommaList(("fp32", "fp16", "bf16", "int8"))
COUNTS = CommaList()


class CpuList(click.ParamType[Any]):
    """``0,1``: numbers of CPUs."""

    name = "cpus"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        parts = str(value).split(",")
        if bad := [part for part in parts if not part.isdecimal()]:
            self.fail(f"{bad[0]!r} is not the number of a CPU", param, ctx)
        return tuple(sorted({int(part) for part in parts}))


class InputShapes(click.ParamType[Any]):
    """``image=3x320x320``, several inputs joined by ``+``: the shapes of one cell, without the batch."""

    name = "shapes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        shapes = {}
        for part in str(value).split("+"):
            name, _, sides = part.partition("=")
            if not name or not all(side.isdecimal() and int(side) > 0 for side in sides.split("x")):
                self.fail(f"{part!r} is not NAME=SIDES, e.g. image=3x320x320", param, ctx)
            shapes[name] = tuple(map(int, sides.split("x")))
        return shapes


class Share(click.ParamType[float]):
    """``5%`` or ``5``: percent, as a share."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            share = float(str(value).removesuffix("%")) / 100
        except ValueError:
            share = -1.0
        if not 0 <= share < 100:
            self.fail(f"{value!r} is not a percentage such as 5%", param, ctx)
        return share


CPUS = CpuList()
SHAPES = InputShapes()
PERCENT = Share()
