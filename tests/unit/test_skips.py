"""Too many skipped tests fail a run."""

import subprocess
import sys

import pytest

TEST = """
import pytest

@pytest.mark.skip
@pytest.mark.parametrize("number", range(3))
def test_nothing(number):
    pass

def test_something():
    pass
"""


@pytest.mark.parametrize(("options", "status"), [([], 0), (["3"], 0), (["2"], 1)])
def test_more_skipped_tests_than_allowed_fail_the_run(tmp_path, options, status):
    (tmp_path / "test_some.py").write_text(TEST)
    limit = [f"--max-skipped={number}" for number in options]
    command = [sys.executable, "-m", "pytest", "-p", "tests.skips", "-q", *limit, str(tmp_path)]
    done = subprocess.run(
        [*command, "-c", "/dev/null"], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert ("3 tests were skipped, at most 2" in done.stdout) == bool(status)
