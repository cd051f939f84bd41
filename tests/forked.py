"""Fresh processes that need not import TensorFlow again.

One process imports TensorFlow and TensorFlow Text and does no more. It forks for each program that
is to run in a process of its own, so that the program has a memory, an environment and a runtime
of TensorFlow of its own, and begins at once. This library is not imported yet in it.

Run as a program, this file is the process that forks.
"""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile


def run(*command, cwd=None, **environment):
    """What `python command` returns: a `CompletedProcess`, whose `returncode` may be a signal.

    Args:
        command: "-c", code, arguments; or a script, arguments.
        cwd: the folder to run in.
        environment: what is added to that of this process.
    """
    server = _server()
    names = "stdout", "stderr"
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in names]
        job = {
            "command": [str(part) for part in command],
            "cwd": str(cwd or os.getcwd()),
            "environment": {**os.environ, **environment},
            "files": files,
        }
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        output = []
        for file in files:
            with open(file, encoding="utf8") as opened:
                output.append(opened.read())
    return subprocess.CompletedProcess(command, code, **dict(zip(names, output)))


@functools.cache
def _server():
    """The process that forks, one for each of pytest-xdist's workers."""
    server = subprocess.Popen(
        [sys.executable, __file__],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONIOENCODING": "utf8"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    for step in (server.stdout.close, server.wait, server.stdin.close):  # the last one first
        atexit.register(step)
    return server


def _serve():
    import tensorflow  # noqa: F401
    import tensorflow_text  # noqa: F401

    for line in sys.stdin:
        job, child = json.loads(line), os.fork()
        if not child:
            _become(job)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(job):
    """Runs the program; does not return."""
    import runpy
    import traceback

    for number, file in enumerate(job["files"], 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["environment"])
    code = 0
    try:
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        first, *rest = job["command"]
        if first == "-c":
            sys.argv, sys.path[:1] = ["-c", *rest[1:]], ["", *filter(None, paths)]
            exec(rest[0], {"__name__": "__main__"})
        else:
            sys.argv, sys.path[:1] = [first, *rest], [os.path.dirname(first), *filter(None, paths)]
            runpy.run_path(first, run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
