"""How the tests run: side by side, a script in a fork, the cases of the faults counted."""

import os

import pytest

FAULTS = """
import pytest

@pytest.mark.parametrize("number", [0, 5, 1, 1])
def test_fault(number, request):
    if number:
        request.node.user_properties.append(("cases", 10 ** number))
    assert number != 5
"""


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_the_cases_of_all_workers_are_counted(tmp_path, python, workers):
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "test_faults.py").write_text(FAULTS)
    (tmp_path / "test_others.py").write_text("def test_no_fault(): pass")
    flags = ["-c", f"{tmp_path}/pytest.ini", "-p", "tests.conftest", *workers, str(tmp_path)]
    done = python(f"import sys, pytest; sys.exit(pytest.main({flags}))")
    assert "1 failed, 4 passed" in done.stdout
    assert "faults: 100021 cases tried, 21 survived\n" in done.stdout


def test_there_is_a_worker_for_each_core_that_may_be_used(tmp_path, python):
    (tmp_path / "test_count.py").write_text(
        'import os\ndef test_count(): assert os.environ["PYTEST_XDIST_WORKER_COUNT"] == "3"\n'
    )
    flags = ["-p", "no:cacheprovider", "-p", "tests.conftest", "-n", "auto", str(tmp_path)]
    done = python(
        f"""
        import sys, pytest
        from common.base import processor
        processor.usable_cores = lambda: 3
        sys.exit(pytest.main({flags}))
        """
    )
    assert done.returncode == 0, done.stdout


def test_a_script_has_the_folder_and_the_environment_of_its_test(script, tmp_path, monkeypatch):
    (tmp_path / "report.py").write_text("import os\nprint(os.getcwd(), os.environ['OF_A_TEST'])\n")
    for value in ("first", "second"):
        monkeypatch.setenv("OF_A_TEST", value)
        said = script(tmp_path / "report.py", cwd=tmp_path).stdout
        assert said == f"{os.path.realpath(tmp_path)} {value}\n"


def test_a_script_that_fails_fails_its_test(script):
    with pytest.raises(AssertionError, match="no/such/folder"):
        script("mx_list.py", "--data-dir", "no/such/folder")
