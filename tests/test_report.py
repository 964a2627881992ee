"""The report of a run: what is on the page, that nothing on it can run, and that browsers show it as it is meant."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import clearloop as cl
from clearloop import environment, models
from clearloop import report as report_module
from clearloop.data.loaders import images_as_targets
from clearloop.errors import ConfigError, RunError
from clearloop.metrics import Metric
from clearloop.report import write_report
from clearloop.report_charts import Series, bars, chart, ticks
from clearloop.report_page import Markup, page, pairs, shown, table, tag
from cli_tools import clearloop, write_idx

KNOWN = {  # every element that a report may have
    *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section", "footer", "h1", "h2", "p"),
    *("a", "b", "br", "small", "span", "div", "code", "pre", "details", "summary", "dl", "dt", "dd", "table", "thead"),
    *("tbody", "tr", "th", "td", "figure", "figcaption", "img", "svg", "line", "text", "polyline", "circle", "rect"),
}
ATTRIBUTES = {
    *("charset", "http-equiv", "content", "name", "lang", "class", "id", "href", "src", "alt", "width", "height"),
    *("tabindex", "role", "aria-label", "viewbox", "points", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r"),
    "text-anchor",
}


class Page(HTMLParser):
    """What a parser finds: elements, attributes, texts, and what is not closed as it was opened."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts, self.ids, self.links, self.policy = [], [], [], set(), [], None
        self.sections = {}
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, name, attributes):
        given = dict(attributes)
        assert name in KNOWN, name
        assert set(given) <= ATTRIBUTES, (name, set(given) - ATTRIBUTES)
        assert len(given) == len(attributes), "an attribute given twice"
        if "href" in given:
            assert name == "a"
            assert re.fullmatch(r"#[a-z]+", given["href"])
            self.links.append(given["href"][1:])
        if "src" in given:
            assert name == "img"
            assert re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", given["src"])
        if "http-equiv" in given:
            assert given["http-equiv"] == "Content-Security-Policy"
            self.policy = given["content"]
        self.ids |= {given["id"]} if "id" in given else set()
        self.elements.append((name, given))
        if name not in ("meta", "br", "img"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    @property
    def text(self):
        return "".join(self.texts)


def checked(path):
    """The page in a file, which holds nothing that could run or be fetched."""
    text = Path(path).read_text()
    found = Page(text)
    assert found.policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in found.policy
    assert set(found.links) <= found.ids
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"url\(|@import|https?:|//|expression", style)
    return found


