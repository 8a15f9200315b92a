"""Export of a whole deployment into a directory, and import of it into a fresh one, embedded or distributed."""
