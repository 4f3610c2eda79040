"""The targets by the names that a user types; each is one file beside this one."""

from __future__ import annotations

from typing import Any

from edge.devices.local import LocalTarget
from edge.devices.profile import Profile
from edge.devices.target import Target
from edge.errors import BadInput

NAMES = ("local", "limited", "qemu", "ssh:USER@HOST[:PORT]", "gpu")
#: What can be chosen of a target, beside its device.
OPTIONS: dict[str, tuple[str, ...]] = {"limited": ("quota",), "ssh": ("wheels",), "gpu": ("copies", "tensorrt")}


def make_target(name: str, profile: Profile | None = None, **options: Any) -> Target:
    """The target of a name, for the device of a profile.

    Args:
        options: of `OPTIONS`; None is not chosen.

    Raises:
        BadInput: an unknown name, an option that the target does not have, or a target that needs a device and was given none.
        Unsupported: the target cannot be that device. Unavailable: it cannot be had here.
    """
    kind = name.partition(":")[0]
    if not is_target(name):
        raise BadInput(f"there is no target {name!r}", hint=f"there are: {', '.join(NAMES)}")
    chosen = {option: value for option, value in options.items() if value is not None}
    if strange := next((option for option in chosen if option not in OPTIONS.get(kind, ())), None):
        raise BadInput(f"the target {kind} has no {strange} to choose", hint="edge bench --help says which target has")
    if kind in ("limited", "qemu") and profile is None:
        raise BadInput(f"the target {kind} needs a device", hint="add --device NAME; edge devices lists them")
    return _made(kind, name, profile, chosen)


def is_target(name: str) -> bool:
    kind, colon, _ = name.partition(":")
    return kind in {known.partition(":")[0] for known in NAMES} and bool(colon) == (kind == "ssh")


def _made(kind: str, name: str, profile: Profile | None, chosen: dict[str, Any]) -> Target:
    if kind == "ssh":
        from edge.devices.ssh import SshTarget

        return SshTarget(name, profile, **chosen)
    if kind == "gpu":
        from edge.devices.gpu import GpuTarget

        return GpuTarget(profile, **chosen)
    if profile is None or kind == "local":
        return LocalTarget(profile)
    if kind == "limited":
        from edge.devices.limited import LimitedTarget

        return LimitedTarget(profile, **chosen)
    from edge.devices.qemu import QemuTarget

    return QemuTarget(profile)
