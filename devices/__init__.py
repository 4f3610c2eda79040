"""Targets: ways to start a Python. One file a target."""