@pytest.fixture(autouse=True)
def _outside_of_this_repository(tmp_path, monkeypatch):
    """What has changed in it would be part of every report."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_idx(folder / "idx", 600, 200)
    common = ["-q", "--model", "mlp", "--hidden", 16]
    with contextlib.chdir(folder):
        done = clearloop("train", folder / "idx", "-n", 3, *common, "-o", folder / "run")
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="module")
def found(folder):
    done = clearloop("report", folder / "run")
    assert done.code == 0, done.err
    assert "not in the report" not in done.out
    assert f"wrote {folder / 'run' / 'report.html'}" in done.out
    return checked(folder / "run" / "report.html")


# -- what is on the page ----------------------------------------------------------------------------------------------

SECTIONS = [
    "curves",
    "epochs",
    "confusion",
    "classes",
    "worst",
    "time",
    "model",
    "recipe",
    "environment",
    "again",
    "log",
]


def test_a_report_of_classes_has_every_section_and_a_link_to_each(found):
    assert found.links == SECTIONS
    assert set(SECTIONS) <= found.ids


def test_a_report_says_what_the_run_reached_and_what_it_was(found, folder):
    learn = cl.Learner.load(folder / "run")
    last = learn.history.epochs[-1]
    for number in (last.train_loss, last.valid_loss, last.metrics["accuracy"]):
        assert f"{number:.4f}" in found.text
    for piece in ("mlp(784, 16, 10)", "cross_entropy", "AdamW", "one_cycle", str(torch.__version__), "sha256 "):
        assert piece in found.text
    recipe = (folder / "run" / "recipe.json").read_text()
    for print_ in re.findall(r'"sha256": "(\w+)"', recipe):
        assert print_ in found.text


def test_a_report_counts_as_the_confusion_matrix_does_and_shows_the_worst(found, folder):
    learn = cl.Learner.load(folder / "run")
    counts = cl.confusion_matrix(learn).counts
    cells = [given["class"] for name, given in found.elements if name == "td" and "hit" in given.get("class", "")]
    assert len(cells) == 10
    for row in cl.top_losses(learn, n=12).rows:
        assert f"#{row.index}, loss {row.loss:.3g}" in found.text
    assert sum(name == "img" for name, _ in found.elements) == 12
    assert str(int(counts.diagonal().max())) in found.texts


def test_a_report_says_how_to_come_to_the_same(found, folder):
    run = folder / "run"
    for command in (f"clearloop eject {run} --rung 7 > loop.py", f"clearloop verify {run}", f"clearloop resume {run}"):
        assert command in found.text
    assert f"Learner.load('{run}')" in found.text


def test_where_the_time_went_is_said_where_the_run_has_measured_it(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    line = {"epoch": 0, "data": 61.5, "compute": 7.0, "validation": 1.25, "callbacks": {"EMA": 2.0, "Mine": 0.5}}
    (tmp_path / "run" / "times.jsonl").write_text(json.dumps(line) + "\n")
    text = checked(write_report(tmp_path / "run").path).text
    for said in ("data1 min 02 s", "compute7.0 s", "validation1.2 s", "callbacks, saving too2.5 s"):
        assert said in text


def test_the_same_run_gives_the_same_report(folder, tmp_path):
    one, other = (write_report(folder / "run", tmp_path / name).path.read_bytes() for name in ("a.html", "b.html"))
    assert one == other


def rows_of(kind):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 5, generator=generator)
    y = x.sum(dim=1, keepdim=True) if kind == "numbers" else (x.sum(dim=1) > 0).long()
    return cl.DataLoaders.arrays(x, y, batch_size=20, seed=0)


def test_a_report_of_numbers_draws_predictions_and_lists_the_worst_rows(tmp_path):
    learn = cl.Learner(rows_of("numbers"), models.mlp(5, 8, 1), nn.functional.mse_loss, seed=0, device="cpu")
    learn.fit(2, 0.05, quiet=True)
    learn.save(tmp_path / "run")
    done = write_report(learn)
    found = checked(done.path)
    assert {"numbers", "worst"} <= set(found.links)
    assert not {"confusion", "classes", "pictures"} & set(found.links)
    assert f"{cl.residuals(learn).r2[0]:.4f}" in found.text
    assert sum("cloud" in given.get("class", "") for name, given in found.elements if name == "circle") == 48


def test_a_report_of_an_autoencoder_shows_what_comes_out(digits, tmp_path):
    data = cl.TensorDataset(digits.train_images[:80], digits.train_labels[:80], transform=images_as_targets)
    loaders = cl.DataLoader(data, 40), cl.DataLoader(data, 40)
    model = models.autoencoder(784, 16, 4)
    learn = cl.Learner(cl.DataLoaders(*loaders, image_size=(28, 28)), model, nn.functional.mse_loss, device="cpu")
    learn.fit(1, 0.01, quiet=True)
    found = checked(write_report(learn, tmp_path / "page.html").path)
    assert "pictures" in found.links
    assert not {"worst", "numbers", "confusion"} & set(found.links)
    assert sum(name == "img" for name, _ in found.elements) == 24


def test_many_classes_are_listed_by_the_pairs_confused_most(tmp_path):
    x, y = torch.randn(200, 5), torch.arange(200) % 40
    learn = cl.Learner(cl.DataLoaders.arrays(x, y, batch_size=50, seed=0), nn.Linear(5, 40), device="cpu")
    learn.fit(1, 0.1, quiet=True)
    found = checked(write_report(learn, tmp_path / "page.html").path)
    assert "40 classes; these pairs were confused most." in found.text
    assert not any("hit" in given.get("class", "") for _, given in found.elements)


def test_a_run_that_cannot_be_printed_as_a_program_says_why(tmp_path):
    learn = cl.Learner(rows_of("classes"), models.mlp(5, 2), seed=0, device="cpu", cbs=[cl.EMA(0.9)])
    learn.fit(1, 0.1, quiet=True)
    learn.save(tmp_path / "run")
    found = checked(write_report(learn).path)
    assert "This run cannot be printed as a program: " in found.text
    assert "clearloop eject" not in found.text


def test_a_long_history_is_averaged_and_the_table_shows_its_end(tmp_path):
    learn = cl.Learner(rows_of("classes"), models.mlp(5, 2), seed=0, device="cpu")
    learn.fit(230, 0.1, quiet=True)
    found = checked(write_report(learn, tmp_path / "page.html").path)
    assert "The last 200 of 230." in found.text
    assert "steps, averaged" in found.text
    assert max(len(given["points"].split()) for name, given in found.elements if name == "polyline") <= 300


# -- what is missing is said ------------------------------------------------------------------------------------------


def test_without_the_data_the_rest_is_written_and_the_page_says_what_is_missing(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    (folder / "idx").rename(folder / "gone")
    try:
        done = clearloop("report", tmp_path / "run")
    finally:
        (folder / "gone").rename(folder / "idx")
    assert done.code == 0, done.err
    assert "note: not in the report: what the model gets right and wrong: " in done.out
    found = checked(tmp_path / "run" / "report.html")
    assert found.links == ["curves", "epochs", "time", "recipe", "environment", "again", "log"]
    assert "Not in this report" in found.text


@pytest.mark.parametrize(
    ("name", "content", "left"),
    [
        ("history.jsonl", b"no JSON\n", "the history: "),
        ("recipe.json", b"{}", "what the model gets right and wrong: "),
        ("recipe.json", None, "the recipe: "),
        ("log.txt", None, None),
        ("times.jsonl", b'{"epoch": 0, "data": "<b>"}\n', "time: "),
    ],
)
def test_what_is_damaged_is_left_out_with_the_reason(name, content, left, folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run" / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / "run" / name).write_bytes(content)
    done = write_report(tmp_path / "run")
    checked(done.path)
    assert any(line.startswith(left) for line in done.missing) if left else not done.missing


def test_a_folder_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(RunError, match="expected a run"):
        write_report(tmp_path)
    assert clearloop("report", tmp_path / "none").code == 2


def test_a_learner_that_was_not_saved_needs_a_file(tmp_path):
    learn = cl.Learner(rows_of("classes"), models.mlp(5, 2), device="cpu")
    with pytest.raises(ConfigError, match="give path"):
        write_report(learn)
    checked(write_report(learn, tmp_path / "new" / "page.html").path)  # before any training, too


# -- what had changed in the source -----------------------------------------------------------------------------------


def git(folder, *arguments):
    names = ["-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True)


def test_commit_and_changes_of_the_source_are_kept_with_the_run_and_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text("width = 8\n")
    git(tmp_path, "init")
    git(tmp_path, "add", "model.py")
    git(tmp_path, "commit", "-m", "one")
    learn = cl.Learner(rows_of("classes"), models.mlp(5, 2), device="cpu")
    learn.fit(1, 0.1, quiet=True)
    learn.save("clean")
    assert not Path("clean/git.diff").exists()
    (tmp_path / "model.py").write_text("width = 16  # <script>alert(1)</script>\n")
    cl.Learner(rows_of("classes"), models.mlp(5, 2), device="cpu").save("changed")
    diff = Path("changed/git.diff").read_text()
    assert "-width = 8" in diff
    found = checked(write_report("changed").path)
    assert "+width = 16  # <script>alert(1)</script>" in found.text
    assert "+changes" in found.text
    assert len(environment.git_diff(limit=40)) < 90


def test_outside_a_repository_there_are_no_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment.git_diff() is None


# -- nothing on it can run --------------------------------------------------------------------------------------------

BASES = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</pre></details><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<a href=javascript:alert(1)>x</a>",
    '" onmouseover="alert(1)',
    "' onmouseover='alert(1)",
    '"><script>alert(1)</script>',
    "'><script>alert(1)</script>",
    "<body onload=alert(1)>",
    "<meta http-equiv=refresh content='0;url=https://example.invalid'>",
    "<base href=https://example.invalid>",
    "<link rel=stylesheet href=https://example.invalid>",
    "<style>*{background:url(https://example.invalid)}</style>",
    "<object data=x></object>",
    "<embed src=x>",
    "<form action=x><input autofocus onfocus=alert(1)></form>",
    "<details open ontoggle=alert(1)>",
    "<math><mtext><script>alert(1)</script></mtext></math>",
    "<!-- --><script>alert(1)</script>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "{{constructor.constructor('alert(1)')()}}",
    "${alert(1)}",
    "<scr\x00ipt>alert(1)</scr\x00ipt>",
    "<ſcript>alert(1)</ſcript>",
    "\u202e<script>alert(1)</script>",
    "<script\x0b>alert(1)</script\x0c>",
    "<template><script>alert(1)</script></template>",
    "<noscript><p title='</noscript><script>alert(1)</script>'>",
    "<textarea></textarea><script>alert(1)</script>",
    "<table><td background=javascript:alert(1)>",
    "<video><source onerror=alert(1)></video>",
    "<b style=background:url(x) onclick=alert(1)>x</b>",
]
PAYLOADS = [*BASES, *(base.upper() for base in BASES[:12]), *(f"x{base}\n{base}" for base in BASES[:10])]


def in_names(payloads, tmp_path):
    """A report of a run with payloads as names of classes and of metrics, in its path, log, model and changes."""
    x, count = torch.randn(4 * len(payloads), 3), len(payloads)
    data = cl.TensorDataset(x, torch.arange(len(x)) % count)
    dls = cl.DataLoaders(cl.DataLoader(data, 16), cl.DataLoader(data, 64), classes=payloads)
    metrics = [Metric(payload, cl.accuracy.sums, cl.accuracy.value) for payload in payloads[:6]]
    learn = cl.Learner(dls, nn.Linear(3, count), metrics=metrics, device="cpu")
    learn.fit(1, 0.1, quiet=True)
    folder = tmp_path / re.sub(r"[/\x00]", "|", payloads[0])
    learn.save(folder)
    (folder / "git.diff").write_text("\n".join(payloads))
    (folder / "log.txt").write_text("\n".join(payloads))
    return learn, write_report(learn).path


@pytest.mark.parametrize("start", range(0, 60, 20))
def test_script_in_the_names_of_classes_runs_metrics_and_paths_stays_text(start, tmp_path):
    assert len(PAYLOADS) >= 60
    payloads = [f"{payload}{number}" for number, payload in enumerate(PAYLOADS)][start : start + 20]
    _, path = in_names(payloads, tmp_path)
    found = checked(path)
    for payload in payloads:
        assert shown(payload) in found.text


def test_script_in_many_classes_and_in_reasons_stays_text(tmp_path):
    learn, _ = in_names([f"{payload}{number}" for number, payload in enumerate(PAYLOADS[:40])], tmp_path)
    facts = report_module.of_learner(learn)
    facts.missing += PAYLOADS
    text = page(PAYLOADS[0], report_module.body_of(facts))
    (tmp_path / "page.html").write_text(text)
    found = checked(tmp_path / "page.html")
    assert "these pairs were confused most" in found.text


@given(st.text(), st.text(), st.text())
def test_any_text_comes_back_out_of_the_page_as_the_text_it_was(one, other, third):
    body = tag(
        "div",
        tag("p", one),
        tag("pre", other),
        table([one], [[third], [Markup("<b>x</b>")]]),
        pairs([(third, one)]),
        tag("span", alt=other, class_=third),
        chart(one, [Series(other, [0.0, 1.0], [1.0, 2.0]), Series(third, [0.0], [3.0], "b")], other),
        bars(third, [1.0, 2.0], one),
    )
    found = Page(page(one, body))
    wanted = [shown(one), shown(other, lines=True), shown(third)]
    for text in wanted:
        assert text.replace("\r", "") in found.text
    spans = [given for name, given in found.elements if name == "span" and "alt" in given]
    assert spans == [{"alt": shown(other), "class": shown(third)}]
    assert sum(name == "b" for name, _ in found.elements) == 3  # one here, and the titles of two figures


def test_lone_surrogates_in_names_do_not_stop_the_page(tmp_path):
    text = page("\udce9", tag("p", "name \udce9"))
    assert text.encode()
    assert "name �" in Page(text).text


# -- charts -----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=8),
    st.booleans(),
)
def test_charts_draw_any_numbers_within_their_frame(values, diagonal):
    places = [float(place) for place in range(len(values))]
    for drawn in (chart("t", [Series("s", places, values)], "x", diagonal=diagonal), bars("t", values, "x")):
        assert "nan" not in drawn.replace("number", "")
        assert "inf" not in drawn
        for name, edge in (("cx", 400), ("cy", 260), ("x1", 400), ("y1", 260)):
            assert all(-1 <= float(place) <= edge for place in re.findall(rf' {name}="([^"]+)"', drawn))


@given(st.floats(-1e6, 1e6), st.floats(1e-5, 1e6))
def test_ticks_are_few_round_and_inside(low, span):
    span = max(span, abs(low) * 1e-5)
    found = ticks(low, low + span)
    assert 1 <= len(found) <= 7
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in found)


# -- in a browser -----------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)")


def chromium(path, *options):
    """Chromium without a window, on a profile of its own; what it prints."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--user-data-dir={path.parent / 'profile'}", "--enable-logging=stderr", *options]
    shutil.rmtree(path.parent / "profile", ignore_errors=True)
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [CHROMIUM, *flags, path.as_uri()], capture_output=True, text=True, timeout=120, check=True, env=environ
    )
    return done.stdout, done.stderr


