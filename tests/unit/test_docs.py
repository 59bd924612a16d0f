"""Check the documents: their links, the commands that they show, and the tests that they name."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnist_job.cli import main, parser
from mnist_job.config import sources
from tests.documents import ROOT

README, PAGES = ROOT / "README.md", sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "charts/mnist-job/README.md",
    ROOT / "tests/e2e/README.md",
    *PAGES,
    *sorted((ROOT / "ops").glob("**/*.md")),
]
WITH_COMMANDS = [document for document in DOCUMENTS if "\nmnist-job " in document.read_text()]
FENCED = re.compile(r"^```(?P<language>\w*)\n(?P<content>.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\((?!https?://)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
REPOSITORY_PATH = re.compile(r"`((?:job|tests|ops|charts|docs)/[\w./-]+)`")
OPERATORS = set("|&;()<>")


def named(document: Path) -> str:
    return str(document.relative_to(ROOT))


def text(document: Path) -> str:
    """Return a document without its fenced blocks."""
    return FENCED.sub("", document.read_text())


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings of a document, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text(document), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def faults_of_links(document: Path) -> Iterator[str]:
    for link in LINK.finditer(text(document)):
        target = (document.parent / link["path"]).resolve() if link["path"] else document
        if not target.exists():
            yield f"{link['path']}: no such file"
        elif link["anchor"] and link["anchor"] not in anchors(target):
            yield f"{link['path']}#{link['anchor']}: no such heading"


def commands(document: Path) -> Iterator[list[str]]:
    """Yield the arguments of each `mnist-job` in a fenced block, also after `ray job submit ... --`."""
    for found in FENCED.finditer(document.read_text()):
        if found["language"] in ("sh", "console"):
            for line in re.sub(r"\\\n", " ", found["content"]).splitlines():
                for words in simple_commands(line.removeprefix("$ ")):
                    words = words[words.index("--") + 1 :] if words[0] == "ray" and "--" in words else words
                    if words[0].rpartition("/")[2] == "mnist-job":
                        yield words[1:]


def simple_commands(line: str) -> Iterator[list[str]]:
    """Split a line of a shell at its operators, without the files that output is redirected to."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    redirected = False
    try:
        tokens = [*lexer, ";"]
    except ValueError:  # a quotation over several lines, which is not one of our commands
        return
    for token in tokens:
        if set(token) <= OPERATORS:
            redirected = token in (">", ">>")
            if redirected:
                command = command[:-1] if command and command[-1] == "2" else command
            elif command:
                yield command
                command = []
        elif redirected:
            redirected = False
        else:
            command.append(token)


def fault_of_command(arguments: list[str]) -> str:
    """Return the program's error for a command line, without running it."""
    try:
        parsed, rest = parser.parser(main._COMMANDS).parse_known_args(arguments)
        settings = main._COMMANDS[parsed.command].settings
        faults = list(parsed.parser.unknown(rest))
        if settings is not None and not faults:
            sources.load(settings, {k: v for k, v in vars(parsed).items() if k in settings.model_fields}, {}, None)
    except main.UsageError as refusal:
        return str(refusal)
    return "\n".join(faults)


def test_the_readme_has_at_most_150_lines():
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_link_leads_somewhere(document):
    assert list(faults_of_links(document)) == []


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if document.name != "CHANGELOG.md"], ids=named)
def test_every_path_of_the_repository_exists(document):
    assert [path for path in REPOSITORY_PATH.findall(text(document)) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_and_the_readme_lead_to_each_other(page):
    assert f"](docs/{page.name})" in README.read_text()
    title, _, links = page.read_text().splitlines()[:3]
    assert title.startswith("# ")
    assert links == "[mnist-job](../README.md) · [all pages](../README.md#documentation)"


@pytest.mark.parametrize("document", WITH_COMMANDS, ids=named)
def test_every_command_is_accepted(document):
    found = list(commands(document))
    assert found
    assert {shlex.join(arguments): fault for arguments in found if (fault := fault_of_command(arguments))} == {}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("mnist-job run --epochs 2 2> log | jq .accuracy", ""),
        ("source <(mnist-job completion fish)", "fish"),
        ("ray job submit -- mnist-job run --epoch 2", "--epoch: no such argument"),
        ("cd runs && .venv/bin/mnist-job run --epochs many", "--epochs"),
    ],
)
def test_a_wrong_command_is_noticed(tmp_path, line, fault):
    document = tmp_path / "page.md"
    document.write_text(f"```sh\n{line}  # why\n```\n")
    (arguments,) = commands(document)
    assert fault in fault_of_command(arguments)
    assert bool(fault) == bool(fault_of_command(arguments))


def test_what_happens_when_is_shown_by_tests_that_exist():
    rows = re.findall(r"^\|.*\|$", section(ROOT / "docs/operations.md", "What happens when"), re.M)[2:]
    assert rows
    for row in rows:
        tests = re.findall(r"`((?:unit|chart|ray|e2e)/\w+\.py)(?:::(\w+))?`", row.split("|")[-2])
        assert tests, row
        for file, function in tests:
            source = (ROOT / "tests" / file).read_text()
            assert not function or f"\ndef {function}(" in source, f"{file}::{function}"


def section(document: Path, heading: str) -> str:
    _, _, rest = document.read_text().partition(f"\n## {heading}\n")
    return rest.partition("\n## ")[0]
