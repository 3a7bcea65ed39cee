"""The chat page: static files that the server hands out; no build step, no library."""
