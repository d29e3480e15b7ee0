"""Imagery that stays where it is: listed, drawn and read by ranges over HTTP(S) and S3, with a spool beside the run."""
