"""Generate the parts of chart and documents that repeat the job's settings and the chart's values: `make chart`.

- `settings:` in values.yaml and the tables in docs/settings.md come from mnist_job.config.settings;
- values.schema.json comes from these settings and ops/values.schema.yaml;
- the tables in the chart's README come from values.yaml and its comments.

A test in tests/chart fails if one of them is not current.
"""

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mnist_job.config.setting import GROUPS
from mnist_job.config.settings import EvaluateConfig, JobConfig
from mnist_job.config.sources import flag

CHART = Path(__file__).parent.parent / "charts/mnist-job"
SETTINGS = Path(__file__).parent.parent / "docs/settings.md"
SCHEMA = Path(__file__).parent / "values.schema.yaml"
# The chart sets these itself, from the name of the release and its values for storage, workers and metrics.
DECIDED = {
    "name",
    "output",
    "workers",
    "use_gpu",
    "address",
    "code",
    "pushgateway_url",
    "metrics_textfile",
    "exporter_port",
    "kubernetes_result",
    "kubernetes_rayjob",
}
WIDTH = 119


class Row(NamedTuple):
    """A value: where it is, its default, and the comment above it."""

    path: str
    default: str
    comment: str


def generated() -> dict[Path, str]:
    """Return the expected text of each file that is generated, completely or in part."""
    values = _between((CHART / "values.yaml").read_text(), "  # <settings>\n", "  # </settings>\n", _settings_block())
    readme = _between((CHART / "README.md").read_text(), "<!-- values -->\n", "<!-- /values -->\n", _tables(values))
    properties = JobConfig.model_json_schema()["properties"]
    affecting = [name for name, setting in properties.items() if setting["affects_result"]]
    return {
        CHART / "values.yaml": values,
        CHART / "values.schema.json": json.dumps(_schema(), indent=2) + "\n",
        CHART / "files/affects-result.json": json.dumps(affecting, indent=2) + "\n",
        CHART / "README.md": readme,
        SETTINGS: _between(SETTINGS.read_text(), "<!-- settings -->\n", "<!-- /settings -->\n", _settings_table()),
    }


def _settings() -> dict[str, dict[str, Any]]:
    """Return the schema of each setting that a user of the chart can set, sorted by group."""
    properties = JobConfig.model_json_schema()["properties"]
    chosen = {name: setting for name, setting in properties.items() if name not in DECIDED}
    return dict(sorted(chosen.items(), key=lambda item: GROUPS.index(item[1]["group"])))


def _settings_block() -> str:
    lines = ["# Generated from job/mnist_job/config/settings.py by `make chart`."]
    group = None
    for name, setting in _settings().items():
        if setting["group"] != group:
            group = setting["group"]
            lines += ["", f"## {group}"]  # `##`, so that it is not read as a comment of the next setting
        in_effect = "" if setting["in_effect"] is None else f"; null is {setting['in_effect']}"
        sentence = f"{setting['description'][0].upper()}{setting['description'][1:]}{in_effect}."
        lines += textwrap.wrap(sentence, WIDTH - 2, initial_indent="# ", subsequent_indent="# ")
        lines.append(f"{name}: {json.dumps(setting['default'])}")
    return textwrap.indent("\n".join(lines) + "\n", "  ")


def _settings_table() -> str:
    """Return the tables of all settings of `run` and `evaluate`, by groups."""
    properties = EvaluateConfig.model_json_schema()["properties"] | JobConfig.model_json_schema()["properties"]
    text = ""
    for group in GROUPS:
        text += f"### {group[0].upper()}{group[1:]}\n\n| setting | default | meaning |\n| --- | --- | --- |\n"
        for name, setting in properties.items():
            if setting["group"] == group:
                default = setting["in_effect"] if setting.get("default") is None else setting["default"]
                shown = ",".join(map(str, default)) if isinstance(default, list) else json.dumps(default).strip('"')
                cell = "" if default is None or default is False or default in ({}, ()) else f"`{shown}`"
                text += f"| `{flag(name)}` | {cell} | {_cell(setting['description'])} |\n"
        text += "\n"
    return text


def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = yaml.safe_load(SCHEMA.read_text())
    left_out = ("affects_result", "group", "place", "in_effect", "default", "title")
    schema["properties"]["settings"] = {
        "properties": {
            name: {key: value for key, value in setting.items() if key not in left_out}
            for name, setting in _settings().items()
        },
        # A setting that may be null is not required, because Helm drops values that are null.
        "required": [name for name, setting in _settings().items() if setting["default"] is not None],
    }
    _make_strict(schema)
    schema["required"].remove("global")  # Helm adds it if a parent chart sets it
    return schema


def _make_strict(schema: Any) -> None:
    """In each part of the schema that has properties, require an object with exactly these keys."""
    if isinstance(schema, list):
        for item in schema:
            _make_strict(item)
    if not isinstance(schema, dict):
        return
    for part in schema.values():
        _make_strict(part)
    named = schema.get("properties")
    if isinstance(named, dict):
        nullable = [name for name, part in named.items() if "null" in (part.get("type") or ())]
        schema.setdefault("required", [name for name in named if name not in nullable])
        schema |= {"type": "object", "additionalProperties": False}


def _tables(values: str) -> str:
    """Return a table for each top-level value, in the order of the file."""
    lines = values.splitlines()
    root = yaml.compose(values)
    assert isinstance(root, yaml.MappingNode)
    text = ""
    for key, node in root.value:
        first, *inner = rows(key, node, lines)
        text += f"### {key.value}\n\n"
        if inner:
            text += f"{first.comment}\n\n"
        text += "| value | default | meaning |\n| --- | --- | --- |\n"
        for row in inner or [first]:
            text += f"| `{row.path}` | {row.default and f'`{row.default}`'} | {_cell(row.comment)} |\n"
        text += "\n"
    return text


def rows(key: yaml.Node, node: yaml.Node, lines: list[str], prefix: str = "") -> Iterator[Row]:
    """Yield a value of values.yaml, and the values inside it."""
    path = f"{prefix}{key.value}"
    comment = _comment_above(key.start_mark.line, lines)
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        yield Row(path, "", comment)
        for inner, value in node.value:
            yield from rows(inner, value, lines, f"{path}.")
    else:
        default = yaml.safe_load(yaml.serialize(node))
        yield Row(path, json.dumps(default, ensure_ascii=False), comment)


def _comment_above(line: int, lines: list[str]) -> str:
    indent = re.match(" *", lines[line]).group()  # type: ignore[union-attr]
    comment: list[str] = []
    while line > 0 and lines[line - 1].startswith(f"{indent}# "):
        line -= 1
        comment.insert(0, lines[line].removeprefix(f"{indent}# "))
    return " ".join(comment)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _between(text: str, start: str, end: str, content: str) -> str:
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return before + start + content + end + after


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text)
