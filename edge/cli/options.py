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
