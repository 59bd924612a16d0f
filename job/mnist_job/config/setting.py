"""The declaration of a setting: a pydantic field with a group, a help text and a few more properties; and of a part."""

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

Group = Literal["data", "training", "where it runs", "where results go", "bounds", "what it prints"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""The groups of settings in the help and the chart, in this order."""


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
    """Return the pydantic field of a setting.

    Args:
        default: the default value.
        help: the text for `--help` and the chart.
        group: the group of the setting in both.
        affects_result: whether it can change the trained model. Only such settings enter the configuration's hash.
        place: what a shell completes its value with; `data set` means files and the names of built-in data sets.
        in_effect: the value that is used if the setting is None.
        bounds: further arguments of pydantic's `Field`.

    """
    extra: dict[str, Any] = {"affects_result": affects_result, "group": group, "place": place, "in_effect": in_effect}
    return Field(default, description=help, json_schema_extra=extra, **bounds)


def declared(field: FieldInfo, name: Literal["affects_result", "group", "place", "in_effect"]) -> Any:
    """Return a property that `setting` has given to the field."""
    assert isinstance(field.json_schema_extra, dict)
    return field.json_schema_extra[name]


class Part(BaseModel):
    """Settings, which never change. Unknown names, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
