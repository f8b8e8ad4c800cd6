"""The live picture in a real browser: what people see, press and read.

Runs in a test node; see picture.rs, which does what is asked for on standard output
and answers with a line. At the start the containers `api` and `db` are on the network `web`.

    python3 picture.py URL            on a node, with containers
    python3 picture.py URL --token    on one that asks for a token
    python3 picture.py URL --cluster  on one of two nodes, `here` and `there`
    python3 picture.py                with a fleet that is made up
"""

import os
import sys
import time
from pathlib import Path

from picture_fake import Fake, container, fleet, lively, on
from webdriver import Browser, wait_for

# What a name must never become. It would have many ways to show that it did.
HOSTILE = "<img src=x onerror='document.title=`owned`'><script>document.title='owned'</script>"
PILLS = """
const cy = document.getElementById("map")._cyreg.cy;
return cy.nodes(arguments[0]).filter((it) => !it.hasClass("leaving")).map((it) => {
  const { x, y } = it.renderedPosition();
  const box = document.getElementById("map").getBoundingClientRect();
  return { label: it.data("label") ?? "", x: x + box.x, y: y + box.y,
           w: it.renderedWidth(), h: it.renderedHeight() };
});
"""
LABELS = """
const cy = document.getElementById("map")._cyreg.cy;
return cy.edges(".link").filter((it) => !it.hasClass("leaving")).map((it) => it.data("label"));
"""


def equal(found, wanted, what):
    if found != wanted:
        raise AssertionError(f"{what}: wanted {wanted!r}, found {found!r}")


def holds(text, *parts):
    for part in parts:
        if part not in text:
            raise AssertionError(f"no {part!r} in {text!r}")


def shot(browser, name):
    """Kept for who wants to look, where CIRCUIT_SHOTS says so."""
    if folder := os.environ.get("CIRCUIT_SHOTS"):
        time.sleep(0.8)
        browser.shot(Path(folder) / f"{name}.png")


def do(what):
    """Has the test do something with the node."""
    print(f"do {what}", flush=True)
    answer = sys.stdin.readline().strip()
    equal(answer, "done", what)


def drawn(browser, selector=".pill"):
    return {it["label"]: it for it in browser.run(PILLS, selector)}


def listed(browser):
    script = "return [...document.querySelectorAll('#list .label')].map((it) => it.textContent)"
    return browser.run(script)


def focused(browser):
    return browser.run("return document.activeElement.textContent")


def clean(browser, url):
    """Nothing was said on the console, and nothing was asked for elsewhere."""
    browser.look()
    equal([it for it in browser.said if it["level"] != "INFO"], [], "what the console says")
    own = {url.rstrip("/")}
    others = [it for it in browser.asked if "/".join(it.split("/")[:3]) not in own]
    # The page of a new window, before ours.
    its_own = ("chrome:", "chrome-untrusted:", "data:")
    others = [it for it in others if not it.startswith(its_own)]
    equal(others, [], "requests to others")


def open_page(browser, url):
    browser.prefer(prefers_color_scheme="light")
    browser.go(url)
    wait_for("the picture is drawn", lambda: browser.run(PILLS, ".box"))


# --- with a daemon ------------------------------------------------------------


def comes_and_goes(browser):
    wait_for("both are drawn", lambda: {"api", "db"} <= set(drawn(browser)))
    wait_for("their addresses are", lambda: len(browser.run(LABELS)) == 2)
    equal(sorted(browser.run(LABELS)), ["10.88.0.2", "10.88.0.3"], "the links")
    before = drawn(browser)["db"]
    shot(browser, "node-light")

    do("disconnect api")
    wait_for("one link is left", lambda: browser.run(LABELS) == ["10.88.0.3"])
    wait_for("the event is told", lambda: "container.disconnected" in browser.text("#events"))
    do("remove api")
    wait_for("it disappears", lambda: "api" not in drawn(browser) and "api" not in listed(browser))
    do("run cache")
    wait_for("another one comes", lambda: "cache" in drawn(browser))
    wait_for("with its link", lambda: len(browser.run(LABELS)) == 2)
    time.sleep(1)
    after = drawn(browser)["db"]
    equal([round(after[it]) for it in "xy"], [round(before[it]) for it in "xy"], "the place of db")


def is_clicked(browser):
    place = drawn(browser)["db"]
    browser.click_at(place["x"], place["y"])
    wait_for("its details open", lambda: "10.88.0.3" in browser.text("#details"))
    text = browser.text("#details")
    holds(text, "db", "running", "eth0", "MAC", "sql", "8080:5432/tcp", "container.connected")
    browser.click("#details .link[data-key*=network]")
    wait_for("its network opens", lambda: "10.88.0.0/24" in browser.text("#details"))
    holds(browser.text("#details"), "bridge", "portmap", "Containers (2)")
    browser.type("Escape")
    wait_for("they are closed", lambda: not browser.text("#details"))


