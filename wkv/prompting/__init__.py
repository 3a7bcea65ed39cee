"""Prompt formats: templates, thinking, tools and sampling presets of a model."""
