"""Packaging. Every setting is in settings.ini: edit there, not here."""
import shlex
from configparser import ConfigParser
from pathlib import Path

import setuptools
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(ROOT / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]


def words(key):
    return shlex.split(cfg.get(key, ""))


def shipped():
    "What lies in nbs/ and is used by an installed package: (file, its place in the package)."
    for kind, pattern in (("experiments", "*.ipynb"), ("grids", "*.yaml")):
        for path in sorted((ROOT / "nbs" / kind).rglob(pattern)):
            if ".ipynb_checkpoints" not in path.parts:
                yield path, Path(kind) / path.relative_to(ROOT / "nbs" / kind)


class BuildPy(build_py):
    "Put the experiments' notebooks and the grids beside the modules; in git they exist once, in nbs/."

    def run(self):
        super().run()
        if not getattr(self, "editable_mode", False):
            for source, place in shipped():
                target = Path(self.build_lib) / cfg["lib_name"] / place
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))


class Sdist(sdist):
    "What this file reads must be in the source distribution."

    def make_release_tree(self, base_dir, files):
        extra = ["settings.ini", "LICENSE", *(str(source.relative_to(ROOT)) for source, _ in shipped())]
        super().make_release_tree(base_dir, sorted({*files, *extra}))


report, lab = words("report_requirements"), words("report_requirements") + words("lab_requirements")
setuptools.setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="MIT",
    license_files=["LICENSE"],
    url=cfg["git_url"],
    packages=setuptools.find_packages(include=[cfg["lib_name"], f"{cfg['lib_name']}.*"]),
    package_dir={"": "."},  # so that an editable install is a plain path entry
    package_data={cfg["lib_name"]: words("package_data")},
    cmdclass={"build_py": BuildPy, "sdist": Sdist},
    python_requires=">=" + cfg["min_python"],
    install_requires=words("requirements"),
    extras_require={"report": report, "lab": lab, "dev": lab + words("dev_requirements")},
    entry_points={"console_scripts": words("console_scripts"), "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
    zip_safe=False,
)
