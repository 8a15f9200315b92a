"""The OpenAI face: translates /v1 requests into models, tools and services."""
