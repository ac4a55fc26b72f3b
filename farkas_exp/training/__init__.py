"""One run from configuration to result: its parts, the loop, and the session that keeps its directory."""
