"""``python path/to/worker SPEC.json RESULT.json``, from any directory."""

import importlib.util
import os
import sys


def _load_package():
    """Import this folder as the package ``edge_worker``; its own folder must not stand on sys.path, where it would shadow
    the runtimes (a module named ``onnx`` lives here)."""
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.getcwd()) != folder]
    spec = importlib.util.spec_from_file_location("edge_worker", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder])
    package = importlib.util.module_from_spec(spec)
    sys.modules["edge_worker"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    _load_package()
    from edge_worker.run import main

    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the result is on the disk: tearing a runtime down takes 0.1 to 1 s, and nobody needs it
