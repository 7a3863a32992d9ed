"""Makes the images of the cluster tests as OCI archives, from this machine's own files: nothing is pulled.

    images.py OUT                      pause, busybox, python, and one with nothing in it
    images.py OUT --trainyard BINARY   the trainyard image: git with its libraries, a CA bundle, and the static binary
    images.py OUT --kueue BINARY       Kueue's controller, which is static too
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile

PREFIX = "localhost/trainyard-test"


def libraries(path):
    """A program with all that its loader needs, at the same paths."""
    files = {path, os.path.realpath(path)}
    listed = subprocess.run(["ldd", path], capture_output=True, text=True)
    if listed.returncode == 0:
        for line in listed.stdout.splitlines():
            for word in line.split():
                if word.startswith("/"):
                    files |= {word, os.path.realpath(word)}
    return files


class Layer:
    def __init__(self):
        self.file = tempfile.TemporaryFile()
        self.tar = tarfile.open(fileobj=self.file, mode="w", format=tarfile.PAX_FORMAT)
        self.seen = set()

    def directory(self, path, mode=0o755):
        path = path.strip("/")
        if not path or path in self.seen:
            return
        self.directory(os.path.dirname(path))
        self.seen.add(path)
        info = tarfile.TarInfo(path)
        info.type, info.mode = tarfile.DIRTYPE, mode
        self.tar.addfile(info)

    def put(self, path, content, mode=0o644):
        path = path.strip("/")
        if path in self.seen:
            return
        self.directory(os.path.dirname(path))
        self.seen.add(path)
        info = tarfile.TarInfo(path)
        info.size, info.mode = len(content), mode
        self.tar.addfile(info, io.BytesIO(content))

    def link(self, path, target):
        path = path.strip("/")
        if path in self.seen:
            return
        self.directory(os.path.dirname(path))
        self.seen.add(path)
        info = tarfile.TarInfo(path)
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
        self.tar.addfile(info)

    def copy(self, path, to=None):
        to = (to or path).strip("/")
        if os.path.islink(path) and to == path.strip("/"):
            self.link(to, os.readlink(path))
            self.copy(os.path.join(os.path.dirname(path), os.readlink(path)))
            return
        if to in self.seen or not os.path.isfile(path):
            return
        self.directory(os.path.dirname(to))
        self.seen.add(to)
        info = tarfile.TarInfo(to)
        info.size = os.path.getsize(path)
        info.mode = os.stat(path).st_mode & 0o755 | 0o444
        with open(path, "rb") as file:
            self.tar.addfile(info, file)

    def program(self, path):
        for file in sorted(libraries(path)):
            self.copy(file)

    def base(self):
        self.copy("/bin/busybox", "bin/busybox")
        applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout
        for applet in applets.split():
            if applet != "busybox":
                self.link(f"bin/{applet}", "/bin/busybox")
        self.link("usr/bin/env", "/bin/busybox")
        self.directory("tmp", 0o1777)
        self.put("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
        self.put("etc/group", b"root:x:0:\n")
        self.put("etc/nsswitch.conf", b"hosts: files dns\n")

    def bytes(self):
        self.tar.close()
        self.file.seek(0)
        return self.file.read()


def write(out, name, layer, config):
    """One image of one layer, as an OCI archive that `ctr images import` takes."""
    blobs = {}

    def blob(content):
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"digest": f"sha256:{digest}", "size": len(content)}

    content = layer.bytes()
    described = blob(content)
    image = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [described["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **blob(json.dumps(image).encode())},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **described}],
    }
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", **blob(json.dumps(manifest).encode())}
    entry["annotations"] = {"io.containerd.image.name": f"{PREFIX}/{name}:1", "org.opencontainers.image.ref.name": "1"}
    os.makedirs(out, exist_ok=True)
    with tarfile.open(os.path.join(out, f"{name}.tar"), "w") as tar:
        def add(path, content):
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        add("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        add("index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
        for digest, content in blobs.items():
            add(f"blobs/sha256/{digest}", content)


def python(layer):
    """The machine's own Python as /usr/local/bin/python3, like python:slim: root, sh, no git, no CA bundle."""
    layer.base()
    prefix = subprocess.run(
        ["/usr/bin/python3", "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()
    layer.program("/usr/bin/python3")
    layer.link("usr/bin/python", "python3")
    skip = {"test", "tests", "idlelib", "tkinter", "turtledemo", "__pycache__", "dist-packages", "site-packages", "lib2to3"}
    for directory, inner, files in os.walk(prefix):
        inner[:] = [name for name in inner if name not in skip]
        for file in files:
            path = os.path.join(directory, file)
            if file.endswith(".so"):
                layer.program(path)
            elif not file.endswith((".a", ".pyc")):
                layer.copy(path)


def trainyard(layer, binary):
    layer.base()
    layer.program("/usr/bin/git")
    for helper in ("git-remote-http", "git-remote-https", "git", "git-upload-pack"):
        layer.program(f"/usr/lib/git-core/{helper}")
    layer.program("/bin/sh")
    layer.copy("/etc/ssl/certs/ca-certificates.crt")
    layer.copy(binary, "usr/local/bin/trainyard")


def main():
    out = sys.argv[1]
    if sys.argv[2:3] == ["--trainyard"]:
        layer = Layer()
        trainyard(layer, sys.argv[3])
        write(out, "trainyard", layer, {
            "User": "65532:65532",
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "Entrypoint": ["/usr/local/bin/trainyard"],
        })
        return
    if sys.argv[2:3] == ["--kueue"]:
        layer = Layer()
        layer.directory("tmp", 0o1777)
        layer.copy(sys.argv[3], "manager")
        write(out, "kueue", layer, {"User": "65532:65532"})
        return
    layer = Layer()
    layer.base()
    write(out, "pause", layer, {"Cmd": ["/bin/sleep", "2147483647"], "Env": ["PATH=/bin"]})
    layer = Layer()
    layer.base()
    write(out, "busybox", layer, {"Env": ["PATH=/bin"]})
    layer = Layer()
    layer.directory("tmp", 0o1777)
    write(out, "empty", layer, {})
    layer = Layer()
    python(layer)
    write(out, "python", layer, {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["python3"]})


main()
