"""Read the text of a flag or variable as the value that a YAML file would have."""

import json
from pathlib import Path

import yaml


def split_pairs(value: object) -> object:
    """Split the text of a flag or variable: `width=64,depth=3` is the same as the mapping in a YAML file."""
    if not isinstance(value, str):
        return value
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    if not all(name and equals for name, equals, _ in pairs):
        raise ValueError("is not NAME=VALUE,NAME=VALUE")
    return {name.strip(): _scalar(text.strip()) for name, _, text in pairs}


def class_weights(value: object) -> object:
    """Return the weights in a text: `0=1,7=2.5`, or the path of a YAML file with such a mapping. Keep `balanced`."""
    if not isinstance(value, str) or value == "balanced":
        return value
    if "=" in value and not Path(value).is_file():
        return split_pairs(value)
    try:
        content = yaml.safe_load(Path(value).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"is not `balanced`, not CLASS=WEIGHT, and cannot be read as YAML: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"holds {type(content).__name__}, not weights as `class: weight`")  # noqa: TRY004 for pydantic
    return content


def _scalar(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def split_commas(value: object) -> object:
    """Split the text of a flag or variable at its commas: `128,64` is the same as `[128, 64]` in a YAML file."""
    return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def worker_range(workers: int | str) -> tuple[int, int]:
    """Return the least and the greatest number of workers of `2` or `MIN:MAX`."""
    least, _, most = str(workers).partition(":")
    return int(least), int(most or least)
