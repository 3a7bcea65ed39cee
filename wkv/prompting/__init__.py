"""How conversations are written for a model: templates, thinking, tools and presets."""
