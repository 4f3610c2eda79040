"""The commands of a bundle. Exit codes: 0 done, 1 a check failed, 2 wrong usage or bad input, 130 interrupted."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from typing import Any, Dict, Iterator, List, Optional

from . import bundle
from .bundle import Refused
from .machine import use_site

USAGE = """
  python3 -m run self-test                     is everything here, and does the model say what it said on the desk?
  python3 -m run install /opt/camera           decode the models, unpack the wheels
  python3 -m run bench --out ../bench.json     measure; on the desk: edge report bench.json
  python3 -m run infer --image x.png           a line of JSON for each picture
  ffmpeg ... -f rawvideo -pix_fmt rgb24 - | python3 -m run serve --stdin 640x480
  python3 -m run serve --watch /var/frames     pictures as they come into a folder
"""


def main(arguments: List[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m run", description=__doc__, epilog=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, about in (("self-test", "check the bundle, the device and the outputs"), ("bench", "measure latency and memory")):
        command = commands.add_parser(name, help=about)
        command.add_argument("--artifact", metavar="NAME", help="one of the bundle's; without it all")
        if name == "self-test":
            command.add_argument("--json", action="store_true", dest="as_json", help="print the findings as JSON")
        else:
            command.add_argument("--threads", type=_count, default=1)
            command.add_argument("--out", required=True, metavar="FILE.json")
    command = commands.add_parser("install", help="a copy with decoded models and unpacked wheels")
    command.add_argument("folder", metavar="DIR")
    command = commands.add_parser("infer", help="run pictures or arrays through the model")
    command.add_argument("--image", nargs="+", default=[], metavar="FILE")
    command.add_argument("--input", nargs="+", default=[], metavar="FILE.npy", help="arrays [N, ...] of the model's input")
    _say_model(command)
    command = commands.add_parser("serve", help="run frames through the model as they come")
    command.add_argument("--stdin", metavar="WIDTHxHEIGHT", help="raw frames on stdin, 8 bits a channel")
    command.add_argument("--grey", action="store_true", help="of one channel, not three (RGB)")
    command.add_argument("--watch", metavar="DIR", help="pictures that come into a folder")
    command.add_argument("--once", action="store_true", help="take those that are there, and end")
    _say_model(command)
    asked = parser.parse_args(arguments)
    if asked.command is None:
        parser.print_help()
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return int({"self-test": _self_test, "bench": _bench, "install": _install, "infer": _infer, "serve": _serve}[asked.command](asked) or 0)
    except Refused as refusal:
        sys.stderr.write("bundle: %s%s\n" % (refusal, "; next: " + refusal.next_step if refusal.next_step else ""))
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    except MemoryError:
        sys.stderr.write("bundle: there is not enough memory for this; next: send smaller pictures, or stop something else\n")
        return 1
    except OSError as error:
        sys.stderr.write("bundle: %s: %s\n" % (error.filename or asked.command, error.strerror or error))
        return 1
    except Exception as error:
        sys.stderr.write("bundle: %s failed: %s: %s; next: python3 -m run self-test\n" % (asked.command, type(error).__name__, error))
        return 1


def _say_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--artifact", metavar="NAME", help="another one than the desk has found best")
    command.add_argument("--threads", type=_count, default=1)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError("%r is no number from 1 to 1024" % text)
    return int(text)


def _chosen(manifest: Dict[str, Any], name: Optional[str]) -> List[Dict[str, Any]]:
    return [bundle.artifact_named(manifest, name)] if name else list(manifest["artifacts"])


def _self_test(asked: argparse.Namespace) -> int:
    from .selftest import self_test

    manifest = bundle.read_manifest()
    findings: List[Dict[str, Any]] = []

    def say(what: str, problem: Optional[str]) -> None:
        findings.append({"check": what, "problem": problem})
        if not asked.as_json:
            print("ok    %s" % what if problem is None else "FAIL  %s" % problem, flush=True)

    passed = self_test(manifest, _chosen(manifest, asked.artifact), say)
    if asked.as_json:
        print(json.dumps({"kind": "bundle-self-test", "bundle": manifest["name"], "passed": passed, "checks": findings}, indent=1))
    else:
        print("%s: %s" % (manifest["name"], "PASS" if passed else "FAIL"))
        if manifest["forced"]:
            print("packed with --force: %s" % "; ".join(manifest["forced"]))
    return 0 if passed else 1


def _bench(asked: argparse.Namespace) -> None:
    from .bench import bench

    manifest = bundle.read_manifest()
    found = bench(manifest, _chosen(manifest, asked.artifact), asked.threads, asked.out, lambda what: print(what, file=sys.stderr, flush=True))
    for name in found["artifacts"]:
        runs = [record["figures"]["samples_ns"] for record in found["records"] if record["artifact"] == name and record["part"] == "latency"]
        times = sorted(time for run in runs for time in run)
        print("%s: median %.3f ms of %d inferences" % (name, times[len(times) // 2] / 1e6, len(times)))
    print("%s: written; on the desk: edge report %s" % (asked.out, shlex.quote(asked.out)))


def _install(asked: argparse.Namespace) -> None:
    from .install import install

    for remark in install(bundle.read_manifest(), asked.folder):
        print(remark)
    print("%s: installed; next: cd %s && python3 -m run self-test" % (asked.folder, shlex.quote(asked.folder)))


def _infer(asked: argparse.Namespace) -> None:
    from .infer import arrays, pictures, run_frames

    if bool(asked.image) == bool(asked.input):
        raise Refused("name pictures or arrays", "python3 -m run infer --image FILE, or --input FILE.npy")
    manifest = bundle.read_manifest()
    use_site()
    frames = pictures(manifest, iter(asked.image)) if asked.image else arrays(iter(asked.input))
    run_frames(manifest, bundle.artifact_named(manifest, asked.artifact), frames, asked.threads)


def _serve(asked: argparse.Namespace) -> None:
    from .infer import parsed_size, pictures, raw_frames, run_frames, watched

    if bool(asked.stdin) == bool(asked.watch):
        raise Refused("name where the frames come from", "python3 -m run serve --stdin 640x480, or --watch DIR")
    manifest = bundle.read_manifest()
    use_site()
    frames: Iterator[Any]
    if asked.stdin:
        width, height = parsed_size(asked.stdin)
        frames = raw_frames(manifest, sys.stdin.buffer, width, height, 1 if asked.grey else 3)
    else:
        frames = pictures(manifest, watched(asked.watch, asked.once), forgiving=True)
    run_frames(manifest, bundle.artifact_named(manifest, asked.artifact), frames, asked.threads)
