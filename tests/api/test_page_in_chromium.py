"""The page in a real browser: by mouse, by keyboard, dropped and pasted, light and dark."""

import base64
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import Watched, chromium
from live_server import LiveServer, live_server
from pictures import encode, id_png, ood_png
from playwright.sync_api import Browser, Locator, Page, expect
from tiny_bundle import id_images

from service.api_keys import entry_of, new_secret, parse_entries

ROOT = Path(__file__).parents[2]
KNOWN = "The model knows this image"
UNKNOWN = "The model does not know this image."


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def watched(browser: Browser) -> Generator[Watched]:
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    yield Watched(context.new_page())
    context.close()


@pytest.fixture
def page(watched: Watched, mixed: LiveServer) -> Generator[Page]:
    """Opened on the tiny bundles; at the end nothing came from elsewhere, and nothing was
    complained about."""
    watched.page.goto(mixed.url)
    expect(watched.page.locator("#image-form")).to_be_visible()
    yield watched.page
    assert {url for url in watched.asked if not url.startswith((mixed.url, "blob:"))} == set()
    refusals = "Failed to load resource: the server responded with a status of 4"
    assert [said for said in watched.complaints if not said.startswith(refusals)] == []


def verdict(page: Page) -> Locator:
    return page.locator("#verdict")


def choose(page: Page, content: bytes, name: str = "picture.png", kind: str = "image/png") -> None:
    page.get_by_label("Choose an image to check").set_input_files(
        {"name": name, "mimeType": kind, "buffer": content}
    )


def test_an_image_that_is_chosen(page: Page) -> None:
    choose(page, id_png())
    expect(page.get_by_alt_text("The image to check")).to_be_visible()
    page.get_by_role("button", name="Check the image").click()
    expect(verdict(page)).to_contain_text(KNOWN)
    choose(page, ood_png())
    page.get_by_role("button", name="Check the image").click()
    expect(verdict(page)).to_have_text(UNKNOWN)
    expect(page.locator("#reason")).to_contain_text("it means nothing here")


def test_an_image_that_is_dropped(page: Page) -> None:
    transfer = page.evaluate_handle(
        """(data) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
          return transfer;
        }""",
        base64.b64encode(id_png()).decode(),
    )
    page.dispatch_event("#drop", "dragover", {"dataTransfer": transfer})
    expect(page.locator("#drop")).to_have_class("over")
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(verdict(page)).to_contain_text(KNOWN)
    expect(page.locator("#drop")).not_to_have_class("over")


def test_an_image_that_is_pasted(page: Page, mixed: LiveServer) -> None:
    """From the clipboard of the system, with its keys."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=mixed.url)
    page.evaluate(
        """async (data) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const blob = new Blob([bytes], { type: "image/png" });
          await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        base64.b64encode(id_png()).decode(),
    )
    page.keyboard.press("Control+V")
    expect(verdict(page)).to_contain_text(KNOWN)
    # a text goes where it is pasted
    page.evaluate("() => navigator.clipboard.writeText('alpha beta')")
    page.get_by_label("Text to check").focus()
    page.keyboard.press("Control+V")
    expect(page.get_by_label("Text to check")).to_have_value("alpha beta")


def test_examples_fill_the_form_and_are_checked(page: Page) -> None:
    group = page.get_by_role("group", name="Examples of images")
    assert group.get_by_role("button").count() >= 4
    group.get_by_role("button", name="checks").click()
    expect(verdict(page)).to_be_visible()
    assert page.evaluate("() => document.querySelector('#image').files[0].name") == "checks.png"
    texts = page.get_by_role("group", name="Examples of texts")
    texts.get_by_role("button", name="booking a flight").click()
    expect(page.get_by_label("Text to check")).to_have_value(re.compile("flight"))
    expect(verdict(page)).to_contain_text("this text")


def test_by_keyboard_alone(page: Page) -> None:
    """In the order of the page; the focus stays where it was while the answer is read out."""
    order: list[str] = []
    for _ in range(40):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate("() => document.activeElement.id || document.activeElement.textContent")
        )
        if order[-1] == "Check the image":
            break
    named = [name for name in order if name in ("text-model", "text", "image-model", "image")]
    assert named == ["text-model", "text", "image-model", "image"]
    assert order.index("Check the text") < order.index("image-model")
    assert order[0] == "documentation"

    page.get_by_label("Text to check").focus()
    page.keyboard.type("alpha beta")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("status")).to_contain_text("this text")
    assert page.evaluate("() => document.activeElement.id") == "text"


