"""Let a virtual environment see the packages of the environment that runs this.

    python -m tests.beside OTHER_ENVIRONMENT

What is installed in the other environment comes first, so it can hold one package in another
version.
"""

import sys
import sysconfig
from pathlib import Path


def main() -> None:
    (packages,) = Path(sys.argv[1]).glob("lib/python*/site-packages")
    line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (packages / "beside.pth").write_text(line)


if __name__ == "__main__":
    main()
