"""Classes that load when they are used: a package names them (PEP 562) and transformers' Auto
classes know them before their modules are imported, and with these torchvision, scipy and the
compiler, which take longer to import than torch itself."""

import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


class Deferred:
    """Stands for a class of the module `home`; what is not `known` of it is read off the class."""

    def __init__(self, name: str, *, home: str, **known: object) -> None:
        self.__name__, self.home = name, home
        self.__dict__.update(known)

    def load(self) -> type:
        """The class itself."""
        found: type = getattr(import_module(self.home), self.__name__)
        return found

    def __getattr__(self, attribute: str) -> object:
        if attribute.startswith("__"):
            raise AttributeError(f"nothing is deferred under the name {attribute}")
        return getattr(self.load(), attribute)


def attributes(package: str, *classes: Deferred) -> Callable[[str], type]:
    """The `__getattr__` of a package that exports these classes."""
    named = {item.__name__: item for item in classes}

    def load(name: str) -> type:
        if name not in named:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return named[name].load()

    return load


def when_imported(module: str, action: Callable[[], None]) -> None:
    """Does something as soon as a module has been imported: at once, if it has been already."""
    if module in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Watcher(module, action))


class _Watcher(MetaPathFinder):
    """Waits for one module, which the other finders find, and then leaves."""

    def __init__(self, module: str, action: Callable[[], None]) -> None:
        self.module, self.action = module, action

    def find_spec(
        self, fullname: str, path: Iterable[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.module:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _LoaderWithSequel(spec.loader, self.action)
        return spec


class _LoaderWithSequel(Loader):
    def __init__(self, loader: Loader, sequel: Callable[[], None]) -> None:
        self.loader, self.sequel = loader, sequel

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        self.sequel()

    def __getattr__(self, attribute: str) -> object:
        return getattr(self.loader, attribute)  # sources for tracebacks, resources
