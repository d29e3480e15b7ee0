"""From rows to verdicts: exclusion, leak guard, duplicates, balance, places in shards."""
