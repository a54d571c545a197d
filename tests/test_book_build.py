"""The book builds with warnings as errors, loads nothing from another host, and says every figure in words."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from bs4 import BeautifulSoup

from cxrlib.course.gates import Chapter

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "chapters").glob("[0-9][0-9]_*.md"))


def _build(source: Path, out: Path) -> subprocess.CompletedProcess:
    start = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]  # the command of the same environment
    command = [*start, "build", str(source), "--path-output", str(out), "-W", "-n", "--keep-going"]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> Path:
    """The built book."""
    out = tmp_path_factory.mktemp("html")
    done = _build(ROOT, out)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return out / "_build" / "html"


def _pages(html: Path) -> list[Path]:
    return sorted(page for page in html.rglob("*.html") if "_static" not in page.parts)


def foreign(page: str) -> list[str]:
    """What a page would load from another host: scripts, styles, fonts, pictures, frames."""
    soup = BeautifulSoup(page, "html.parser")
    loaded = [tag.get(name) for tag in soup.find_all(True) for name in ("src", "srcset", "poster", "data") if tag.get(name)]
    loaded += [tag["href"] for tag in soup.find_all("link", href=True) if set(tag.get("rel", [])) - {"canonical", "alternate"}]
    loaded += [url for tag in soup.find_all("style") for url in _css_urls(tag.get_text())]
    loaded += [url for tag in soup.find_all(style=True) for url in _css_urls(tag["style"])]
    return [url for url in loaded if urlsplit(url.strip()).netloc]


def _css_urls(text: str) -> list[str]:
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return re.findall(r"""url\(\s*['"]?([^'")]+)""", text) + re.findall(r"""@import\s+['"]([^'"]+)""", text)


def without_alt(page: str) -> list[str]:
    """The pictures of a page, and of the widgets in it, that say nothing in words."""
    soup = BeautifulSoup(page, "html.parser")
    pictures = soup.find_all("img")
    for state in soup.find_all("script", type="application/vnd.jupyter.widget-state+json"):
        for model in json.loads(state.string)["state"].values():
            pictures += BeautifulSoup(str(model["state"].get("value", "")), "html.parser").find_all("img")
            assert "ImageModel" not in model["model_name"], "an Image widget has no alternative text: use viz.knob"
    seen = [picture for picture in pictures if "display: none" not in picture.get("style", "")]
    return [str(picture)[:120] for picture in seen if len((picture.get("alt") or "").split()) < 2]


def test_every_page_of_the_contents_is_built(html):
    for source in SOURCES:
        assert (html / "chapters" / f"{source.stem}.html").exists()
    assert (html / "index.html").exists()
    assert len(_pages(html)) >= len(SOURCES) + 8


def test_nothing_is_loaded_from_another_host(html):
    assert {page.name: found for page in _pages(html) if (found := foreign(page.read_text()))} == {}
    styles = {path.name: [u for u in _css_urls(path.read_text()) if urlsplit(u).netloc] for path in html.rglob("*.css")}
    assert {name: urls for name, urls in styles.items() if urls} == {}
    assert "vendor/mathjax-3.2.2-tex-svg.js" in (html / "chapters" / "back" / "equation_map.html").read_text()


@pytest.mark.parametrize(
    "bad",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        '<link rel="stylesheet" href="//cdn.example.org/x.css">',
        '<img src="http://example.org/x.png" alt="two words">',
        '<style>@import "https://example.org/x.css";</style>',
        '<p style="background: url(https://example.org/x.png)">',
        '<iframe src="https://example.org"></iframe>',
    ],
)
def test_a_foreign_address_is_found(bad):
    assert foreign(bad)
    assert not foreign('<a href="https://example.org">x</a><img src="a.png" alt="a"><link rel="stylesheet" href="a.css">')


def test_every_picture_has_words(html):
    assert {page.name: found for page in _pages(html) if (found := without_alt(page.read_text()))} == {}


def test_a_picture_without_words_is_found():
    state = {"state": {"1": {"model_name": "HTMLModel", "state": {"value": '<img src="x">'}}}}
    script = f'<script type="application/vnd.jupyter.widget-state+json">{json.dumps(state)}</script>'
    for bad in ('<img src="a.png">', '<img src="a.png" alt="">', '<img src="a.png" alt="a1b2.png">', script):
        assert without_alt(bad)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_each_figures_sentence_reaches_the_page(html, source):
    soup = BeautifulSoup((html / "chapters" / f"{source.stem}.html").read_text(), "html.parser")
    shown = {" ".join(picture.get("alt", "").split()) for picture in soup.find_all("img")}
    outputs = [output for cell in Chapter(source).code for output in cell.outputs]
    said = {" ".join(o["data"]["text/plain"].split()) for o in outputs if "image/png" in o.get("data", {})}
    assert said and said <= shown
    # The theme darkens pictures in dark mode, which would change a radiograph's contrast.
    figures = [picture for picture in soup.find_all("img") if " ".join(picture.get("alt", "").split()) in said]
    assert all("dark-light" in picture.get("class", []) for picture in figures)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_each_chapter_has_a_colab_button_and_no_colab_cell(html, source):
    page = (html / "chapters" / f"{source.stem}.html").read_text()
    assert re.search(rf"https://colab\.research\.google\.com/github/[^\"]+/chapters/{source.stem}\.ipynb", page)
    assert "pip install" not in BeautifulSoup(page, "html.parser").find("article").get_text()


