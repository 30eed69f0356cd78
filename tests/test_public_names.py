"""The package's public names are what they say, in whatever order things are imported, and cost nothing before."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import toolkit


def test_importing_the_package_imports_nothing_heavy() -> None:
    names = "sorted({name.split('.')[0] for name in sys.modules})"
    code = f"import toolkit, toolkit.errors, toolkit.signatures, sys; print({names})"
    root = str(Path(toolkit.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert not {"tensorflow", "torch", "numpy", "transformers", "grpc"} & set(eval(done.stdout))


@pytest.mark.parametrize("name", toolkit.__all__)
def test_every_public_name_is_there(name: str) -> None:
    for module in pkgutil.iter_modules(toolkit.__path__):
        if module.name != "artifact_runner":
            importlib.import_module(f"toolkit.{module.name}")
    value = getattr(toolkit, name)
    assert isinstance(value, str) if name == "__version__" else callable(value), "a module must not hide a public name"


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'exprot'"):
        _ = toolkit.exprot
    assert set(toolkit.__all__) <= set(dir(toolkit))
