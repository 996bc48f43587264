"""Settings of a recipe or command: from a file, from options, from `key=value` words of the command line."""

import copy
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

S = TypeVar("S", bound="BaseModel")


def make_settings(
    model: type[S],
    *,
    config: Path | None = None,
    options: Mapping[str, Any] | None = None,
    assignments: Iterable[str] = (),
) -> S:
    """The defaults of `model`, overlaid with a file, then with options, then with assignments.

    Args:
        model: settings class of a recipe or a command.
        config: JSON or TOML file.
        options: values by name; None leaves what the file or the default says.
        assignments: words such as "learning_rate=1e-3"; a dot reaches into nested settings ("fit.steps=100"),
            whose other entries stay as the file, or else the defaults, have them. The value is read as JSON,
            else it is taken as text.

    Raises:
        FileNotFoundError: `config` does not exist.
        ValueError: a file or an assignment cannot be read, a key is unknown, or a value is not allowed.
    """
    values = read_config(config) if config is not None else {}
    values |= {name: value for name, value in (options or {}).items() if value is not None}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not all(key.split(".")):
            raise ValueError(f"--set is {assignment!r}; allowed: KEY=VALUE, as in learning_rate=1e-3")
        *parents, last = key.split(".")
        if parents and parents[0] not in values:
            values[parents[0]] = _default_table(model, parents[0])
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ValueError(f"--set {assignment}: {parent!r} is {place!r} and has no parts to set")
        place[last] = _value(text)
    return model.model_validate(values)


def _default_table(model: "type[BaseModel]", name: str) -> Any:
    """A copy of the default of nested settings; an empty table where there is none to change."""
    from pydantic import BaseModel

    field = model.model_fields.get(name)
    value = None if field is None or field.is_required() else field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    return {} if value is None else copy.deepcopy(value)


def read_config(path: Path) -> dict[str, Any]:
    """The table of a JSON or TOML file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the ending is neither .json nor .toml, or the content is not a table of that format.
    """
    readers = {".json": json.loads, ".toml": tomllib.loads}
    if path.suffix not in readers:
        raise ValueError(f"{path} ends in {path.suffix!r}; allowed: .json, .toml")
    try:
        values = readers[path.suffix](path.read_text(encoding="utf-8"))
    except ValueError as error:  # both formats' errors are ValueErrors and tell the line
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; allowed: a table of settings")
    return values


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
