"""What every test gets: needs that are skipped on a developer's machine and failed in CI, and clean surroundings."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
CI = os.environ.get("CI") == "true"
AGAIN = 60  # seconds

with contextlib.suppress(ModuleNotFoundError):  # virtual machines have no use for it
    import hypothesis

    hypothesis.settings.register_profile("local", deadline=None, database=None)
    hypothesis.settings.register_profile("ci", deadline=None, database=None, derandomize=True)
    hypothesis.settings.load_profile("ci" if CI else "local")


def pytest_configure(config: pytest.Config) -> None:
    """No setting of the caller's own pyrun reaches a test, nor a signal ignored since pytest runs in the background or under nohup(1)."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL), (signal.SIGHUP, signal.SIG_DFL)):
        signal.signal(number, handler)
    for name in [name for name in os.environ if name.startswith("PYRUN_")]:
        del os.environ[name]


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_timeout_set_timer() -> Generator[None, object, object]:
    """The alarm of a test that takes too long comes again: it may then wait for the same in a `finally`, or its fixtures may."""
    done = yield
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    signal.setitimer(signal.ITIMER_REAL, left, AGAIN)  # of pytest-timeout's method `signal`; with another one none is set
    return done


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_root"):
        want_root()


def want_root() -> None:
    """Skip what only root can do: namespaces, mounts, cgroups, files of other owners."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes namespaces, mounts, cgroups or files of other owners; with CI=true a skip fails")


@pytest.fixture(scope="session")
def as_root() -> None:
    """The same for a fixture."""
    want_root()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI everything that a test needs is there, so a skip is a failure."""
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped in CI: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself as a whole."""
    report = yield
    if CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def top() -> Path:
    """The repository's root directory."""
    return TOP
