"""Isthmus: one durable backend behind the Model Context Protocol and the OpenAI API."""

__version__ = "0.1.0"
