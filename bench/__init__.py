"""Benchmarks of wkv against the `rwkv` package and llama.cpp in alternation: `make bench`."""
