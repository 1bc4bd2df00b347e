"""A plugin of pytest: writes a line "OUTCOME TEST" for every test to the file that OUTCOMES names."""

import os

outcomes = {}


def pytest_runtest_logreport(report):
    """Keeps the worst of a test's steps."""
    outcome = report.outcome
    if hasattr(report, "wasxfail"):
        outcome = "xpassed" if report.passed else "xfailed"
    if report.when == "call" or outcome != "passed":
        known = outcomes.get(report.nodeid)
        outcomes[report.nodeid] = "failed" if "failed" in (known, outcome) else outcome


def pytest_sessionfinish():
    """Writes them down."""
    with open(os.environ["OUTCOMES"], "w", encoding="utf-8") as file:
        for test, outcome in sorted(outcomes.items()):
            file.write(f"{outcome} {test.removeprefix('tests/integration/')}\n")
