"""Package data: what exists (sources, benchmarks) and what we want from it (recipes), as YAML. No code."""
