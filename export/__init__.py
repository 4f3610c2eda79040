"""Exporters: one file a format. Each makes the files of one cell; parity is judged by whoever composes."""