def is_found(browser):
    browser.type("/", "10.88.0.3")
    wait_for("one is found", lambda: browser.text("#found") == "1 found")
    equal(listed(browser), ["db"], "what was found")
    browser.type("Enter")
    wait_for("Enter opens it", lambda: "10.88.0.3" in browser.text("#details"))
    browser.type("Escape", "Escape")
    wait_for("everything is listed", lambda: len(listed(browser)) > 3)
    browser.type("/", "no such thing")
    wait_for("nothing is found", lambda: browser.text("#found") == "Nothing found")
    browser.type("Escape")


def by_keyboard(browser):
    browser.run("document.querySelector('#list button').focus()")
    browser.type("Down", "Down", "Down")
    holds(focused(browser), "db")
    browser.type("Enter")
    wait_for("Enter opens it", lambda: "10.88.0.3" in browser.text("#details"))
    equal(focused(browser), "db", "the title has the keyboard")
    browser.type("Escape")
    wait_for("Escape closes it", lambda: not browser.text("#details"))
    holds(focused(browser), "db")


def hostile_names_are_text(browser):
    do("label hostile")
    wait_for("the problem is shown", lambda: "! hostile" in listed(browser))
    browser.run("document.querySelector('#list .problem').click()")
    wait_for("with its network's name", lambda: "<img" in browser.text("#details"))
    equal(browser.run("return document.querySelectorAll('img, script').length"), 3, "elements")
    browser.type("Escape")


def the_daemon_goes(browser):
    do("kill the daemon")
    notice = "The connection to the daemon is lost"
    wait_for("that is said", lambda: notice in browser.text("#lost"))
    holds(browser.text("#lost"), "as of", "Trying again")
    # It cannot be asked by a browser without errors on the console.
    shot(browser, "node-lost")
    do("start the daemon")
    wait_for("it is back", lambda: not browser.text("#lost"))
    do("disconnect db")
    wait_for("and tells again", lambda: browser.text("#events").count("container.disconnected") > 0)
    wait_for("the link is gone", lambda: len(browser.run(LABELS)) == 1)


def with_a_daemon(url):
    """Everything once, on a real node."""
    with Browser() as browser:
        open_page(browser, url)
        comes_and_goes(browser)
        is_clicked(browser)
        is_found(browser)
        by_keyboard(browser)
        hostile_names_are_text(browser)
        clean(browser, url)
        the_daemon_goes(browser)


def with_a_token(url):
    with Browser() as browser:
        browser.go(url)
        holds(browser.text("body"), "--web-token-file")
        equal(browser.run("return document.getElementById('map')"), None, "the map")
        browser.click("#token")
        browser.type("0123456789abcdef", "Enter")
        wait_for("it lets in", lambda: browser.run("return Boolean(document.getElementById('map'))"))
        wait_for("the picture is drawn", lambda: "db" in listed(browser))
        wait_for("the token is not in sight", lambda: browser.url() == url)
        # The cookie lets in from now on, and scripts do not see it.
        browser.go(url)
        wait_for("the picture is drawn", lambda: "db" in listed(browser))
        equal(browser.run("return document.cookie"), "", "cookies for scripts")


def with_a_cluster(url):
    """`a` is here and `b` is there, both on a network `web`."""
    with Browser() as browser:
        open_page(browser, url)
        wait_for("both nodes are drawn", lambda: len(browser.run(PILLS, ".box")) == 2)
        wait_for("both containers are", lambda: {"a", "b"} <= set(drawn(browser)))
        wait_for("their links are", lambda: len(browser.run(LABELS)) == 2)
        ends = [it.rsplit(".", 2)[0] for it in sorted(browser.run(LABELS))]
        equal(ends, ["10.90", "10.91"], "the networks of the links")
        equal(browser.text("#registry"), "cluster connected", "the registry")
        time.sleep(1)
        place = drawn(browser)["b"]
        around = lambda box: all(abs(place[at] - box[at]) < box[size] / 2 for at, size in ("xw", "yh"))
        equal(len([it for it in browser.run(PILLS, ".box") if around(it)]), 1, "boxes that b is in")
        browser.click_at(place["x"], place["y"])
        wait_for("its details open", lambda: "there" in browser.text("#details"))
        holds(browser.text("#details"), "10.91.", "container.connected")
        shot(browser, "cluster")
        do("disconnect b")
        wait_for("it goes", lambda: "b" not in drawn(browser) and not browser.text("#details"))
        do("kill the other")
        wait_for("its node goes", lambda: len(browser.run(PILLS, ".box")) == 1)
        clean(browser, url)


