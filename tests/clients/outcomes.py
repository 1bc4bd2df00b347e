"""A plugin of pytest: writes a line "OUTCOME TEST" for every test to the file that OUTCOMES names.

Failures of tests that the file EXPECTED lists are shown without their tracebacks, so that one that is not stands out."""

import os

import pytest

FOLDER = "tests/integration/"
outcomes = {}


def listed():
    """The tests that are known not to pass."""
    with open(os.environ["EXPECTED"], encoding="utf-8") as file:
        return {line.split(" ", 1)[0] for line in file if line.strip() and not line.startswith("#")}


EXPECTED = listed()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """Reports a listed failure as one that was expected."""
    report = (yield).get_result()
    report.failed_as_listed = report.failed and item.nodeid.removeprefix(FOLDER) in EXPECTED
    if report.failed_as_listed:
        report.outcome = "skipped"
        report.wasxfail = "it is listed"


def pytest_runtest_logreport(report):
    """Keeps the worst of a test's steps."""
    outcome = report.outcome
    if report.failed_as_listed:
        outcome = "failed"
    elif hasattr(report, "wasxfail"):
        outcome = "xpassed" if report.passed else "xfailed"
    if report.when == "call" or outcome != "passed":
        known = outcomes.get(report.nodeid)
        outcomes[report.nodeid] = "failed" if "failed" in (known, outcome) else outcome


def pytest_sessionfinish():
    """Writes them down."""
    with open(os.environ["OUTCOMES"], "w", encoding="utf-8") as file:
        for test, outcome in sorted(outcomes.items()):
            file.write(f"{outcome} {test.removeprefix(FOLDER)}\n")