def test_no_markup_is_left_over(html):
    """Directives, roles and comments that no parser took show up as text."""
    for page in _pages(html):
        article = BeautifulSoup(page.read_text(), "html.parser").find("article")
        if article is None:
            continue
        for code in article.find_all(["pre", "code", "script"]):
            code.decompose()
        text = article.get_text()
        assert not re.search(r"\{(?:ref|cite|math|eq|doc|term|py:\w+)\}|:::|<!--", text), page.name


def test_no_page_tells_of_the_machine_that_built_it(html):
    telling = re.compile(r"(?<![\w./:])/(?:home|root|Users|work|tmp|private|builds)/\w|PosixPath\(")
    told = {page.name: telling.search(BeautifulSoup(page.read_text(), "html.parser").get_text()) for page in _pages(html)}
    assert {name: match[0] for name, match in told.items() if match} == {}


def test_boxes_are_boxes(html):
    page = BeautifulSoup((html / "chapters" / "welcome.html").read_text(), "html.parser")
    assert page.find("blockquote", class_="box-phantom")


def _with(html: Path, words: str) -> Path:
    return next(page for page in _pages(html) if words in page.read_text())


needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here to draw the pages")


def _draw(page: Path, profile: Path, *options: str) -> str:
    """The page as a browser has drawn it: its document after all scripts."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command += ["--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", "--virtual-time-budget=8000"]
    return subprocess.run([*command, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=180).stdout


@needs_chromium
@pytest.mark.parametrize(("written", "drawn"), [('class="math', "<mjx-container"), ("widget-state+json", "widget-subarea")])
def test_a_browser_asks_no_other_host(html, tmp_path, written, drawn):
    """The browser's own network log, of a page with equations and of one with widgets, both drawn all the same."""
    log = tmp_path / "net.json"
    assert drawn in _draw(_with(html, written), tmp_path / "profile", f"--log-net-log={log}")
    asked = set(re.findall(r'"url":"(https?://[^"]+)"', log.read_text()))
    # The browser itself may look for its maker's hosts; what counts is what the page asks for.
    own = ("google.com", "googleapis.com", "gstatic.com", "gvt1.com")
    assert [url for url in asked if not (urlsplit(url).hostname or "").endswith(own)] == []


@needs_chromium
def test_every_equation_is_set(html, tmp_path):
    """MathJax writes its complaints into the page."""
    bad = {}
    for page in _pages(html):
        if 'class="math' in page.read_text():
            drawn = _draw(page, tmp_path / "profile")
            assert "<mjx-container" in drawn, page.name
            if found := re.findall(r'data-mjx-error="([^"]*)"', drawn):
                bad[page.name] = found
    assert bad == {}


def test_a_broken_reference_fails_the_build(tmp_path):
    """With warnings as errors, a link into nowhere stops the build: shown on a book of one page."""
    for name, text in (("sound", "# Page\n\nWords.\n"), ("broken", "# Page\n\n[gone](missing.md) and {ref}`nowhere`.\n")):
        book = tmp_path / name
        book.mkdir()
        (book / "page.md").write_text(text)
        (book / "_toc.yml").write_text("format: jb-book\nroot: page\n")
        (book / "_config.yml").write_text("title: Little\nonly_build_toc_files: true\n")
        assert (_build(book, book).returncode == 0) == (name == "sound")


