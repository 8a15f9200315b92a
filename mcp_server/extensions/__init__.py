"""Extensions of the MCP protocol that the server offers beside the core of it."""
