"""A browser for tests: headless Chromium, driven over HTTP by chromedriver (W3C WebDriver)."""

import base64
import json
import re
import shutil
import subprocess
import urllib.request

MISSING = next((name for name in ("chromium", "chromedriver") if not shutil.which(name)), None)
REASON = f"{MISSING} is not installed: apt-get install chromium chromium-driver"

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-quic", "--hide-scrollbars"),
]
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Backspace": "\ue003"}


class Browser:
    """A window of Chromium; a context manager."""

    def __init__(self, profile):
        """Start it with an empty folder for its profile."""
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, encoding="utf-8"
        )
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        options = {
            "args": [*FLAGS, f"--user-data-dir={profile}"],
            "binary": shutil.which("chromium"),
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            self._url = f"http://127.0.0.1:{self._port()}/session"
            session = self._call("", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self._stop()
            raise
        self._url += f"/{session['sessionId']}"

    def _port(self):
        """Return where chromedriver listens, once it does."""
        for line in self._driver.stdout:
            started = re.search(r"started successfully on port (\d+)", line)
            if started:
                return started.group(1)
        raise RuntimeError("chromedriver did not start")

    def _stop(self):
        self._driver.terminate()
        self._driver.wait()
        self._driver.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self._call("", method="DELETE")
        finally:
            self._stop()

    def _call(self, path, content=None, method="POST"):
        data = None if method == "DELETE" else json.dumps(content or {}).encode()
        request = urllib.request.Request(f"{self._url}{path}", data, method=method)
        with self._opener.open(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, path):
        """Open a file of this machine."""
        self._call("/url", {"url": f"file://{path}"})

    def run(self, script, *arguments):
        """Run JavaScript in the page; return what it returns."""
        return self._call("/execute/sync", {"script": script, "args": arguments})

    def texts(self, selector):
        """Return the texts of the elements that are not hidden."""
        return self.run(
            "return [...document.querySelectorAll(arguments[0])]"
            ".filter((each) => each.checkVisibility()).map((each) => each.textContent)",
            selector,
        )

    def _element(self, selector):
        found = self._call("/element", {"using": "css selector", "value": selector})
        return f"/element/{next(iter(found.values()))}"

    def click(self, selector):
        """Click the middle of an element, as a mouse does: what lies above it gets the click."""
        self._call(f"{self._element(selector)}/click")

    def type(self, selector, text):
        """Type text, or one of `KEYS`, into an element."""
        self._call(f"{self._element(selector)}/value", {"text": KEYS.get(text, text)})

    def press(self, key):
        """Press and release one of `KEYS`, wherever the focus is."""
        actions = [{"type": kind, "value": KEYS[key]} for kind in ("keyDown", "keyUp")]
        self._call("/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def choose(self, selector, option):
        """Choose an option of a <select> by its text."""
        find = "return [...document.querySelector(arguments[0]).options]"
        texts = self.run(f"{find}.map((each) => each.text)", selector)
        self.click(f"{selector} option:nth-child({texts.index(option) + 1})")

    def command(self, name, **parameters):
        """Give a command of the Chrome DevTools Protocol."""
        return self._call("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def resize(self, width, height=900, scale=1):
        """Give the page a size, in CSS pixels."""
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height,
                     deviceScaleFactor=scale, mobile=width < 600)  # fmt: skip

    def prefer(self, scheme):
        """Prefer "dark" or "light"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", features=features)

    def screenshot(self):
        """Return a PNG of what is shown."""
        shot = self.command("Page.captureScreenshot", format="png")
        return base64.b64decode(shot["data"])

    def complaints(self):
        """Return the messages of the console since the last call: errors and refused requests."""
        return [entry["message"] for entry in self._call("/se/log", {"type": "browser"})]
