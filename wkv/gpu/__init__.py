"""The GPU engine: states in slots of one block of memory, tokens as packed rows, CUDA graphs."""
