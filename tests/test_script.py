"""How a script begins and ends: signals, closed streams, and exit statuses."""

import os
import signal
import sys

import pytest

from tests.conftest import run_python


@pytest.mark.parametrize("closed", [1, 2])
def test_a_script_works_with_its_output_closed(tmp_path, python, closed):
    code = f"""
    import sys
    from common.base.script import run_script
    from common.base.progress import Progress
    def main():
        with Progress(1, "working") as progress:
            progress.update()
        print("done")
        open({str(tmp_path / "done")!r}, "w").close()
    run_script(main)
    """
    assert python(code, preexec_fn=lambda: os.close(closed)).returncode == 0
    assert os.listdir(tmp_path) == ["done"]


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_a_script_with_its_status(number, status, python):
    done = python(
        f"""
        import os, signal, time
        from common.base.script import run_script
        def main():
            os.kill(os.getpid(), signal.{number})
            time.sleep(9)
        run_script(main)
        """
    )
    assert done.returncode == status
    assert "stopped by" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_while_an_array_is_made_leaves_one_line(number, status, python):
    """MXNet's arrays free a handle that they do not have yet."""
    done = python(
        f"""
        import os, signal
        from common.base.script import run_script
        class Array:
            def __init__(self):
                os.kill(os.getpid(), signal.{number})
                self.handle = 1
            def __del__(self):
                print("freed", self.handle)
        run_script(Array)
        """
    )
    assert done.returncode == status
    assert len(done.stderr.strip().splitlines()) == 1 and "stopped by" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_is_not_lost_where_python_drops_exceptions(number, status, python):
    done = python(
        f"""
        import os, signal, time
        from common.base.script import run_script
        class Array:
            def __del__(self):
                os.kill(os.getpid(), signal.{number})
        def main():
            Array()
            time.sleep(9)
        run_script(main)
        """
    )
    assert done.returncode == status
    assert "stopped by" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_that_c_code_turns_into_another_error_leaves_one_line(number, status, python):
    """Matplotlib's turns what is raised while it asks for a number into a ValueError."""
    done = python(
        f"""
        import os, signal, time
        from common.base.script import run_script
        def main():
            try:
                os.kill(os.getpid(), signal.{number})
                time.sleep(9)
            except KeyboardInterrupt:
                raise ValueError("Invalid bounding box")
        run_script(main)
        """
    )
    assert done.returncode == status
    assert len(done.stderr.strip().splitlines()) == 1 and "stopped by" in done.stderr


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_while_a_script_says_why_it_ends_leaves_one_line(number, python):
    done = python(
        f"""
        import os, signal, sys
        from common.base.files import UserError
        from common.base.script import run_script
        def main():
            write = sys.stderr.write
            sys.stderr.write = lambda line: (write(line), os.kill(os.getpid(), signal.{number}))
            raise UserError("train.rec: not found")
        run_script(main)
        """
    )
    assert done.returncode == -getattr(signal, number)
    assert done.stderr.strip().endswith(": train.rec: not found")
    assert len(done.stderr.strip().splitlines()) == 1


def test_ctrl_c_while_mxnet_is_imported_is_one_line(stand_in, mx):
    folder = stand_in("mxnet", "import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    status, _, errors = run_python("fine-tune.py", "--gpus", "cpu", PYTHONPATH=folder)
    assert (status, errors) == (130, "\nfine-tune.py: stopped by Ctrl-C\n")


@pytest.mark.parametrize(
    "command",
    ["mx_list.py", "im2rec.py", "fine-tune.py", "sub.py", "-m common.doctor", "-m common.cluster"],
)
def test_a_python_without_the_packages_is_told_to_run_setup(command):
    status, _, errors = run_python("-S", *command.split())  # -S: without the installed packages
    assert status == 2 and errors.count("\n") == 1
    assert f"not installed in {sys.executable}: run sh setup.sh, then .venv/bin/python" in errors


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB.",
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 9 bytes",
        "Traceback (most recent call last):\\n[bt] x\\nMXNetError: Failed to allocate CPU Memory",
    ],
)
def test_too_little_memory_for_an_engine_is_one_line(said, python):
    done = python(
        f"""
        import atexit, os
        from common.base.script import run_script
        def main():
            atexit.register(os.abort)  # as MXNet ends when it has freed twice
            raise RuntimeError("{said}")
        run_script(main)
        """
    )
    reason = said.split("\\n")[-1]
    line = f"-c: out of memory ({reason}); a smaller batch or image needs less\n"
    assert (done.returncode, done.stderr) == (2, line)


def test_a_bug_keeps_its_traceback(python):
    done = python("from common.base.script import run_script; run_script(lambda: {}['key'])")
    assert done.returncode == 1
    assert "KeyError: 'key'" in done.stderr
