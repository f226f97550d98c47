"""Holds documents, docstrings, comments and messages to those rules of prose that a test can check."""

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

MAX_WORDS = 35
GLOSSARY = Path("docs/glossary.md")
DOCUMENTS = sorted([*Path().glob("*.md"), *Path("docs").rglob("*.md")])
CODE = ("benchmarks", "devstack", "functions", "layers", "sluicectl", "tests", "tools")
SOURCES = sorted(
    file for folder in CODE for file in Path(folder).rglob("*.py") if "node_modules" not in file.parts
)

BLOCK = re.compile(r"^ *```.*?^ *```|^ {4,}\S.*$", re.DOTALL | re.MULTILINE)
CODE_SPAN = re.compile(r"``?[^`]+``?")
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
CELL = re.compile(r"(?<!\\)\|")
ITEM = re.compile(r"^\s*(?:[-*>]|\d+\.) +")
NEXT_ITEM = re.compile(r"\n(?=- |\d+\. )")
END = re.compile(r"(?<!e\.g)(?<!i\.e)[.!?](?=[\s\"')*]|$)")
WORD = re.compile(r"[\w'$%-]*\w[\w'.,:/%-]*")
VERB = re.compile(r"[A-Z][a-z]+s\b")
# Nouns and the like with which a docstring might begin, and which look like verbs.
NOT_VERBS = re.compile(
    r"(?:Accounts|Apps|Bars|Batches|Bodies|Buckets|Bytes|Classes|Clients|Constants|Entries|Errors|Events|Functions|"
    r"Headers|Instructions|Invocations|Its|Jobs|Keys|Lines|Messages|Microseconds|Milliseconds|Objects|Pieces|"
    r"Pointers|Ports|Problems|Properties|Refusals|Rejections|Requests|Rules|Samples|Schemas|Seconds|Secrets|"
    r"Settings|Slots|Sources|Tables|This|Things|Values|Ways|Webhooks|Words|Workers)\b|\w+'s\b"
)
OPENING = re.compile(r"(What|Whoever|One that|That|Whether)\b")
LINE_OPENING = re.compile(r"(?:What|Whoever|One|Whether)\b")


class Passage(NamedTuple):
    """Holds a piece of prose and its place."""

    place: str
    text: str


def sentences(text: str) -> Iterator[str]:
    """Yields the sentences of a passage, with code as one word each."""
    plain = CODE_SPAN.sub("X", LINK.sub(r"\1", text)).replace("**", "")
    start = 0
    for end in END.finditer(plain):
        yield plain[start : end.end()].strip()
        start = end.end()
    yield plain[start:].strip()


def paragraphs(place: str, text: str) -> Iterator[Passage]:
    """Yields a document's paragraphs, list items and table cells, without code blocks and headings."""
    text = BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text)
    kept: list[str] = []
    first = 0
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        if kept and (not line.strip() or ITEM.match(line) or line.startswith(("#", "|"))):
            yield Passage(f"{place}:{first}", " ".join(kept))
            kept = []
        if line.startswith("|"):
            yield from (Passage(f"{place}:{number}", cell.strip()) for cell in CELL.split(line))
        elif line.strip() and not line.startswith("#"):
            first = first if kept else number
            kept.append(ITEM.sub("", line).strip())


def docstrings(place: str, source: str) -> Iterator[Passage]:
    """Yields the docstrings of a module and of everything in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield Passage(f"{place}:{node.body[0].lineno}", text)


def comments(place: str, source: str) -> Iterator[Passage]:
    """Yields a module's comments, consecutive lines as one."""
    kept: list[str] = []
    first = last = 0  # `last` is the line of a comment that the next line may continue
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or token.string.startswith(("# noqa", "# type:", "#!")):
            continue
        line, alone = token.start[0], not token.line[: token.start[1]].strip()
        if kept and not (alone and line == last + 1):
            yield Passage(f"{place}:{first}", " ".join(kept))
            kept = []
        first = first if kept else line
        kept.append(token.string.lstrip("# "))
        last = line if alone else 0
    if kept:
        yield Passage(f"{place}:{first}", " ".join(kept))


