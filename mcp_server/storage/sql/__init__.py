"""SQL storage."""