def _extension():
    import importlib.util

    spec = importlib.util.spec_from_file_location("course_book", ROOT / "chapters" / "_ext" / "course_book.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_results_section_says_what_the_file_says(tmp_path):
    row = {"finding": "Effusion", "positives": 1234, "auroc": 0.9012, "low": 0.85, "high": 0.95, "reason": ""}
    none = {"finding": "Pleural_Thickening", "positives": 0, "auroc": None, "low": None, "high": None, "reason": "no image has it"}
    run = {"minutes": 12.1, "device": "cpu", "threads": 2, "epochs": 20, "findings": [row, none]}
    run["macro"] = {"auroc": 0.9012, "low": 0.85, "high": 0.95}
    seeds = {"macro_mean": 0.91, "macro_lowest": 0.9, "macro_highest": 0.92, "findings_mean": [0.91, None]}
    result = {"title": "On phantoms", "notes": ["a note"], "commands": ["python -m cxrlib train cpu"], "runs": [run, run]}
    result |= {"over_seeds": seeds, "split": "test", "images": 2000, "patients": 800}
    (tmp_path / "auroc.png").write_bytes(b"")
    text = "\n".join(_extension().result_markdown(result, tmp_path))
    assert "| Effusion | 1,234 | 0.901 | 0.850 to 0.950 | 0.910 |" in text
    assert "| Pleural Thickening | 0 | – | undefined: no image has it | – |" in text
    assert "Macro AUROC **0.901** (0.850 to 0.950); over 2 seeds 0.910, from 0.900 to 0.920. 12.1 minutes" in text
    assert "python -m cxrlib train cpu" in text and "2,000 images of 800 patients" in text
    assert "the highest Effusion with 0.901." in text


def test_a_comparisons_section_says_what_the_file_says():
    row = {"row": "a", "words": "A model", "parameters": 12345, "macs": 7.26e6, "macro": 0.8123, "low": 0.8, "high": 0.83}
    row |= {"macro_by_seed": [0.811, 0.8136], "difference": 0.0, "difference_low": 0.0, "difference_high": 0.0}
    other = row | {"row": "b", "words": "Another", "difference": -0.0104, "difference_low": -0.02, "difference_high": 0.0012}
    result = {"title": "Two models", "question": "Which?", "notes": ["a note"], "commands": ["python -m cxrlib compare x"]}
    result |= {"images": 1800, "patients": 600, "seeds": [0, 1], "reference": "a", "rows": [row, other]}
    text = "\n".join(_extension().comparison_markdown(result))
    assert "| A model | 12,345 | 7.3 | 0.812 | 0.800 to 0.830 | 0.811 0.814 | reference |" in text
    assert "| -0.010 (-0.020 to +0.001) |" in text and "python -m cxrlib compare x" in text
    assert "1,800 test images of 600 patients; seeds 0, 1" in text


def test_training_on_a_gpu_is_told_or_said_to_be_unmeasured():
    (line,) = _extension().training_rows(None)
    assert "not measured" in line
    found = {"words": "CLARiTy", "images_per_s": 2512.3, "over_timm": 0.7123, "mfu": 0.417, "peak_mib": 9123.4, "store_over_memory": 0.981}
    (line,) = _extension().training_rows([{"size": 224, "batch": 128, "compiled": True, "models": {"clarity": found}}])
    assert "2512 images/s, 0.712 of timm's, MFU 41.7%, peak 9123 MiB; from the store 0.981" in line and "224 px, batch 128, compiled" in line


def test_every_stored_result_is_on_the_results_page(html):
    page = BeautifulSoup((html / "chapters" / "back" / "results.html").read_text(), "html.parser").get_text()
    for file in sorted((ROOT / "data" / "results").glob("*/result.json")):
        result = json.loads(file.read_text())
        assert result["title"] in page
        if "tables" in result:  # of the sanity tests: several tables, a row for each method
            for table in result["tables"]:
                assert table["title"] in page
                assert all(row[next(iter(row))] in page for row in table["rows"] if isinstance(row[next(iter(row))], str))
            continue
        assert f"{result['runs'][0]['macro']['auroc']:.3f}" in page
    for file in sorted((ROOT / "data" / "results").glob("*/comparison.json")):
        result = json.loads(file.read_text())
        assert result["title"] in page
        for row in result["rows"]:
            assert row["words"] in page and f"{row['macro']:.3f}" in page
    for file in sorted((ROOT / "data" / "results").glob("*/checks.json")):
        result = json.loads(file.read_text())
        assert result["title"] in page and f"{result['company']['groups']['company']['auroc']['difference']:+.3f}" in page
    for file in sorted((ROOT / "data" / "results").glob("bench_*.json")):
        bench = json.loads(file.read_text())
        assert f"{bench['store']['ratio']:.0f} times faster" in page and f"{bench['step']['ratio']:.3f}" in page
        if "clarity" in bench:
            assert f"{bench['clarity']['maps']['maps_over_none']:.3f}" in page and f"{bench['clarity']['step']['ratio']:.3f}" in page
        if "reading" in bench:
            assert f"{bench['store']['prepare_cpu_ms']:.1f} ms" in page and f"{bench['reading']['disk_ms']:.3f} ms" in page
        if not bench.get("training"):
            assert "not measured: no CUDA device was at hand" in page
        for ratio in ("time_ratio", "memory_ratio", "explicit_time_ratio", "explicit_memory_ratio") if "lt_vit" in bench else ():
            assert f"{bench['lt_vit'][ratio]:.3f}" in page