# --- with a fleet that is made up ----------------------------------------------


def overlapping(places):
    """Two that are over each other, if any are."""
    places = list(places)
    for at, one in enumerate(places):
        for other in places[at + 1 :]:
            near = [abs(one[it] - other[it]) * 2 < one[size] + other[size] for it, size in ("xw", "yh")]
            if all(near):
                return one["label"], other["label"]
    return None


def a_fleet(browser, fake):
    open_page(browser, fake.url)
    wait_for("all are drawn", lambda: len(browser.run(PILLS, ".pill")) == len(fake.state["containers"]))
    equal(len(browser.run(PILLS, ".box")), 3, "nodes")
    time.sleep(1)
    equal(overlapping(browser.run(PILLS, ".pill, .stand, .hub")), None, "two in one place")
    equal(overlapping(browser.run(PILLS, ".box")), None, "two boxes in one place")
    view = browser.run("return document.getElementById('map').getBoundingClientRect().toJSON()")
    for it in browser.run(PILLS, ".box"):
        sides = [it["x"] - it["w"] / 2 - view["left"], view["right"] - it["x"] - it["w"] / 2]
        ends = [it["y"] - it["h"] / 2 - view["top"], view["bottom"] - it["y"] - it["h"] / 2]
        equal(min(sides + ends) >= 0, True, "everything is in sight")
    shot(browser, "fleet-light")
    browser.prefer(prefers_color_scheme="dark")
    ground = "return getComputedStyle(document.body).backgroundColor"
    wait_for("it is dark", lambda: sum(channels(browser.run(ground))) < 120)
    shot(browser, "fleet-dark")
    browser.type("d")
    wait_for("it is light by hand", lambda: sum(channels(browser.run(ground))) > 600)
    browser.run("location.reload()")
    wait_for("it is drawn again", lambda: len(listed(browser)) > 40)
    wait_for("and light again", lambda: sum(channels(browser.run(ground))) > 600)
    browser.type("d")
    browser.type("/", "worker", "Enter")
    wait_for("details are open", lambda: browser.text("#details"))
    shot(browser, "fleet-details-dark")
    browser.type("Escape", "Escape")
    clean(browser, fake.url)


def channels(colour):
    return [float(it) for it in colour[colour.index("(") + 1 : -1].split(",")[:3]]


def those_who_stay_keep_their_place(browser, fake):
    open_page(browser, fake.url)
    wait_for("all are drawn", lambda: len(listed(browser)) > 40)
    time.sleep(1)
    kept = lambda: {
        it: [round(place["x"]), round(place["y"])]
        for it, place in drawn(browser).items()
        if it in ("mailer", "grafana", "debug-shell")
    }
    before = kept()
    told = fake.state["containers"]
    fake.state = {**fake.state, "containers": [it for it in told if it["id"] not in ("web-1", "cache")]}
    fake.tell("container.disconnected", container="web-1")
    wait_for("some go", lambda: "web-1" not in drawn(browser))
    time.sleep(1)
    equal(kept(), before, "the places of those that stay")
    anew = container("edge-1", "anew", [on("web", "10.88.0.99")])
    fake.state = {**fake.state, "containers": [*fake.state["containers"], anew]}
    fake.tell("container.connected", container="anew")
    wait_for("one comes", lambda: "anew" in drawn(browser))
    time.sleep(1)
    equal(kept(), before, "the places of those that stay")


def whatever_is_told(browser, fake):
    """Names of the worst kind, and answers of the wrong shape."""
    bad = on(HOSTILE, "10.1.1.1", HOSTILE, aliases=[HOSTILE], ports=[HOSTILE], mac=HOSTILE)
    problem = {"container": HOSTILE, "network": HOSTILE, "message": HOSTILE}
    it = container(HOSTILE, HOSTILE, [bad], HOSTILE, problems=[problem])
    it["restart"] = {"policy": HOSTILE, "count": "many", "stopped": 7}
    known = {"id": "__proto__", "node": "constructor", "networks": [None]}
    odd = [None, 7, {"id": ["x"], "networks": "none"}, known]
    fake.state = {
        "node": HOSTILE, "version": HOSTILE, "registry": {"connected": False, "failure": HOSTILE},
        "nodes": [{"name": HOSTILE, "state": HOSTILE, "seen": "never"}, None],
        "networks": [HOSTILE, 3], "containers": [it, *odd], "problems": [problem, 5],
    }
    fake.tell(HOSTILE, node=HOSTILE, container=HOSTILE, network=HOSTILE, message=HOSTILE)
    fake.events.append(["no", "event"])
    open_page(browser, fake.url)
    wait_for("it is listed", lambda: any(HOSTILE in it for it in listed(browser)))
    for at in range(len(listed(browser))):
        browser.run("document.querySelectorAll('#list button')[arguments[0]].click()", at)
        wait_for("details are open", lambda: browser.text("#details"))
    equal(browser.run("return document.querySelectorAll('img, script').length"), 3, "elements")
    holds(browser.text("#events"), HOSTILE)
    if "owned" in browser.run("return document.title.replace(arguments[0], '')", HOSTILE):
        raise AssertionError("a name became a script")
    clean(browser, fake.url)


