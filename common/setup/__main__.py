"""Makes .venv with an engine that fits this machine: `sh setup.sh`, or `python -m common.setup`.

The arguments and variables are described at the top of setup.sh.
"""

import os
import sys

from common.base.files import ROOT, UserError
from common.base.script import run_script
from common.setup import SetupError, interpreters, machine
from common.setup.environment import Environment, only_run
from common.setup.installation import computes, install

_KINDS = ("cpu", "cu117", "cu80", "torch", "both")
_ON_GPUS = ("cu117", "cu80")  # installed on machines without a GPU, too: into a container's image


def main():
    """Do what the arguments ask for; return the exit status."""
    os.chdir(ROOT)
    kind = _parse(sys.argv[1:])
    python = _asked_python(os.environ.get("PYTHON"), kind)
    if kind == "--detect":
        print(_detect(python))
        return 0
    environment = Environment(os.environ.get("VENV") or ".venv")
    if _is_ready(environment, kind, python):
        return 0
    folder, name = os.path.split(environment.folder)
    try:
        with only_run(os.path.join(folder, f".tmp-{name}-setup.lock"), _say):
            try:
                environment.recover()
                return _update(environment, kind, python)
            finally:
                environment.recover()
    except SetupError as error:
        _say(error)
        return 1


def _say(text):
    print(f"setup.sh: {text}", file=sys.stderr, flush=True)


def _parse(arguments):
    """Return the kind that is asked for, `"--detect"`, or None."""
    if len(arguments) > 1:
        shown = " ".join(arguments)
        raise UserError(f"{shown}: more than one argument; see: sh setup.sh --help")
    for argument in arguments:
        if argument not in (*_KINDS, "cpu-1.5", "--detect"):  # cpu-1.5 is for tests/run.sh
            raise UserError(f"{argument}: not one of {', '.join(_KINDS)}, --detect")
        return argument
    return None


def _asked_python(path, kind):
    """Return the `Interpreter` that the variable PYTHON names, or None."""
    if not path:
        return None
    found = interpreters.probe(path)
    kind = kind if kind in interpreters.VERSIONS else "torch"  # which takes any
    if found is None or not found.fits(kind):
        versions = interpreters.range_of(kind)
        raise UserError(f"PYTHON={path}: not a Python {versions} with its venv module")
    return found


def _detect(python):
    """Return the kind that fits this machine and the Python that is asked for, if one is."""
    has_python = python.fits("cpu") if python else interpreters.find("cpu") is not None
    kind, reason = machine.choose(machine.look(), has_python)
    if reason:
        _say(f"{reason}: taking {'PyTorch' if kind == 'torch' else 'the CPU wheel of MXNet'}")
    return kind


def _is_ready(environment, kind, python):
    """Return whether there is nothing to do; the others wait only for a run that has work."""
    stamp = environment.stamp
    return (
        stamp is not None
        and stamp.state == "works"
        and stamp.has(kind or stamp.kind, _version(python))
        and environment.is_tidy()
    )


def _version(python):
    return python and ".".join(map(str, python.version))


def _update(environment, kind, python):
    """Bring the environment up to date, and try whether it computes; return the exit status."""
    stamp = environment.stamp
    kind = kind or (stamp.kind if stamp else _detect(python))
    if python and not python.fits(kind):
        raise UserError(
            f"PYTHON={python.path}: not a Python {interpreters.range_of(kind)}, which"
            f" {environment.shown} was made for ({kind}); for PyTorch: sh setup.sh torch"
        )
    is_new = stamp is None or not stamp.has(kind, _version(python))
    if is_new:
        _make(environment, kind, python)
    elif stamp.state == "works":
        return 0
    works = computes(environment.new if is_new else environment.folder, kind)
    if is_new:
        if not works and stamp is not None and kind not in _ON_GPUS:
            environment.drop_new()  # the present one has worked
            return 1
        environment.take_place()
    if works:
        environment.note_that_it_works()
    return 0 if works or kind in _ON_GPUS else 1


def _make(environment, kind, python):
    """Make the new environment, unless an earlier run has."""
    made = environment.new_stamp
    if made is not None and made.has(kind, _version(python)):
        return
    stamp = environment.stamp
    if stamp is not None:
        _say(
            f"{environment.shown} is in use for {stamp.kind} and Python {stamp.python}; another"
            " engine, interpreter or requirements/ are wanted: remaking it"
        )
    foreign = environment.find_foreign()
    if foreign is not None:
        raise SetupError(
            f"{foreign} exists and was not made by setup.sh: move it away, or name another folder:"
            " VENV=.venv-2 sh setup.sh"
        )
    python = python or interpreters.find(kind, environment.interpreter)
    if python is None:
        raise SetupError(
            f"{kind} needs Python {interpreters.range_of(kind)} with its venv module, and none is"
            " here; install one (Debian, Ubuntu: apt-get install python3 python3-venv) and name it:"
            " PYTHON=/path/to/python3.11 sh setup.sh"
        )
    install(environment, python, kind, _say)


if __name__ == "__main__":
    sys.argv[0] = "setup.sh"  # the name that users type, at the beginning of messages
    run_script(main)
