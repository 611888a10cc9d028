"""Every section of the specification that the code cites exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "docs" / "spec"
PAGES = {path.name for path in SPEC.glob("*.md")} - {"README.md"}
NUMBER = r"\d+(?:\.\d+)*"
CITED = re.compile(rf"\b({'|'.join(map(re.escape, sorted(PAGES)))})(?: sections?)?((?: |, | and | to )+{NUMBER})*")


def sections(page):
    """Numbers of a page's headings, and of subsections that are rows of a table ("| 12.1 one stage")."""
    text = (SPEC / page).read_text(encoding="utf-8")
    return set(re.findall(rf"^#+ ({NUMBER})\b", text, re.MULTILINE)) | set(re.findall(r"^[-|] (\d+\.\d+) ", text, re.M))


def citations(path):
    """(page, section) of every citation in a file; a range of sections gives its ends."""
    text = re.sub(r"\s+#?\s*", " ", path.read_text(encoding="utf-8"))
    for found in CITED.finditer(text):
        yield from ((found[1], number) for number in re.findall(NUMBER, found[0].partition(".md")[2]))


def test_cited_sections_exist():
    known = {page: sections(page) for page in PAGES}
    cited = [(path, *citation) for path in (ROOT / "ltx_jax").rglob("*.py") for citation in citations(path)]
    assert len(cited) > 100, "the code no longer cites its specification, or this test no longer finds it"
    wrong = [f"{path.relative_to(ROOT)}: {page} {number}" for path, page, number in cited if number not in known[page]]
    assert not wrong, wrong


def test_cited_pages_exist():
    for path in (ROOT / "ltx_jax").rglob("*.py"):
        for page in re.findall(r"\bspec[ /](\w+\.md)", path.read_text(encoding="utf-8")):
            assert page in PAGES, f"{path.relative_to(ROOT)} cites the page {page}"


def test_recordings_that_the_pages_name_exist():
    for page in PAGES:
        for name in re.findall(r"`(tests/[\w/.]+)`", (SPEC / page).read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{page} names {name}"
