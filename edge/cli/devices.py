"""``edge devices``: the devices that are known, and what is known of one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edge.devices.profile import Profile


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print the list on stdout as JSON.")
@click.pass_context
def devices(context: click.Context, as_json: bool) -> None:
    """List the devices whose profiles are known; show one with every figure, its unit and its source.

    A profile of your own is a TOML file: `edge devices show camera --toml > my-board.toml` is a start. Wherever a device is named, the path of such
    a file does as well.

    \b
    Example:
      edge devices
      edge devices show raspberry-pi-4b
      edge devices show ./my-board.toml --json
    """
    from edge.cli.display import print_table
    from edge.devices.profile import load_profile, profile_names

    if context.invoked_subcommand:
        return
    profiles = [load_profile(name) for name in profile_names()]
    if as_json:
        click.echo(json.dumps([_summary(profile) for profile in profiles], indent=1))
    else:
        heads = ("device", "what it is", "processor", "memory", "for a model", "GPU")
        print_table(heads, [_row(profile) for profile in profiles], left=(0, 1, 2, 5))


@devices.command()
@click.argument("device")
@click.option("--json", "as_json", is_flag=True, help="Print the profile on stdout as JSON.")
@click.option("--toml", "as_toml", is_flag=True, help="Print the profile's file on stdout, to make one of your own from.")
def show(device: str, as_json: bool, as_toml: bool) -> None:
    """Show every figure of DEVICE, a name from `edge devices` or the path of a TOML file, with its unit and its source.

    \b
    Example:
      edge devices show camera
      edge devices show camera --toml > my-camera.toml
    """
    from edge.devices.profile import load_profile, profile_path

    if as_json and as_toml:
        raise click.UsageError("--json and --toml do not go together")
    profile = load_profile(device)
    if as_toml:
        click.echo(profile_path(device).read_text(), nl=False)
    elif as_json:
        click.echo(json.dumps(profile.model_dump(mode="json", exclude_none=True) | _limits(profile), indent=1))
    else:
        _print(profile)


def _limits(profile: Profile) -> dict[str, Any]:
    """What a model may take, in B: the shares of the totals."""
    return {"memory_limit": profile.memory_limit, "storage_limit": profile.storage_limit}


def _summary(profile: Profile) -> dict[str, Any]:
    cores = [{"core": c.core, "cores": int(c.cores.base), "clock_hz": c.clock.base} for c in profile.clusters]
    head = {"name": profile.name, "title": profile.title, "arch": profile.arch.value, "clusters": cores}
    return head | {"memory": int(profile.memory.total.base), **_limits(profile), "gpu": profile.gpu.name if profile.gpu else None}


def _row(profile: Profile) -> list[str]:
    cores = " + ".join(f"{c.cores.value} x {c.core} {c.clock.text}" for c in profile.clusters)
    gpu = profile.gpu.name if profile.gpu else "–"
    return [profile.name, profile.title, cores, profile.memory.total.text, f"{profile.memory_limit / 2**20:,.0f} MiB", gpu]


def _print(profile: Profile) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]{escape(profile.name)}[/]: {escape(profile.title)}")
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for index, head in enumerate(("figure", "value", "source")):
        table.add_column(head, justify="right" if index == 1 else "left", no_wrap=index < 2, overflow="fold")
    for name, figure in profile.figures():
        table.add_row(name, figure.text, escape(figure.source))
    if not console.is_terminal:
        # one line a figure, for those who search in it
        console.width = max(console.width, console.measure(table, options=console.options.update(width=2000)).maximum)
    console.print(table)
    console.print(f"a model may take {profile.memory_limit / 2**20:,.1f} MiB of memory and {profile.storage_limit / 2**20:,.1f} MiB of storage")
    for index, cluster in enumerate(profile.clusters):
        console.print(f"clusters[{index}] {cluster.core}: {' '.join(cluster.isa)} ({cluster.isa_source})", markup=False)
    for runtime in profile.runtimes:
        console.print(f"{runtime.format.value}: {', '.join(p.value for p in runtime.precisions)} ({runtime.source})", markup=False)
