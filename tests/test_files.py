"""Files that appear only when whole, and errors that a user can fix."""

import os
import subprocess
import sys

import pytest

from common.base.files import (
    ROOT,
    UserError,
    atomic_open,
    exclusive_lock,
    open_own,
    replacing,
    require_file,
)
from tests.conftest import limit_file_size


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "train.lst"
    with atomic_open(path) as stream:
        stream.write("0\t1.0\tBombus × hybrid.jpg\n")
        assert not path.exists()
    assert path.read_bytes() == "0\t1.0\tBombus × hybrid.jpg\n".encode()
    assert os.listdir(tmp_path) == ["train.lst"]


def test_a_failed_writer_leaves_what_was_there(tmp_path):
    path = tmp_path / "train.lst"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_open(path) as stream:
        stream.write("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["train.lst"]


def test_what_a_killed_run_left_is_overwritten(tmp_path, python):
    path = tmp_path / "log.csv"
    code = f"""
    import os
    from common.base.files import atomic_open
    with atomic_open({str(path)!r}) as stream:
        stream.write("half")
        stream.flush()
        os.kill(os.getpid(), 9)
    """
    assert python(code).returncode == -9
    assert os.listdir(tmp_path) != []
    assert not path.exists()
    with atomic_open(path) as stream:
        stream.write("whole")
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["log.csv"]


def test_a_second_writer_of_the_same_file_is_refused(tmp_path, python):
    path = tmp_path / "train.rec"
    with replacing(str(path)) as temporary, open(temporary, "w") as stream:
        stream.write("first")
        second = python(
            f"""
            from common.base.files import replacing
            from common.base.script import run_script
            run_script(lambda: replacing({str(path)!r}).__enter__())
            """
        )
    assert second.returncode == 2
    assert second.stderr == f"-c: {path}: another run is writing it; wait for it or stop it\n"
    assert path.read_text() == "first"


@pytest.mark.skipif(
    subprocess.run(["sh", "-c", "strace true"], capture_output=True).returncode != 0,
    reason="strace is not here, or may not trace",
)
def test_a_file_system_without_locks_is_written_all_the_same(tmp_path):
    path = tmp_path / "train.lst"
    code = "from common.base.files import atomic_open\n"
    code += f"with atomic_open({str(path)!r}) as stream: pass"
    no_locks = ["strace", "-f", "-qq", "-e", "trace=flock", "-e", "inject=flock:error=ENOSYS"]
    done = subprocess.run([*no_locks, sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"INJECTED" in done.stderr
    assert os.listdir(tmp_path) == ["train.lst"]


def test_a_lock_ends_with_its_process(tmp_path, python):
    path = str(tmp_path / "run")
    code = f"""
    import os
    from common.base.files import exclusive_lock
    with exclusive_lock({path!r}, "training to it"):
        os.kill(os.getpid(), 9)
    """
    assert python(code).returncode == -9
    with exclusive_lock(path, "training to it"), pytest.raises(
        UserError, match="training to it; wait"
    ):
        with exclusive_lock(path, "training to it"):
            pass
    assert os.listdir(tmp_path) == []


def test_a_file_size_limit_is_one_line_and_no_half_file(tmp_path, python):
    path = str(tmp_path / "big.rec")
    code = f"""
    from common.base.files import atomic_open
    from common.base.script import run_script
    def main():
        with atomic_open({path!r}, "wb") as stream:
            stream.write(bytes(10**6))
    run_script(main)
    """
    done = python(code, preexec_fn=limit_file_size)
    assert done.returncode == 2
    assert done.stderr.startswith(f"-c: {path}: the file size limit")
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="needs Linux's /dev/full")
def test_a_full_disk_is_one_line(python):
    done = python(
        """
        from common.base.script import run_script
        run_script(lambda: open("/dev/full", "w").write("x" * 10**6))
        """
    )
    assert done.returncode == 2
    assert "the disk is full" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_wrong_paths_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="not found; run step 1"):
        require_file(str(tmp_path / "no.json"), "run step 1")
    with pytest.raises(UserError, match="is a folder, not a file"):
        require_file(str(tmp_path), "run step 1")
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(UserError, match="is a link that leads nowhere; run step 1"):
        require_file(str(tmp_path / "link"), "run step 1")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a pipe or a device, not a file"):
        require_file(str(tmp_path / "pipe"), "run step 1")
    with pytest.raises(UserError, match="its folder does not exist"):
        atomic_open(tmp_path / "no" / "train.lst").__enter__()
    with pytest.raises(UserError, match="is a folder; remove it"):
        atomic_open(tmp_path).__enter__()


@pytest.mark.parametrize("plant", [os.symlink, os.link])
@pytest.mark.parametrize("name", [".tmp-out.csv", ".tmp-out.csv.lock"])
def test_a_link_under_a_temporary_name_is_not_written_through(tmp_path, plant, name):
    precious, out = tmp_path / "precious", str(tmp_path / "out.csv")
    precious.write_text("precious")
    plant(precious, tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: is a link, and the file behind it would be ch"):
        with exclusive_lock(out, "writing it"), atomic_open(out) as stream:
            stream.write("new")
    assert precious.read_text() == "precious"
    assert not os.path.exists(out)


def test_a_link_to_nothing_makes_no_file_elsewhere(tmp_path):
    (tmp_path / ".tmp-out.csv").symlink_to("elsewhere")
    with pytest.raises(UserError, match="is a link"), atomic_open(tmp_path / "out.csv"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_pipe_under_a_temporary_name_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / ".tmp-out.csv")
    with pytest.raises(UserError, match="is a pipe or a device"), atomic_open(tmp_path / "out.csv"):
        pass


@pytest.mark.parametrize("mode", ["wb", "w+b", "r+b", "ab"])
def test_a_link_that_appears_while_a_run_works_is_not_followed(tmp_path, mode):
    precious, out = tmp_path / "precious", str(tmp_path / "out.bin")
    precious.write_bytes(b"precious")
    with pytest.raises(UserError, match="is a link"), replacing(out) as temporary:
        os.remove(temporary)
        os.link(precious, temporary)
        with open(temporary, mode, opener=open_own):
            pass
    assert precious.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["precious"]


@pytest.mark.parametrize("mode", ["wb", "w+b", "r+b", "ab"])
def test_a_file_of_our_own_is_opened_as_ever(tmp_path, mode):
    for path in (tmp_path / "ours", tmp_path / "ordinary"):
        path.write_bytes(b"what was there")
    with open(tmp_path / "ours", mode, opener=open_own) as stream:
        stream.write(b"new")
    with open(tmp_path / "ordinary", mode) as stream:
        stream.write(b"new")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "ordinary").read_bytes()
