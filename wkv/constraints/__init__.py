"""Text that follows a grammar or a JSON schema: the tokens that would break it are excluded."""
