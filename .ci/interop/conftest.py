# SPDX-License-Identifier: MIT
"""Make the file under test importable, and print how many token requests each case took."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

ROWS = pytest.StashKey()


def pytest_configure(config):
    config.stash[ROWS] = []


@pytest.fixture(scope="session")
def rows(pytestconfig):
    """The table's rows, (case, token requests, what they were), in the order in which the cases ran."""
    return pytestconfig.stash[ROWS]


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[ROWS]
    if not rows:
        return
    width = max(len(case) for case, _, _ in rows)
    terminalreporter.section("token requests, counted by oidc-provider")
    for case, requests, answers in rows:
        terminalreporter.write_line(f"{case:<{width}}  {requests:>3}  {answers}".rstrip())
