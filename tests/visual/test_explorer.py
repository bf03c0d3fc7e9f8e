"""The explorer's page in a real browser, beside what the network itself computes."""

import base64
import io

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import danet_jax
from danet_jax.inference.segmenter import Segmenter
from danet_jax.ops.normalize import normalize
from danet_jax.visual.explorer.page import Page
from danet_jax.visual.packing import encode_photo
from tests.reference.refusal import refused
from tests.visual.browser import SIZES, opened, refuse_traffic, visible_boxes, wait_until_ready

TITLE = '<b>"photo" ☃</b> & more'
LONG = "television receiver or television set or screen"
NAMES = ('<img src=x onerror="document.title=1">', "quote\"s & 'more'", "straße ☃", LONG)
HEIGHT, WIDTH = 91, 139  # 12 x 18 positions
GRID = (12, 18)


class Backbone(nn.Module):
    """One convolution, which compiles in a moment."""

    output_stride: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(256, (9, 9), strides=self.output_stride, padding=4, use_bias=False)(x)
        return nn.relu(x)


def random_variables(model, images, rng):
    """Returns variables drawn by numpy, without compiling the network's own initialisation."""

    def drawn(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return rng.normal(0, np.sqrt(2 / fan_in), leaf.shape).astype(np.float32)
        return np.full(leaf.shape, float(name in ("scale", "var")), np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.tree_util.tree_map_with_path(drawn, {name: shapes[name] for name in ("params", "batch_stats")})


@pytest.fixture(scope="module")
def network():
    """A network whose attention is far from uniform, and an image."""
    rng = np.random.default_rng()
    model = danet_jax.DANet(num_classes=4, backbone=Backbone())
    image = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(image).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    images = normalize(jnp.asarray(image)[None])
    variables = random_variables(model, images, rng)
    head = variables["params"]["head"]
    head["position_attention"]["alpha"] = jnp.float32(0.8)
    head["channel_attention"]["beta"] = jnp.float32(-0.6)
    classes = danet_jax.Classes(NAMES, ((200, 30, 30), (30, 200, 30), (30, 30, 200), (120, 120, 120)))
    segmenter = Segmenter(model, variables, classes=classes)
    seen = segmenter.explain(image)
    keys = np.asarray(seen.keys) - np.asarray(seen.keys).mean(0)
    spread = float((np.asarray(seen.queries) @ keys.T).std())
    for name in ("query", "key"):  # logits of a hundred and more, whatever was drawn
        head["position_attention"][name]["kernel"] *= np.float32((30 / spread) ** 0.5)
    return segmenter.with_variables(variables), image


@pytest.fixture(scope="module")
def exact(network):
    """The exact map, float32 `[N, N]`."""
    segmenter, image = network
    positions = np.stack(np.divmod(np.arange(GRID[0] * GRID[1]), GRID[1]), 1)
    return segmenter.attention(image, positions).rows.reshape(len(positions), -1)


@pytest.fixture(scope="module")
def page(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    segmenter, image = network
    assert danet_jax.explore(segmenter, image, path, name=TITLE) == path.stat().st_size
    return path


def stage_of(browser, page, link="", **size):
    opened(browser, page, link, **size)
    return browser.find_element("id", "stage")


def move(browser, stage, x, y, click=False):
    """Moves the mouse to a point of the image, in 0 to 1."""
    from selenium.webdriver import ActionChains

    box = stage.rect
    offset = round((x - 0.5) * box["width"]), round((y - 0.5) * box["height"])
    actions = ActionChains(browser, duration=0).move_to_element_with_offset(stage, *offset)
    (actions.click() if click else actions).perform()


def weights(browser):
    return np.array(browser.execute_script("return Array.from(explorer.weights)"))


def state(browser):
    return browser.execute_script("return explorer.state")


def test_rows_and_columns_under_the_mouse(browser, page, exact, rng):
    stage = stage_of(browser, page)
    rows, columns = GRID
    for view, whole in (("row", exact), ("column", exact.T)):
        browser.find_element("css selector", f'[data-view="{view}"]').click()
        for _ in range(10):
            row, column = rng.integers(rows), rng.integers(columns)
            # Corner positions lie on the corners of the image; the mouse keeps off its edge.
            x, y = np.clip([column / (columns - 1), row / (rows - 1)], 0.01, 0.99)
            move(browser, stage, x, y)
            position = row * columns + column
            assert state(browser)["at"] == position
            np.testing.assert_allclose(weights(browser), whole[position], atol=1e-2)
        # Milliseconds from the mouse to the image, on a machine that does other things too.
        assert browser.execute_script("return explorer.milliseconds") < 50
    tops = browser.execute_script(
        f"return Array.from({{length: {exact.shape[0]}}}, (_, i) =>"
        " Attention.strongest(explorer.map.row(i), 1)[0])"
    )
    second = np.sort(exact, 1)[:, -2:]
    clear = second[:, 1] - second[:, 0] > 1e-6
    assert (np.array(tops) == exact.argmax(1))[clear].mean() >= 0.99


@pytest.mark.parametrize(("width", "height", "dark"), SIZES)
def test_every_view_fits_the_window(browser, page, width, height, dark):
    for view in ("row", "entropy", "distance", "received", "labels", "photo"):
        opened(browser, page, width=width, height=height, dark=dark)
        browser.find_element("css selector", f'[data-view="{view}"]').click()
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        controls = visible_boxes(
            browser, "main > section:first-child :is(button, input, select), .changes button"
        )
        assert len(controls) > 7
        if width == 1400:
            assert max(bottom for _, _, _, bottom in controls) <= height
    refuse_traffic(browser)


def test_long_names_are_not_cut_off(browser, page):
    opened(browser, page, width=420)
    names = browser.execute_script(
        "return [...document.querySelectorAll('.name')].map((e) => [e.textContent, e.scrollWidth - e.clientWidth])"
    )
    assert LONG in [name for name, _ in names]
    assert max(hidden for _, hidden in names) <= 0


def test_names_are_not_interpreted_as_markup(browser, page):
    opened(browser, page)
    assert browser.title == f"{TITLE}: attention"
    assert browser.find_element("tag name", "h1").text == TITLE
    shown = browser.find_element("id", "legend").text
    found = browser.execute_script("return [...new Set(explorer.arrays['labels.fusion'])]")
    assert found
    for index in found:
        assert NAMES[index] in shown
    assert len(browser.find_elements("tag name", "img")) == 1  # the image


def test_labels_equal_those_of_the_network(browser, page, network):
    segmenter, image = network
    opened(browser, page)

    def labels(kind):
        values = browser.execute_script(f"return Array.from(explorer.arrays['labels.{kind}'])")
        return np.array(values).reshape(HEIGHT, WIDTH)

    assert (labels("fusion") == segmenter(image[None])[0]).mean() > 0.999
    images = normalize(jnp.asarray(image)[None])
    logits = segmenter.model.apply(segmenter.variables, images)
    for kind in ("position", "channel"):
        assert (labels(kind) == getattr(logits, kind)[0].argmax(-1)).mean() > 0.999
    for kind, module, scale in (
        ("without_position", "position_attention", "alpha"),
        ("without_channel", "channel_attention", "beta"),
    ):
        head = dict(segmenter.variables["params"]["head"])
        head[module] = {**head[module], scale: jnp.float32(0)}
        params = {**segmenter.variables["params"], "head": head}
        other = segmenter.model.apply({**segmenter.variables, "params": params}, images).fusion
        assert (labels(kind) == other[0].argmax(-1)).mean() > 0.999
        share = browser.execute_script(
            "return explorer.facts.labels.find((label) => label.kind === arguments[0]).changed", kind
        )
        assert share == pytest.approx((labels(kind) != labels("fusion")).mean())


def test_pins_keys_and_link(browser, page):
    from selenium.webdriver import Keys

    stage = stage_of(browser, page)
    move(browser, stage, 0.3, 0.4, click=True)
    move(browser, stage, 0.7, 0.6, click=True)
    first, second = state(browser)["pins"]
    assert len(browser.find_elements("css selector", "#pins .pin")) == 2
    stage.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_UP)
    assert state(browser)["at"] == second + 1 - GRID[1]
    stage.send_keys("c", "g", "l")
    found = state(browser)
    assert (found["view"], found["logarithmic"], found["lines"]) == ("column", True, False)
    browser.execute_async_script("setTimeout(arguments[0], 300)")  # the link follows in a moment
    link = browser.execute_script("return location.hash")
    opened(browser, page, link)
    assert state(browser) == found
    move(browser, browser.find_element("id", "stage"), 0.3, 0.4, click=True)  # a click on a pin takes it away
    assert state(browser)["pins"] == [second]
    browser.find_element("id", "stage").send_keys(Keys.ESCAPE)
    assert state(browser)["pins"] == []
    assert first != second


def test_the_view_is_saved_as_an_image(browser, page):
    opened(browser, page, "#pins=5,100")
    link = browser.execute_script("return explorer.saved().toDataURL()")
    saved = Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2])))
    assert saved.width == 1200
    assert saved.height > 1200 * HEIGHT / WIDTH
    assert len(saved.convert("RGB").resize((60, 40)).getcolors(2400)) > 200  # it is not empty


