"""Training RWKV-7 from scratch: rows, initial weights, optimizer, loop, a fast CPU recurrence."""
