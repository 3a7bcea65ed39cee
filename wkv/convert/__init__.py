"""Writing checkpoints in other formats, each verified against its source."""
