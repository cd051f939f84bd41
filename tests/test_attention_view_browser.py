"""The page of attention in a browser: what a click, a key and the mouse show."""

import io

import numpy as np
import pytest
from browser import chromium, prefer

pytest.importorskip("matplotlib")

from matplotlib import image

from keras_xfmr import viz

pytestmark = pytest.mark.slow

TOKENS = ["나는", "</script><script>ran = 1</script>", "<b>", "탔다", "[END]"]
LOOKING = ["[START]", "I", "rode"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(driver, tmp_path):
    """Two layers: a head that sees the token itself alone, one that sees all, one the first."""
    alone = np.zeros((5, 5))
    alone[:, 0] = 1.0
    heads = np.stack([np.eye(5), np.full((5, 5), 0.2), alone]).astype("float32")[None]
    cross = np.full((1, 3, 3, 5), 0.2)
    weights = {"encoder": [heads, heads], "decoder": [heads[..., :3, :3]], "cross": [cross]}
    prefer(driver, "light")
    file = tmp_path / "view.html"
    viz.attention_view(weights, (TOKENS, LOOKING), file, title="제목 <i>")
    driver.get(file.as_uri())
    yield driver
    assert [entry["message"] for entry in driver.get_log("browser")] == []
    assert driver.execute_script("return typeof ran") == "undefined"


def find(driver, selector):
    return driver.find_elements("css selector", selector)


def lines(driver):
    return int(find(driver, "#lines")[0].get_attribute("data-count"))


def texts(driver, selector):
    return [one.text for one in find(driver, selector)]


def hover(driver, one):
    from selenium.webdriver import ActionChains

    ActionChains(driver).move_to_element(one).perform()


def press(driver, *keys):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    for key in keys:
        ActionChains(driver).send_keys(getattr(Keys, key)).perform()


def colours(driver):
    """How many colours the lines have, and the colour of the page's corner."""
    picture = image.imread(io.BytesIO(driver.get_screenshot_as_png()))[..., :3]
    return len(np.unique(picture @ [2**16, 2**8, 1.0])), picture[-1, 0].mean()


def test_tokens_are_text_and_every_line_is_there(page):
    assert page.title == "제목 <i>" and texts(page, "h1") == ["제목 <i>"]
    assert texts(page, "#left .token") == texts(page, "#right .token") == TOKENS
    assert lines(page) == 5 + 25 + 5
    assert colours(page)[0] > 50


def test_a_click_on_a_head_shows_and_hides_its_lines(page):
    heads = find(page, ".head")
    heads[1].click()
    assert lines(page) == 5 + 5
    heads[0].click()
    assert lines(page) == 5
    assert [head.get_attribute("aria-pressed") for head in heads] == ["false", "false", "true"]
    from selenium.webdriver import ActionChains

    ActionChains(page).double_click(heads[1]).perform()
    assert lines(page) == 25
    find(page, "#all")[0].click()
    assert lines(page) == 35


def test_pointing_at_a_token_leaves_its_lines(page):
    find(page, ".head")[2].click()
    before = colours(page)[0]
    hover(page, find(page, "#left .token")[3])
    assert lines(page) == 1 + 5 and colours(page)[0] != before
    assert texts(page, "#readout")[0].startswith("탔다 takes from 탔다 60.0 %, 나는 10.0 %")
    hover(page, find(page, "#right .token")[0])
    assert lines(page) == 1 + 5
    assert "나는 is taken by 나는 60.0 %" in texts(page, "#readout")[0]
    hover(page, find(page, "h1")[0])
    assert lines(page) == 30
    # A click keeps it selected, another one or Escape clears it.
    token = find(page, "#left .token")[1]
    for end in (lambda: press(page, "ESCAPE"), token.click):
        token.click()
        hover(page, find(page, "h1")[0])
        assert lines(page) == 6
        end()
        hover(page, find(page, "h1")[0])
        assert lines(page) == 30


def test_parts_have_their_own_tokens_and_layers(page):
    find(page, ".part")[2].click()
    assert texts(page, ".part") == ["encoder", "decoder", "cross"]
    assert texts(page, "#left .token") == LOOKING and texts(page, "#right .token") == TOKENS
    assert lines(page) == 3 * 15
    assert len(find(page, "#layer option")) == 1
    left, right = (find(page, f"#{side} .token")[0].rect["y"] for side in ("left", "right"))
    assert left == right  # both columns begin at the same height


def test_keys_reach_tokens_and_thumbnails(page):
    page.execute_script("document.querySelector('#left .token').focus()")
    press(page, "ARROW_DOWN", "ARROW_DOWN")
    assert texts(page, ".token.chosen") == ["<b>"] and lines(page) == 7
    press(page, "ARROW_RIGHT")
    assert page.switch_to.active_element.find_element("xpath", "..").get_attribute("id") == "right"
    find(page, "#tab-model")[0].click()
    press(page, "TAB", "TAB", "TAB", "TAB")  # three parts, then the grid
    press(page, "ARROW_DOWN", "ARROW_RIGHT", "ENTER")
    assert find(page, "#layer")[0].get_attribute("value") == "1" and lines(page) == 25


def test_the_grid_has_all_layers_and_opens_one(page):
    find(page, "#tab-model")[0].click()
    thumbnails = find(page, ".thumbnail")
    assert len(thumbnails) == 2 * 3 and not find(page, "#lines")[0].is_displayed()
    assert thumbnails[5].get_attribute("aria-label") == "Layer 1, head 2"
    thumbnails[4].click()
    assert find(page, "#layer")[0].get_attribute("value") == "1"
    assert lines(page) == 25 and find(page, "#lines")[0].is_displayed()


def test_dark_pages_are_dark(page):
    assert colours(page)[1] > 0.9
    prefer(page, "dark")
    assert colours(page)[1] < 0.2


def test_a_phone_scrolls_down_only(driver, tmp_path):
    file = tmp_path / "view.html"
    tokens = ["a" * 50, "밥" * 30, "b"]
    viz.attention_view([np.full((1, 16, 3, 3), 0.3)] * 2, tokens, file, title="t" * 90)
    driver.get(file.as_uri())
    driver.set_window_size(390, 800)
    try:
        for tab in ("#tab-heads", "#tab-model"):
            find(driver, tab)[0].click()
            width = driver.execute_script("return document.documentElement.scrollWidth")
            assert width <= driver.execute_script("return innerWidth")
    finally:
        driver.set_window_size(1280, 900)
