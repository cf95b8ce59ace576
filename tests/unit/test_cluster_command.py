"""`make cluster` without a cluster: what is given is taken, and what is lacking is said in one line."""

import os
import ssl
import subprocess
import sys
from pathlib import Path

from k8s.cluster import images
from k8s.cluster.credentials import Authority


def run(verb: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "k8s.cluster", verb, "--folder", str(folder)]
    kept = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    return subprocess.run(argv, env={**kept, **environment}, capture_output=True, text=True, timeout=60)


def test_a_kubeconfig_that_is_given_is_printed_and_nothing_is_started(tmp_path: Path) -> None:
    done = run("up", tmp_path / "cluster", KUBECONFIG="/some/where/config")
    assert (done.returncode, done.stdout) == (0, "/some/where/config\n")
    assert not (tmp_path / "cluster").exists()


def test_down_touches_nothing_of_a_cluster_that_was_given(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("theirs")
    done = run("down", tmp_path, KUBECONFIG=str(tmp_path / "kubeconfig"))
    assert done.returncode == 0
    assert (tmp_path / "kubeconfig").read_text() == "theirs"


def test_what_the_machine_lacks_is_one_line(tmp_path: Path) -> None:
    done = run("up", tmp_path / "cluster", PATH="/nowhere")
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("cluster: No cluster can run here: not ")
    assert not (tmp_path / "cluster").exists()


def test_kind_is_taken_where_it_and_a_docker_that_answers_are_there(tmp_path: Path) -> None:
    noted = 'echo "$(basename "$0") $*" >>"$(dirname "$0")/calls"'
    for name, said in {"kind": f'{noted}; echo "said: $*"', "docker": noted}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{said}\n")
        (tmp_path / name).chmod(0o755)
    folder = tmp_path / "cluster"
    done = run("up", folder, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]) == folder / "kubeconfig"
    assert (folder / "kubeconfig").read_text().startswith("said: get kubeconfig --name berth-")
    calls = (tmp_path / "calls").read_text()
    assert "kind create cluster --name berth-" in calls
    # Where nodes lack the agents' profile none of them starts.
    assert calls.index("kind create cluster") < calls.index("docker cp")
    assert calls.rstrip().endswith("kind get kubeconfig --name " + calls.rstrip().split()[-1])
    assert ":/var/lib/kubelet/seccomp/agent.json" in calls


def test_python_trusts_the_servers_of_an_authority_and_nobody_else(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    certificate, key = ours.server("api", ["127.0.0.1", "kubernetes"])
    assert handshake(ours.certificate, certificate, key) is None
    assert "certificate verify failed" in str(handshake(theirs.certificate, certificate, key))


def handshake(authority: Path, certificate: Path, key: Path) -> ssl.SSLError | None:
    """A TLS handshake in memory, as strict as Python can be."""
    client = ssl.create_default_context(cafile=str(authority))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                return error
    return None


def test_an_image_of_the_same_program_has_the_same_bytes(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    first, second = (images.pack(program, "localhost/x:1", tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second
