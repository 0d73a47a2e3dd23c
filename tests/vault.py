"""Storage ``vault://`` for tests: a folder that is a local path to nobody, where writers can be made to die."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PLUGIN = '''
"""The first writer of a file whose path has a text of $VAULT_KILL (separated by spaces) in it dies, half way."""
import os, re, signal
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

def executor():
    """The JVM of the executor: the parent of the daemon that forked this worker."""
    with open(f"/proc/{os.getppid()}/stat") as stream:
        jvm = int(stream.read().rpartition(")")[2].split()[1])
    with open(f"/proc/{jvm}/cmdline") as stream:
        assert "CoarseGrainedExecutorBackend" in stream.read(), "not below an executor"
    return jvm

class Vault(DirFileSystem):
    protocol = "vault"
    def __init__(self, **options):
        super().__init__(path=os.environ["VAULT"], fs=LocalFileSystem())
    def open(self, path, mode="rb", **options):
        stream = super().open(path, mode, **options)
        if mode == "wb" and "_quarantine" not in path:
            for text in os.environ["VAULT_KILL"].split():
                if text in path:
                    above = [executor()] if os.environ["VAULT_VICTIM"] == "executor" else []
                    if self._first(text, path):
                        stream.write(b"half")
                        stream.flush()
                        for process in (*above, os.getpid()):
                            os.kill(process, signal.SIGKILL)
        return stream
    def _first(self, text, path):
        try:
            with open(os.path.join(os.environ["VAULT"], "killed-" + re.sub(r"\\W", "", text)), "x") as marker:
                marker.write(path)
        except FileExistsError:
            return False
        return True
'''


def install(folder: Path, *kill: str, victim: str = "worker") -> tuple[Path, dict[str, str]]:
    """Make the storage known to processes with the environment that is returned, beside the folder behind it.

    Parameters
    ----------
    folder
        Where to put the plug-in and the storage.
    kill
        The first writer of a file whose path has one of these in it dies; ``killed-<text>`` at the storage's root then
        holds the path.
    victim
        ``worker`` (the Python process that writes) or ``executor`` (it and the JVM above it).
    """
    plugin, vault = folder / "plugin", folder / "vault"
    described = plugin / "vault-1.0.dist-info"
    described.mkdir(parents=True)
    vault.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: vault\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[fsspec.specs]\nvault = vault:Vault\n")
    (plugin / "vault.py").write_text(PLUGIN)
    paths = [str(plugin), str(ROOT / "lib"), os.environ.get("PYTHONPATH", "")]
    own = {"VAULT": str(vault), "VAULT_KILL": " ".join(kill), "VAULT_VICTIM": victim}
    return vault, os.environ | own | {"PYTHONPATH": os.pathsep.join(paths)}