def test_touch_on_a_narrow_screen(browser, page):
    stage = stage_of(browser, page, width=375, height=700)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        box = browser.execute_script(
            "const b = arguments[0].getBoundingClientRect(); return [b.x, b.y]", stage
        )
        point = {"x": box[0] + 40, "y": box[1] + 30}
        before = state(browser)["at"]
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
        point = {"x": point["x"] + 60, "y": point["y"] + 20}
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        browser.execute_async_script("setTimeout(arguments[0], 100)")
        assert state(browser)["at"] != before
        assert min(bottom - top for _, top, _, bottom in visible_boxes(browser, ".views button")) >= 32
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_themes(browser, page, theme):
    opened(browser, page, f"#theme={theme}")
    red, green, blue = browser.execute_script(
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert (red + green + blue > 384) == (theme == "light")


def test_positions_are_pooled_if_the_page_would_be_too_large(browser, network, exact, tmp_path, monkeypatch):
    segmenter, image = network
    monkeypatch.setattr("danet_jax.visual.explorer.page._MAP_SHARE", 1e-4)
    monkeypatch.setattr("danet_jax.visual.explorer.page.MOST_CELLS", 60)
    danet_jax.explore(segmenter, image, tmp_path / "pooled.html")
    opened(browser, tmp_path / "pooled.html")
    assert "pooled into cells of 2 x 2" in browser.find_element("class name", "sentence").text
    row = np.array(browser.execute_script("return Array.from(explorer.map.row(10))"))
    assert row.sum() == pytest.approx(1, abs=1e-3)
    home = np.arange(GRID[0])[:, None] // 2 * 9 + np.arange(GRID[1])[None] // 2
    mean = exact[home.ravel() == 10].mean(0)
    expected = [mean[home.ravel() == i].sum() for i in range(54)]
    np.testing.assert_allclose(row, expected, atol=1e-2)


def test_a_scale_of_zero_is_explained(browser, network, tmp_path):
    segmenter, image = network
    head = dict(segmenter.variables["params"]["head"])
    head["position_attention"] = {**head["position_attention"], "alpha": jnp.float32(0)}
    params = {**segmenter.variables["params"], "head": head}
    off = Segmenter(segmenter.model, {**segmenter.variables, "params": params})
    danet_jax.explore(off, image, tmp_path / "off.html")
    opened(browser, tmp_path / "off.html")
    assert "Alpha is 0" in browser.find_element("class name", "sentence").text


def test_a_network_without_attention(browser, network, tmp_path):
    _, image = network
    model = danet_jax.DANet(
        num_classes=4, backbone=Backbone(output_stride=32), position_attention=False, channel_attention=False
    )
    variables = random_variables(model, normalize(jnp.asarray(image)[None]), np.random.default_rng())
    danet_jax.explore(Segmenter(model, variables), image, tmp_path / "fcn.html")
    opened(browser, tmp_path / "fcn.html")
    assert "no position attention" in browser.find_element("class name", "sentence").text
    assert state(browser)["view"] == "labels"


def test_a_notebook_shows_the_page(browser, page, tmp_path):
    cell = tmp_path / "cell.html"
    shown = Page(page.stat().st_size, page)._repr_html_()
    cell.write_text(f"<!DOCTYPE html><meta charset=utf-8>{shown}", encoding="utf-8")
    browser.get(cell.as_uri())
    browser.switch_to.frame(0)
    wait_until_ready(browser)
    assert browser.find_element("tag name", "h1").text == TITLE
    browser.execute_async_script("explorer.moveTo(3); setTimeout(arguments[0], 300)")
    assert state(browser)["at"] == 3
    assert browser.get_log("browser") == []
    browser.switch_to.default_content()


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8), [1]]
)
def test_arguments_of_the_wrong_type_are_refused(network, tmp_path, image):
    with refused(what="image"):
        danet_jax.explore(network[0], image, tmp_path / "no.html")
    with refused(what="segmenter"):
        danet_jax.explore(None, np.zeros((8, 8, 3), np.uint8), tmp_path / "no.html")
    assert not list(tmp_path.iterdir())


def test_a_noisy_photo_is_stored(rng):
    """Its JPEG has more bytes than it has pixels."""
    photo = np.clip(128 + rng.normal(0, 60, (300, 400, 3)), 0, 255).astype(np.uint8)
    link = encode_photo(photo, quality=90)
    assert len(link) > photo[..., 0].size
    stored = np.asarray(Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2]))))
    assert stored.shape == photo.shape
    assert np.abs(stored.astype(int) - photo).mean() < 10
