"""Everything that describes the project is in settings.ini; this file only hands it to setuptools."""
import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
parser = ConfigParser(delimiters=["="])
parser.read(ROOT / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
lib = cfg["lib_name"]


def words(key):
    return shlex.split(cfg.get(key, ""))


def below(folder, pattern="*"):
    """Files of a folder that belong to the source, relative to the root; nothing hidden, nothing cached."""
    for path in sorted((ROOT / folder).rglob(pattern)):
        if path.is_file() and not any(p.startswith(".") or p == "__pycache__" for p in path.relative_to(ROOT / folder).parts):
            yield path.relative_to(ROOT)


class BuildPy(build_py):
    """Experiments and explorers are notebooks, and grids are YAML: all are copied into the package, so that an installed modnb has them too."""

    def run(self):
        super().run()
        if self.editable_mode:  # the working tree itself is on the path, with its nbs/
            return
        for src in [*below("nbs/experiments", "*.ipynb"), *below("nbs/explore", "*.ipynb"), *below("nbs/grids", "*.yaml")]:
            dst = Path(self.build_lib, lib, *src.parts[1:])
            self.mkpath(str(dst.parent))
            self.copy_file(str(ROOT / src), str(dst))


class SDist(sdist):
    """The whole source, without a MANIFEST.in."""

    def make_release_tree(self, base_dir, files):
        extra = ["settings.ini", "Makefile", ".gitignore", "CHANGELOG.md", "CITATION.cff", *map(str, [*below("nbs"), *below("tests"), *below(".ci")])]
        super().make_release_tree(base_dir, sorted({*files, *extra}))


def classifiers():
    """What a package index sorts by."""
    status = ["Planning", "Pre-Alpha", "Alpha", "Beta", "Production/Stable", "Mature", "Inactive"][int(cfg["status"]) - 1]
    pythons = [f"3.{minor}" for minor in range(int(cfg["min_python"].split(".")[1]), 14)]
    return [f"Development Status :: {cfg['status']} - {status}", "Framework :: Jupyter", f"Intended Audience :: {cfg['audience']}",
            f"Natural Language :: {cfg['language']}", "Operating System :: OS Independent",
            *(f"Programming Language :: Python :: {version}" for version in ("3", *pythons)),
            "Topic :: Scientific/Engineering :: Artificial Intelligence", "Typing :: Typed"]


report = words("report_requirements")
grid = report + words("grid_requirements")
lab = grid + words("lab_requirements")
sweep = grid + words("sweep_requirements")
mathematics = words("mathematics_requirements")

setup(
    name=lib,
    version=cfg["version"],
    description=cfg["description"],
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license=cfg["license"].upper(),
    license_files=["LICENSE"],
    url=cfg["git_url"],
    project_urls={name.strip(): address.strip() for name, address in (line.split("=", 1) for line in cfg["project_urls"].strip().splitlines())},
    classifiers=classifiers(),
    packages=find_packages(include=[lib, f"{lib}.*"]),
    package_dir={"": "."},  # an editable install becomes one line in a .pth file, not an import hook
    package_data={lib: words("package_data")},
    include_package_data=False,
    cmdclass={"build_py": BuildPy, "sdist": SDist},
    python_requires=">=" + cfg["min_python"],
    install_requires=words("requirements"),
    extras_require={"data": words("data_requirements"), "mathematics": mathematics, "pretrained": words("pretrained_requirements"), "report": report, "grid": grid, "sweep": sweep, "lab": lab, "browser": lab + words("browser_requirements"), "dev": lab + mathematics + words("dev_requirements")},
    entry_points={"console_scripts": words("console_scripts"), "nbdev": [f"{lib}={cfg['lib_path']}._modidx:d"]},
    zip_safe=False,
)
