"""Alembic's environment: the DDL of the control database, one revision a file."""
