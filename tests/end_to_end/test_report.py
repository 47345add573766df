"""The report: one file, nothing from the network, every figure there, and true."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from equipot.run_report import run_content, write_run_report
from equipot.study import citations
from equipot.study.report import Content, panels, render

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Notes ids, links and whether tags are closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.links, self.text = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[k] for k in ("href", "src", "xlink:href") if k in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def html(run):
    return run.report.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_the_page_is_well_formed_and_its_names_are_unique(page):
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_nothing_comes_from_the_network(html, page):
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    targets = {link[1:] for link in page.links if link.startswith("#")}
    assert targets <= set(page.ids)
    assert not re.search(r"@import|<script|<link", html)
    assert not re.search(r"url\((?!#)", html)


def test_the_file_is_small(run):
    assert run.report.stat().st_size < 3_000_000


FIGURES = [
    "figure-curve-loss", "figure-curve-energy", "figure-curve-forces", "figure-curve-lr", "figure-by-set-energy",
    "figure-by-set-forces", "figure-by-element", "figure-energies-train", "figure-energies-valid",
    "figure-energies-hot", "figure-forces-train", "figure-forces-valid", "figure-forces-hot", "figure-md-temperature",
    "figure-md-energy", "figure-scan-stretch-0.95", "figure-scan-stretch-1.05",
]  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_there(page, name):
    assert name in page.ids


@pytest.mark.parametrize("name", ["errors", "curves", "parity", "scan", "dynamics", "data", "model", "run", "papers"])
def test_every_section_is_there(page, name):
    assert name in page.ids
    assert f"#{name}" in page.links


def test_numbers_of_the_error_table_are_those_of_the_run(run, page):
    cells = [text.strip() for text in page.text]
    shown = run.errors["hot"]["forces_rmse_meV_per_A"]
    at = [i for i, text in enumerate(cells) if text == "hot"]
    assert any(f"{shown:.0f}" in cells[i : i + 30] for i in at)


def test_every_figure_is_valid_svg_with_words_for_those_who_cannot_see_it(run):
    for section in panels(run_content(run.folder)).values():
        for panel in section:
            root = ElementTree.fromstring(panel.svg())
            assert root.attrib["role"] == "img"
            assert len(root.attrib["aria-label"]) > 10
            assert "viewBox" in root.attrib
            assert "width" not in root.attrib


def test_ink_follows_the_theme_of_the_page(run):
    svg = panels(run_content(run.folder))["curves"][0].svg()
    assert "currentColor" in svg
    assert "#1f2328" not in svg


def test_what_is_missing_is_left_out(run):
    content = replace(
        run_content(run.folder), records=(), scan=(), dynamics=None, predictions={}, errors={}, data=(), warnings=()
    )
    bare = Page(render(content))
    assert not {"errors", "curves", "parity", "scan", "dynamics", "data", "warnings"} & set(bare.ids)
    assert {"model", "papers"} <= set(bare.ids)


def test_papers_are_those_of_the_model(run):
    """A run of the point mace, with a few axes changed."""
    found = run_content(run.folder).papers
    assert found[0].startswith("The equipot developers, “equipot”, version ")
    assert found[1:] == (citations.DESIGN_SPACE, citations.MACE)
    html = run.report.read_text(encoding="utf-8")
    assert all(paper.split("“")[0] in html for paper in found)
    assert "Drautz, “" not in html
    assert 'id="papers"' not in render(Content(title="no model"))


def test_text_of_users_is_not_markup():
    html = render(Content(title="<script>alert(1)</script>", warnings=["a < b & c"]))
    assert "<script>" not in html
    assert "a &lt; b &amp; c" in html


def test_the_report_can_be_made_again(run, tmp_path, html):
    again = write_run_report(run.folder, tmp_path / "again.html").read_text(encoding="utf-8")
    assert again == html
