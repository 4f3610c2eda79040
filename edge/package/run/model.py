"""An artifact of the bundle in its runtime, loaded by the worker's own code: the code that measured it on the desk."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Callable, Dict, Iterator, List

from .bundle import ROOT, Refused, model_files

#: Arrays in, arrays out.
Infer = Callable[[List[Any]], List[Any]]


def spec_of(artifact: Dict[str, Any], files: Dict[str, str], threads: int = 1) -> Dict[str, Any]:
    """What the worker's runtimes are told."""
    return {
        "format": artifact["format"],
        "precision": artifact["precision"],
        "model": files["model"],
        "params": files.get("params"),
        "input_names": artifact["inputs"],
        "threads": threads,
        "batch": 1,
    }


@contextlib.contextmanager
def loaded(artifact: Dict[str, Any], threads: int = 1) -> Iterator[Infer]:
    """
    Raises:
        Refused: the runtime is not here, or does not take the model.
    """
    with model_files(artifact) as files:
        try:
            runtime = __import__("edge_worker.runtimes." + artifact["format"].replace("-", "_"), fromlist=["load"])
            runtime.start(spec_of(artifact, files, threads))
            infer = runtime.load(spec_of(artifact, files, threads))
        except ImportError as error:
            raise Refused("the runtime of %s is not here: %s" % (artifact["name"], error), "python3 -m run self-test says what to install") from None
        except Exception as error:  # whatever a runtime raises
            raise Refused("%s does not load: %s" % (artifact["name"], " ".join(str(error).split())[-400:])) from None
        yield infer


def vectors(artifact: Dict[str, Any]) -> Any:
    """The sample inputs ``input_I`` and the outputs ``output_I`` that are expected for them, [N, ...]. Needs numpy."""
    import numpy as np

    path = os.path.join(ROOT, artifact["folder"], artifact["vectors"])
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise Refused("%s cannot be read: %s" % (path, error), "copy the bundle again") from None
