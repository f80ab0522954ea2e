"""Collects what the matrix of backbones found, for the table of backbones."""

from __future__ import annotations

import re

import pytest

from tests.families import table

RESULTS = pytest.StashKey[dict]()


def pytest_addoption(parser):
    parser.addoption("--write-backbones", action="store_true", help="write the table of backbones from what passed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    name = item.originalname if hasattr(item, "originalname") else ""
    if name in (*table.TESTS, table.COMPOSITE_TEST) and (report.when == "call" or report.outcome != "passed"):
        row = item.callspec.params.get("family") or item.callspec.params.get("composite")
        key = (name, row.name if name == table.COMPOSITE_TEST else table.family_id(row))
        item.config.stash.setdefault(RESULTS, {}).setdefault(key, []).append(report.outcome)
    return report


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: bool(re.search(r"test_table\.py", item.nodeid)))  # after what it reads from


def pytest_sessionfinish(session):
    results = session.config.stash.get(RESULTS, {})
    if session.config.getoption("--write-backbones", False):
        if not table.complete(results):
            raise pytest.UsageError("--write-backbones needs the whole of tests/families in one process")
        table.write(table.render(results))


@pytest.fixture
def results(request):
    return request.config.stash.get(RESULTS, {})