def test_every_detector_stands_on_its_histogram(page: Page, mixed: LiveServer) -> None:
    choose(page, ood_png())
    with page.expect_response(lambda response: "/score" in response.url) as told:
        page.get_by_role("button", name="Check the image").click()
    result = told.value.json()["results"][0]
    rows = page.locator("#scores tbody tr")
    expect(rows).to_have_count(len(result["detectors"]))
    expect(rows.first).to_contain_text(f"{result['detector']} (decides)")
    expect(page.locator("#scores tbody svg")).to_have_count(len(result["detectors"]))

    figure = page.get_by_role("img", name=f"Histogram of {result['detector']}")
    expect(figure).to_be_visible()
    assert re.search(r"above the threshold", figure.get_attribute("aria-label") or "")
    calibration = mixed.client.get("/models/tiny/calibration").json()["detectors"]
    for svg in page.locator("svg.histogram").all():
        drawn: dict[str, Any] = svg.evaluate(
            """(svg) => ({
              bars: (svg.querySelector(".bars").getAttribute("d").match(/Z/g) ?? []).length,
              threshold: svg.querySelector(".threshold").getBBox().x,
              score: svg.querySelector(".stem").getBBox().x,
              unknown: svg.querySelector("g.unknown") !== null,
              inside: [...svg.querySelectorAll("path, text")].every((shape) => {
                const box = shape.getBBox();
                return box.x >= 0 && box.x + box.width <= svg.viewBox.baseVal.width;
              }),
            })"""
        )
        assert drawn["unknown"] == (drawn["score"] > drawn["threshold"])
        assert drawn["inside"]
        assert drawn["bars"] in {
            sum(count > 0 for count in histogram["counts"]) for histogram in calibration.values()
        }


def test_slower_detectors_are_asked_where_they_are_ticked(
    server: LiveServer, watched: Watched
) -> None:
    page = watched.page
    page.goto(server.url)
    page.get_by_label("Image model").select_option("other")
    choose(page, id_png())
    page.get_by_role("button", name="Check the image").click()
    expect(page.locator("#scores tbody")).to_contain_text("(decides)")
    expect(page.locator("#scores tbody")).not_to_contain_text("odin")
    page.locator("#image-form summary").click()
    page.get_by_label("odin").check()
    page.get_by_role("button", name="Check the image").click()
    expect(page.locator("#scores tbody")).to_contain_text("odin")
    expect(page.locator("#scores tbody tr").first).to_contain_text("(decides)")


def test_an_error_is_an_alert_and_takes_the_answer_away(page: Page) -> None:
    choose(page, id_png())
    page.get_by_role("button", name="Check the image").click()
    expect(verdict(page)).to_be_visible()
    choose(page, b"no image")
    page.get_by_role("button", name="Check the image").click()
    expect(page.get_by_role("alert")).to_have_text(re.compile(r"^[A-Z].*image.*\.$"))
    expect(verdict(page)).to_be_hidden()
    choose(page, id_png())
    page.get_by_role("button", name="Check the image").click()
    expect(verdict(page)).to_be_visible()
    expect(page.locator("#problem")).to_be_hidden()


