"""The report's page in a real browser, and the numbers behind it."""

import json

import numpy as np
import pytest

import danet_jax
from danet_jax.evaluation.result import Result
from danet_jax.inference.protocol import Protocol
from danet_jax.runs.directory import write_description
from danet_jax.visual.data_page import Example, Table, write_data_page
from danet_jax.visual.report.contents import describe_confusions, explorer_link, read_contents, read_series
from danet_jax.visual.report.examples import draw_errors, evaluate_examples
from danet_jax.visual.report.page import write_report
from tests.visual.browser import SIZES, opened, visible_boxes

NAMES = ("<script>document.title = 1</script>", "a \"quoted\" & 'named' one", "straße ☃")
CLASSES = danet_jax.Classes(NAMES, ((200, 30, 30), (30, 200, 30), (30, 30, 200)))


class Fake:
    """A segmenter that takes a growing share of each image for another class."""

    protocol = Protocol.whole()

    def __init__(self, rng):
        self.rng, self.shares = rng, iter(np.linspace(0.05, 0.9, 12))

    def __call__(self, images):
        labels = (images[..., 0] // 86).astype(np.int32)
        changed = self.rng.random(labels.shape) < next(self.shares)
        return np.where(changed, (labels + 1) % 3, labels)


def evaluated(rng):
    examples = []
    for index in range(12):
        image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        label = image[..., 0] // 86
        label[:5] = 255
        examples.append({"name": f"photo/{index}<b>", "image": image, "label": label})
    return evaluate_examples(Fake(rng), examples, CLASSES)


def make_run(folder, rng, learning_rate=0.01):
    config = {
        "name": folder.name,
        "seed": 0,
        "model": {
            "backbone": "resnet18",
            "position_attention": True,
            "channel_attention": True,
            "output_stride": 8,
        },
        "dataset": {"name": "folder", "train_split": "train", "validation_split": "val"},
        "training": {"learning_rate": learning_rate, "batch_size": 4, "steps": 100},
        "init": {"source": ""},
    }
    write_description(folder, config, CLASSES)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, 101):
            values = {"loss": 3 / step, "loss_fusion": 1 / step, "alpha": step / 100, "learning_rate": 0.01}
            values |= {"images_per_second": 20.0, "waiting_for_data": 0.02}
            file.write(json.dumps({"step": step, **{f"train/{k}": v for k, v in values.items()}}) + "\n")
        file.write(json.dumps({"step": 100, "validation/miou": 0.5, "validation/protocol": "whole"}) + "\n")
    return read_contents(folder, *evaluated(rng))


@pytest.fixture
def runs(tmp_path, rng):
    return [make_run(tmp_path / name, rng, rate) for name, rate in (("one<i>", 0.01), ("two", 0.02))]


def test_a_run_in_a_browser(browser, runs, tmp_path):
    from selenium.webdriver import ActionChains, Keys

    page = tmp_path / "one<i>" / "report.html"
    (page.parent / "explore").mkdir()
    (page.parent / "explore" / "photo_0<b>.html").write_text("")
    size = write_report(page, runs[:1], {"training.steps": 100, "training.learning_rate": 0.003})
    assert size == page.stat().st_size < 6e6
    opened(browser, page)
    text = browser.find_element("tag name", "body").text
    assert "one<i>" in text
    assert all(name in text for name in NAMES)
    assert "photo/0<b>" in text
    marked = [cell.text for cell in browser.find_elements("css selector", "#settings > table th")]
    assert "training.learning_rate" in marked
    assert "training.steps" not in marked
    links = browser.find_elements("css selector", ".example a")
    assert [link.get_attribute("href").endswith("explore/photo_0%3Cb%3E.html") for link in links] == [True]
    charts = browser.find_elements("css selector", "#charts figure")
    assert [chart.find_element("tag name", "b").text for chart in charts][:2] == ["Loss", "Validation"]
    svg = charts[0].find_element("tag name", "svg")
    svg.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert charts[0].find_element("class name", "step").text == "step 2"
    assert charts[0].find_elements("class name", "value")[0].text == "1.5"
    ActionChains(browser, duration=0).move_to_element(svg).perform()
    assert 30 < int(charts[0].get_attribute("data-step")) < 70
    matrix = browser.find_element("css selector", ".confusion canvas")
    ActionChains(browser, duration=0).move_to_element(matrix).perform()
    shown = browser.find_element("css selector", ".confusion figcaption").text
    assert shown.count(NAMES[1]) == 2
    assert [b.text for b in browser.find_elements("css selector", ".names:not(.columns) b")] == list(NAMES)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_reports_fit_the_window(browser, runs, tmp_path, count):
    page = tmp_path / "report.html"
    write_report(page, (runs * 3)[:count], {})
    for width, height, dark in SIZES:
        opened(browser, page, width=width, height=height, dark=dark)
        # Nothing is cut off or has to be scrolled to: values of each run, bars, and names of classes.
        for selector in (".wide td span", ".classes .track", ".wide th"):
            boxes = visible_boxes(browser, selector)
            assert len(boxes) >= 3 * count
            assert all(0 <= left < right <= width for left, _, right, _ in boxes)
    if count > 1:
        marked = browser.find_elements("css selector", "#settings > table tbody th")
        assert sorted(cell.text for cell in marked) == ["name", "training.learning_rate"]
        assert len(browser.find_elements("css selector", "#charts figure:first-child .mark")) == count


