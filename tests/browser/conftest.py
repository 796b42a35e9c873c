"""One JupyterLab and one browser for all tests of this folder; a loud line where they cannot be had."""
import lab as laboratory
import pytest


def pytest_collection_modifyitems(items):
    if reason := laboratory.missing():
        for item in items:
            item.add_marker(pytest.mark.skip(reason=f"no browser test: {reason} is missing"))


def pytest_terminal_summary(terminalreporter):
    if reason := laboratory.missing():
        terminalreporter.section("BROWSER TESTS SKIPPED", red=True, bold=True)
        terminalreporter.write_line(f"Nothing was proved in a browser: {reason} is missing.", red=True, bold=True)


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    "The folder that JupyterLab serves."
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="session")
def lab(root):
    with laboratory.jupyterlab(root, MODNB_RUNS=str(root / "runs")) as found:
        yield found


@pytest.fixture(scope="session")
def chromium():
    with laboratory.browser() as found:
        yield found
