"""Modules found by name, by file, or in the folders that come with posttrain."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from posttrain.config.errors import ConfigError, text_of

# Top-level folders of a checkout, installed as packages of these names.
_FOLDERS = {"posttrain_recipes": "recipes", "posttrain_rewards": "rewards", "posttrain_launch": "launch"}


def package_folder(name: str) -> Path | None:
    """The folder of an import package, found without running it; in a checkout, beside posttrain."""
    beside = Path(__file__).resolve().parents[2] / _FOLDERS[name]
    spec = importlib.util.find_spec(name) if name not in sys.modules else sys.modules[name].__spec__
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return beside if beside.is_dir() else None


def import_home(name: str) -> None:
    """Import `package`, or with `package.*` the package and each of its modules."""
    package = name.removesuffix(".*")
    if package in _FOLDERS and package not in sys.modules and importlib.util.find_spec(package) is None:
        folder = package_folder(package)
        if folder is None:
            return
        _mount(package, folder)
    module = importlib.import_module(package)
    if name.endswith(".*"):
        for found in pkgutil.iter_modules(module.__path__):
            importlib.import_module(f"{package}.{found.name}")


def _mount(package: str, folder: Path) -> None:
    """Make a folder importable under a package name, as an installation would."""
    start = folder / "__init__.py"
    if start.is_file():
        spec = importlib.util.spec_from_file_location(package, start, submodule_search_locations=[str(folder)])
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[package] = module
        spec.loader.exec_module(module)
    else:
        module = ModuleType(package)
        module.__path__ = [str(folder)]
        sys.modules[package] = module


def load_file(path: Path) -> ModuleType:
    """The module in a file, run once per process however often it is asked for."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f"there is no file {path}. Paths that start with ./ are relative to the file they stand in.")
    name = f"posttrain_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        with within_limit(f"file {path}"):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception | SystemExit):
            raise broken(f"file {path.name}", error) from error
        raise
    return module


NOTICE, LIMIT = 10, 120  # seconds of an import until somebody is told, and until it is given up


@contextmanager
def within_limit(what: str) -> Iterator[None]:
    """TimeoutError where somebody's import does not end; a note before that. In the main thread alone."""
    busy = threading.current_thread() is not threading.main_thread() or signal.getitimer(signal.ITIMER_REAL)[0]
    if busy or not hasattr(signal, "setitimer"):
        yield
        return
    told = False

    def late(*_: object) -> None:
        nonlocal told
        if told:
            raise TimeoutError(f"it was not done within {LIMIT} s")
        told = True
        print(f"posttrain: {what} is still being imported after {NOTICE} s; at {LIMIT} s this ends", file=sys.stderr)
        signal.setitimer(signal.ITIMER_REAL, LIMIT - NOTICE)

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, NOTICE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def broken(what: str, error: BaseException) -> ConfigError:
    """What went wrong while somebody's code was imported, with the line in it: no trace of how we came there."""
    frames = [f for f in traceback.extract_tb(error.__traceback__)[1:] if "importlib" not in f.filename]
    own = [f for f in frames if f.filename == frames[0].filename]
    place = f"{own[-1].filename}:{own[-1].lineno}: " if own else ""
    text = text_of(error)
    if isinstance(error, SyntaxError) and not own:
        place, text = f"{error.filename}:{error.lineno}: ", error.msg
    return ConfigError(
        f"{what} cannot be imported. {place}{type(error).__name__}: {' '.join(text.split())}. Mend it, or install what "
        "it misses."
    )


def load_object(where: str, attribute: str, folder: Path) -> tuple[object, str]:
    """What is called so in `package.module` or `./file.py`, and that module's name."""
    if where.endswith(".py"):
        module = load_file(folder / Path(where).expanduser())
    else:
        try:
            with within_limit(f"module {where!r}"):
                module = importlib.import_module(where)
        except ImportError as error:
            raise ConfigError(
                f"module {where!r} cannot be imported: {error}. Install it, or check the name."
            ) from error
        except (Exception, SystemExit) as error:
            raise broken(f"module {where!r}", error) from error
    if not hasattr(module, attribute):
        raise ConfigError(f"{where} has no {attribute!r}.")
    return getattr(module, attribute), module.__name__
