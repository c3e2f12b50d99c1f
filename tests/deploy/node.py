"""The binary itself: whether it takes the settings, and what is on its /metrics."""

import os
import re
import socket
import subprocess
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from manifests import ROOT, settings_of

SKYWAVE = ROOT / os.environ.get("SKYWAVE_BIN", "target/debug/skywave")
SECRETS = "/run/secrets/skywave"


def settings(things):
    """The settings in the ConfigMap are what the node takes, with some secret in every file that they name."""
    text = settings_of(things)[0]
    with tempfile.TemporaryDirectory() as folder:
        for name in set(re.findall(rf"{SECRETS}/([\w.-]+)", text)):
            Path(folder, name).write_text("a secret of no fewer than thirty-two bytes".replace(" ", "-"))
        file = Path(folder, "skywave.toml")
        file.write_text(text.replace(SECRETS, folder))
        done = subprocess.run([SKYWAVE, "config", "check", "--config", file], capture_output=True, text=True, timeout=20)
    if done.returncode != 0:
        yield "settings", (done.stdout + done.stderr).strip()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def running(*arguments, **settings):
    """A node on free ports, with these settings in its environment; its internal address."""
    address = f"127.0.0.1:{free_port()}"
    node = subprocess.Popen(
        [SKYWAVE, "serve", *arguments, "--listen", "127.0.0.1:0", "--internal-listen", address],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | settings,
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://{address}/readyz", timeout=2).close()
                break
            except OSError:
                if time.monotonic() > deadline or node.poll() is not None:
                    raise
                time.sleep(0.05)
        yield address
    finally:
        node.kill()
        node.wait()


def metrics_at(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        return answer.read().decode()


def metrics_of_a_node():
    """Names of all that it shows or would show: `# TYPE` is there before the first of a counter. With TLS, of which some tell."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = f"{folder}/tls.crt", f"{folder}/tls.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
             "-subj", "/CN=localhost", "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )
        tls = f'{{ certificate = "{certificate}", key = "{key}" }}'
        with running("--dev", SKYWAVE__PUBLIC__TLS=tls) as address:
            return set(re.findall(r"^# TYPE (\S+)", metrics_at(address), re.MULTILINE))


def mount(folder, version, text):
    """Puts a settings file there as the kubelet mounts a ConfigMap: a change is another target of one link."""
    Path(folder, version).mkdir()
    Path(folder, version, "skywave.toml").write_text(text)
    Path(folder, "..new").symlink_to(version)
    Path(folder, "..new").rename(Path(folder, "..data"))
    file = Path(folder, "skywave.toml")
    if not file.is_symlink():
        file.symlink_to("..data/skywave.toml")
    return file
