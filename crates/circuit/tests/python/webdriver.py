"""A browser without a screen, driven over WebDriver with nothing but the standard library."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE = 30
KEYS = {
    "Tab": "\ue004",
    "Enter": "\ue007",
    "Escape": "\ue00c",
    "Up": "\ue013",
    "Down": "\ue015",
}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
FLAGS = [
    "--headless=new",
    # It is root here, and its own namespaces are not to be had in every machine.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--force-device-scale-factor=1",
    "--lang=en-US",
]


def wait_for(what, ask, patience=PATIENCE):
    """What `ask` returns, as soon as that is true."""
    deadline = time.monotonic() + patience
    last = None
    while time.monotonic() < deadline:
        last = ask()
        if last:
            return last
        time.sleep(0.05)
    raise AssertionError(f"still not after {patience} s: {what}; last: {last!r}")


def program(*names):
    for name in names:
        if found := shutil.which(name):
            return found
    raise AssertionError(f"no {names[0]} here: scripts/setup test installs it")


class Browser:
    """Chromium, with a window of its own and no memory of others."""

    def __init__(self, size=(1440, 900)):
        self.folder = tempfile.mkdtemp(prefix="circuit-browser-")
        chromium, driver = program("chromium"), program("chromedriver")
        self.driver = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            self.base = f"http://127.0.0.1:{self._port()}"
            flags = [*FLAGS, f"--user-data-dir={self.folder}", f"--window-size={size[0]},{size[1]}"]
            wanted = {
                "browserName": "chrome",
                "goog:chromeOptions": {"binary": chromium, "args": flags},
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            }
            answer = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self.driver.kill()
            raise
        self.session = f"/session/{answer['sessionId']}"
        self.said = []
        self.asked = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self._ask("DELETE", self.session)
        finally:
            self.driver.terminate()
            self.driver.wait(PATIENCE)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _port(self):
        for line in self.driver.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                return int(found[1])
        raise AssertionError("chromedriver did not start")

    def _ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, method=method)
        request.add_header("Content-Type", "application/json")
        # Whatever the machine says about proxies, this is for here.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=2 * PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            told = json.load(error)["value"]
            raise AssertionError(f"{path}: {told['error']}: {told['message']}") from None

    def go(self, url):
        self._ask("POST", f"{self.session}/url", {"url": url})

    def window(self):
        """A name for what is looked at, to look at it again."""
        return self._ask("GET", f"{self.session}/window")

    def open_tab(self):
        """Another page in the window, over those that are there."""
        self.turn_to(self._ask("POST", f"{self.session}/window/new", {"type": "tab"})["handle"])

    def turn_to(self, window):
        self._ask("POST", f"{self.session}/window", {"handle": window})
        self.cdp("Page.bringToFront")

    def url(self):
        return self._ask("GET", f"{self.session}/url")

    def run(self, script, *arguments):
        """The value of a JavaScript function's body."""
        body = {"script": script, "args": list(arguments)}
        return self._ask("POST", f"{self.session}/execute/sync", body)

    def cdp(self, command, **parameters):
        body = {"cmd": command, "params": parameters}
        return self._ask("POST", f"{self.session}/goog/cdp/execute", body)

    def prefer(self, **features):
        """Sets what pages are told that people prefer, like prefers_color_scheme="dark"."""
        told = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.cdp("Emulation.setEmulatedMedia", features=told)

    def type(self, *keys):
        """Presses keys, one after the other, wherever the keyboard is."""
        actions = []
        for key in keys:
            for each in [KEYS[key]] if key in KEYS else key:
                actions += [{"type": "keyDown", "value": each}, {"type": "keyUp", "value": each}]
        body = {"actions": [{"type": "key", "id": "keys", "actions": actions}]}
        self._ask("POST", f"{self.session}/actions", body)

    def click_at(self, x, y):
        """Clicks with the mouse."""
        move = {"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}
        press = [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        mouse = {"type": "pointer", "id": "mouse", "actions": [move, *press]}
        self._ask("POST", f"{self.session}/actions", {"actions": [mouse]})

    def click(self, selector):
        found = self._ask(
            "POST", f"{self.session}/element", {"using": "css selector", "value": selector}
        )
        self._ask("POST", f"{self.session}/element/{found[ELEMENT]}/click", {})

    def text(self, selector):
        """What is to be read in an element; empty when it is hidden."""
        script = """
        const it = document.querySelector(arguments[0]);
        return it?.checkVisibility() ? it.innerText : "";
        """
        return self.run(script, selector)

    def shot(self, path):
        Path(path).write_bytes(base64.b64decode(self._ask("GET", f"{self.session}/screenshot")))

    def look(self):
        """Reads what the console said and what was asked for since the last time."""
        self.said += self._ask("POST", f"{self.session}/se/log", {"type": "browser"})
        for entry in self._ask("POST", f"{self.session}/se/log", {"type": "performance"}):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])
