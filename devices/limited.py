"""This machine, made as small as a device: its cores, its share of processor time, and the memory that it gives a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from edge.children import last_words
from edge.devices.limits.cgroup_v1 import CgroupV1
from edge.devices.limits.cgroup_v2 import CgroupV2
from edge.devices.limits.mechanism import NOT_INSIDE, Limits, Mechanism
from edge.devices.limits.systemd import SystemdScope
from edge.devices.limits.watchdog import Watchdog
from edge.devices.local import LocalTarget, worker_command, worker_environment
from edge.devices.profile import Profile
from edge.devices.target import LOG, Ending, Job
from edge.errors import BadInput, Unavailable


class LimitedTarget(LocalTarget):
    """The worker on this machine within limits: its memory is real, its times are those of this machine's processor.

    Args:
        profile: the device's.
        limits: others than `limits_of` the profile.
        mechanism: what enforces them; the first that can, where none is given.
        quota: of the processor's time, see `Limits`.

    Raises:
        Unavailable: nothing here can enforce the limits.
    """

    name = "limited"

    def __init__(self, profile: Profile, limits: Limits | None = None, mechanism: Mechanism | None = None, *, quota: float | None = None) -> None:
        super().__init__()
        self.device, self.limits = profile.name, limits or limits_of(profile, quota)
        self.settings = {"limits": asdict(self.limits)}
        self.mechanism = choose(self.limits, [mechanism] if mechanism else [CgroupV2(), CgroupV1(), SystemdScope(), Watchdog()])

    def run(self, job: Job) -> Ending:
        self._check_affinity(job)
        command, environment, log = worker_command(job), worker_environment(job), job.folder / LOG
        try:
            seen = self.mechanism.run(command, self.limits, environment=environment, log=log, timeout=job.timeout)
        except (OSError, LookupError) as error:
            raise Unavailable(f"the limits of {self.device} cannot be set by {self.mechanism.name}: {error}") from error
        if seen.status == NOT_INSIDE:
            raise Unavailable(f"the limits of {self.device} cannot be set by {self.mechanism.name}: {last_words(log)}")
        return Ending(seen.status, self._out_of_memory(seen.refused), seen.figures)

    def _out_of_memory(self, refused: str | None) -> str | None:
        if refused is None or self.limits.memory is None:
            return None
        return f"needs more than the {self.limits.memory / 2**20:,.4g} MiB that {self.device} gives a model: {refused}"

    def _check_affinity(self, job: Job) -> None:
        """A worker that is told its CPUs would leave those of the device.

        Raises:
            Unavailable: it would.
        """
        cpus, asked = self.limits.cpus, job.spec.get("affinity") or []
        if not set(asked) <= set(cpus):
            raise Unavailable(
                f"{self.device} runs on CPU {', '.join(map(str, cpus))} here, not on {', '.join(map(str, asked))}", hint="leave --affinity out"
            )


def limits_of(profile: Profile, quota: float | None = None) -> Limits:
    """What a model may take of a device: the share of its memory, and the cores of the cluster that models run on. For the quota see `Limits`.

    Raises:
        BadInput: a quota of nothing.
    """
    if quota is not None and quota <= 0:
        raise BadInput("a quota of no processor time is no quota", hint="write e.g. --quota 50%")
    return Limits(profile.memory_limit, int(profile.cluster.cores.value), quota)


def choose(limits: Limits, mechanisms: Sequence[Mechanism]) -> Mechanism:
    """The first that can enforce the limits here.

    Raises:
        Unavailable: none can; each says why.
    """
    reasons = []
    for mechanism in mechanisms:
        reason = mechanism.lacks(limits)
        if reason is None:
            return mechanism
        reasons.append(f"{mechanism.name}: {reason}")
    raise Unavailable(f"the limits cannot be enforced on this machine: {'; '.join(reasons)}", hint="run as root, or in a session of systemd")