def test_what_the_service_says_is_text(page: Page) -> None:
    """Labels come from a bundle, details from the service: neither is markup."""
    evil = "<img src=x onerror=document.title='hit'>"
    detector = {"score": 1.0, "threshold": 2.0, "p_value": 0.5, "decision": "ID"}
    result = {
        "index": 0, "decision": "ID", "label": evil, "label_index": 0, "confidence": 0.5,
        "score": 1.0, "p_value": 0.5, "detector": evil, "detectors": {evil: detector},
    }  # fmt: skip
    answer = {"model": {"name": "tiny", "version": "1"}, "results": [result]}
    page.route("**/score?*", lambda route: route.fulfill(json=answer))
    choose(page, id_png())
    page.get_by_role("button", name="Check the image").click()
    expect(verdict(page)).to_contain_text(evil)
    page.unroute("**/score?*")
    refusal = {"detail": evil, "status": 422}
    page.route("**/score?*", lambda route: route.fulfill(status=422, json=refusal))
    page.get_by_role("button", name="Check the image").click()
    expect(page.get_by_role("alert")).to_have_text(f"{evil}.")
    assert page.title().startswith("oodscore")
    assert page.locator("main img").count() == 1  # the preview


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_and_a_narrow_screen(page: Page, scheme: str) -> None:
    """Read by axe too: names, roles, contrasts, order of headings."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": 360, "height": 700})
    choose(page, encode(id_images(1, 50)[0]))
    page.get_by_role("button", name="Check the image").click()
    expect(verdict(page)).to_be_visible()
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    violations = Axe().run(page).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in violations] == []
    # the table scrolls in its own box, the page does not sideways
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_a_key_is_asked_for_and_forgotten(models_dir: Path, watched: Watched) -> None:
    secret = new_secret()
    keys = parse_entries([entry_of("app", "score", secret)])
    page = watched.page
    with live_server(models_dir, default_image_model="tiny", api_keys=keys) as closed:
        page.goto(closed.url)
        field = page.get_by_label("API key")
        expect(field).to_be_focused()
        assert field.get_attribute("type") == "password"
        expect(page.locator("#key-hint")).to_contain_text("This service wants an API key.")
        expect(page.get_by_role("navigation").get_by_role("link")).to_have_text(["documentation"])
        field.fill("oodscore_wrong")
        page.get_by_role("button", name="Use this key").click()
        expect(page.locator("#key-hint")).to_contain_text("does not know this API key")
        field.fill(secret)
        page.keyboard.press("Enter")
        expect(page.locator("#image-form")).to_be_visible()
        expect(field).to_be_hidden()
        choose(page, id_png())
        page.get_by_role("button", name="Check the image").click()
        expect(verdict(page)).to_contain_text(KNOWN)
        expect(page.locator("#figure svg")).to_be_visible()
        stored = "() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
        assert page.evaluate(stored) == '[{},{},""]'
        assert not [url for url in watched.asked if secret in url]
        assert secret not in page.content()
        page.reload()
        expect(field).to_be_focused()


def test_the_documentation_works_without_the_world(mixed: LiveServer, watched: Watched) -> None:
    watched.page.goto(f"{mixed.url}/docs")
    expect(watched.page.get_by_text("/score", exact=True)).to_be_visible()
    watched.page.locator("#operations-operation-livez_livez_get").click()
    watched.page.get_by_role("button", name="Try it out").click()
    watched.page.get_by_role("button", name="Execute").click()
    expect(watched.page.get_by_text('"status": "alive"').first).to_be_visible()
    assert watched.complaints == []
    assert [u for u in watched.asked if not u.startswith((mixed.url, "blob:", "data:"))] == []


def test_examples_of_the_shipped_models_are_what_they_look_like(watched: Watched) -> None:
    """Drawings and sentences of the page, known to some models and not to others."""
    page = watched.page
    with live_server(ROOT / "models") as shipped:
        page.goto(shipped.url)
        for model, known in (
            ("fashion-mnist", {"trousers": "Trouser", "a T-shirt": "T-shirt/top"}),
            ("cifar10", {"an airplane": "airplane", "a ship": "ship"}),
        ):
            page.get_by_label("Image model").select_option(model)
            for name in ("trousers", "a T-shirt", "an airplane", "a ship", "a smiley", "checks"):
                if model == "cifar10" and name == "a T-shirt":
                    continue  # it may pass for a bird
                with page.expect_response(lambda response: "/score" in response.url):
                    page.get_by_role("button", name=name, exact=True).click()
                words = f"{KNOWN}: {known[name]}." if name in known else UNKNOWN
                expect(verdict(page)).to_have_text(words)
        for name, words in (
            ("booking a flight", "The model knows this text: book_flight."),
            ("a blocked card", "The model knows this text: card_declined."),
            ("Darwin's animals", "The model does not know this text."),
            ("no words", "The model does not know this text."),
        ):
            page.get_by_role("button", name=name, exact=True).click()
            expect(verdict(page)).to_have_text(words)
