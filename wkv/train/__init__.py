"""Training RWKV-7 from scratch: data rows, initial weights, optimizer, the loop, a fast CPU recurrence."""
