"""Use cases: each composes the rooms (core, export, bench, devices) for one command. Only `edge.cli` calls them."""
