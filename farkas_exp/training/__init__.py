"""One run from configuration to result: what it is built of, the loop, and the session that keeps its directory."""
