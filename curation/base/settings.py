"""Strict settings: YAML in, a frozen pydantic model out, and errors that name file, field and allowed values.

Manifests, recipes and training configs are all read here, so that a typo reads the same everywhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from curation.base.errors import InputError


class Strict(BaseModel):
    """Base of every settings model: unknown keys are refused, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def accepted_keys(cls) -> set[str]:
        """Keys that may be written; more than the fields where a model gathers some itself."""
        return set(cls.model_fields)


M = TypeVar("M", bound=BaseModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML would otherwise let win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping in which no key comes twice."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        InputError: the file is absent, is a folder, is not YAML or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; give the YAML file in it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """Parse one YAML mapping; ``where`` names it in errors.

    Raises:
        InputError: not YAML, or not a mapping.
    """
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        told = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise InputError(f"{where}: not valid YAML: {told}") from None
    if not isinstance(data, dict):
        found = {"NoneType": "an empty file", "list": "a list", "str": "plain text"}.get(
            type(data).__name__, "one value"
        )
        raise InputError(f"{where}: expected a mapping of keys to values, found {found}")
    return data


def override(data: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply ``key.sub=value`` assignments (values in YAML) to a copy of ``data``.

    Numbers index lists: ``sources.0.gsd_m=0.5``. Unknown keys are caught by the model afterwards.

    Raises:
        InputError: an assignment has no ``=`` or runs through a value that is not a mapping or list.
    """
    result = yaml.safe_load(yaml.safe_dump(data, sort_keys=False)) if assignments else data
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        if not equals or not dotted:
            raise InputError(f"{assignment!r}: expected key=value, for example seed=1")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"{assignment!r}: the value is not valid YAML; quote it") from None
        _assign(result, dotted.split("."), value, assignment)
    return result


def _assign(node: Any, keys: list[str], value: Any, assignment: str) -> None:
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, list) and key.isdigit() and int(key) < len(node):
            index: Any = int(key)
        elif isinstance(node, dict):
            index = key
        else:
            raise InputError(f"{assignment!r}: there is nothing named {'.'.join(keys[: depth + 1])!r} to set")
        if last:
            node[index] = value
        elif isinstance(node, dict):
            node = node.setdefault(index, {})
        else:
            node = node[index]


def validate(model: type[M], data: object, where: str) -> M:
    """Build ``model`` from ``data``.

    Raises:
        InputError: one line for the first problem, naming ``where``, the field and what is allowed.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InputError(_explain(error, model, where)) from None


def load(model: type[M], path: Path, assignments: Sequence[str] = ()) -> M:
    """Read, override and validate a YAML file.

    Raises:
        InputError: see :func:`read_yaml`, :func:`override` and :func:`validate`.
    """
    return validate(model, override(read_yaml(path), assignments), str(path))


def _explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    problems = error.errors(include_url=False)
    # A misspelt key also leaves its right spelling missing; the misspelling is what to say.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    location, models = _typed(model, first["loc"])
    field = ".".join(location) or "(top level)"
    message = first["msg"].removeprefix("Value error, ").replace("valid tuple", "list").replace("Tuple", "List")
    if first["type"] == "extra_forbidden":
        message = _unknown(location, models, _typed(model, first["loc"][:-1])[1], model)
    elif first["type"] == "missing":
        message = "this key is required"
    elif not isinstance(first.get("input"), dict | list):
        message = f"{message} (found {first.get('input')!r})"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {field}: {message}{more}"


def _unknown(
    location: list[str], found: list[type[BaseModel]], inside: list[type[BaseModel]], model: type[BaseModel]
) -> str:
    """Words for a key that is not known where it stands; it may be known to another kind of the same block."""
    key, block = location[-1], ".".join(location[:-1])
    others = [other for other in _typed(model, tuple(location[:-1]))[1] if key in other.model_fields]
    if others and others[0] not in inside:
        return (
            f"is no key of this {block}, but of {_tag(others[0])}; remove it, or give the whole block: "
            f"{block}='{{name: {_tag(inside[0])}}}'"
        )
    return f"unknown key; {_suggest(key, _fields_of(inside))}"


def _suggest(key: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(key, allowed, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"allowed: {', '.join(allowed)}"


def _typed(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], list[type[BaseModel]]]:
    """An error's location as a person types it, and the models that it leads to.

    Pydantic names the chosen kind of a block (``objective.mae.mask_ratio``), which is no key of it.
    """
    current: list[type[BaseModel]] = [model]
    keys: list[str] = []
    for part in location:
        chosen = [candidate for candidate in current if len(current) > 1 and _tag(candidate) == part]
        if chosen:
            current = chosen
            continue
        keys.append(str(part))
        found: list[type[BaseModel]] = []
        for candidate in current:
            if isinstance(part, str) and part in candidate.model_fields:
                found += _models_in(candidate.model_fields[part].annotation)
        current = found or current
    return keys, current


def _tag(model: type[BaseModel]) -> str | None:
    """The name by which a block's kind is chosen, where there are several."""
    name = model.model_fields.get("name")
    words = getattr(name.annotation, "__args__", ()) if name is not None else ()
    return str(words[0]) if words else None


def _fields_of(models: list[type[BaseModel]]) -> list[str]:
    return sorted(
        {
            name
            for model in models
            for name in (model.accepted_keys() if issubclass(model, Strict) else model.model_fields)
        }
    )


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models_in(inner)]
