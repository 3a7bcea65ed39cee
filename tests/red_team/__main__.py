"""Repeat the attacks on the server, and list which of them are repelled.

    python -m tests.red_team [NUMBER ...]

NUMBER is one such as R1 (default: all). The exit status is 1 if an attack succeeds.
"""

import sys

import pytest

from tests.red_team.attacks import ATTACKS


class Outcomes:
    """A plugin of pytest that collects the outcome of each test."""

    def __init__(self):
        self.of = {}

    def pytest_runtest_logreport(self, report):
        """Keep the worst outcome of the three phases of a test."""
        before = self.of.get(report.nodeid)
        if report.failed or before is None or (before == "passed" and report.skipped):
            self.of[report.nodeid] = report.outcome


def result(attack, outcomes):
    """Return the result of an attack, by the outcomes of its tests."""
    found = [
        {
            outcome
            for node, outcome in outcomes.items()
            if node == test or node.startswith(f"{test}[")
        }
        for test in attack.tests
    ]
    if any("failed" in one for one in found):
        return "FAILED"
    return "repelled" if all("passed" in one for one in found) else "not tested"


def main(wanted):
    """Run the attacks and print a table."""
    unknown = [name for name in wanted if name not in ATTACKS]
    if unknown:
        sys.exit(f"there is no attack {unknown[0]}, expected some of {', '.join(ATTACKS)}")
    chosen = {name: ATTACKS[name] for name in wanted or ATTACKS}
    tests = [test for attack in chosen.values() for test in attack.tests]
    outcomes = Outcomes()
    pytest.main(["-q", "--no-header", *tests], plugins=[outcomes])
    results = {name: result(attack, outcomes.of) for name, attack in chosen.items()}
    for name, attack in chosen.items():
        sys.stdout.write(f"{name:5} {results[name]:10} {attack.aim}\n")
    return int(any(one != "repelled" for one in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
