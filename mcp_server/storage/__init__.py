"""Engines that keep data: SQL, objects, vectors and caches, each behind a small Protocol."""
