"""Speed, measured beside the `rwkv` package in one interleaved run: `make bench`."""