def nothing_yet(browser, fake):
    fake.state = {"node": "edge-1", "version": "1", "networks": [], "containers": []}
    open_page(browser, fake.url)
    holds(wait_for("it says so", lambda: browser.text("#empty")), "circuit network create web")
    shot(browser, "empty")
    clean(browser, fake.url)


def without_motion(browser, fake):
    browser.go(fake.url)
    browser.prefer(prefers_color_scheme="light", prefers_reduced_motion="reduce")
    wait_for("all are drawn", lambda: len(listed(browser)) > 40)
    fake.state = {**fake.state, "containers": fake.state["containers"][1:]}
    fake.tell("container.disconnected", container="web-1")
    wait_for("one goes", lambda: len(browser.run(PILLS, ".pill")) == len(fake.state["containers"]))
    leaving = "return document.getElementById('map')._cyreg.cy.elements('.leaving').length"
    equal(browser.run(leaving), 0, "what is on its way")


def what_is_read_stays(browser, fake):
    """The details of a network, while something happens to others all the time."""
    open_page(browser, fake.url)
    browser.type("/", "web", "Enter")
    wait_for("details are open", lambda: "10.88.0.0/16" in browser.text("#details"))
    browser.run("getSelection().selectAllChildren(document.querySelector('#details .facts'))")
    for number in range(10):
        fake.tell("task.started", container=f"other-{number}")
        wait_for("it is told", lambda: f"other-{number}" in browser.text("#events"))
    asked = len(fake.asked)
    wait_for("it is read again", lambda: any("/networks/" in it for it in fake.asked[asked:]))
    holds(browser.run("return getSelection().toString()"), "bridge, portmap", "10.88.0.0/16")
    asked = [it.split("/")[2] for it in fake.asked if it.startswith("/api/")]
    if asked.count("networks") > asked.count("state"):
        raise AssertionError(f"the network is read more often than there are pictures: {asked}")
    fake.tell("task.started", container="web-1", network="web")
    wait_for("what is new is shown", lambda: "task.started" in browser.text("#details"))
    holds(browser.run("return getSelection().toString()"), "bridge, portmap", "10.88.0.0/16")


def a_page_without_a_place(browser, fake):
    fake.full = True
    open_page(browser, fake.url)
    notice = "does not tell this page what happens"
    wait_for("that is said", lambda: notice in browser.text("#untold"))
    equal(browser.text("#events"), "Nothing has been told yet.", "the events")
    browser.type("/", "web-1", "Enter")
    wait_for("details are open", lambda: "10.88.0.2" in browser.text("#details"))
    holds(browser.text("#details"), "None that this page was told of.")
    shot(browser, "untold")
    fake.full = False
    wait_for("it gets a place", lambda: "task.started" in browser.text("#events"))
    wait_for("the notice goes", lambda: not browser.text("#untold"))


def nothing_has_happened(browser, fake):
    fake.events = []
    open_page(browser, fake.url)
    wait_for("that is said", lambda: browser.text("#events") == "Nothing has happened yet.")


def many_pages_at_a_time(browser, fake):
    """More than the connections that a browser has to one host."""
    open_page(browser, fake.url)
    first = browser.window()
    for _ in range(6):
        browser.open_tab()
        open_page(browser, fake.url)
    wait_for("the last is told", lambda: "task.started" in browser.text("#events"))
    browser.turn_to(first)
    fake.tell("node.left", node="edge-3")
    wait_for("the first is told again", lambda: "node.left" in browser.text("#events"))


def made_up():
    parts = (
        a_fleet,
        those_who_stay_keep_their_place,
        whatever_is_told,
        nothing_yet,
        without_motion,
        what_is_read_stays,
        a_page_without_a_place,
        nothing_has_happened,
        many_pages_at_a_time,
    )
    for part in parts:
        with Fake(fleet()) as fake, Browser() as browser:
            lively(fake)
            part(browser, fake)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        made_up()
    elif sys.argv[2:] == ["--token"]:
        with_a_token(sys.argv[1])
    elif sys.argv[2:] == ["--cluster"]:
        with_a_cluster(sys.argv[1])
    else:
        with_a_daemon(sys.argv[1])
    print("all is as it should be")
