"""Run the common tests of the installed transformers with every generation.

    python -m tests.hf_common [--transformers-tests DIR] [options of pytest]

DIR is the folder `tests` of a checkout of the same version of transformers. Without it, the source
distribution is downloaded once to build/transformers-tests. That distribution has no tests of
generation (tests/generation) and of exporters: these are then left out.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build/transformers-tests"
PACKAGE = "transformers_tests"
"""The name under which the tests are imported, because `tests` is the name of ours."""

LEFT_OUT = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}
"""Modules that the source distribution lacks, and what takes their place."""


def pip(*arguments):
    """Run pip of this Python."""
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], check=True
    )


def download():
    """Return the folder of tests of the installed version's source distribution."""
    name = f"transformers-{version('transformers')}"
    folder = CACHE / name / "tests"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        source = name.replace("-", "==", 1)
        pip("download", "-q", "--no-deps", "--no-binary", "transformers", "-d", str(CACHE), source)
        with tarfile.open(CACHE / f"{name}.tar.gz") as archive:
            members = [one for one in archive.getmembers() if one.name.startswith(f"{name}/tests/")]
            archive.extractall(CACHE, members, filter="data")
    return folder


def prepare(tests):
    """Copy the tests to a package of their own, add what is missing, and return its folder."""
    folder = CACHE / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tests, folder / PACKAGE)
    for name, text in LEFT_OUT.items():
        path = folder / PACKAGE / name
        if not path.exists():
            sys.stderr.write(f"left out, because {tests} lacks it: {name}\n")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in [folder / PACKAGE, *(folder / PACKAGE).iterdir()]:
        if path.is_dir():
            (path / "__init__.py").touch()
    (folder / "pytest.ini").write_text("[pytest]\n")  # our own one refuses unknown markers
    pip("install", "-q", "--no-deps", "--target", str(folder), "parameterized")
    return folder


def main():
    """Run the tests and return the exit status of pytest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transformers-tests", type=Path, metavar="DIR")
    options, rest = parser.parse_known_args()
    folder = prepare(options.transformers_tests or download())
    paths = os.pathsep.join(map(str, [ROOT, folder]))
    suite = Path(__file__).with_name("suite.py")
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "--noconftest"]
    command += ["-p", "no:cacheprovider", "-c", str(folder / "pytest.ini"), str(suite), *rest]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}).returncode


if __name__ == "__main__":
    sys.exit(main())
