# SPDX-License-Identifier: MIT
"""Make the file under test importable, and print at the end what was counted and measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

ROWS = pytest.StashKey()
FIGURES = pytest.StashKey()


def pytest_configure(config):
    config.stash[ROWS] = []
    config.stash[FIGURES] = []


@pytest.fixture(scope="session")
def rows(pytestconfig):
    """The table's rows, (case, token requests, what they were), in the order in which the cases ran."""
    return pytestconfig.stash[ROWS]


@pytest.fixture(scope="session")
def figures(pytestconfig):
    """The second table's rows: (scenario, token requests, slowest call, the same without renewals, remark).

    Times are seconds, or None where there is nothing to say.
    """
    return pytestconfig.stash[FIGURES]


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[ROWS]
    if rows:
        width = max(len(case) for case, _, _ in rows)
        terminalreporter.section("token requests, counted by oidc-provider")
        for case, requests, answers in rows:
            terminalreporter.write_line(f"{case:<{width}}  {requests:>3}  {answers}".rstrip())
    figures = config.stash[FIGURES]
    if figures:
        width = max(len(scenario) for scenario, *_ in figures)
        terminalreporter.section("the life of a token, in real time")
        terminalreporter.write_line(f"{'':<{width}}   token   slowest    without")
        terminalreporter.write_line(f"{'':<{width}}    req.      call   renewals")
        for scenario, requests, slowest, without, remark in figures:
            times = ["" if one is None else f"{one:.3f} s" for one in (slowest, without)]
            line = f"{scenario:<{width}}  {requests:>6}  {times[0]:>8}   {times[1]:>8}   {remark}"
            terminalreporter.write_line(line.rstrip())
