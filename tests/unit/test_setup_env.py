"""The environment's setup: checks, stamps, caches and its one-line errors. No network, nothing installed."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import horovod_gpu
import setup_env
from environment import horovod, java, main, venv
from environment.compiler import Compiler, require_compiler
from environment.console import SetupError, clean_environment, duration, run_logged
from environment.layout import Layout, cache_folder, pins
from environment.stamps import Stamps, digest, exclusive

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
GCC = Compiler("/usr/bin/c++", "gcc12")


def write_script(path: Path, text: str) -> Path:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def write_java(home: Path, version: str, trimmed: bool = False) -> Path:
    """Write a ``java`` that says its version as real ones do."""
    refuse = '[ "$1" = -version ] || { echo "Unrecognized option: $1"; exit 1; }\n' if trimmed else ""
    write_script(home / "bin" / "java", f"{refuse}echo 'openjdk version \"{version}\" 2025-04-15' >&2")
    return home


@pytest.fixture
def clone(tmp_path: Path) -> Layout:
    """A small clone with locks, a header and a virtual environment's interpreter."""
    root = tmp_path / "a clone"
    for name in ("conf", "tools"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "pyproject.toml").write_text("[project]\n")
    layout = Layout(root=root, cache=tmp_path / "cache")
    write_script(layout.python, "exit 0")
    return layout


class TestPython:
    @pytest.mark.parametrize("version", [(2, 7), (3, 6), (3, 10), (3, 12), (3, 13)])
    def test_other_releases_are_refused_with_the_way_out(self, version: tuple[int, int]) -> None:
        problem = setup_env.python_problem((*version, 1, "final", 0), "CPython")
        assert problem is not None
        assert f"is CPython {version[0]}.{version[1]};" in problem
        assert "python3.11" in problem
        assert "\n" not in problem

    def test_cpython_3_11_is_accepted_alone(self) -> None:
        assert setup_env.python_problem((3, 11, 2, "final", 0), "CPython") is None
        assert "PyPy 3.11" in setup_env.python_problem((3, 11, 2, "final", 0), "PyPy")

    def test_the_entry_is_readable_by_old_pythons(self) -> None:
        tree = ast.parse((TOOLS / "setup_env.py").read_text(), feature_version=(3, 6))
        head = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert {alias.name for node in head for alias in node.names} == {"platform", "sys"}

    def test_missing_ensurepip_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ensurepip" else object())
        with pytest.raises(SetupError, match=r"no module ensurepip.*python3\.11-venv"):
            venv.require_venv_module()


