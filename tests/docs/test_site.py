"""The site builds without a warning, its links lead somewhere, and a browser shows it well."""

import contextlib
import functools
import html.parser
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse

import documents
import pytest

pytestmark = pytest.mark.slow
PHONE, DESKTOP = (390, 844), (1280, 900)
# The theme hides what is beyond the window, and lets the content scroll in its place.
WIDTHS = """
const parts = [document.documentElement, ...document.querySelectorAll('.content')];
return [Math.max(...parts.map(part => part.scrollWidth)), window.innerWidth];
"""
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the pages, built strictly."""
    for name in ("sphinx", "furo", "myst_parser", "sphinx_copybutton"):
        pytest.importorskip(name, reason=f"the extra `docs` is not installed: no {name}")
    folder = tmp_path_factory.mktemp("site")
    command = "-m sphinx -W --keep-going -q -b html".split()
    caches = ["-d", str(tmp_path_factory.mktemp("doctrees"))]
    environment = {**os.environ, "PYTHONPATH": str(documents.ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, *command, *caches, str(documents.DOCS), str(folder)],
        capture_output=True, text=True, encoding="utf8", env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


class Page(html.parser.HTMLParser):
    """What a page links to and loads, the places that it has, and its text outside of code."""

    def __init__(self, content):
        super().__init__()
        self.links, self.loaded, self.places, self.text = [], [], set(), []
        self._code = 0
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places.add(found.get("id"))
        if tag == "a":
            self.links.append(found.get("href", ""))
        elif tag in ("script", "link", "img", "iframe"):
            self.loaded.append(found.get("src") or found.get("href") or "")
        self._code += tag in ("code", "pre", "script", "style", "dt")

    def handle_endtag(self, tag):
        self._code -= tag in ("code", "pre", "script", "style", "dt")

    def handle_data(self, data):
        if not self._code:
            self.text.append(data)


@pytest.fixture(scope="module")
def parsed(site):
    return {path: Page(path.read_text("utf8")) for path in sorted(site.rglob("*.html"))}


def test_links_lead_to_pages_and_places(parsed):
    for path, page in parsed.items():
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if not parts.scheme:
                target = (path.parent / urllib.parse.unquote(parts.path)).resolve()
                target = path if not parts.path else target
                assert target.is_file(), f"{path.name}: {link}"
                if parts.fragment and target.suffix == ".html":
                    assert parts.fragment in parsed[target].places, f"{path.name}: {link}"


def test_pages_load_nothing_from_elsewhere(parsed, site):
    for path, page in parsed.items():
        for url in page.loaded:
            assert not re.match(r"(https?:)?//", url), f"{path.name}: {url}"
    for path in site.rglob("*.css"):
        style = path.read_text("utf8")
        found = re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//[^\"')]+", style)
        assert not found, f"{path.name}: {found[0]}"


def test_no_place_hides_what_scripts_look_for(parsed):
    """A browser makes a variable of each id; a script that finds `exports` defines nothing else."""
    for path, page in parsed.items():
        assert not {"exports", "module", "define"} & page.places, path.name


def test_the_reference_has_no_marks_of_its_markup(parsed):
    for path, page in parsed.items():
        if path.parent.name == "reference":
            found = re.search(r".{0,40}(`|::|\*\*\w+\*\*|:py:|\\[|*_]).{0,40}", "".join(page.text))
            assert not found, f"{path.name}: {found[0]}"
    layers = next(path for path in parsed if path.name == "layers.html").read_text("utf8")
    assert re.search(r"Call arguments.*?<strong>use_causal_mask</strong>", layers, re.S)


# ---- in a browser


@pytest.fixture(scope="module")
def address(site):
    """Where the pages are served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    serve = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def opened(profile, size, phone=False):
    """A browser with a window, or with a phone's screen."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no chromium and chromedriver are installed: apt-get install chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    sized = f"--window-size={size[0]},{size[1]}"
    for argument in (*QUIET, f"--user-data-dir={profile}", sized):
        options.add_argument(argument)
    if phone:
        metrics = {"width": size[0], "height": size[1], "pixelRatio": 1.0, "touch": True}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    service = webdriver.ChromeService(driver)
    shown = webdriver.Chrome(options=options, service=service)
    try:
        yield shown
    finally:
        shown.quit()


@pytest.fixture(scope="module")
def desktop(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("profile"), DESKTOP) as browser:
        yield browser


def waited(browser, script, *arguments):
    """What a script returns as soon as that is true."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 60).until(lambda _: browser.execute_script(script, *arguments))


def test_no_page_is_wider_than_a_phone(address, parsed, site, tmp_path):
    with opened(tmp_path, PHONE, phone=True) as browser:
        for path in parsed:
            browser.get(f"{address}/{path.relative_to(site).as_posix()}")
            wide, shown = browser.execute_script(WIDTHS)
            assert wide <= shown == PHONE[0], f"{path.name} is {wide} pixels wide"


def test_code_is_copied_without_its_prompts(address, desktop):
    from selenium.webdriver.common.action_chains import ActionChains

    allowed = {"origin": address, "permissions": ["clipboardReadWrite"]}
    desktop.execute_cdp_cmd("Browser.grantPermissions", allowed)
    desktop.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    desktop.get(f"{address}/reference/functional.html")
    button = waited(desktop, "return document.querySelector('.doctest button.copybtn')")
    shown = "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})"
    desktop.execute_script(shown, button)
    ActionChains(desktop).move_to_element(button).click().perform()
    copied = waited(desktop, "return navigator.clipboard.readText()")
    assert "(" in copied and ">>>" not in copied


def test_all_code_can_be_copied(address, desktop, parsed, site):
    count = "return document.querySelectorAll(arguments[0]).length"
    for path in parsed:
        desktop.get(f"{address}/{path.relative_to(site).as_posix()}")
        blocks, buttons = (
            desktop.execute_script(count, part)
            for part in ("div.highlight pre", "div.highlight button.copybtn")
        )
        assert blocks == buttons, f"{path.name}: {blocks} blocks, {buttons} buttons"


def searched(address, browser, query):
    """The addresses that a search finds."""
    browser.get(f"{address}/search.html?q={query}")
    return waited(
        browser,
        "const found = [...document.querySelectorAll('#search-results li a')].map(a => a.href);"
        "return found.length ? found : null",
    )


@pytest.mark.parametrize("word", ["연결", "손실", "추론"])
def test_search_finds_korean_words_that_have_particles(address, desktop, word):
    assert any("course/ko.html" in link for link in searched(address, desktop, word))


def test_search_finds_a_class_and_where_it_stands(address, desktop):
    found = searched(address, desktop, "RotaryEmbedding")
    assert any("reference/layers.html#keras_xfmr.layers.RotaryEmbedding" in link for link in found)


def test_korean_letters_are_drawn(address, desktop):
    """Letters that no font has are all the same box."""
    fonts = shutil.which("fc-list")
    if fonts is None or not subprocess.run([fonts, ":lang=ko"], capture_output=True).stdout:
        pytest.skip("no installed font has Korean letters: apt-get install fonts-nanum")
    desktop.get(f"{address}/tasks/chat.html")
    drawn = desktop.execute_script("""
        const family = getComputedStyle(document.querySelector('pre')).fontFamily;
        return [...'한글말'].map(letter => {
            const canvas = document.createElement('canvas');
            const context = canvas.getContext('2d');
            context.font = '32px ' + family;
            context.fillText(letter, 10, 40);
            return canvas.toDataURL();
        });""")
    assert "안녕하세요" in desktop.page_source and len(set(drawn)) == 3
