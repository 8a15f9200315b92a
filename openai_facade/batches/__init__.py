"""Batches: the lines of a file, each answered as if it had come as a request of its own."""
