"""One command that checks and measures the GPU engine on a card: `python -m bench.card --out DIR`.

It takes at most six minutes, and needs only PyTorch and the packages of the base install. Models
are made on the device from a seed. Anyone can send us the resulting card.json.
"""
