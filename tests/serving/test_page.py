"""The page of an endpoint, in a real browser."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import uvicorn
from onnx import TensorProto, helper
from playwright.sync_api import Browser, expect, sync_playwright
from playwright.sync_api import Page as Tab

from deployledger.serving.asgi import App, Receive, Scope, Send
from deployledger.serving.description import ModelDescription
from deployledger.serving.http_app import make_app
from deployledger.serving.onnx_model import OnnxModel
from deployledger.serving.page import Page
from tests.programs import program

MODELS = Path(__file__).parents[2] / "examples" / "models"
DIGEST = "sha256:" + "9466" * 16
HOSTILE = "<img src=x onerror=alert(1)>\u202e\"'</script><script>alert(1)</script>"
COLUMNS = [
    {"name": "age", "type": "long"},
    {"name": HOSTILE, "type": "string"},
    {"name": "member", "type": "boolean"},
    {"name": "tags", "type": "array", "items": {"type": "string"}},
]


class Endpoint:
    """Serves applications one after the other, on one port; and remembers what was sent to it."""

    def __init__(self) -> None:
        self.app: App
        self.bodies: list[str] = []
        self._server = uvicorn.Server(uvicorn.Config(self, port=0, lifespan="off", log_level="warning"))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def recorded() -> Any:
            message = await receive()
            if message.get("body"):
                self.bodies.append(message["body"].decode())
            return message

        await self.app(scope, recorded, send)

    def serve(self, app: App) -> str:
        self.app = app
        self.bodies.clear()
        return self.url

    def serve_onnx(self, path: Path, version: str = "3") -> str:
        return self.serve(make_app("iris", version, OnnxModel(path, threads=1), digest=DIGEST))

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.stop()


@pytest.fixture(scope="module")
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    if request.config.getoption("quick"):
        pytest.skip("it needs a browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    """A tab in which nothing is refused, fails or asks."""
    context = browser.new_context(viewport={"width": 360, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab = context.new_page()
    problems: list[str] = []
    refusal = "the server responded with a status of 400"  # the browser reports it by itself
    tab.on("console", lambda message: refusal in message.text or problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    tab.on("requestfailed", lambda request: problems.append(request.url))
    yield tab
    assert problems == []
    context.close()


def of_mlflow(description: ModelDescription, answer: Any) -> App:
    """Return a server with the page of a model that always answers the same."""
    page = Page(description)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await page(scope, receive, send)
            return
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    return app


def table(tab: Tab, selector: str) -> list[list[str]]:
    script = "table => [...table.rows].map(row => [...row.cells].map(cell => cell.textContent))"
    rows: list[list[str]] = tab.locator(selector).evaluate(script)
    return rows


def test_a_model_is_queried_from_its_page(endpoint: Endpoint, tab: Tab) -> None:
    tab.goto(endpoint.serve_onnx(MODELS / "iris-v1.onnx"))
    expect(tab.get_by_role("heading", name="iris", exact=True)).to_be_visible()
    expect(tab.locator("#health")).to_have_text("Ready")
    assert tab.locator("#facts").inner_text().split() == [
        *("Revision", "3", "Protocol", "Open", "Inference", "Protocol", "v2", "Files", DIGEST)
    ]
    assert table(tab, "#tensors") == [
        ["Input", "Type"],
        ["measurements", "FP32 [any, 4]"],
        ["Output", "Type"],
        ["label", "INT64 [any]"],
        ["probabilities", "FP32 [any, 3]"],
    ]

    tab.get_by_role("button", name="Send").click()  # the example
    expect(tab.locator("#outputs")).to_be_visible()
    tab.get_by_label("measurements").fill("[[5.1, 3.5, 1.4, 0.2],\n [6.70, 3.0, 5.2, 2.3]]")
    tab.get_by_label("measurements").press("Control+Enter")
    expect(tab.locator("#outputs tbody tr")).to_have_count(2)
    rows = table(tab, "#outputs")
    assert rows[0] == ["label", "probabilities"]
    assert [row[0] for row in rows[1:]] == ["0", "2"]
    assert rows[1][1].startswith("[0.977130")
    tab.get_by_text("JSON", exact=True).click()
    assert json.loads(tab.locator("#json").inner_text())["outputs"][0]["data"] == [0, 2]
    expect(tab.locator("#took")).to_contain_text("Responded in ")
    assert "6.70" in endpoint.bodies[-1], "as it was typed"

    curl, python = (tab.locator(selector).inner_text() for selector in ("#curl", "#python"))
    for command in (["sh", "-c", curl], [sys.executable, "-c", python]):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "iris" in done.stdout
        assert json.loads(endpoint.bodies[-1]) == json.loads(endpoint.bodies[-2])
    tab.get_by_role("button", name="Copy the curl command").click()
    expect(tab.locator("#copied")).to_have_text("Copied.")
    assert tab.evaluate("navigator.clipboard.readText()") == curl
    assert tab.evaluate("document.documentElement.scrollWidth") == 360

    endpoint.serve_onnx(MODELS / "iris-v2.onnx", version="4")
    tab.get_by_role("button", name="Send").click()
    expect(tab.locator("#health")).to_have_text("Revision 4 serves now: reload the page")


def test_an_invalid_field_is_named(endpoint: Endpoint, tab: Tab) -> None:
    tab.goto(endpoint.serve_onnx(MODELS / "iris-v1.onnx"))
    expect(tab.get_by_text("This model has no signature")).to_be_hidden()
    field = tab.get_by_label("measurements")
    for typed, problem in [
        ("[[1, 2, 3, 4], [1]]", "measurements: The nested arrays are not all of the same length."),
        ("[[1, 2", "measurements: not JSON."),
        ("", "measurements: empty."),
    ]:
        field.fill(typed)
        tab.get_by_role("button", name="Send").click()
        expect(tab.get_by_role("alert")).to_have_text(problem)
        expect(field).to_be_focused()
        expect(field).to_have_attribute("aria-invalid", "true")
    assert endpoint.bodies == []
    tab.get_by_role("button", name="Reset").click()
    expect(field).to_have_value("[[0, 0, 0, 0]]")

    field.fill("[[1, 2]]")
    tab.get_by_role("button", name="Send").click()
    expect(tab.get_by_role("alert")).to_contain_text("input 'measurements': expected shape [-1, 4]")


def test_a_model_without_a_signature_gets_a_request(endpoint: Endpoint, tab: Tab, tmp_path: Path) -> None:
    description = ModelDescription.of_mlflow("m", "1", None, {}, tmp_path)
    tab.goto(endpoint.serve(of_mlflow(description, {"predictions": [7]})))
    expect(tab.get_by_text("This model has no signature")).to_be_visible()
    tab.get_by_role("button", name="Send").click()
    expect(tab.locator("#outputs")).to_be_visible()
    assert json.loads(endpoint.bodies[-1]) == {"dataframe_split": {"columns": ["column"], "data": [[0]]}}
    assert "dataframe_split" in tab.locator("#curl").inner_text()


def test_hostile_names_and_texts_stay_text(endpoint: Endpoint, tab: Tab, tmp_path: Path) -> None:
    metadata = {"signature": {"inputs": json.dumps(COLUMNS), "outputs": json.dumps([{"type": "string"}])}}
    description = ModelDescription.of_mlflow(HOSTILE, HOSTILE, HOSTILE, metadata, tmp_path)
    tab.goto(endpoint.serve(of_mlflow(description, {"predictions": [{HOSTILE: HOSTILE}]})))
    expect(tab.get_by_role("heading", name="From your code")).to_be_hidden()  # no example of `tags`
    expect(tab.locator("[aria-invalid]")).to_have_count(0)
    seen = HOSTILE.replace("\u202e", "\\u202e")
    assert tab.title() == HOSTILE
    assert table(tab, "#tensors")[2] == [seen, "string"]
    assert table(tab, "#tensors")[-1] == ["unnamed", "string"]
    tab.get_by_label("age").fill("abc")
    tab.get_by_role("button", name="Send").click()
    expect(tab.get_by_role("alert")).to_have_text("age: not a number.")
    tab.get_by_label("age").fill("9007199254740993")
    tab.get_by_label(seen).fill(HOSTILE)
    tab.get_by_label("tags").fill('["it\'s", null]')
    tab.get_by_role("button", name="Send").click()
    expect(tab.locator("#outputs")).to_be_visible()
    assert table(tab, "#outputs") == [[seen], [seen]]
    assert tab.locator("script").count() == 1
    assert tab.locator("img").count() == 0

    row = [9007199254740993, HOSTILE, False, ["it's", None]]
    sent = {"columns": ["age", HOSTILE, "member", "tags"], "data": [row]}
    assert json.loads(endpoint.bodies[-1]) == {"dataframe_split": sent}
    for command in (["sh", "-c", tab.locator("#curl").inner_text()], [sys.executable, "-c", python_of(tab)]):
        subprocess.run(command, capture_output=True, check=True)
        assert json.loads(endpoint.bodies[-1]) == {"dataframe_split": sent}


def python_of(tab: Tab) -> str:
    return tab.locator("#python").inner_text()


def test_large_and_small_inputs_of_all_kinds(endpoint: Endpoint, tab: Tab, tmp_path: Path) -> None:
    given = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 40, 40]),
        helper.make_tensor_value_info("id", TensorProto.INT64, ["n", 1]),
        helper.make_tensor_value_info("text", TensorProto.STRING, [1]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
    ]
    names = [each.name for each in given]
    outputs = [onnx.ValueInfoProto.FromString(each.SerializeToString()) for each in given]
    for output in outputs:
        output.name += " out"
    nodes = [helper.make_node("Identity", [name], [f"{name} out"]) for name in names]
    graph = helper.make_graph(nodes, "g", given, outputs)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "m.onnx",
    )
    tab.goto(endpoint.serve_onnx(tmp_path / "m.onnx"))
    tab.get_by_label("id").fill("9007199254740993")
    tab.get_by_label("text").fill('"[1], x')
    tab.get_by_label("flag").select_option("true")
    tab.get_by_role("button", name="Send").click()
    expect(tab.locator("#outputs")).to_be_visible()
    (image, *others) = table(tab, "#outputs")[1]
    assert image == "[0, 0, 0, 0, 0, 0, 0, 0, … 4792 more]"
    assert others[1:] == ['"[1], x', "true"]
    assert '"data": [9007199254740993]' in endpoint.bodies[-1]
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Save request.json").click()
    download.value.save_as(tmp_path / "request.json")
    assert (tmp_path / "request.json").read_text() == endpoint.bodies[-1]
    for command in (["sh", "-c", tab.locator("#curl").inner_text()], [sys.executable, "-c", python_of(tab)]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "9007199254740993" in done.stdout
