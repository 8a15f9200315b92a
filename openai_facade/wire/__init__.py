"""The wire format of OpenAI's API: what a body must look like, and the objects that answer it."""
