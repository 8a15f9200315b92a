"""What runs ask, put to the users of MCP clients as forms (`elicitation/create`)."""