class TestJava:
    @pytest.mark.parametrize(
        ("output", "version"),
        [
            ('java version "1.8.0_392"', 8),
            ('openjdk version "17.0.15" 2025-04-15', 17),
            ('openjdk version "21" 2023-09-19', 21),
            ('openjdk version "25.0.1" 2025-10-21 LTS', 25),
            ('openjdk version "17-ea" 2021-09-14', 17),
            ("nothing of the kind", None),
        ],
    )
    def test_versions_are_read(self, output: str, version: int | None) -> None:
        assert java.parse_version(output) == version

    @pytest.mark.parametrize(
        ("version", "trimmed", "reason"),
        [("1.8.0_392", True, "is Java 8"), ("25.0.1", False, "is Java 25"), ("17.0.1", True, "jdk.incubator.vector")],
    )
    def test_what_does_not_run_spark_is_named(self, tmp_path: Path, version: str, trimmed: bool, reason: str) -> None:
        home = write_java(tmp_path, version, trimmed)
        assert reason in str(java.probe(home / "bin" / "java"))

    def test_a_java_that_crashes_is_passed_over(self, tmp_path: Path) -> None:
        assert java.probe(write_script(tmp_path / "java", "exit 1")) == f"{tmp_path / 'java'} does not run"

    def test_java_home_comes_before_the_path(self, tmp_path: Path) -> None:
        named, on_path = write_java(tmp_path / "named", "21.0.1"), write_java(tmp_path / "path", "17.0.1")
        environ = {"JAVA_HOME": str(named), "PATH": str(on_path / "bin")}
        assert java.find(environ, []) == (java.Java(named, 21), [])

    def test_wrong_versions_are_passed_over_up_to_the_usual_folders(self, tmp_path: Path) -> None:
        named, on_path = (
            write_java(tmp_path / "named", "25.0.1"),
            write_java(tmp_path / "path", "1.8.0_1", trimmed=True),
        )
        write_java(tmp_path / "jvm" / "temurin-25-jdk", "25.0.1")
        (tmp_path / "jvm" / "openjdk-17").mkdir()
        right = write_java(tmp_path / "jvm" / "java-17-openjdk-amd64", "17.0.15")
        environ = {"JAVA_HOME": str(named), "PATH": str(on_path / "bin")}
        found, reasons = java.find(environ, [tmp_path / "jvm"])
        assert found == java.Java(right, 17)
        assert reasons == [f"{named}/bin/java is Java 25", f"{on_path}/bin/java is Java 8"]

    def test_the_home_that_java_reports_wins_over_a_wrapper(self, tmp_path: Path) -> None:
        wrapper = write_script(
            tmp_path / "shims" / "java",
            "echo '    java.home = /usr/lib/jvm/real' >&2; echo 'openjdk version \"17.0.15\"' >&2",
        )
        assert java.probe(wrapper) == java.Java(Path("/usr/lib/jvm/real"), 17)

    def test_none_and_no_apt_is_one_line(self, tmp_path: Path) -> None:
        old = write_java(tmp_path, "1.8.0_1", trimmed=True)
        with pytest.raises(SetupError) as error:
            java.provide({"PATH": str(old / "bin"), "JAVA_HOME": "/nowhere"}, tmp_path / "logs", [])
        text = str(error.value)
        assert "\n" not in text
        assert "JAVA_HOME=/nowhere has no bin/java" in text
        assert "is Java 8" in text
        assert "openjdk-17-jre-headless" in text

    def test_apt_installs_what_the_release_carries(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        jvm = tmp_path / "jvm"
        fresh = write_java(tmp_path / "fresh", "21.0.1")
        write_script(
            tmp_path / "bin" / "apt-get",
            f'[ "$1" = update ] && exit 100\nfor last; do :; done\n'
            f'case "$last" in *17*) echo "E: Unable to locate package $last"; exit 100;; esac\n'
            f'mkdir -p "{jvm}"; cp -r "{fresh}" "{jvm}/java-21"',
        )
        write_script(tmp_path / "bin" / "sudo", '[ "$1" = -n ] && shift && exec "$@"')
        for tool in ("mkdir", "cp", "true"):
            (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
        found = java.provide({"PATH": str(tmp_path / "bin")}, tmp_path / "logs", [jvm])
        assert found == java.Java(jvm / "java-21", 21)
        assert "installing Java with" in capsys.readouterr().out

    def test_apt_that_fails_is_one_line_with_its_reason(self, tmp_path: Path) -> None:
        write_script(tmp_path / "bin" / "apt-get", 'echo "E: Unable to fetch some archives"; exit 100')
        write_script(tmp_path / "bin" / "sudo", '[ "$1" = -n ] && shift && exec "$@"')
        (tmp_path / "bin" / "true").symlink_to(shutil.which("true") or "true")
        with pytest.raises(SetupError, match=r"Unable to fetch some archives.*jre-headless\.log.*JAVA_HOME"):
            java.provide({"PATH": str(tmp_path / "bin")}, tmp_path / "logs", [])


class TestCompiler:
    def test_none_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(SetupError, match=r"no C\+\+ compiler found.*apt-get install g\+\+"):
            require_compiler({"PATH": str(tmp_path)})

    def test_one_that_does_not_compile_is_named_with_its_reason(self, tmp_path: Path) -> None:
        write_script(tmp_path / "make", "exit 0")
        broken = write_script(tmp_path / "g++", 'echo "cannot execute cc1plus" >&2; exit 1')
        with pytest.raises(
            SetupError, match=re.escape(f"{broken} does not compile a C++17 program (cannot execute cc1")
        ):
            require_compiler({"PATH": str(tmp_path)})

    def test_cxx_is_obeyed_and_not_replaced(self, tmp_path: Path) -> None:
        with pytest.raises(SetupError, match="looked for /nowhere/g"):
            require_compiler({"PATH": os.environ["PATH"], "CXX": "/nowhere/g++"})

    def test_missing_make_is_named(self, tmp_path: Path) -> None:
        write_script(tmp_path / "g++", "exit 0")
        with pytest.raises(SetupError, match="no make found"):
            require_compiler({"PATH": str(tmp_path)})

    @pytest.mark.parametrize(
        ("says", "dump", "family"),
        [("g++ (Debian 12.2.0-14) 12.2.0", "12", "gcc12"), ("Debian clang version 14.0.6", "14.0.6", "clang14")],
    )
    def test_the_family_and_major_version_are_read(self, tmp_path: Path, says: str, dump: str, family: str) -> None:
        write_script(tmp_path / "make", "exit 0")
        script = f'case "$1" in --version) echo "{says}";; -dumpversion) echo "{dump}";; esac'
        command = write_script(tmp_path / "c++", script)
        assert require_compiler({"PATH": str(tmp_path)}) == Compiler(str(command), family)


class TestStamps:
    def test_a_step_counts_only_when_it_ended(self, tmp_path: Path) -> None:
        stamps = Stamps(tmp_path / "stamps")
        with pytest.raises(KeyboardInterrupt), stamps.step("packages", "abc"):
            raise KeyboardInterrupt
        assert stamps.was_interrupted("packages")
        assert not stamps.is_current("packages", "abc")
        with stamps.step("packages", "abc"):
            pass
        assert stamps.is_current("packages", "abc")
        assert not stamps.is_current("packages", "abd")
        assert not stamps.was_interrupted("packages")

    def test_the_digest_separates_its_parts(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("ab")
        assert digest("ab", "c") != digest("a", "bc")
        assert digest(tmp_path / "file", "c") == digest("ab", "c")

    def test_a_second_setup_waits_and_says_so(self, tmp_path: Path) -> None:
        lock = tmp_path / "setup.lock"
        code = (
            f"import pathlib, environment.stamps as s\nwith s.exclusive(pathlib.Path({str(lock)!r}), 'it'): print('in')"
        )
        with exclusive(lock, "it"):
            env = {**os.environ, "PYTHONPATH": str(TOOLS)}
            second = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
            assert second.stdout is not None
            assert "it is busy with another setup; waiting" in second.stdout.readline()
            assert second.poll() is None
        assert second.communicate(timeout=30)[0] == "in\n"


class TestSteps:
    @pytest.fixture
    def done(self, clone: Layout) -> Stamps:
        stamps = Stamps(clone.venv / "sparton-stamps")
        for step, inputs in main.step_inputs(clone).items():
            with stamps.step(step, inputs):
                pass
        return stamps

    @staticmethod
    def stale(clone: Layout, stamps: Stamps) -> list[str]:
        return main.stale_steps(clone, stamps, main.step_inputs(clone))

    def test_nothing_is_done_twice(self, clone: Layout, done: Stamps) -> None:
        assert self.stale(clone, done) == []

    @pytest.mark.parametrize(
        ("file", "steps"),
        [
            ("conf/requirements.lock", ["packages", "horovod", "project"]),
            ("tools/environment/venv.py", ["packages", "horovod", "project"]),
            ("conf/horovod/requirements.lock", ["horovod", "project"]),
            ("conf/horovod/include/tensorflow/compiler/xla/client/xla_builder.h", ["horovod", "project"]),
            ("pyproject.toml", ["project"]),
        ],
    )
    def test_a_change_redoes_what_depends_on_it(self, clone: Layout, done: Stamps, file: str, steps: list[str]) -> None:
        with (clone.root / file).open("a") as handle:
            handle.write("\n# changed\n")
        assert self.stale(clone, done) == steps

    def test_an_interrupted_pip_starts_from_an_empty_environment(self, clone: Layout, done: Stamps) -> None:
        with pytest.raises(KeyboardInterrupt), done.step("packages", "abc"):
            raise KeyboardInterrupt
        assert self.stale(clone, done) == ["venv", "packages", "horovod", "project"]

    def test_an_interrupted_build_keeps_the_packages(self, clone: Layout, done: Stamps) -> None:
        with pytest.raises(KeyboardInterrupt), done.step("horovod", "abc"):
            raise KeyboardInterrupt
        assert self.stale(clone, done) == ["horovod", "project"]

    def test_a_removed_interpreter_or_a_moved_clone_redoes_all(
        self, clone: Layout, done: Stamps, tmp_path: Path
    ) -> None:
        moved = Layout(root=clone.root.rename(tmp_path / "moved"), cache=clone.cache)
        assert self.stale(moved, Stamps(moved.venv / "sparton-stamps"))[0] == "venv"
        clone = Layout(root=moved.root.rename(clone.root), cache=clone.cache)
        clone.python.unlink()
        assert self.stale(clone, done)[0] == "venv"

    def test_a_setup_that_is_cut_off_goes_on(self, clone: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.rmtree(clone.venv)
        calls: list[str] = []

        def create(layout: Layout, env: Mapping[str, str]) -> None:
            calls.append("venv")
            shutil.rmtree(layout.venv)
            write_script(layout.python, "exit 0")

        def record(name: str) -> Callable[..., None]:
            def call(*arguments: object) -> None:
                calls.append(name)
                if calls.count(name) == 1:
                    raise SetupError(f"{name} failed")

            return call

        monkeypatch.setattr(venv, "create", create)
        monkeypatch.setattr(venv, "install_packages", record("packages"))
        monkeypatch.setattr(horovod, "install", record("horovod"))
        monkeypatch.setattr(venv, "install_project", record("project"))
        monkeypatch.setattr(main, "require_compiler", lambda env: GCC)
        monkeypatch.setattr(java, "provide", lambda env, log: java.Java(Path("/jvm"), 17))
        for step in ("packages", "horovod", "project"):
            with pytest.raises(SetupError, match=step):
                main.set_up(clone, {})
        main.set_up(clone, {})
        assert calls == ["venv", "packages", "venv", "packages", "horovod", "horovod", "project", "project"]
        calls.clear()
        main.set_up(clone, {})
        assert calls == []


class TestWheelCache:
    def test_only_a_whole_wheel_is_used(self, tmp_path: Path) -> None:
        assert horovod.cached_wheel(tmp_path / "entry") is None
        wheel = tmp_path / "entry" / "horovod-0.28.1-cp311-cp311-linux_x86_64.whl"
        wheel.parent.mkdir()
        wheel.write_bytes(b"wheel")
        assert horovod.cached_wheel(wheel.parent) is None
        (wheel.parent / "SHA256SUMS").write_text(horovod._sums(wheel))
        assert horovod.cached_wheel(wheel.parent) == wheel
        wheel.write_bytes(b"whee")
        assert horovod.cached_wheel(wheel.parent) is None

    def test_the_key_holds_what_the_wheel_depends_on(self, clone: Layout) -> None:
        key = horovod.wheel_key(clone, GCC)
        assert key.startswith("horovod0.28.1-tf2.20.0-cp311-")
        assert "gcc12" in key
        assert horovod.wheel_key(clone, Compiler("/usr/bin/c++", "gcc13")) != key
        lock = clone.packages_lock.read_text()
        clone.packages_lock.write_text(lock.replace("tensorflow-cpu==2.20.0", "tensorflow-cpu==2.19.0"))
        assert "tf2.19.0" in horovod.wheel_key(clone, GCC)
        clone.packages_lock.write_text(lock)
        assert horovod.wheel_key(clone, GCC) == key
        clone.header_files()[0].write_text("// changed\n")
        assert horovod.wheel_key(clone, GCC) != key

    def test_the_build_sees_our_options_and_headers_alone(self, clone: Layout) -> None:
        outer = {"PATH": "/bin", "CPATH": "/theirs", "HOROVOD_WITH_MPI": "1", "MAKEFLAGS": "-n", "MAKELEVEL": "1"}
        env = horovod.build_environment(clone, GCC, outer)
        assert "HOROVOD_WITH_MPI" not in env
        assert "MAKELEVEL" not in env
        assert env["MAKEFLAGS"] == f"-j{horovod.build_jobs()}"
        assert env["CPATH"] == f"{clone.horovod_headers}:/theirs"
        assert env["PATH"] == f"{clone.venv / 'bin'}:/bin"
        assert env["CXX"] == GCC.command

    def test_a_wheel_that_does_not_load_is_built_again(self, clone: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = clone.cache / "wheels" / horovod.wheel_key(clone, GCC)
        entry.mkdir(parents=True)
        (entry / "old.whl").write_bytes(b"old")
        (entry / "SHA256SUMS").write_text(horovod._sums(entry / "old.whl"))
        # The interpreter refuses the old wheel; as pip it "builds" a new one into the folder after --wheel-dir.
        write_script(
            clone.python,
            'case "$*" in *old.whl) echo "ERROR: not for this machine"; exit 1;; esac\n'
            'for last; do :; done\ncase "$*" in *" wheel "*) echo new > "$last/new.whl";; esac',
        )
        horovod.install(clone, GCC, dict(os.environ))
        assert [path.name for path in entry.glob("*.whl")] == ["new.whl"]
        assert horovod.cached_wheel(entry) == entry / "new.whl"

    def test_the_cache_folder_is_the_users_choice_if_it_can_be_written(self, tmp_path: Path) -> None:
        assert cache_folder({"SPARTON_CACHE": str(tmp_path / "a")}, tmp_path) == tmp_path / "a"
        assert cache_folder({"XDG_CACHE_HOME": str(tmp_path), "HOME": "/"}, tmp_path) == tmp_path / "sparton"
        assert cache_folder({"HOME": str(tmp_path)}, tmp_path) == tmp_path / ".cache" / "sparton"
        assert cache_folder({"SPARTON_CACHE": "/dev/null/x"}, tmp_path) == tmp_path / ".cache" / "sparton"


class TestCommands:
    def test_a_failure_is_one_line_with_cause_and_log(self, tmp_path: Path) -> None:
        log = tmp_path / "logs" / "pip.log"
        command = ["sh", "-c", "echo 'WARNING: retrying'; echo 'ERROR: No matching distribution found for x'; exit 3"]
        with pytest.raises(SetupError) as error:
            run_logged(command, log, "installing", {})
        assert str(error.value) == f"installing failed (ERROR: No matching distribution found for x); its output: {log}"
        with pytest.raises(SetupError, match="exit status 3"):
            run_logged(["sh", "-c", "exit 3"], log, "installing", {})

    def test_an_unreachable_registry_is_one_line_with_the_way_out(self, clone: Layout) -> None:
        said = (
            "WARNING: Retrying after connection broken by 'NewConnectionError'\nERROR: No matching distribution found"
        )
        write_script(clone.python, f'echo "{said}"; exit 1')
        with pytest.raises(SetupError) as error:
            venv.install_packages(clone, dict(os.environ))
        assert re.search(r"packages\.log; is the package registry within reach", str(error.value))
        assert "\n" not in str(error.value)

    def test_a_wrong_hash_is_not_called_a_matter_of_the_network(self, clone: Layout) -> None:
        write_script(clone.python, "echo 'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES'; exit 1")
        with pytest.raises(SetupError, match="DO NOT MATCH") as error:
            venv.install_packages(clone, dict(os.environ))
        assert "reach" not in str(error.value)

    def test_a_terminated_setup_ends_its_command(self, tmp_path: Path) -> None:
        code = (
            "import os, pathlib, signal, environment.main as m, environment.console as c\n"
            "signal.signal(signal.SIGTERM, m._interrupt)\n"
            f"c.run_logged(['sh', '-c', 'echo $$; sleep 60'], pathlib.Path({str(tmp_path / 'log')!r}), 'x', os.environ)"
        )
        env = {**os.environ, "PYTHONPATH": str(TOOLS)}
        setup = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.DEVNULL)
        child = wait_for(lambda: (tmp_path / "log").is_file() and (tmp_path / "log").read_text().strip())
        setup.terminate()
        setup.wait(timeout=30)
        assert wait_for(lambda: not Path(f"/proc/{child}").exists())

    def test_pip_is_not_led_astray(self) -> None:
        env = clean_environment({"PYTHONPATH": "/x", "PIP_TARGET": "/y", "PIP_INDEX_URL": "mine", "PATH": "/bin"})
        assert env == {"PIP_INDEX_URL": "mine", "PATH": "/bin", "PIP_USER": "0"}

    @pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (185.0, "3 min 05 s")])
    def test_durations_read_well(self, seconds: float, text: str) -> None:
        assert duration(seconds) == text

    def test_the_activation_file_is_for_any_shell_and_folder(self, clone: Layout, tmp_path: Path) -> None:
        venv.write_activation(clone, java.Java(tmp_path / "it's a java", 17))
        script = '. "$1" && echo "$JAVA_HOME" && echo "$PATH" && echo "$SPARK_CONF_DIR${SPARK_HOME-}"'
        command = ["sh", "-c", script, "sh", str(clone.venv / "sparton-env")]
        env = {"PATH": "/usr/bin:/bin", "SPARK_HOME": "/other"}
        lines = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
        assert lines[0] == str(tmp_path / "it's a java")
        assert lines[1] == f"{clone.venv}/bin:{lines[0]}/bin:/usr/bin:/bin"
        assert lines[2] == str(clone.root / "conf")


class TestProgram:
    @staticmethod
    def run(clone: Layout, **env: str) -> subprocess.CompletedProcess[str]:
        shutil.rmtree(clone.venv)
        command = [sys.executable, str(clone.root / "tools" / "setup_env.py")]
        return subprocess.run(command, env={"HOME": "/", **env}, capture_output=True, text=True, check=False)

    def test_a_missing_compiler_ends_it_before_any_work(self, clone: Layout, tmp_path: Path) -> None:
        done = self.run(clone, PATH=str(tmp_path))
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("environment: no C++ compiler found")
        assert done.stderr.count("\n") == 1
        assert not clone.python.exists()

    def test_nothing_under_the_clone_names_a_registry(self) -> None:
        locks = [ROOT / "conf" / "requirements.lock", ROOT / "conf" / "horovod" / "requirements.lock"]
        for path in [*locks, *TOOLS.rglob("*.py"), ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".ci" / "run"]:
            assert "://" not in path.read_text(encoding="utf-8"), path


class TestLocks:
    @pytest.mark.parametrize("name", ["conf/requirements.lock", "conf/horovod/requirements.lock"])
    def test_every_package_is_pinned_and_hashed(self, name: str) -> None:
        text = re.sub(r"#.*", "", (ROOT / name).read_text())
        requirements = [entry for entry in re.split(r"\n(?=\S)", text.strip()) if entry.strip()]
        assert requirements
        for entry in requirements:
            assert re.match(r"[\w.-]+==\S+", entry), entry
            assert "--hash=sha256:" in entry, entry
        assert len(pins(ROOT / name)) == len(requirements)


def wait_for(probe: Callable[[], object], seconds: float = 20.0) -> object:
    """Return the first true value of ``probe`` within a time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = probe()
        if value:
            return value
        time.sleep(0.05)
    return probe()


class TestHorovodForGpus:
    @pytest.fixture
    def machine(self, tmp_path: Path) -> dict[str, str]:
        """An environment with a CUDA toolkit and NCCL."""
        write_script(tmp_path / "cuda" / "bin" / "nvcc", "exit 0")
        header = tmp_path / "nccl" / "include" / "nccl.h"
        header.parent.mkdir(parents=True)
        header.touch()
        return {"CUDA_HOME": str(tmp_path / "cuda"), "HOROVOD_NCCL_HOME": str(tmp_path / "nccl"), "PATH": "/usr/bin"}

    def test_toolkit_is_found(self, machine: dict[str, str], tmp_path: Path) -> None:
        expected = horovod_gpu.Toolkit(tmp_path / "cuda", tmp_path / "nccl")
        assert horovod_gpu.find_toolkit(machine) == expected
        on_path = {**machine, "CUDA_HOME": "", "PATH": str(tmp_path / "cuda" / "bin")}
        assert horovod_gpu.find_toolkit(on_path) == expected

    @pytest.mark.parametrize(
        ("name", "message"),
        [("CUDA_HOME", "no CUDA toolkit in .*HOROVOD_CUDA_HOME"), ("HOROVOD_NCCL_HOME", "no NCCL in .*nccl.h.*")],
    )
    def test_what_is_missing_is_named(self, machine: dict[str, str], tmp_path: Path, name: str, message: str) -> None:
        with pytest.raises(SetupError, match=message):
            horovod_gpu.find_toolkit({**machine, name: str(tmp_path / "nowhere")})

    def test_a_tensorflow_for_cpus_is_refused_with_the_way_out(self, tmp_path: Path) -> None:
        with pytest.raises(SetupError, match=r"is built without CUDA; name the Python .*GPU_PYTHON="):
            horovod_gpu.require_tensorflow(sys.executable)
        cuda = write_script(tmp_path / "python", "echo 2.20.0 True")
        assert horovod_gpu.require_tensorflow(str(cuda)) == "2.20.0"
        with pytest.raises(SetupError, match="has no TensorFlow that loads"):
            horovod_gpu.require_tensorflow(str(write_script(tmp_path / "bare", "exit 1")))

    def test_the_build_is_that_of_the_cpu_with_nccl(self, machine: dict[str, str], clone: Layout) -> None:
        plain = horovod.build_environment(clone, GCC, machine)
        gpu = horovod_gpu.build_environment(clone, GCC, horovod_gpu.find_toolkit(machine), machine)
        assert {name: value for name, value in gpu.items() if plain.get(name) != value} == {
            "HOROVOD_GPU_OPERATIONS": "NCCL",
            "HOROVOD_CUDA_HOME": machine["CUDA_HOME"],
            "HOROVOD_NCCL_HOME": machine["HOROVOD_NCCL_HOME"],
        }

    def test_the_command_says_what_is_missing_in_one_line(self) -> None:
        environ = {**os.environ, "HOROVOD_CUDA_HOME": "/nowhere"}
        ended = subprocess.run(
            [sys.executable, str(TOOLS / "horovod_gpu.py")], env=environ, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 1
        assert ended.stderr.startswith("horovod-gpu: no CUDA toolkit in /nowhere")
        assert ended.stderr.count("\n") == 1
