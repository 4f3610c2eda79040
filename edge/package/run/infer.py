"""``infer`` and ``serve``: the model on pictures, arrays and frames; a line of JSON for each on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any, BinaryIO, Callable, Dict, Iterator, Tuple

from .bundle import Refused
from .model import loaded

#: Classes that are told, the likeliest first.
TOP = 5
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm")
#: Seconds between two looks at a folder.
INTERVAL = 0.2
#: What it is called, and the model's first input, [1, ...].
Frame = Tuple[str, Any]
#: Of a file as it is: its number, bytes and time.
Stamp = Tuple[int, int, int]


def run_frames(manifest: Dict[str, Any], artifact: Dict[str, Any], frames: Iterator[Frame], threads: int) -> None:
    """Every frame through the model.

    Raises:
        Refused: the model does not load, or does not take a frame.
    """
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # stdout is for the answers: runtimes are chatty
    with loaded(artifact, threads) as infer:
        for name, frame in frames:
            began = time.perf_counter()
            try:
                outputs = infer([frame])
            except Exception as error:  # whatever a runtime raises
                raise Refused("%s: the model does not take %s: %s" % (name, list(frame.shape), " ".join(str(error).split())[-300:])) from None
            line = {"frame": name, "ms": round(1e3 * (time.perf_counter() - began), 3), **_told(outputs, manifest["labels"])}
            answer.write(json.dumps(line) + "\n")
            answer.flush()


def _told(outputs: Any, labels: Any) -> Dict[str, Any]:
    """The likeliest classes of a classifier; of anything else the outputs as they are. JSON has no NaN."""
    import numpy as np

    if not all(np.isfinite(output).all() for output in outputs):
        return {"problem": "its outputs hold NaN or infinity"}
    first = outputs[0]
    if len(outputs) > 1 or first.ndim != 2 or first.shape[1] < 2:
        return {"outputs": [output.tolist() for output in outputs]}
    best = first[0].argsort()[::-1][:TOP]
    return {"top": [{"class": int(each), **({"label": labels[each]} if labels else {}), "value": float(first[0, each])} for each in best]}


def preparer(manifest: Dict[str, Any]) -> Callable[[Any], Any]:
    """Pixels, uint8 [H, W, 3], to the model's input.

    Raises:
        Refused: the bundle does not say how.
    """
    how = manifest["preprocessing"]
    if how is None:
        raise Refused("this bundle does not say how a picture becomes an input", "send arrays: --input FILE.npy; or pack it with --preprocess")
    from .images import preprocess

    return lambda pixels: preprocess(pixels, how)


def pictures(manifest: Dict[str, Any], paths: Iterator[str], forgiving: bool = False) -> Iterator[Frame]:
    """Of each path; ``forgiving``: one that cannot be read stops nothing.

    Raises:
        Refused: see `preparer`, and before a path is waited for.
    """
    from .images import read_image

    prepare = preparer(manifest)
    for path in paths:
        try:
            frame = prepare(read_image(path))
        except (Refused, MemoryError) as error:
            if not forgiving:
                raise
            sys.stderr.write("bundle: %s\n" % (error if isinstance(error, Refused) else "%s: there is not enough memory for it" % path))
            continue
        yield path, frame


def arrays(paths: Iterator[str]) -> Iterator[Frame]:
    """Each row of .npy files [N, ...]."""
    import numpy as np

    for path in paths:
        try:
            found = np.load(path, allow_pickle=False, mmap_mode="r")
            if not isinstance(found, np.ndarray):
                raise ValueError("it is an archive of arrays")
            if not found.ndim:
                raise ValueError("it is a single number, and no array [N, ...]")
        except (OSError, ValueError, EOFError) as error:
            raise Refused("%s cannot be read: %s" % (path, error), "name files of one array each, as numpy.save writes them") from None
        for row in range(len(found)):
            yield "%s[%d]" % (path, row), np.ascontiguousarray(found[row : row + 1])


def raw_frames(manifest: Dict[str, Any], source: BinaryIO, width: int, height: int, channels: int) -> Iterator[Frame]:
    """Frames that follow each other without anything between them: uint8 [height, width, channels], as ``ffmpeg -f rawvideo`` writes them."""
    import numpy as np

    prepare, size, number = preparer(manifest), width * height * channels, 0
    while True:
        data = source.read(size)
        if not data:
            return
        if len(data) < size:
            raise Refused(
                "the last frame has %d bytes of %d" % (len(data), size), "is it really %d x %d with %d channels?" % (width, height, channels)
            )
        pixels = np.frombuffer(data, np.uint8).reshape(height, width, channels)
        yield str(number), prepare(np.repeat(pixels, 3, axis=2) if channels == 1 else pixels)
        number += 1


def watched(folder: str, once: bool = False) -> Iterator[str]:
    """Pictures as they come into a folder; one is taken when it has not changed between two looks, and again when it was written anew."""
    if not os.path.isdir(folder):
        raise Refused("%s is not a folder" % folder)
    taken: Dict[str, Stamp] = {}
    seen: Dict[str, Stamp] = {}
    while True:
        found = dict(_stamps(folder))
        for name in sorted(found):
            if taken.get(name) != found[name] and (once or seen.get(name) == found[name]):
                taken[name] = found[name]
                yield os.path.join(folder, name)
        if once:
            return
        taken = {name: stamp for name, stamp in taken.items() if name in found}  # a name that is gone may come again
        seen = found
        time.sleep(INTERVAL)


def _stamps(folder: str) -> Iterator[Tuple[str, Stamp]]:
    """Of the pictures that are there and hold something; one may go away meanwhile."""
    for entry in os.scandir(folder):
        if entry.name.lower().endswith(SUFFIXES) and entry.name[0] != ".":
            with contextlib.suppress(OSError):
                found = entry.stat()
                if found.st_size:
                    yield entry.name, (found.st_ino, found.st_size, found.st_mtime_ns)


def parsed_size(text: str) -> Tuple[int, int]:
    """``640x480``: width, height."""
    from .images import check_size

    try:
        width, height = map(int, text.lower().split("x"))
        check_size(width, height)
    except ValueError:
        raise Refused("%s is not WIDTHxHEIGHT, or too large" % text, "e.g. --stdin 640x480") from None
    return width, height
