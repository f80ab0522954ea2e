"""Writes what the matrix of backbones found to files, one a process, for the table of backbones."""

from __future__ import annotations

import pytest

from tests.families import outcomes, table

FOUND = pytest.StashKey[dict]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    name = getattr(item, "originalname", "")
    if name in (*table.TESTS, table.COMPOSITE_TEST) and (report.when == "call" or report.outcome != "passed"):
        row = item.callspec.params.get("family") or item.callspec.params.get("composite")
        key = (name, row.name if name == table.COMPOSITE_TEST else table.family_id(row))
        item.config.stash.setdefault(FOUND, {}).setdefault(key, []).append(report.outcome)
    return report


def pytest_sessionfinish(session):
    found = session.config.stash.get(FOUND, {})
    worker = getattr(session.config, "workerinput", {"testrunuid": "one_process", "workerid": "main"})
    if found:
        outcomes.write(found, run=worker["testrunuid"], process=worker["workerid"])