@in_chromium
def test_a_browser_shows_it_light_and_dark_wide_and_narrow(folder, found, tmp_path):
    shutil.copy(folder / "run" / "report.html", tmp_path / "report.html")
    for scheme, width in ((1, 1400), (0, 400)):
        picture = tmp_path / f"{width}.png"
        options = [f"--window-size={width},1600", f"--screenshot={picture}"]
        _, said = chromium(tmp_path / "report.html", f"--blink-settings=preferredColorScheme={scheme}", *options)
        assert "Refused" not in said
        assert "Content Security Policy" not in said
        pixels = np.asarray(Image.open(picture).convert("L")).astype(int)
        assert pixels.shape == (1600, width)
        paper = int(np.median(pixels))
        assert paper > 240 if scheme else paper < 40
        written = np.abs(pixels - paper) > 60
        assert 0.005 < written.mean() < 0.5  # neither empty nor a block
        assert not written[:, -12:].any(), "something runs over the edge"


@in_chromium
def test_a_browser_runs_and_fetches_nothing_even_if_a_tag_came_in(folder, found, tmp_path):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    evil = f"<script>document.title = 'ran'</script><img src='{address}/i'><img src=x onerror=\"document.title='ran'\">"
    evil += f"<link rel=stylesheet href='{address}/c'><iframe src='{address}/f'></iframe><style>b{{}}</style>"
    text = (folder / "run" / "report.html").read_text()
    try:
        for policy in (True, False):
            body = text if policy else re.sub(r"<meta http-equiv[^>]+>", "", text)
            (tmp_path / "page.html").write_text(body.replace("</body>", evil + "</body>"))
            dom, _ = chromium(tmp_path / "page.html", "--dump-dom")
            assert ("<title>ran</title>" not in dom) == policy  # without the policy it does run
            assert (asked == []) == policy
    finally:
        server.shutdown()
        server.server_close()