def test_the_page_of_a_data_set_fits_the_window(browser, tmp_path, rng):
    image = rng.integers(0, 256, (90, 160, 3), dtype=np.uint8)
    label = image[..., 0] // 86
    label[:9] = 255
    page = tmp_path / "check.html"
    write_data_page(
        page,
        "folder: 2 images",
        errors=["invalid"],
        warnings=["odd"],
        tables=[
            Table(
                "Classes",
                ("id", "", "class", *"abcdefgh"),
                [(0, (1, 2, 3), NAMES[0], *range(10**6, 10**6 + 8))],
            )
        ],
        examples=[Example(f"train/{'long_' * 30}", image, label), Example("test/without", image, None)],
        classes=CLASSES,
    )
    for width, height, dark in SIZES:
        opened(browser, page, width=width, height=height, dark=dark)
        assert all(
            right <= width for _, _, right, _ in visible_boxes(browser, "img, figcaption, .legendrow span")
        )
    legend = browser.find_element("css selector", ".legendrow").text
    assert all(name in legend for name in (*NAMES, "ignored 10.0%"))
    size = browser.execute_script(
        "return parseFloat(getComputedStyle(document.querySelector('.legendrow')).fontSize)"
    )
    assert size >= 12


def test_examples_are_the_best_the_median_and_the_worst(rng):
    result, shown = evaluated(rng)
    assert result.images == 12
    assert [example.group for example in shown] == ["best"] * 3 + ["median"] * 3 + ["worst"] * 3
    assert shown[0].name == "photo/0<b>"
    assert shown[-3].name == "photo/11<b>"
    order = [example.iou for example in shown[:6]]
    assert order == sorted(order, reverse=True)


def test_errors_are_orange(rng):
    truth, labels = rng.integers(0, 3, (2, 20, 30), dtype=np.uint8)
    truth[:4] = 255
    shown = draw_errors(np.full((20, 30, 3), 100, np.uint8), truth, labels)
    differing = (truth != labels) & (truth != 255)
    assert (shown[differing] == (255, 96, 0)).all()
    assert (shown[~differing][:, 0] == shown[~differing][:, 1]).all()


def test_the_worst_confusions_come_first():
    counts = np.array([[90, 10, 0], [0, 50, 50], [0, 0, 0]])
    first, second = describe_confusions(Result(counts, CLASSES, 1, Protocol.whole()))
    assert first.startswith(f"50 % of {NAMES[1]}")
    assert second.startswith(f"10 % of {NAMES[0]}")


def test_damaged_lines_are_counted(tmp_path):
    file = tmp_path / "metrics.jsonl"
    good = json.dumps({"step": 4, "train/loss": 2.0, "validation/miou": None})
    file.write_bytes(f"3\nnull\n{good}\n{{\n[]\n".encode() + b"\xff\xfe\n")
    series, damaged = read_series(file)
    assert series == {"train/loss": ([4], [2.0])}
    assert damaged == 5
    assert read_series(tmp_path / "none.jsonl") == ({}, 0)


@pytest.mark.parametrize("content", ["", "null", "3", "[1]"])
def test_damaged_versions_are_reported(runs, content):
    (runs[0].folder / "versions.json").write_text(content)
    contents = read_contents(runs[0].folder, None)
    assert contents.versions == {}
    assert "versions.json" in contents.sentences[-1]


def test_no_link_to_a_missing_page(runs, tmp_path):
    assert explorer_link(runs[0], "photo/1", tmp_path / "report.html") is None
