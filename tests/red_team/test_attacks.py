"""Every attack on the server has tests, and they exist."""

import re
from pathlib import Path

import pytest

from tests.red_team.attacks import ATTACKS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ATTACKS)
def test_the_tests_of_an_attack_exist(name):
    for test in ATTACKS[name].tests:
        file, _, function = test.partition("::")
        assert re.search(rf"^def {function}\(", (ROOT / file).read_text(), re.MULTILINE), test
