"""The reader's page in a real browser: keys, mouse, slow networks, closed windows, phones, large screens."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from turing_study import invited, two_folders

from fundusforge.studies.turing import store
from fundusforge.studies.turing.app import check
from fundusforge.studies.turing.database import connect, location, snapshot, transaction
from fundusforge.studies.turing.site import ServeConfig
from fundusforge.studies.turing.tokens import csrf, ticket

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
webdriver = pytest.importorskip("selenium.webdriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no browser here")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb",
)  # fmt: skip
PATIENCE = 60.0


class Server:
    """A study that is being served by a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.admin = folder.parent / f"{folder.name}.token"
        check(ServeConfig(study=folder), admin_token_file=self.admin)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        words = ["turing", "serve", str(folder), "--port", str(self.port), "--rate-address", "1e4"]
        self.process = subprocess.Popen([sys.executable, "-m", "fundusforge", *words])
        wait(self.alive, "the server")

    def alive(self) -> bool:
        assert self.process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as response:
                return response.status == 200
        except OSError:
            return False

    def answers(self, token: str) -> list[Any]:
        with snapshot(connect(location(self.folder))) as connection:
            reader = store.reader_of(connection, token)
            assert reader is not None
            return store.answered(connection, [reader.number])

    def send(self, token: str, position: int, answer: str) -> int:
        """Answer past the browser."""
        times = {"elapsed": 1, "hidden": 0, "confirmed": 1, "fidelity": None, "marks": []}
        body = {"position": position, "ticket": ticket(token, position), "answer": answer} | times
        headers = {"Content-Type": "application/json", "X-CSRF-Token": csrf(token)}
        headers["Cookie"] = f"fundusforge={token}"
        data = json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/answer", data, headers)) as response:
            return response.status


def wait(true: Callable[[], Any], what: str) -> Any:
    """Wait until something is true; returns it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


class Browser:
    """One browser with one window."""

    def __init__(self, *flags: str) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, *flags):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))

    def size(self, width: int, height: int, *, dots: float = 1) -> None:
        shape = {"width": width, "height": height, "deviceScaleFactor": dots, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)

    def network(self, *, speed: float = -1, offline: bool = False) -> None:
        """Let no more bytes a second come in."""
        self.driver.execute_cdp_cmd("Network.enable", {})
        limits = {"downloadThroughput": speed, "uploadThroughput": -1, "latency": 0, "offline": offline}
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", limits)

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(f"return {script}", *values)

    def wait(self, script: str) -> Any:
        return wait(lambda: self.run(script), script)

    def press(self, *keys: str) -> None:
        """Press keys wherever the focus is."""
        self.actions().send_keys(*keys).perform()

    def actions(self) -> Any:
        return webdriver.ActionChains(self.driver, duration=10)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        self.run("arguments[0].scrollIntoView({block: 'center'})", self.find(selector))
        self.find(selector).click()

    def painted(self, position: int) -> None:
        """Wait until a picture can be answered."""
        self.wait(f"document.getElementById('reading')?.dataset.painted === '{position}'")
        time.sleep(0.32)  # answers that come sooner are slips

    def enter(self, server: Server, token: str) -> None:
        """Come by mouse from the link to the first picture."""
        self.driver.get(f"{server.url}/i/{token}")
        self.click("[name=agree]")
        self.click("form .button")
        self.wait("location.pathname === '/profile'")
        self.click("[name=specialty]")
        self.find("#years").send_keys("4")
        self.click("form .button")
        self.wait("location.pathname === '/instructions'")
        self.click("form .button")
        self.painted(1)

    def open(self, server: Server, token: str) -> None:
        """Come back as one who has begun."""
        self.driver.get(f"{server.url}/i/{token}")
        self.driver.get(f"{server.url}/read")
        self.painted(1)

    def faults(self) -> list[str]:
        """What the browser complained of: a policy that was broken, a script that failed."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def servers(
    drawn_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    """A study of the question alone, and one that also asks for a score and marks."""
    place = tmp_path_factory.mktemp("turing")
    folders = two_folders(drawn_folder, size=64)
    folders.design(place / "plain", real_images=2, synthetic_images=2, gap=1)
    folders.design(place / "asking", real_images=2, synthetic_images=1, gap=1, fidelity=True, marks=True)
    both = Server(place / "plain"), Server(place / "asking")
    yield both
    for server in both:
        server.process.terminate()
        server.process.wait()


