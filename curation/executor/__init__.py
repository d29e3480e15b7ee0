"""The one room where Dask lives: workers of our own, or those of a running cluster."""
