"""Fixtures of the boards over ssh."""

from tests.devices.sshd import board, sshd_root, start

__all__ = ["board", "sshd_root", "start"]
