"""Deployment bundles: what passed on the desk, with what a device needs to prove it again. ``run/`` is the part that goes along."""
