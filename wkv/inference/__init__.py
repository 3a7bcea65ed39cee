"""Running a model: load it, read prompts, sample and decode tokens, generate and stream text."""
