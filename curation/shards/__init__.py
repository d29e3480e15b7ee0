"""The shard format: what curation writes and pretraining reads."""
