"""What the declaration of a setting holds beside its type, default and bounds."""

from typing import Any, Literal, get_args

from pydantic import Field
from pydantic.fields import FieldInfo

Group = Literal["data", "training", "where it runs", "where results go", "bounds", "what it prints"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""What help and chart show together, in this order."""


def setting(
    default: Any,
    help: str,
    group: Group,
    *,
    affects_result: bool = False,
    place: Literal["file", "folder", "data set"] | None = None,
    in_effect: Any = None,
    **bounds: Any,
) -> Any:
    """A field. `affects_result` marks what can change the trained model: only that enters the configuration's hash.

    `in_effect` is what a default of None stands for, where it stands for a value.
    A shell completes a setting that is a `place` by the names of files or folders; a data set may be `digits`, too.
    """
    extra: dict[str, Any] = {"affects_result": affects_result, "group": group, "place": place, "in_effect": in_effect}
    return Field(default, description=help, json_schema_extra=extra, **bounds)


def declared(field: FieldInfo, name: Literal["affects_result", "group", "place", "in_effect"]) -> Any:
    """What `setting` was told about a field."""
    assert isinstance(field.json_schema_extra, dict)
    return field.json_schema_extra[name]
