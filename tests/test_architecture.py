"""The architecture: which package may import which, for every module that there is."""

import ast
import glob
import os
import subprocess
import sys

import pytest

from common.base.files import ROOT

SCRIPTS = ["mx_list", "im2rec", "fine-tune", "sub"]

# What each package may import beside itself, and the libraries that it may use.
PACKAGES = {
    "base": (set(), {"tqdm"}),
    "setup": ({"base"}, set()),
    "data": ({"base"}, {"numpy", "cv2"}),
    "networks": ({"base"}, {"numpy", "onnx", "huggingface_hub"}),
    "engines": ({"base", "networks"}, {"numpy"}),
    "engines.mxnet": ({"base", "networks", "engines"}, {"numpy", "mxnet"}),
    "engines.torch": ({"base", "networks", "engines"}, {"numpy", "torch", "timm"}),
    "training": ({"base", "data", "networks", "engines"}, {"numpy", "cv2", "matplotlib"}),
    "evaluation": ({"base", "data", "networks", "engines"}, {"numpy", "cv2"}),
    "tools": (
        {"base", "setup", "data", "networks", "engines", "training", "evaluation"},
        {"numpy", "cv2"},
    ),
}
# The names that users type behind `python -m`: they lead to modules of the packages.
COMMANDS = ["cluster", "doctor", "find_mxnet", "modelzoo"]
LONGEST = 400  # lines
# Python 3.8 and 3.9 cannot list their own modules: there libraries are not looked at.
STDLIB = getattr(sys, "stdlib_module_names", None)


def statements_of(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as stream:
        return ast.parse(stream.read())


def modules_imported(nodes):
    """The dotted names of the modules that are imported: `common.base.files`, `numpy`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:  # a name of a package may be a module of it
                module = f"{node.module}.{alias.name}"
                yield module if module in MODULES else node.module


def find_modules():
    """{`common.base.files`: path} of every module."""
    paths = glob.glob(os.path.join(ROOT, "common", "**", "*.py"), recursive=True)
    names = {}
    for path in paths:
        relative = os.path.relpath(path, ROOT)
        names[relative[:-3].replace(os.sep, ".").replace(".__init__", "")] = relative
    return names


MODULES = find_modules()
TREES = {name: statements_of(path) for name, path in MODULES.items()}
EVERYWHERE = {name: set(modules_imported(ast.walk(tree))) for name, tree in TREES.items()}
AT_IMPORT = {name: set(modules_imported(tree.body)) for name, tree in TREES.items()}


def package_of(module):
    """`base` of `common.base.files`; None of `common` and of the commands."""
    names = [p for p in PACKAGES if module == f"common.{p}" or module.startswith(f"common.{p}.")]
    return max(names, key=len, default=None)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_module_imports_only_what_its_package_may(name):
    package = package_of(name)
    if package is None:
        commands = {f"common.{command}" for command in COMMANDS}
        assert name == "common" or name in commands
        return
    packages, libraries = PACKAGES[package]
    for module in EVERYWHERE[name]:
        if module.split(".")[0] == "common":
            assert package_of(module) in {package, *packages}, module
        elif STDLIB:
            assert module.split(".")[0] in libraries | STDLIB, module


def test_no_two_modules_need_each_other():
    rest = {name: used & set(MODULES) - {name} for name, used in AT_IMPORT.items()}
    while True:
        free = {name for name, used in rest.items() if not used & rest.keys()}
        if not free:
            break
        rest = {name: used for name, used in rest.items() if name not in free}
    assert rest == {}


def test_the_set_up_runs_before_any_package_is_installed():
    """`-S`: without the installed packages."""
    code = "import common.setup.__main__, sys; print('numpy' in sys.modules, 'tqdm' in sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert done.stdout.split() == [b"False", b"False"]


def test_no_script_imports_an_engine_itself():
    inside = ("mxnet", "torch", "common.engines.mxnet", "common.engines.torch")
    for script in SCRIPTS:
        used = set(modules_imported(ast.walk(statements_of(f"{script}.py"))))
        assert not [name for name in used if name.startswith(inside)]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_fits_on_a_few_pages_and_says_what_it_is(name):
    path = os.path.join(ROOT, MODULES[name])
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    assert len(text.splitlines()) <= LONGEST
    first = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    assert first.endswith((".", ":")), first


def test_benchmarks_run_without_pytest():
    names = os.listdir(os.path.join(ROOT, "benchmarks"))
    reached = {f"benchmarks.{name[:-3]}" for name in names if name.endswith(".py")}
    waiting = list(reached)
    while waiting:
        path = waiting.pop().replace(".", "/") + ".py"
        found = set(modules_imported(ast.walk(statements_of(path))))
        assert not any(name.split(".")[0] == "pytest" for name in found), path
        ours = {name for name in found if os.path.isfile(f"{ROOT}/{name.replace('.', '/')}.py")}
        waiting += ours - reached
        reached |= ours
    assert "tests.torch_reference" in reached
