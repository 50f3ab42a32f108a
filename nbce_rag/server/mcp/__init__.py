"""Tools, resources and a prompt for agents, over the Model Context Protocol (extra `[mcp]`)."""
