"""Compression techniques, one file each: model, data and a frozen config in; a model and a record out."""
