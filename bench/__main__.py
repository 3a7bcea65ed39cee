"""`python -m bench`: all measurements, after a line about the machine."""

import platform
import subprocess

import torch

from bench import models, tokenizer


def main() -> None:
    """Print the machine, then each table."""
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{platform.machine()} {capability}, torch {torch.__version__}, commit {commit}\n")
    tokenizer.main()
    print()
    models.main()


if __name__ == "__main__":
    main()
