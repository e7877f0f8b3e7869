"""Builds what pyproject.toml cannot describe: a library in C that ctypes loads. Without a C compiler it is left out."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


class BuildLibrary(build_ext):
    """Build of plain shared libraries, which know nothing of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """Path without the tag of an interpreter, since every interpreter can load the library."""
        suffix = ".dll" if self.compiler is not None and self.compiler.compiler_type == "msvc" else ".so"
        return str(Path(*fullname.split("."))) + suffix

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """The exported functions are marked in the source; there is no PyInit function."""
        return ext.export_symbols


class LibraryWheel(bdist_wheel):
    """Wheel for every Python 3 of one platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """Tags of interpreter, ABI and platform."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("fovea.wire.rans.librans", ["fovea/wire/rans/rans.c"], optional=True)],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": LibraryWheel},
)
