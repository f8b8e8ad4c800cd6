"""A headless Chromium, driven over WebDriver with the standard library alone."""

import base64
import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
PATIENCE = 30
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004", "Down": "\ue015", "Up": "\ue013", "End": "\ue010"}


class Browser:
    """One window. Everything it keeps is in a folder of its own."""

    def __init__(self, width=1440, height=900, dark=False):
        driver = shutil.which("chromedriver")
        chromium = shutil.which("chromium")
        if not driver or not chromium:
            raise SystemExit("chromium or chromedriver is missing: run scripts/setup")
        self.folder = tempfile.TemporaryDirectory(prefix="circuit-browser-", ignore_cleanup_errors=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # In a process group of its own: its browsers end with it.
        self.driver = subprocess.Popen(
            [driver, f"--port={port}", "--log-level=SEVERE"], start_new_session=True, stdout=subprocess.DEVNULL
        )
        self.base = f"http://127.0.0.1:{port}"
        self.session = ""
        self.wait("chromedriver answers", lambda: self.call("GET", "/status")["ready"])
        # --no-sandbox: Chromium refuses to sandbox what root starts.
        arguments = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
            f"--window-size={width},{height}", f"--user-data-dir={self.folder.name}",
        ]
        wishes = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments, "binary": chromium},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        try:
            made = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wishes}})
        except BaseException:
            self.end()
            raise
        self.session = f"/session/{made['sessionId']}"
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        self.look(dark)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        if self.session:
            try:
                self.call("DELETE", self.session)
            except OSError:
                pass
        for way in (signal.SIGTERM, signal.SIGKILL):
            try:
                # The group has the id of its first process.
                subprocess.run(["kill", f"-{int(way)}", "--", f"-{self.driver.pid}"], stderr=subprocess.DEVNULL, check=False)
                self.driver.wait(5)
                break
            except subprocess.TimeoutExpired:
                continue
        self.folder.cleanup()

    def call(self, method, path, body=None):
        data = json.dumps(body if body is not None else {}).encode() if method == "POST" else None
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            told = json.load(error)["value"]
            raise RuntimeError(f"{path}: {told['error']}: {told['message'].splitlines()[0]}") from None

    def do(self, method, path, body=None):
        return self.call(method, self.session + path, body)

    def devtools(self, command, **parameters):
        return self.do("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def look(self, dark=False, still=False):
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self.devtools("Emulation.setEmulatedMedia", features=features)

    def open(self, url):
        self.do("POST", "/url", {"url": url})

    def script(self, text, *arguments):
        return self.do("POST", "/execute/sync", {"script": text, "args": list(arguments)})

    def element(self, css):
        return self.do("POST", "/element", {"using": "css selector", "value": css})[ELEMENT]

    def click(self, css):
        self.do("POST", f"/element/{self.element(css)}/click")

    def press(self, *keys):
        """Presses keys, or types a text."""
        actions = []
        for key in keys:
            for one in [KEYS[key]] if key in KEYS else key:
                actions += [{"type": "keyDown", "value": one}, {"type": "keyUp", "value": one}]
        self.do("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def click_at(self, x, y):
        moves = [
            {"type": "pointerMove", "x": round(x), "y": round(y), "duration": 20},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": moves}
        self.do("POST", "/actions", {"actions": [pointer]})

    def text(self, css):
        """What is seen of an element, or nothing when it is hidden."""
        return self.script("const e = document.querySelector(arguments[0]); return e && !e.hidden ? e.innerText : ''", css)

    def screenshot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.do("GET", "/screenshot")))

    def complaints(self):
        """What the browser's console has said since the last call."""
        return [f"{line['level']}: {line['message']}" for line in self.do("POST", "/se/log", {"type": "browser"})]

    def requests(self):
        """The addresses that were asked for since the last call."""
        found = []
        for line in self.do("POST", "/se/log", {"type": "performance"}):
            message = json.loads(line["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return found

    def wait(self, what, ask, patience=PATIENCE):
        """Asks until the answer is true, and returns it."""
        end = time.monotonic() + patience
        last = None
        while time.monotonic() < end:
            try:
                last = ask()
                if last:
                    return last
            except (OSError, RuntimeError) as error:
                last = error
            time.sleep(0.1)
        raise AssertionError(f"waited {patience} s in vain until {what}; the last answer was {last!r}")
