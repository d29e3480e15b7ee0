"""Curation: from public remote-sensing datasets to deduplicated WebDataset shards, on CPU, without torch."""

__version__ = "0.1.0"
