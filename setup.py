"""Builds the compiled parts. Everything else about the project stands in pyproject.toml."""

import os
import shutil
import sys
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MODULES = ("maillog._symbols", "maillog._scan", "track._clients", "track._join", "detect._windows")


class BuildExt(build_ext):
    """Compiles several modules at once, and says in one sentence what is missing where there is no compiler."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def run(self) -> None:
        compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
        if sys.platform != "win32" and not any(map(shutil.which, (compiler, "cc", "gcc", "clang"))):
            raise SystemExit(
                "maillog-sentinel is built with a C compiler and none was found: install one (Debian, Ubuntu: apt install gcc "
                "python3-dev; Alpine: apk add gcc musl-dev python3-dev; Fedora: dnf install gcc python3-devel) and try again."
            )
        super().run()


setup(
    ext_modules=cythonize(
        [
            Extension(
                f"sentinel.{name}",
                [f"sentinel/{name.replace('.', '/')}.pyx"],
                include_dirs=["sentinel/maillog"],
                depends=["sentinel/maillog/_bytes.h"],
                extra_compile_args=["-O3"],
            )
            for name in MODULES
        ],
        compiler_directives={"language_level": "3", "boundscheck": True, "wraparound": False, "cdivision": True, "embedsignature": True},
    ),
    cmdclass={"build_ext": BuildExt},
)
