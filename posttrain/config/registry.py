"""Names for components. A component is a dataclass, and its fields are its settings."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import core_schema, to_jsonable_python

from posttrain.config.errors import ConfigError
from posttrain.config.imports import broken, import_home, load_object
from posttrain.config.names import nearest
from posttrain.config.problems import describe, failure, with_names

T = TypeVar("T")


class Registry(Generic[T]):
    """The components of one kind, by name.

    As metadata of a type, `Annotated[Any, TERMS]`, it makes a pydantic field that reads `name` or
    `{use: name, setting: value}` and holds the built component; `TERMS.default("x")` is the same where a map
    may leave `use` out. `home` names the modules (`package.*`: all of a package) that register the built-in
    classes; they are imported at the first look-up. `adapter` makes a component class of a plain function
    and the place `module:name` where it was found, where functions are allowed.
    """

    def __init__(self, kind: str, group: str | None = None, home: tuple[str, ...] = ()) -> None:
        self.kind, self.group, self.home = kind, group, home
        self.classes: dict[str, type[T]] = {}
        self.adapter: Callable[[Callable[..., Any], str], type[T]] | None = None
        self._paths: dict[type, str] = {}  # classes named by a path: how the recipe called them
        self._adapters: dict[type, TypeAdapter[Any]] = {}
        self._home_imported = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: from now on `use: name` builds this dataclass."""

        def add(cls: type[T]) -> type[T]:
            before = self.classes.get(name)
            if before is not None and _source(before) != _source(cls):
                raise TypeError(f"two {self.kind}s are called {name!r}: {before} and {cls}")
            if not dataclasses.is_dataclass(cls):
                raise TypeError(f"{self.kind} {name!r} must be a dataclass: put @{self.kind} register above @dataclass")
            cls.__pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # type: ignore[attr-defined]
            self.classes[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        """Every name that `use` accepts, apart from paths."""
        self._import_home()
        return sorted({*self.classes, *self._installed()})

    def find(self, name: str, folder: Path = Path()) -> type[T]:
        """The class called `name`, or at `package.module:Class`, or at `./file.py:Class` below `folder`."""
        if ":" in name:
            return self._at_path(name, folder)
        if name not in self.classes:
            installed = self._installed()
            if name in installed:
                return self._of_entry(installed[name])
            self._import_home()
        if name not in self.classes:
            raise ConfigError(f"no {self.kind} is called {name!r}. {nearest(name, self.names())}")
        return self.classes[name]

    def build(self, spec: Any, at: str, folder: Path = Path()) -> T:
        """The component a recipe asks for; `at` is the place to name in an error."""
        try:
            return self.validate(spec, folder=folder)
        except ValidationError as error:
            lines = [f"{'.'.join([at, *map(str, e['loc'])])}: {describe(e)}" for e in error.errors(include_url=False)]
            raise ConfigError("\n".join(lines)) from None

    def validate(self, spec: Any, default: str | None = None, folder: Path = Path()) -> T:
        """As `build`, with locations relative to the component, for use inside pydantic."""
        if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
            return spec  # type: ignore[return-value]  # built by code
        settings = self.settings(spec)
        if settings is None or not isinstance(settings.get("use", default), str):
            known = ", ".join(self.names())
            raise failure(self.kind, f"say which {self.kind} with `use:`. Known: {known}.", value=spec)
        name = str(settings.pop("use", default))
        try:
            cls = self.find(name, folder)
        except ConfigError as error:
            raise failure(self.kind, str(error), ("use",) if isinstance(spec, Mapping) else (), name) from None
        try:
            return self._construct(cls, settings)
        except ValidationError as error:
            known_settings = [f.name for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]
            raise with_names(error, known_settings, f"{self.kind} {name!r}") from None

    def settings(self, spec: Any) -> dict[str, Any] | None:
        """The long form of a spec, or None if it has no form of ours."""
        if isinstance(spec, str):
            return {"use": spec}
        return dict(spec) if isinstance(spec, Mapping) else None

    def dump(self, component: Any) -> Any:
        """Plain data that builds an equal component."""
        if component is None:  # a setting that may be left out
            return None
        state = {f.name for f in dataclasses.fields(component) if not f.init}
        settings = self.adapter_of(type(component)).dump_python(component, mode="json", exclude=state)
        return {"use": self.name_of(type(component)), **settings}

    def name_of(self, cls: type) -> str:
        """What `use` has to say to get this class."""
        for name, known in self.classes.items():
            if known is cls:
                return name
        return self._paths.get(cls, f"{cls.__module__}:{cls.__qualname__}")

    def adapter_of(self, cls: type) -> TypeAdapter[Any]:
        """The validator of a class, made when first needed: making one costs milliseconds."""
        if cls not in self._adapters:
            self._adapters[cls] = TypeAdapter(cls)
        return self._adapters[cls]

    def default(self, name: str) -> Component:
        """Metadata for a field where a map without `use` means this component."""
        return Component(self, name)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return Component(self).__get_pydantic_core_schema__(source, handler)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return Component(self).__get_pydantic_json_schema__(schema, handler)

    def _construct(self, cls: type[T], settings: dict[str, Any]) -> T:
        try:
            text = json.dumps(settings)
        except TypeError:  # built by code, with objects among the settings
            return self.adapter_of(cls).validate_python(settings)
        # JSON, because it is strict about numbers and text and still takes a list for a tuple.
        return self.adapter_of(cls).validate_json(text, strict=True)

    def _at_path(self, name: str, folder: Path) -> type[T]:
        where, attribute = name.rsplit(":", 1)
        found, home = load_object(where, attribute, folder)
        cls = self._component(found, name, f"{home}:{attribute}")
        file = where.endswith(".py")
        self._paths[cls] = f"{(folder / Path(where).expanduser()).resolve()}:{attribute}" if file else name
        return cls

    def _of_entry(self, entry: EntryPoint) -> type[T]:
        try:
            found = entry.load()
        except (Exception, SystemExit) as error:
            raise broken(
                f"{self.kind} {entry.name!r}, which an installed package says is {entry.value},", error
            ) from error
        cls = self._component(found, entry.name, f"{entry.module}:{entry.attr}")
        self.classes.setdefault(entry.name, cls)
        return self.classes[entry.name]

    def _component(self, found: object, name: str, place: str) -> type[T]:
        if isinstance(found, type) and dataclasses.is_dataclass(found):
            if not hasattr(found, "__pydantic_config__"):
                found.__pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # type: ignore[attr-defined]
            return found  # type: ignore[return-value]
        if callable(found) and not isinstance(found, type):
            self._import_home()  # which sets the adapter
            if self.adapter is not None:
                return self.adapter(found, place)
        kinds = "a dataclass" if self.adapter is None else "a dataclass or a function"
        raise ConfigError(f"{name} is {type(found).__name__} {found!r}; a {self.kind} is {kinds}.")

    def _installed(self) -> dict[str, EntryPoint]:
        return {e.name: e for e in entry_points(group=self.group)} if self.group else {}

    def _import_home(self) -> None:
        if not self._home_imported:
            self._home_imported = True  # before, not after: a module may look a name up while it is imported
            for module in self.home:
                import_home(module)


@dataclasses.dataclass(frozen=True)
class Component:
    """A pydantic field that holds a component of a registry."""

    registry: Registry[Any]
    fallback: str | None = None  # the component of a map without `use`

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: self.registry.validate(value, self.fallback),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda component: to_jsonable_python(self.registry.dump(component))
            ),
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"x-component": self.registry.kind}  # posttrain.config.schema puts the alternatives here


def _source(cls: type) -> tuple[str | None, str]:
    """Two classes with the same source are one class that was imported under two module names."""
    return getattr(sys.modules.get(cls.__module__), "__file__", None), cls.__qualname__
