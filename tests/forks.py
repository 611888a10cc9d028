"""Commands of the repository, each in a fork of one process that has imported what they need: seconds less for each.

A fork before JAX has opened a device behaves as a process of its own. `python forks.py` is the server: JSON lines in
(arguments, folder, files of the outputs), a line with the exit code out.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

MODULES = ("ltx_jax.tools.sample", "ltx_jax.tools.train", "ltx_jax.tools.plan")


class Forks:
    """A server, started when it is first asked."""

    def __init__(self, environment: dict[str, str]):
        self._environment, self._server = environment, None

    def run(self, script: str, *arguments: str, cwd: str | os.PathLike[str]) -> subprocess.CompletedProcess:
        """`python script arguments`, or `python -m module arguments`, in a folder."""
        if self._server is None:
            command = [sys.executable, __file__]
            pipe = subprocess.PIPE
            self._server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=self._environment)
        server: Any = self._server
        with tempfile.TemporaryDirectory() as folder:
            outputs = [str(Path(folder) / name) for name in ("stdout", "stderr")]
            print(json.dumps([[script, *arguments], str(cwd), *outputs]), file=server.stdin, flush=True)
            code = int(server.stdout.readline())
            said = [Path(path).read_text() for path in outputs]
        return subprocess.CompletedProcess([script, *arguments], code, *said)

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.communicate("", timeout=60)


def _serve() -> None:
    for module in MODULES:
        __import__(module)
    for line in sys.stdin:
        arguments, cwd, *outputs = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(arguments, cwd, outputs)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(arguments: list[str], cwd: str, outputs: list[str]) -> None:
    os.chdir(cwd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    code = 0
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
