"""A notebook in the browser: what is on the screen, and what hands can do there."""
import base64
import re
import statistics
import time

from lab import IDLE

FETCH = """async image => { const r = await fetch(image.src); const b = new Uint8Array(await r.arrayBuffer()); let s = ''; for (const c of b) s += String.fromCharCode(c); return btoa(s) }"""
WATCH = """image => { window.pressed = null; window.shown = null;
    document.addEventListener('keydown', () => { window.pressed = performance.now() }, { once: true, capture: true });
    image.addEventListener('load', () => { window.shown = performance.now() }, { once: true }) }"""


def eventually(check, seconds=20):
    "Call a check until its assertions hold: a message may be on its way while the kernel says it is idle."
    end = time.monotonic() + seconds
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


class Notebook:
    "An explorer's notebook, opened in JupyterLab."

    def __init__(self, chromium, lab, name, width=1280, height=900):
        self.url, self.token = lab
        self.page = chromium.new_page(viewport={"width": width, "height": height})
        self.page.set_default_timeout(90_000)
        self.complaints = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.goto(f"{self.url}/lab/tree/{name}?reset&token={self.token}")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Notebook .jp-Cell", state="visible")
        self.page.wait_for_function(IDLE)

    def menu(self, *words):
        "Choose from the menu bar."
        for word in words:
            self.page.get_by_role("menuitem", name=word, exact=True).click()

    def command(self, name):
        "What a menu entry or a key would do."
        self.page.evaluate("name => { jupyterapp.commands.execute(name) }", name)

    def run_all(self):
        "Run all cells, and wait until none is running."
        self.menu("Run", "Run All Cells")
        self.settle()

    def show(self, text):
        "Scroll to the first cell whose outputs have a heading that begins so: of a long notebook JupyterLab shows only what is near."
        cell = self.page.evaluate("text => [...document.querySelectorAll('.jp-Notebook .jp-Cell')].findIndex(c => [...c.querySelectorAll('.jp-OutputArea h3')].some(h => h.textContent.startsWith(text)))", text)
        assert cell >= 0, f"no output is headed {text!r}"
        self.page.evaluate("i => jupyterapp.shell.currentWidget.content.scrollToItem(i, 'start')", cell)
        self.page.locator(".jp-OutputArea h3").filter(has_text=text).first.wait_for(state="visible")

    def settle(self):
        "Wait until the kernel has nothing to do, after what was sent to it has reached it."
        self.page.wait_for_timeout(150)
        self.page.wait_for_function(f"{IDLE} && ![...document.querySelectorAll('.jp-InputPrompt')].some(p => p.textContent.includes('*'))")

    def control(self, label):
        "The first widget with a label."
        return self.page.locator(f".jp-OutputArea label.widget-label:text-is('{label}')").first.locator("xpath=..")

    def button(self, text):
        "The first button of that name."
        return self.page.locator(".jp-OutputArea button.jupyter-button").filter(has_text=re.compile(rf"^\s*{re.escape(text)}\s*$")).first

    def picture(self, name):
        "The first image of that name."
        return self.page.locator(f".jp-OutputArea img.modnb-{name}").first

    def bytes_of(self, picture):
        "The PNG file that is shown."
        return base64.b64decode(picture.evaluate(FETCH))

    def press(self, label, key, times=1):
        "Move a slider by the keyboard."
        self.control(label).locator(".noUi-handle").focus()
        for _ in range(times):
            self.page.keyboard.press(key)

    def readout(self, label):
        "The number or name beside a slider."
        return self.control(label).locator(".widget-readout")

    def reads(self, label, text):
        "Wait until a slider says so, and the kernel has heard it."
        self.readout(label).filter(has_text=text).wait_for()
        self.settle()

    def drag(self, label, pixels):
        "Move a slider by the mouse."
        handle = self.control(label).locator(".noUi-handle")
        handle.scroll_into_view_if_needed()
        box = handle.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + pixels, y, steps=8)
        self.page.mouse.up()
        self.settle()

    def rows(self, name):
        "The first table of a CSS class: rows of texts."
        return self.page.locator(f".jp-OutputArea table.{name}").first.evaluate("t => [...t.rows].slice(1).map(r => [...r.cells].map(c => c.textContent))")

    def parsed(self, html):
        "The same of HTML that a widget without a browser holds."
        return self.page.evaluate("h => { const d = document.createElement('div'); d.innerHTML = h; return [...d.querySelector('table').rows].slice(1).map(r => [...r.cells].map(c => c.textContent)) }", html)

    def run_cell(self, source, wait=True):
        "Type a new last cell and run it; its text."
        self.page.evaluate("""async source => { const app = jupyterapp, panel = app.shell.currentWidget; panel.content.activeCellIndex = panel.content.widgets.length - 1;
            await app.commands.execute('notebook:insert-cell-below'); panel.content.activeCell.model.sharedModel.setSource(source); app.commands.execute('notebook:run-cell') }""", source)
        if wait:
            self.settle()
            return self.page.locator(".jp-Notebook .jp-Cell").last.locator(".jp-OutputArea-output").last.inner_text().strip()

    def latency(self, label, picture, keys):
        "Milliseconds from a key on a slider to the new picture: the median of several."
        found = []
        for key in keys:
            self.settle()
            picture.evaluate(WATCH)
            self.press(label, key)
            self.page.wait_for_function("window.shown !== null")
            found.append(self.page.evaluate("window.shown - window.pressed"))
        return statistics.median(found), found

    def errors(self):
        "What the browser's console and the kernel complained about."
        kernel = self.page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr'], .jp-RenderedText[data-mime-type='application/vnd.jupyter.error'], .modnb-problem")
        return self.complaints + kernel.all_inner_texts()


class Watched:
    "A page of a browser without a network, and everything that it asked for or complained about."

    def __init__(self, chromium, width=1280, height=900, **more):
        self.context = chromium.new_context(viewport={"width": width, "height": height}, offline=True, **more)
        self.page = self.context.new_page()
        self.requests = []
        self.problems = []
        self.page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else self.requests.append(r.url))
        self.page.on("requestfailed", lambda r: self.problems.append(f"{r.url[:200]}: {r.failure}"))
        self.page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.problems.append(str(e)))

    def open(self, path):
        self.page.goto(f"file://{path}")
        self.page.evaluate("document.fonts.ready.then(() => true)")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.context.close()
