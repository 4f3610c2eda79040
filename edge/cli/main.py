"""``edge``: the group of commands, and what becomes of an error: one sentence, the next command, an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from edge.cli.bench import bench
from edge.cli.check import check
from edge.cli.compare import compare
from edge.cli.compress import compress
from edge.cli.demo import demo
from edge.cli.deploy import deploy
from edge.cli.devices import devices
from edge.cli.diff import diff
from edge.cli.doctor import doctor
from edge.cli.export import export
from edge.cli.inspect import inspect
from edge.cli.pack import pack
from edge.cli.report import report
from edge.cli.study import study
from edge.cli.support import support
from edge.errors import EdgeError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="paddle-edge", prog_name="edge")
def edge() -> None:
    """Tells you, before you ship, whether your Paddle model will live on your device.

    \b
    Start with:
      edge doctor                          what runs here, and what is missing
      edge support                         what can be made: format, precision, processor
      edge devices                         the devices that are known, with a source for each figure
      edge demo                            train, distil, export, measure and report on MNIST
      edge export MODEL --weights FILE --out DIR
      edge diff ARTIFACT MODEL             the first layer at which an artifact is not the model any more
      edge bench DIR --out results.json
      edge check results.json --device camera  will it live there?
      edge pack DIR/MODEL-onnx-int8 --device camera --out camera.bundle.tar.zst
      edge deploy camera.bundle.tar.zst --target ssh:pi@camera.local
      edge compare before.json after.json  is it slower, or is it noise?
    """


for command in (demo, study, compress, export, diff, bench, check, compare, report, pack, inspect, deploy, support, devices, doctor):
    edge.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; the console script exits with it."""
    try:
        result: Any = edge.main(args=arguments, prog_name="edge", standalone_mode=False)
        return int(result or 0)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; finished work is kept, run the same command to go on", None, 130)
    except EdgeError as error:
        return _fail(error.message, error.hint, error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        full = "free some space and run the same command again" if error.errno == errno.ENOSPC else None
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}", full, 1)
    except Exception as error:
        if os.environ.get("EDGE_TRACEBACK"):
            raise
        return _fail(f"internal error: {type(error).__name__}: {error}", "EDGE_TRACEBACK=1 shows where; please report it", 1)


def _fail(message: str, hint: str | None, code: int) -> int:
    click.secho(f"edge: {message}", fg="red", err=True)
    if hint:
        click.echo(f"      {hint}", err=True)
    return code


def run() -> None:
    """Entry point of the console script."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `timeout`, systemd and CI end a command as Ctrl-C does: it cleans up
    sys.exit(main())
