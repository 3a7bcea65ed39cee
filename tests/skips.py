"""A pytest plugin: the run fails if more tests are skipped than `--max-skipped` allows.

A test that nobody runs protects nobody. So the number of skipped tests is part of `make test`.
"""

import pytest


def pytest_addoption(parser):
    """Add the option."""
    parser.addoption(
        "--max-skipped",
        type=int,
        metavar="N",
        help="fail if more than N tests are skipped",
    )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Count the skipped tests, in the process that reports the results."""
    limit = session.config.getoption("--max-skipped")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if limit is None or reporter is None:
        return
    skipped = len(reporter.stats.get("skipped", []))
    if skipped > limit:
        reporter.write_line(f"{skipped} tests were skipped, at most {limit} are allowed")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
