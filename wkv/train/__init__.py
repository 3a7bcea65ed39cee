"""Training from scratch and fine-tuning: data, methods, optimizer, loop and proof."""
