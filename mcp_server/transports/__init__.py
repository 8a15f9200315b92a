"""How bytes reach the MCP server: stdio, Streamable HTTP and the older HTTP with SSE."""
