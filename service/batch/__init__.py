"""Batches: files of requests, answered line by line; the work can be resumed and repeated."""
