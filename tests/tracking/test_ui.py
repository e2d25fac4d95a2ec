import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest
from click.testing import CliRunner
from stabfw.cli.sync import command as sync
from stabfw.cli.ui import command as ui
from stabfw.errors import DataError, RunError
from stabfw.report.layout import PUBLISHED, RESULTS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def invoke(command, *arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_a_missing_database_is_named(tmp_path):
    with pytest.raises(RunError, match=r"no MLflow database at .*none\.db; run `stabfw run` first"):
        invoke(ui, "--uri", f"sqlite:///{tmp_path}/none.db")
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_told_with_another_one(published):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"port {port} is not free .* --port {port + 1}"):
            invoke(ui, "--uri", published.uri, "--port", str(port))


def test_a_server_that_is_away_is_told(tmp_path):
    with pytest.raises(RunError, match="does not answer"):
        invoke(ui, "--uri", "http://127.0.0.1:9")


def test_sync_publishes_what_is_on_disk(run_directory, uri, published):
    (run_directory / "spec.yaml").write_text(f"tracking: {{uri: '{uri}', images: none}}\n")
    out = invoke(sync, str(run_directory), "--traces", "0")
    assert "runs new" in out
    assert "viewStateShareKey" in out
    assert (run_directory / PUBLISHED).is_file()
    again = invoke(sync, str(run_directory), "--traces", "0")
    assert ": 0 runs new, 0 brought up to date" in again
    (run_directory / PUBLISHED).unlink()


def test_sync_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match="no such directory"):
        invoke(sync, str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=RESULTS):
        invoke(sync, str(tmp_path))


@pytest.fixture(scope="module")
def served(published_once):
    """A real `stabfw ui`; gives its address and what it printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from stabfw.cli import main; main()"
    arguments = ["ui", "--no-browser", "--uri", published_once.uri, "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell starts background jobs with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    printed = []
    assert process.stdout is not None
    for line in process.stdout:
        printed.append(line.strip())
        if "Ctrl-C" in line:
            break
    yield f"http://127.0.0.1:{port}", printed
    start = monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert monotonic() - start < 20
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="module")
def page(served):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1700, "height": 950})
        opened.set_default_timeout(60_000)
        outside = []
        opened.on(
            "request",
            lambda r: (
                None if r.url.startswith((served[0], "data:", "blob:")) else outside.append(r.url)
            ),
        )
        yield opened
        browser.close()
        assert outside == []


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


def address(served, start: str) -> str:
    base, printed = served
    (at,) = (i for i, line in enumerate(printed) if line.startswith(start))
    assert printed[at + 1].startswith(base)
    return str(printed[at + 1])


@pytest.mark.browser
@needs_browser
def test_the_list_of_runs_shows_metric_columns(served, page, drawn, tmp_path: Path):
    page.goto(address(served, "Every cell"))
    page.get_by_role("columnheader", name="div", exact=True).first.wait_for()
    page.get_by_role("columnheader", name="acc_d", exact=True).first.wait_for()
    page.get_by_text(f"{len(drawn.results.comparisons) + 1} matching runs").wait_for()
    value = drawn.results.comparisons[0].metrics["divergence_ratio"].value
    page.get_by_text(f"{value:.4f}".rstrip("0"), exact=True).first.wait_for()
    page.screenshot(path=tmp_path / "runs.png")


@pytest.mark.browser
@needs_browser
def test_the_page_of_changes_works_inside_mlflow(served, page, drawn, tmp_path: Path):
    page.goto(address(served, "Changed answers"))
    frame = page.frame_locator("iframe")
    frame.locator("li.change").first.wait_for()
    shown = frame.locator("li.change:visible")
    before = shown.count()
    assert frame.locator("#shown").inner_text() == f"{before} changed answers"
    lost = int(frame.locator("[data-count='kind:negative']").inner_text())
    frame.locator("input[value=negative]").uncheck()
    assert shown.count() == before - lost
    assert frame.locator("#shown").inner_text() == f"{before - lost} of {before} changed answers"
    frame.get_by_role("button", name="Reset").click()
    frame.locator("#shown").filter(has_text=f"{before} changed answers").wait_for()
    frame.get_by_label("Search").fill("no such text")
    frame.get_by_text("No changed answer matches").wait_for()
    page.screenshot(path=tmp_path / "flips.png")


@pytest.mark.browser
@needs_browser
def test_the_report_shows_no_dead_links_inside_mlflow(served, page):
    page.goto(address(served, "Report"))
    link = page.frame_locator("iframe").locator("a.beside").first
    link.wait_for()
    assert link.evaluate("a => getComputedStyle(a).pointerEvents") == "none"


@pytest.mark.browser
@needs_browser
def test_stacks_can_be_compared(served, page, drawn, tmp_path: Path):
    page.goto(address(served, "Stacks against"))
    n = len(drawn.results.comparisons)
    page.get_by_text(f"Comparing {n} Runs").wait_for()
    page.screenshot(path=tmp_path / "compare.png")
