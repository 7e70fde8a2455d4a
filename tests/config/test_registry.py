from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import Ge
from pydantic import BaseModel, ValidationError

from posttrain.config.errors import ConfigError
from posttrain.config.registry import Registry

TOOLS: Registry[Any] = Registry("tool")


@TOOLS.register("hammer")
@dataclass
class Hammer:
    """Hits."""

    weight: Annotated[float, Ge(0)] = 1.0
    handle: Literal["wood", "steel"] = "wood"
    sizes: tuple[int, ...] = (1, 2)
    second: Annotated[Any, TOOLS] | None = None
    worn: np.ndarray | None = field(default=None, init=False)


@TOOLS.register("saw")
@dataclass(frozen=True)
class Saw:
    teeth: int


class Box(BaseModel):
    best: Annotated[Any, TOOLS]
    others: dict[str, list[Annotated[Any, TOOLS]]] = {}
    spare: Annotated[Any, TOOLS.default("hammer")] = None


def locations(data: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ValidationError) as error:
        Box.model_validate(data)
    return {".".join(map(str, e["loc"])): e["msg"] for e in error.value.errors()}


def test_a_name_a_map_and_an_object_build_the_same() -> None:
    assert TOOLS.build("hammer", "x") == TOOLS.build({"use": "hammer"}, "x") == Hammer()
    assert Box(best=Hammer(2.0)).best == Hammer(2.0)
    assert TOOLS.build({"use": "hammer", "sizes": [3]}, "x").sizes == (3,)


def test_errors_keep_their_nested_location() -> None:
    found = locations(
        {
            "best": {"use": "hammer", "weihgt": 1, "handle": "glass"},
            "others": {"shed": ["saw", {"use": "hamer"}, {"use": "hammer", "second": {"use": "saw", "teeth": "x"}}]},
        }
    )
    assert set(found) == {
        "best.weihgt",
        "best.handle",
        "others.shed.0.teeth",
        "others.shed.1.use",
        "others.shed.2.second.teeth",
    }
    assert found["best.weihgt"] == "tool 'hammer' has no such setting. Did you mean 'weight'?"
    assert found["others.shed.1.use"] == "no tool is called 'hamer'. Did you mean 'hammer'?"


def test_a_map_may_leave_use_out_only_where_there_is_a_default() -> None:
    assert Box(best="hammer", spare={"weight": 3.0}).spare == Hammer(3.0)
    assert "say which tool with `use:`" in locations({"best": {"weight": 3.0}})["best"]


def test_numbers_and_text_are_not_mixed_up() -> None:
    assert set(locations({"best": {"use": "hammer", "sizes": [True, "2", 2.5]}})) == {
        "best.sizes.0",
        "best.sizes.1",
        "best.sizes.2",
    }
    assert TOOLS.build({"use": "hammer", "weight": 2}, "x").weight == 2.0


def test_state_is_no_setting() -> None:
    assert "no such setting" in locations({"best": {"use": "hammer", "worn": 1}})["best.worn"]
    hammer = Hammer()
    hammer.worn = np.zeros(3)
    assert TOOLS.dump(hammer) == {
        "use": "hammer",
        "weight": 1.0,
        "handle": "wood",
        "sizes": [1, 2],
        "second": None,
    }


def test_dump_and_build_are_inverse() -> None:
    tool = Hammer(2.0, "steel", (5,), Saw(7))
    assert TOOLS.build(TOOLS.dump(tool), "x") == tool


def test_build_names_the_place() -> None:
    with pytest.raises(ConfigError, match=r"^tools\.3\.weight: should be greater than or equal to 0; got -1"):
        TOOLS.build({"use": "hammer", "weight": -1}, "tools.3")


def test_a_file_is_loaded_once(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("from dataclasses import dataclass\n@dataclass\nclass Own:\n    x: int = 1\n")
    first = TOOLS.build({"use": "./own.py:Own", "x": 2}, "x", tmp_path)
    assert first == TOOLS.build({"use": f"{tmp_path}/own.py:Own", "x": 2}, "x")
    assert TOOLS.build(TOOLS.dump(first), "x") == first
    with pytest.raises(ConfigError, match="has no 'Other'"):
        TOOLS.build("./own.py:Other", "x", tmp_path)
    with pytest.raises(ConfigError, match="there is no file"):
        TOOLS.build("./none.py:Own", "x", tmp_path)


def test_a_dotted_path() -> None:
    assert TOOLS.build({"use": "posttrain.config.models:TinyModel", "hidden": 256}, "x").hidden == 256
    with pytest.raises(ConfigError, match="cannot be imported"):
        TOOLS.build("no_such_package.tools:Saw", "x")
    with pytest.raises(ConfigError, match="a tool is a dataclass"):
        TOOLS.build("posttrain.config.names:nearest", "x")


def test_a_function_needs_an_adapter() -> None:
    @dataclass
    class Wrapped:
        function: Any = None

    def adapter(function: Callable[..., Any], home: str) -> type[Any]:
        return Wrapped

    registry: Registry[Any] = Registry("reward")
    registry.adapter = adapter
    assert isinstance(registry.build("posttrain.config.names:nearest", "x"), Wrapped)


def test_two_components_cannot_share_a_name() -> None:
    with pytest.raises(TypeError, match="two tools are called 'saw'"):
        TOOLS.register("saw")(Hammer)
    with pytest.raises(TypeError, match="must be a dataclass"):
        TOOLS.register("plain")(type("Plain", (), {}))