@pytest.fixture(scope="module")
def plain(servers: tuple[Server, Server]) -> Server:
    return servers[0]


@pytest.fixture(scope="module")
def asking(servers: tuple[Server, Server]) -> Server:
    return servers[1]


@pytest.fixture(scope="module")
def one_browser() -> Iterator[Browser]:
    made = Browser()
    yield made
    made.driver.quit()


@pytest.fixture
def browser(one_browser: Browser) -> Iterator[Browser]:
    """A browser as new: no cookie, one window, a fast network."""
    driver = one_browser.driver
    one_browser.size(1280, 800)
    yield one_browser
    one_browser.network()
    for handle in driver.window_handles[1:]:
        driver.switch_to.window(handle)
        driver.close()
    driver.switch_to.window(driver.window_handles[0])
    driver.delete_all_cookies()
    driver.get("about:blank")
    driver.get_log("browser")


def begun(server: Server, count: int = 1) -> list[str]:
    """Invite readers, and let them have begun."""
    tokens = invited(server.folder, count)
    engine = connect(location(server.folder))
    for token in tokens:
        with snapshot(engine) as connection:
            reader = store.reader_of(connection, token)
        assert reader is not None
        facts = {"consented": 1.0, "specialty": "resident", "years": 2.5, "started": 2.0}
        transaction(engine, lambda c, number=reader.number, facts=facts: store.set_reader(c, number, **facts))
    engine.dispose()
    return tokens


@pytest.fixture
def token(plain: Server) -> str:
    return begun(plain)[0]


# ---- a whole study -----------------------------------------------------------------------------------------


def test_a_whole_study_by_keyboard(browser: Browser, plain: Server) -> None:
    """From the link to the end without a mouse: Tab, Space, letters, Enter."""
    (token,) = invited(plain.folder)
    tab, space, enter = "\ue004", " ", "\ue007"
    browser.driver.get(f"{plain.url}/i/{token}")
    browser.press(tab, space, tab, enter)
    browser.wait("location.pathname === '/profile'")
    browser.press(tab, space, "\ue015", tab, "7", tab, enter)  # the second specialty
    browser.wait("location.pathname === '/instructions'")
    browser.press("s")
    assert (
        browser.run("document.querySelector('.said').textContent") == "That would be your answer: Synthetic."
    )
    browser.press(tab, tab, tab, enter)
    for position, key in enumerate("rsSR", 1):
        browser.painted(position)
        assert browser.run("document.getElementById('progress').textContent") == f"Picture {position} of 4"
        browser.press(key)
    browser.wait("location.pathname === '/finished'")
    answers = plain.answers(token)
    assert [row.answer for row in answers] == ["real", "synthetic", "synthetic", "real"]
    assert all(0.3 <= row.elapsed <= row.server for row in answers)
    with snapshot(connect(location(plain.folder))) as connection:
        reader = store.reader_of(connection, token)
    assert reader is not None and (reader.specialty, reader.years) == ("non-retinal specialist", 7.0)
    assert browser.faults() == []