def messages(place: str, source: str) -> Iterator[Passage]:
    """Yields a module's texts of four words or more, without docstrings and tables."""
    tree = ast.parse(source)
    inner: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            inner.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            inner.update(node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inner:
            text = node.value
        else:
            continue
        if len(text.split()) > 3 and "\n  " not in text:
            yield Passage(f"{place}:{node.lineno}", " ".join(text.split()))


def prose_of(docstring: str) -> Iterator[str]:
    """Yields a docstring's paragraphs and list items, without examples, tables and pictures."""
    for block in re.split(r"\n\s*\n", docstring):
        lines = block.splitlines()
        if any(line.startswith(("    ", "|")) for line in lines):
            continue
        is_list = any(ITEM.match(line) for line in lines)
        prose = lines if is_list else [line for line in lines if not line.startswith("  ")]
        yield from (" ".join(ITEM.sub("", part).split()) for part in NEXT_ITEM.split("\n".join(prose)))


@cache
def forbidden() -> dict[str, str]:
    """Returns the glossary's starred synonyms, each with the term to use instead."""
    rows = re.findall(r"^\| ([\w -]+) \| .+ \| (.*) \|$", GLOSSARY.read_text(), re.MULTILINE)
    return {word: term for term, cell in rows for word in re.findall(r"([\w -]+?)\\\*", cell)}


def faults(passages: Iterable[Passage]) -> Iterator[str]:
    """Yields every fault of some passages, with its place."""
    synonyms = forbidden()
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, synonyms))})s?\b", re.IGNORECASE)
    for place, text in passages:
        if LINK.fullmatch(text):  # a line of a table of contents is a heading
            continue
        for sentence in sentences(text):
            words = len(WORD.findall(sentence))
            if words > MAX_WORDS:
                yield f"{place}: {words} words: {sentence}"
            opening = OPENING.match(sentence)
            if opening and not sentence.endswith("?"):
                yield f"{place}: a sentence begins with {opening[1]!r}: {sentence}"
            for word in pattern.findall(sentence):
                if not place.startswith(str(GLOSSARY)):
                    yield f"{place}: say {synonyms[word.lower()]!r}, not {word!r}"


def docstring_faults(docstring: Passage) -> Iterator[str]:
    """Yields every fault of a docstring, with its place."""
    place, text = docstring
    if not VERB.match(text) or NOT_VERBS.match(text):
        yield f"{place}: does not begin with a verb in the third person: {text.splitlines()[0]}"
    for line in text.splitlines():
        if LINE_OPENING.match(line):
            yield f"{place}: a line begins with {line.split(maxsplit=1)[0]!r}: {line}"
    yield from faults(Passage(place, part) for part in prose_of(text))


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_a_document_reads_plainly(document: Path) -> None:
    assert list(faults(paragraphs(str(document), document.read_text()))) == []


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_a_module_reads_plainly(source: Path) -> None:
    place, code = str(source), source.read_text()

    found = [fault for docstring in docstrings(place, code) for fault in docstring_faults(docstring)]
    found += faults(comments(place, code))
    if source.parts[0] not in ("benchmarks", "tests"):  # whose texts are mostly samples
        found += faults(messages(place, code))

    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "What comes of it.",
        "One that waits.\n",
        "The delivery of one job.",
        "Deliver one job.",
        "Events of a job.",
        "Delivers one job.\n\nWhoever asks is told.",
        "Delivers one job. That is all.",
        "Delivers one job.\n\n- Parks it.\n- Whether it is open.",
        "Delivers one job to a tenant.",
        "Delivers " + "one " * MAX_WORDS + "job.",
    ],
)
def test_a_fault_of_a_docstring_is_found(text: str) -> None:
    assert list(docstring_faults(Passage("here", text)))


@pytest.mark.parametrize(
    "text",
    [
        "Delivers one job.",
        "Says e.g. this.\n\n    What is an example is not read.\n",
        "Writes `what the code says` and " + "one " * (MAX_WORDS - 5) + "job.",
        "Lists these:\n  what    is a table\n",
    ],
)
def test_a_plain_docstring_has_none(text: str) -> None:
    assert list(docstring_faults(Passage("here", text))) == []


def test_faults_of_a_document_are_found_where_they_are() -> None:
    text = (
        "# What is it\n\n```\nWhat is code\n```\n\n| What | No |\n|---|---|\n\n- Yes.\n- That\n  goes on.\n"
    )

    found = list(faults(paragraphs("page.md", text)))

    assert [fault.split(" ")[0] for fault in found] == ["page.md:7:", "page.md:11:"]


def test_a_message_is_read_with_its_values() -> None:
    code = 'raise Failure(f"What {name} has stored does not work.")\nfail("Send it to the tenant again.")\n'

    assert len(list(faults(messages("code.py", code)))) == 2


def test_a_comment_is_read_over_its_lines() -> None:
    code = "x = 1  # What it is\n# That\n# goes on. Whether\n# it ends.\n"

    assert len(list(faults(comments("code.py", code)))) == 3
