"""The page at /: whole, closed to other origins, readable in both colour schemes."""

import re
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from live_server import LiveServer
from test_refusals import assert_problem

SCRIPTS = ("answer.js", "examples.js", "histogram.js", "script.js", "service.js")
LINKED = ("page/style.css", "page/script.js", "page/icon.svg")
ASSETS = (*LINKED, *(f"page/{name}" for name in SCRIPTS))
# foreground on background; WCAG 2.2, 1.4.3: text 4.5 to 1, and 1.4.11: controls 3 to 1
TEXTS = [
    (ink, ground)
    for ground in ("ground", "raised")
    for ink in ("ink", "faint", "accent", "known", "unknown")
] + [("on-accent", "accent")]
# what is drawn lies on the raised ground; marks also on the strange side
CONTROLS = [
    ("line", "ground"),
    *((shape, "raised") for shape in ("line", "bars", "known", "unknown", "ink")),
    *((mark, "strange") for mark in ("known", "unknown", "ink")),
]


@pytest.fixture
def client(mixed: LiveServer) -> httpx.Client:
    return mixed.client


class Page(HTMLParser):
    """Elements with their attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def having(self, attribute: str) -> list[str]:
        return [attrs[attribute] for _, attrs in self.elements if attribute in attrs]


@pytest.fixture
def page(client: httpx.Client) -> Page:
    return Page(client.get("/").text)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page/index.html", "text/html; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/script.js", "text/javascript; charset=utf-8"),
    ],
)
def test_every_file_is_served_with_its_policy(client: httpx.Client, path: str, kind: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.headers["content-type"]) == (200, kind)
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in response.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["nope.js", "..%2fapp.py", "%2e%2e%2fapp.py", "style.css%00"])
def test_nothing_else_of_the_folder_is_served(client: httpx.Client, name: str) -> None:
    assert_problem(client.get(f"/page/{name}"), 404, "not_found")


def test_nothing_comes_from_elsewhere(client: httpx.Client, page: Page) -> None:
    linked = [*page.having("src"), *page.having("href")]
    assert set(LINKED) <= set(linked)
    for target in linked:
        assert client.get(f"/{target}").status_code == 200
    for path in ("", *ASSETS):
        # names of XML are addresses that nobody visits
        text = client.get(f"/{path}").text.replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"(?m)^\s*//.*$|\s//\s.*$", "", text)


def test_nothing_stands_inline(page: Page) -> None:
    """The policy would drop it without a word."""
    assert not page.having("style")
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert [attrs for tag, attrs in page.elements if tag == "script" and "src" not in attrs] == []
    assert "style" not in [tag for tag, _ in page.elements]


def test_script_and_page_agree_on_names(client: httpx.Client, page: Page) -> None:
    script = "".join(client.get(f"/page/{name}").text for name in SCRIPTS)
    imported = set(re.findall(r'from "\./([a-z]+\.js)"', script))
    assert imported == set(SCRIPTS) - {"script.js"}
    named = set(re.findall(r'byId\("([a-z-]+)"\)', script))
    of_modality = set(re.findall(r"byId\(`\$\{modality\}(-[a-z]+)`\)", script))
    ids = page.having("id")
    assert len(set(ids)) == len(ids)
    assert of_modality
    assert named | {m + part for m in ("text", "image") for part in of_modality} <= set(ids)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_every_control_has_a_name_and_answers_are_announced(page: Page) -> None:
    labelled = set(page.having("for"))
    controls = [
        attrs["id"] for tag, attrs in page.elements if tag in ("input", "select", "textarea")
    ]
    assert len(controls) == 5
    assert set(controls) <= labelled
    elements = {attrs["id"]: attrs for _, attrs in page.elements if "id" in attrs}
    # a region that appears together with its text is not read out everywhere
    assert elements["announcement"]["role"] == "status"
    assert "hidden" not in elements["announcement"]
    assert elements["problem"]["role"] == "alert"
    for described in [*page.having("aria-describedby"), *page.having("aria-labelledby")]:
        assert described in elements
    assert ("html", {"lang": "en"}) in page.elements


def test_controls_of_one_kind_are_told_apart(client: httpx.Client) -> None:
    names = re.findall(r"<label[^>]*>(.*?)</label>", client.get("/").text)
    assert len(set(names)) == len(names) == 5


def test_the_keyboard_keeps_its_place(client: httpx.Client) -> None:
    """A button that is disabled while it works loses the focus."""
    for name in SCRIPTS:
        assert ".disabled" not in client.get(f"/page/{name}").text


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, WCAG 2.2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_read(client: httpx.Client, scheme: int) -> None:
    style = client.get("/page/style.css").text
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(blocks) == 2
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", blocks[scheme]))
    for ink, ground in TEXTS:
        assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for line, ground in CONTROLS:
        assert contrast(colours[line], colours[ground]) >= 3, (line, ground)


def test_the_page_travels_with_the_package() -> None:
    """Files beside the code: the image copies service/ as a whole, and so does a wheel."""
    folder = Path(__file__).parents[2] / "service" / "page"
    assert sorted(file.name for file in folder.iterdir()) == [
        "answer.js",
        "docs.html",
        "docs.js",
        "examples.js",
        "histogram.js",
        "icon.svg",
        "index.html",
        "script.js",
        "service.js",
        "style.css",
    ]