def test_a_whole_study_by_mouse_with_score_and_marks(browser: Browser, asking: Server) -> None:
    (token,) = invited(asking.folder)
    browser.enter(asking, token)
    for position in (1, 2, 3):
        browser.painted(position)
        assert browser.run("document.getElementById('confirm').ariaDisabled") == "true"
        if position == 2:
            picture = browser.find("#picture")
            wide = picture.size["width"]
            browser.actions().move_to_element_with_offset(picture, wide // 4, -wide // 4).click().perform()
            browser.click("[data-word=vessels]")
            browser.actions().move_to_element(picture).click().perform()
            browser.click("[data-word=other]")
            browser.click("[aria-label='Remove mark: Other']")
        browser.click("#real")
        browser.click("#synthetic")  # not final before it is confirmed
        assert browser.run("document.getElementById('confirm').ariaDisabled") == "true", "a score is missing"
        browser.click(f"[data-score='{position + 7}']")
        browser.click("#confirm")
    browser.wait("location.pathname === '/finished'")
    answers = asking.answers(token)
    assert [(row.answer, row.fidelity) for row in answers] == [("synthetic", 8 + n) for n in range(3)]
    (mark,) = json.loads(answers[1].marks)
    assert mark["word"] == "vessels" and mark["x"] == pytest.approx(0.75, abs=0.02)
    assert mark["y"] == pytest.approx(0.25, abs=0.02) and answers[0].marks == ""
    assert all(row.elapsed < row.confirmed for row in answers)
    assert browser.faults() == []


def test_marks_by_keyboard(browser: Browser, asking: Server) -> None:
    (token,) = begun(asking)
    browser.open(asking, token)
    left, up, enter, escape, tab = "\ue012", "\ue013", "\ue007", "\ue00c", "\ue004"
    browser.press("m", left, left, up, enter)
    browser.press("r")  # no answer while a word is asked for
    browser.press(tab, enter)  # the second word
    browser.press("m", escape, "r", "0", enter)
    browser.painted(2)
    (row,) = asking.answers(token)
    (mark,) = json.loads(row.marks)
    assert (row.answer, row.fidelity, mark["word"]) == ("real", 10, "disc")
    assert mark["x"] < 0.5 and mark["y"] < 0.5


# ---- once, and only what was seen --------------------------------------------------------------------------


def test_a_double_click_is_one_answer(browser: Browser, plain: Server, token: str) -> None:
    browser.open(plain, token)
    browser.actions().double_click(browser.find("#real")).perform()
    browser.painted(2)
    browser.press("s", "s", "s")
    browser.painted(3)
    time.sleep(0.3)
    assert [row.answer for row in plain.answers(token)] == ["real", "synthetic"]
    assert browser.run("document.getElementById('progress').textContent") == "Picture 3 of 4"


def test_a_held_key_is_one_answer(browser: Browser, plain: Server, token: str) -> None:
    browser.open(plain, token)
    for repeated in (False, *[True] * 30):
        event = {"type": "keyDown", "key": "r", "text": "r", "autoRepeat": repeated}
        browser.driver.execute_cdp_cmd("Input.dispatchKeyEvent", event)
        time.sleep(0.04)
    browser.painted(2)
    assert len(plain.answers(token)) == 1


def test_on_a_slow_network_time_begins_with_the_picture(browser: Browser, plain: Server, token: str) -> None:
    browser.open(plain, token)
    loaded_ahead(browser)
    browser.network(speed=3000)
    browser.press("r")
    browser.painted(2)  # it was there already; the third is on its way
    old = browser.run("document.querySelector('#picture img').src")
    began = time.monotonic()
    browser.press("r")
    early = []
    while browser.run("document.getElementById('reading').dataset.painted") == "2":
        early.append(
            browser.run("[...document.querySelectorAll('#picture img')].map((i) => [i.src, i.complete])")
        )
        browser.press("s")  # before there is anything to see
    loaded = time.monotonic() - began
    assert loaded > 0.8, "the third was held up"
    assert [] in early, "the stage is empty while a picture is on its way"
    assert all(src == old or complete for images in early for src, complete in images)
    assert browser.run("document.querySelector('#picture img').src") != old
    browser.painted(3)
    browser.network()
    browser.press("s")
    browser.painted(4)
    third = plain.answers(token)[2]
    assert third.answer == "synthetic" and third.elapsed < loaded + 0.1 and third.server > third.elapsed + 0.5


def loaded_ahead(browser: Browser) -> None:
    """Wait until the page has two pictures."""
    asked = "performance.getEntriesByType('resource').filter((e) => e.name.includes('/image/'))"
    browser.wait(f"{asked}.length === 2")


def test_the_next_picture_is_there_before_it_is_needed(browser: Browser, plain: Server, token: str) -> None:
    browser.open(plain, token)
    loaded_ahead(browser)
    assert browser.run("document.querySelectorAll('#picture img').length") == 1


def test_an_answer_waits_for_the_network(browser: Browser, plain: Server, token: str) -> None:
    browser.open(plain, token)
    loaded_ahead(browser)
    browser.network(offline=True)
    browser.press("s")
    browser.wait("document.getElementById('notice').textContent.startsWith('No connection')")
    assert plain.answers(token) == []
    browser.network()
    browser.painted(2)
    assert [row.answer for row in plain.answers(token)] == ["synthetic"]
    assert browser.run("document.getElementById('notice').textContent") == ""


def test_time_out_of_sight_is_noted(browser: Browser, plain: Server, token: str) -> None:
    browser.open(plain, token)
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    time.sleep(1.2)
    browser.driver.switch_to.window(first)
    browser.wait("document.visibilityState === 'visible'")
    browser.press("r")
    browser.painted(2)
    (row,) = plain.answers(token)
    assert 1.0 < row.hidden < row.elapsed


# ---- leaving, coming back, several windows -----------------------------------------------------------------


def test_a_closed_browser_goes_on_where_it_was(plain: Server, token: str, tmp_path: Path) -> None:
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    first = Browser(profile)
    first.size(1280, 800)
    first.open(plain, token)
    first.press("r")
    first.painted(2)
    first.click("#pause")
    assert "1 of 4 pictures" in first.find("main").text
    first.driver.quit()
    second = Browser(profile)
    second.driver.get(f"{plain.url}/read")  # by the cookie
    second.painted(2)
    second.press("s")
    second.painted(3)
    second.driver.delete_all_cookies()
    second.driver.get(f"{plain.url}/i/{token}")  # by the link
    assert "2 of 4 pictures" in second.find("main").text
    second.click(".button")
    second.painted(3)
    second.driver.quit()
    assert [row.answer for row in plain.answers(token)] == ["real", "synthetic"]


def test_two_tabs_do_not_split_the_study(browser: Browser, plain: Server, token: str) -> None:
    browser.open(plain, token)
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    browser.size(1280, 800)
    browser.driver.get(f"{plain.url}/read")
    browser.painted(1)
    second = browser.driver.current_window_handle
    for window, position, key in ((first, 1, "r"), (second, 2, "s"), (first, 3, "r"), (second, 4, "s")):
        browser.driver.switch_to.window(window)
        browser.painted(position)
        browser.press(key)
    browser.wait("location.pathname === '/finished'")
    assert [row.answer for row in plain.answers(token)] == ["real", "synthetic", "real", "synthetic"]


def test_a_stale_page_is_told_and_moves_on(browser: Browser, plain: Server, token: str) -> None:
    browser.open(plain, token)
    assert plain.send(token, 1, "synthetic") == plain.send(token, 2, "synthetic") == 200
    browser.press("r")
    browser.painted(3)
    told = browser.run("document.getElementById('notice').textContent")
    assert "in another window" in told and browser.find("#notice").is_displayed()
    assert [row.answer for row in plain.answers(token)] == ["synthetic", "synthetic"]
    browser.press("r")
    browser.painted(4)
    assert browser.run("document.getElementById('notice').textContent") == ""


def test_two_readers_at_once(browser: Browser, plain: Server) -> None:
    one, other = begun(plain, 2)
    second = Browser()
    second.size(1280, 800)
    browser.open(plain, one)
    second.open(plain, other)
    for position in range(1, 5):
        for each, key in ((browser, "r"), (second, "s")):
            each.painted(position)
            each.press(key)
    for each in (browser, second):
        each.wait("location.pathname === '/finished'")
    second.driver.quit()
    assert [row.answer for row in plain.answers(one)] == ["real"] * 4
    assert [row.answer for row in plain.answers(other)] == ["synthetic"] * 4


def test_a_revoked_page_stops(browser: Browser, plain: Server, token: str) -> None:
    browser.open(plain, token)
    engine = connect(location(plain.folder))
    with snapshot(engine) as connection:
        reader = store.reader_of(connection, token)
    assert reader is not None
    transaction(engine, lambda connection: store.revoke(connection, [reader.name]))
    browser.press("r")
    browser.wait("document.getElementById('notice').textContent.includes('taken back')")
    assert plain.answers(token) == []


# ---- looking -----------------------------------------------------------------------------------------------


def test_pixels_are_pixels_and_can_be_enlarged(browser: Browser, plain: Server, token: str) -> None:
    browser.size(900, 700, dots=2)
    browser.open(plain, token)
    box = "(() => {const b = document.querySelector('#picture').getBoundingClientRect(); "
    box += "return [b.width, b.left, b.top].map((l) => l * devicePixelRatio)})()"

    def scale() -> str:
        return browser.run("document.getElementById('scale').textContent")

    wide, left, top = browser.run(box)
    assert wide % 64 == 0 and left % 1 == 0 and top % 1 == 0, "whole pixels of the screen"
    browser.press("p")
    assert browser.run(box)[0] == 64 and scale() == "100%"
    browser.press("+", "+", "+", "+")
    assert scale() == "244%"
    browser.press("-")
    assert scale() == "195%"
    browser.press("f")
    fit = browser.run("[stage.clientWidth, stage.clientHeight].map((l) => 2 * l)")
    assert browser.run(box)[0] == pytest.approx(min(fit), abs=1)
    stage = browser.find("#stage")
    for _ in range(3):
        wheel = {"type": "mouseWheel", "x": 450, "y": 300, "deltaX": 0, "deltaY": -240}
        browser.driver.execute_cdp_cmd("Input.dispatchMouseEvent", wheel)
    browser.wait(f"{box}[0] > {1.5 * min(fit)}")
    _, left, top = browser.run(box)
    browser.actions().move_to_element(stage).click_and_hold().move_by_offset(60, 40).release().perform()
    assert browser.run(box)[1] == pytest.approx(left + 120, abs=20)
    browser.press("\ue014")
    assert browser.run(box)[1] < left + 110
    assert plain.answers(token) == [], "looking is no answer"
    before = scale()
    browser.press("r")
    browser.painted(2)
    assert scale() == before, "the next picture is shown as large"


WALK = """
(() => {
  const wrong = [], rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const found = rgb(getComputedStyle(node).backgroundColor);
      if (found.length === 3 || found[3] > 0.8) return found;
    }
    return [255, 255, 255];
  };
  for (const node of document.querySelectorAll("body *")) {
    const box = node.getBoundingClientRect();
    if (!box.width || getComputedStyle(node).clipPath !== "none" || node.closest("noscript")) continue;
    const text = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    const idle = node.closest("[aria-disabled=true]");
    if (text && !idle) {
      const pair = [rgb(getComputedStyle(node).color), ground(node)].map(light);
      const [one, two] = pair.sort((a, b) => b - a);
      const ratio = (one + 0.05) / (two + 0.05);
      if (ratio < 4.5) wrong.push(`contrast ${ratio.toFixed(2)}: ${node.textContent.trim().slice(0, 30)}`);
    }
    const target = node.matches("button, a, select, textarea") ? box
      : !node.matches("input:not([type=hidden])") ? null
      : (node.closest("label") ?? node).getBoundingClientRect();
    if (target && (target.width < 43.9 || target.height < 43.9))
      wrong.push(`target ${target.width}x${target.height}: ${node.outerHTML.slice(0, 60)}`);
    if (node.matches("button, a, input:not([type=hidden]), progress")) {
      const name = node.ariaLabel || node.textContent.trim() || node.labels?.[0]?.textContent || node.title
        || document.getElementById(node.getAttribute("aria-labelledby"))?.textContent;
      if (!name) wrong.push(`no name: ${node.outerHTML.slice(0, 80)}`);
    }
  }
  const root = document.documentElement;
  if (root.scrollWidth > innerWidth) wrong.push(`wider than the window: ${root.scrollWidth}`);
  if (document.getElementById("reading") && root.scrollHeight > innerHeight)
    wrong.push(`taller than the window: ${root.scrollHeight}`);
  if (!document.documentElement.lang || document.querySelectorAll("h1").length !== 1) wrong.push("lang, h1");
  return wrong;
})()
"""


@pytest.mark.parametrize(("width", "height"), [(360, 640), (640, 360), (1024, 768), (3840, 2160)])
def test_every_page_fits_and_can_be_read(browser: Browser, asking: Server, width: int, height: int) -> None:
    """No sideways scrolling, contrast of 4.5, targets of 44 px, names for all that can be pressed."""
    (token,) = invited(asking.folder)
    browser.size(width, height)
    found: dict[str, list[str]] = {}

    def look(page: str) -> None:
        if wrong := browser.run(WALK):
            found[page] = wrong

    for path in ("/", "/nowhere", "/admin", f"/i/{token}"):
        browser.driver.get(asking.url + path)
        look(path)
    browser.click("[name=agree]")
    browser.click("form .button")
    browser.wait("location.pathname === '/profile'")
    look("profile")
    browser.click("[name=specialty]")
    browser.find("#years").send_keys("4")
    browser.click("form .button")
    browser.wait("location.pathname === '/instructions'")
    look("instructions")
    browser.click("form .button")
    browser.painted(1)
    look("read")
    assert browser.run("stage.clientHeight") >= min(180, height / 2), "room for the picture"
    browser.press("m", "\ue007")
    browser.wait("!document.getElementById('words').hidden")
    look("words")
    browser.press("\ue007", "s", "4")
    look("chosen")
    browser.click("#confirm")
    browser.painted(2)
    for path in ("/pause", "/admin"):
        browser.driver.get(asking.url + path)
        look(path)
    browser.find("#token").send_keys(asking.admin.read_text().strip())
    browser.click("form .button")
    browser.wait("document.querySelector('table') !== null")
    look("table")
    assert found == {}


def test_focus_can_be_seen_and_stays(browser: Browser, plain: Server, token: str) -> None:
    browser.open(plain, token)
    for _ in range(20):
        browser.press("\ue004")
        if browser.run("document.activeElement.id") == "real":
            break
    outline = browser.run("getComputedStyle(document.activeElement)")
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid", outline
    browser.press("\ue007")
    browser.painted(2)
    assert browser.run("document.activeElement.id") == "real", "goes on where the keyboard was"
    browser.press("\ue007")
    browser.painted(3)
    assert [row.answer for row in plain.answers(token)] == ["real", "real"]


def test_the_administrator_exports_in_the_browser(browser: Browser, plain: Server, token: str) -> None:
    browser.open(plain, token)
    browser.press("s")
    browser.painted(2)
    browser.driver.get(f"{plain.url}/admin")
    browser.find("#token").send_keys("not the token, but long enough")
    browser.click("form .button")
    assert "This is not the token." in browser.find("main").text
    browser.find("#token").send_keys(plain.admin.read_text().strip())
    browser.click("form .button")
    browser.wait("document.querySelector('table') !== null")
    name = f"r{len(browser.driver.find_elements('css selector', 'tbody tr')):02d}"
    assert browser.find("tbody tr:last-child").text.startswith(name)
    script = "const done = arguments[0]; fetch('/admin/answers.csv').then((r) => r.text()).then(done)"
    lines = browser.driver.execute_async_script(script).splitlines()
    assert lines[0].startswith("reader,position,image,truth") and lines[-1].startswith(f"{name},1,")
    assert ",synthetic," in lines[-1]
