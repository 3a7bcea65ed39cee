"""Train RWKV-7 from scratch: data, initial weights, optimizer, loop and a fast CPU recurrence."""
