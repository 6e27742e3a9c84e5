"""Scripts of this folder in processes of their own, without the five seconds in which each would import the library.

`start` asks a server, one per backend and run of pytest, which has imported the library and has done nothing with it.
For every script it forks: the process is as a fresh one, but for variables that only an import reads.
`forks.py ADDRESS OWNER` is the server. It ends when the process OWNER has ended.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time

TESTS = pathlib.Path(__file__).parent
SERVERS = []  # what this process has started, so that Python does not warn of them


class Process:
    """A script that has been started, with what the tests need of `subprocess.Popen`."""

    def __init__(self, server, stdin, stdout):
        self.stdin, self.stdout = os.fdopen(stdin, "w"), os.fdopen(stdout)
        self._server, self.returncode = server, None
        self.pid = int(server.readline())

    def poll(self):
        """Its exit status; `None` while it is running."""
        ended = self.returncode is not None or select.select([self._server], [], [], 0)[0]
        return self.wait() if ended else None

    def wait(self, timeout=600):
        if self.returncode is None:
            assert select.select([self._server], [], [], timeout)[0], "it took too long"
            self.returncode = int(self._server.readline())
            if self.returncode > 0 and not self.stdout.closed:
                print(self.stdout.read())
            for stream in (self.stdin, self.stdout, self._server):
                stream.close()
        return self.returncode

    def communicate(self, text=""):
        """What it writes until it ends, after it has been given `text`."""
        with contextlib.suppress(BrokenPipeError), self.stdin:
            self.stdin.write(text)
        output = self.stdout.read()
        self.wait()
        return output

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def start(script, *arguments, backend="tensorflow", **environment):
    """Start a script of this folder. What it writes and its errors are one stream.

    Args:
        script: Name of the script.
        *arguments: Its arguments.
        backend: Keras' backend.
        **environment: Variables that it has besides those of this process.
    """
    (stdin, given), (taken, stdout) = os.pipe(), os.pipe()
    request = json.dumps([str(TESTS / script), [str(own) for own in arguments], environment, os.getcwd()])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address_of_server(backend))
        socket.send_fds(client, [request.encode()], [stdin, stdout])
        server = client.makefile()
    os.close(stdin)
    os.close(stdout)
    return Process(server, given, taken)


def address_of_server(backend):
    """Where the server of this run listens; it is started if need be."""
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    address = pathlib.Path(tempfile.gettempdir(), f"keras_bikd_{owner}_{backend}")
    with open(f"{address}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not address.exists():
            command = [sys.executable, __file__, str(address), str(owner)]
            server = subprocess.Popen(command, env={**os.environ, "KERAS_BACKEND": backend}, start_new_session=True)
            SERVERS.append(server)
            while not address.exists():
                assert server.poll() is None
                time.sleep(0.05)
    return str(address)


def serve(address, owner):
    import models  # noqa: F401

    unfinished = f"{address}.unfinished"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(unfinished)
        listener.listen()
        listener.settimeout(1)
        os.rename(unfinished, address)  # only now it can be found
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while is_running(int(owner)):
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    return keep(connection)
                connection.close()
    for path in (address, f"{address}.lock"):
        pathlib.Path(path).unlink()
    return None


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def keep(connection):
    """Fork once more, and tell the client how the script ended; returns what to run in the new process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, streams, *_ = socket.recv_fds(connection, 2**16, 2)
    pid = os.fork()
    if pid == 0:
        connection.close()
        return json.loads(request), streams
    for stream in streams:
        os.close(stream)
    connection.sendall(f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def run(request, streams):
    (script, arguments, environment, folder), (stdin, stdout) = request, streams
    for stream, number in ((stdin, 0), (stdout, 1), (stdout, 2)):
        os.dup2(stream, number)
    os.close(stdin)
    os.close(stdout)
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    asked = serve(*sys.argv[1:])
    if asked is not None:
        run(*asked)
